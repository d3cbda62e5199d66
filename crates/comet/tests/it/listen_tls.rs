//! `comet listen --tls`, and what it says where TLS cannot be had.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use comet_client::Transport;
use rcgen::{CertifiedKey, generate_simple_self_signed};

use crate::scratch;
use crate::support::{BOTH, PATIENCE, Server, To, queued};

fn comet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_comet"));
    command.args(["listen", "--room", "r"]).args(arguments);
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs `comet listen` to its end, which has to be a failure; returns what it said.
#[track_caller]
fn failure(arguments: &[&str]) -> String {
    let output = comet(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap()
}

/// A running `comet listen` that is not left behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a pipe, as they come.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Whoever asked for them may have heard enough.
            let _ = sender.send(line);
        }
    });
    lines
}

/// A server inside TLS whose certificate is for `name`, and the certificate's file.
pub(crate) fn server_named(name: &str) -> (Server, PathBuf) {
    let own = generate_simple_self_signed([name.to_owned()]).unwrap();
    let CertifiedKey { cert, signing_key } = own;
    let folder = scratch::folder();
    let [certificate, key] = ["pem", "key"].map(|kind| folder.join(format!("{name}.{kind}")));
    fs::write(&certificate, cert.pem()).unwrap();
    fs::write(&key, signing_key.serialize_pem()).unwrap();
    let server = Server::start(&[
        r#"tcp.tls_bind=["127.0.0.1:0"]"#,
        r#"websocket.tls_bind=["127.0.0.1:0"]"#,
        &format!("tls.certificates=[{certificate:?}]"),
        &format!("tls.keys=[{key:?}]"),
    ]);
    (server, certificate)
}

fn tls_address(server: &Server, transport: Transport) -> String {
    let addresses = match transport {
        Transport::Tcp => server.app().tcp_tls_addrs(),
        Transport::WebSocket => server.app().websocket_tls_addrs(),
    };
    addresses[0].to_string()
}

#[test]
fn messages_arrive_over_tls() {
    let (server, certificate) = server_named("listen.example.com");
    for transport in BOTH {
        let address = tls_address(&server, transport);
        let mut command = comet(&["--tls", "--addr", &address]);
        command.arg("--ca").arg(&certificate).args(["--server-name", "listen.example.com"]);
        if transport == Transport::WebSocket {
            command.arg("--ws");
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let [said, heard] =
            [lines(child.stderr.take().unwrap()), lines(child.stdout.take().unwrap())];
        let running = Running(child);
        let connected = format!("connected to {address}, in room r");
        assert_eq!(said.recv_timeout(PATIENCE), Ok(connected));
        assert_eq!(server.push(To::Room("r"), 1000, b"hello"), queued(1));
        assert_eq!(heard.recv_timeout(PATIENCE), Ok("op 1000: hello".to_owned()));
        drop(running);
        server.until("comet_connections", 0);
    }
}

#[test]
fn a_certificate_that_does_not_fit_is_named_as_that() {
    let (server, certificate) = server_named("other.example.com");
    let address = tls_address(&server, Transport::Tcp);
    assert_eq!(
        failure(&["--tls", "--addr", &address, "--server-name", "other.example.com"]),
        format!(
            "comet: {address}: the server's certificate is not signed by a trusted authority; name the \
             certificate of its authority with --ca\n"
        )
    );
    let certificate = certificate.to_str().unwrap();
    let said = failure(&["--tls", "--addr", &address, "--ca", certificate]);
    assert!(
        said.starts_with(&format!("comet: {address}: the server has another name: ")),
        "{said}"
    );
    assert!(said.contains("other.example.com"), "{said}");
    assert!(said.ends_with("name it with --server-name\n"), "{said}");
}

#[test]
fn a_listener_without_tls_is_named_as_that() {
    let server = Server::start(&[]);
    let address = server.address(Transport::Tcp).to_string();
    let mut child = comet(&["--tls", "--addr", &address]).stderr(Stdio::piped()).spawn().unwrap();
    let said = lines(child.stderr.take().unwrap());
    let _running = Running(child);
    let said = said.recv_timeout(PATIENCE).unwrap();
    let doubt = "disconnected: the server ended the connection (perhaps it speaks no TLS here); ";
    assert!(said.starts_with(doubt), "{said}");
}

/// Passes the bytes of a client on to `address` and back. Ends when the client has, or when the returned stream is shut down.
fn pass_on(client: TcpStream, address: &str) -> TcpStream {
    let server = TcpStream::connect(address).unwrap();
    let [client_too, server_too] = [&client, &server].map(|stream| stream.try_clone().unwrap());
    let handle = client.try_clone().unwrap();
    for (mut from, mut to) in [(client, server), (server_too, client_too)] {
        thread::spawn(move || {
            // Either end may be gone.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    handle
}

/// As behind a proxy that answers in plain text while it restarts.
#[test]
fn a_failure_of_tls_that_passes_is_waited_for() {
    let (server, certificate) = server_named("restarts.example.com");
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap().to_string();
    let mut command = comet(&["--tls", "--addr", &address, "--ca"]);
    command.arg(&certificate).args(["--server-name", "restarts.example.com"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let said = lines(child.stderr.take().unwrap());
    let _running = Running(child);
    let behind = tls_address(&server, Transport::Tcp);
    let connected = format!("connected to {address}, in room r");

    let first = pass_on(proxy.accept().unwrap().0, &behind);
    assert_eq!(said.recv_timeout(PATIENCE).as_ref(), Ok(&connected));
    first.shutdown(Shutdown::Both).unwrap();
    let ended = said.recv_timeout(PATIENCE).unwrap();
    assert!(ended.starts_with("disconnected: "), "{ended}");

    let (mut plain, _) = proxy.accept().unwrap();
    plain.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap();
    let not_tls = said.recv_timeout(PATIENCE).unwrap();
    assert!(not_tls.starts_with("disconnected: the server speaks no TLS here; again"), "{not_tls}");
    drop(plain);

    let _last = pass_on(proxy.accept().unwrap().0, &behind);
    assert_eq!(said.recv_timeout(PATIENCE).as_ref(), Ok(&connected));
}

#[test]
fn what_cannot_be_used_is_said_before_anything_is_tried() {
    for (arguments, said) in [
        (&["--tls"][..], "TLS over TCP has no usual port: name it with --addr"),
        (
            &["--tls", "--ws", "--ca", "/nowhere/ca.pem"],
            "--ca /nowhere/ca.pem: No such file or directory (os error 2)",
        ),
        (&["--tls", "--ws", "--ca", "/dev/null"], "--ca /dev/null: no PEM certificate to trust"),
    ] {
        assert_eq!(failure(arguments), format!("comet: {said}\n"));
    }
}
