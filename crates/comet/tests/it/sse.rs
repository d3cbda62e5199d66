//! Event streams (Server-Sent Events), read by curl.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use comet_client::Transport;

use crate::listen_tls::server_named;
use crate::process::lines;
use crate::support::{PATIENCE, Server, To, get, queued};

/// A running curl that is not left behind.
struct Curl {
    child: Child,
    lines: Receiver<String>,
}

impl Curl {
    /// `None`: there is no curl here.
    fn start(arguments: &[&str], url: &str) -> Option<Self> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--no-buffer", "--include"]).args(arguments).arg(url);
        match command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() {
            Ok(mut child) => {
                let lines = lines(child.stdout.take().unwrap());
                Some(Self { child, lines })
            }
            Err(error) => {
                eprintln!("SKIPPED: no curl ({error})");
                None
            }
        }
    }

    #[track_caller]
    fn next(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE).expect("a line in time");
        line.trim_end_matches('\r').to_owned()
    }

    /// The lines up to the next empty one.
    #[track_caller]
    fn block(&self) -> Vec<String> {
        std::iter::repeat_with(|| self.next()).take_while(|line| !line.is_empty()).collect()
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the beginning of a stream in the room `a`, a push, and its end by a kick.
#[track_caller]
fn check_stream(server: &Server, curl: &Curl) {
    let head = curl.block();
    assert_eq!(head[..2], ["HTTP/1.1 200 OK", "Content-Type: text/event-stream"]);
    assert_eq!(curl.block(), ["retry: 3000"]);
    assert_eq!(curl.block(), ["event: room", r#"data: {"room":"main"}"#]);
    assert_eq!(curl.block(), ["event: room", r#"data: {"room":"a"}"#]);
    assert_eq!(server.push(To::Room("a"), 5, br#"{"text": "hi"}"#), queued(1));
    let pushed = r#"data: [{"ver":1,"op":5,"seq":0,"room":"a","body":{"text":"hi"}}]"#;
    assert_eq!(curl.block(), [pushed]);
    let listed = get(server.stat(), "/connections?transport=sse");
    assert!(listed.1.contains(r#""transport":"sse""#), "{listed:?}");
    let _newer = server.client(Transport::Tcp, r#"{"mid":1,"key":"k"}"#);
    let closed = r#"data: {"reason":"replaced","message":"replaced"}"#;
    assert_eq!(curl.block(), ["event: close", closed]);
    server.until("comet_connections", 1);
    assert_eq!(server.metric("comet_event_streams_total"), 1);
    server.metrics().assert_balanced();
}

const QUERY: &str =
    "/sse?rooms=a&token=%7B%22mid%22%3A1%2C%22key%22%3A%22k%22%2C%22room_id%22%3A%22main%22%7D";

#[test]
fn curl_reads_an_event_stream() {
    let server = Server::start(&[]);
    let url = format!("http://{}{QUERY}", server.address(Transport::WebSocket));
    let Some(curl) = Curl::start(&[], &url) else { return };
    check_stream(&server, &curl);
}

#[test]
fn curl_reads_an_event_stream_over_tls() {
    let (server, certificate) = server_named("sse.example.com");
    let address = server.app().websocket_tls_addrs()[0];
    let url = format!("https://sse.example.com:{}{QUERY}", address.port());
    let resolve = format!("sse.example.com:{}:127.0.0.1", address.port());
    let certificate = certificate.to_str().unwrap();
    let arguments = ["--cacert", certificate, "--resolve", &resolve];
    let Some(curl) = Curl::start(&arguments, &url) else { return };
    check_stream(&server, &curl);
}

#[test]
fn a_request_that_is_refused_has_a_status_and_is_counted() {
    let server = Server::start(&[]);
    let url = format!("http://{}/sse", server.address(Transport::WebSocket));
    let id = ["--header", "Last-Event-ID: nonsense"];
    let Some(curl) = Curl::start(&id, &url) else { return };
    assert_eq!(curl.next(), "HTTP/1.1 400 Bad Request");
    server.until("comet_closed_total{reason=\"bad_upgrade\"}", 1);
    let Some(curl) = Curl::start(&["--data", "x"], &url) else { return };
    assert_eq!(curl.next(), "HTTP/1.1 405 Method Not Allowed");
    server.until("comet_closed_total{reason=\"bad_upgrade\"}", 2);
}
