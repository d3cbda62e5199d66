//! RUST_LOG in the environment of the process: no value of it silences the log by mistake.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use comet_client::Transport;
use rustix::process::Signal;
use rustls::ClientConnection;
use rustls::version::TLS13;

use crate::peer::Peer;
use crate::process::{Server, comet, line_with, with_sets};
use crate::support::PATIENCE;
use crate::tls::Certificates;

#[test]
fn modules_not_in_rust_log_log_at_the_configured_level() {
    // Server::start waits for lines of level info.
    for filter in ["", " ", ",", "h2=debug", "comet_net::driver"] {
        let server = Server::start_in(&[("RUST_LOG", filter)], &[], &[]);
        server.signal(Signal::TERM);
        assert_eq!(server.end().0, Some(0), "{filter:?}");
    }
    let debug = [r#"log.level="debug""#];
    let server = Server::start_in(&[("RUST_LOG", "h2=warn,comet_ops=info")], &[], &debug);
    drop(server.live(Transport::Tcp, "42"));
    line_with(&server.log, "reason=peer_closed");
}

#[test]
fn an_empty_rust_log_does_not_override_a_reload() {
    let server = Server::start_in(&[("RUST_LOG", "")], &[], &[]);
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP");
    assert!(!line.contains("RUST_LOG"), "{line}");
}

#[test]
fn an_invalid_rust_log_is_reported_in_one_line() {
    let check = |arguments: &[&str], filter: &OsStr, expected: &str| {
        let arguments = [arguments, &with_sets(&[])].concat();
        let output = comet(&arguments).env("RUST_LOG", filter).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{filter:?}: {said}");
        assert!(said.starts_with(expected) && said.lines().count() == 1, "{filter:?}: {said}");
    };
    for arguments in [&["--check"][..], &[]] {
        for filter in ["inof", "comet=loud", "info=", "/var/log/comet"] {
            let expected = format!("comet: RUST_LOG: {filter:?} is neither LEVEL nor MODULE=LEVEL");
            check(arguments, filter.as_ref(), &expected);
        }
    }
    check(&[], OsStr::from_bytes(b"\xff"), r#"comet: RUST_LOG: "\xFF" is not UTF-8"#);
    let output = comet(&["logic"]).env("RUST_LOG", "inof").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}

/// rustls logs a warning for each hello whose server name is an address, with the text of the peer.
#[test]
fn messages_of_libraries_are_logged_only_with_rust_log() {
    let certificates = Certificates::new(&["localhost"]);
    let sets = certificates.sets();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    for (environment, is_enabled) in [(&[][..], false), (&[("RUST_LOG", "info")], true)] {
        let server = Server::start_in(environment, &[], &sets);
        let config = Arc::new(certificates.client(&[&TLS13]));
        let mut client = ClientConnection::new(config, "127-0-0-1".try_into().unwrap()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let at = hello.windows(9).position(|bytes| bytes == b"127-0-0-1").unwrap();
        hello[at..at + 9].copy_from_slice(b"127.0.0.1");
        let mut stream = TcpStream::connect(server.tls.unwrap()[0]).unwrap();
        stream.write_all(&hello).unwrap();
        // The server answers as if the hello named no server.
        stream.read_exact(&mut [0; 5]).unwrap();
        Peer::connect(server.tcp, Transport::Tcp).write(&[0; 16]);
        let mut lines = std::iter::from_fn(|| server.log.recv_timeout(PATIENCE).ok());
        let before: Vec<String> =
            lines.by_ref().take_while(|line| !line.contains("reason=bad_frame")).collect();
        let is_logged = before.iter().any(|line| line.contains("rustls"));
        assert_eq!(is_logged, is_enabled, "{before:?}");
    }
}
