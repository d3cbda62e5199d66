//! Who may call the APIs of a running server.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use comet::blocking_client::{Ledger, PushClient, PushError};
use rustix::process::Signal;

use crate::process::{Server as Process, line_with, run, with_sets};
use crate::scratch;
use crate::support::{PATIENCE, Server, config};

/// The exit code of a push that nobody was there for.
const NO_MATCH: i32 = 3;
const TOKEN: &str = "a-token-that-nobody-guesses";

/// The status of a push to everybody, or of `GET` of another path.
fn status(address: SocketAddr, path: &str, headers: &str) -> u16 {
    let method = if path.starts_with("/goim/push") { "POST" } else { "GET" };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n");
    write!(stream, "{head}{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    // A cache in front would go on with it, such as with the health of a server that drains meanwhile.
    assert!(answer.contains("\r\ncache-control: no-store\r\n"), "{answer}");
    answer["HTTP/1.1 ".len()..][..3].parse().unwrap()
}

fn push(address: SocketAddr, headers: &str) -> u16 {
    status(address, "/goim/push/all?operation=5", headers)
}

#[test]
fn web_pages_may_not_call() {
    let server = Server::start(&["server.id=\"edge-7\""]);
    assert_eq!(push(server.http(), "Host: 127.0.0.1:7172\r\n"), 200);
    assert_eq!(push(server.http(), "Host: edge-7\r\n"), 200);
    let own = "Host: 127.0.0.1:7172\r\n";
    assert_eq!(push(server.http(), &format!("{own}Origin: https://evil.example\r\n")), 403);
    assert_eq!(push(server.http(), &format!("{own}Sec-Fetch-Site: cross-site\r\n")), 403);
    let rebound = "Host: evil.example:7172\r\nOrigin: http://evil.example:7172\r\n";
    assert_eq!(push(server.http(), rebound), 403);
    for (address, path) in [(server.stat(), "/metrics"), (server.debug(), "/white_list")] {
        assert_eq!(status(address, path, own), 200);
        assert_eq!(status(address, path, "Host: evil.example\r\n"), 403);
    }
    // A load balancer checks the health under any name.
    assert_eq!(status(server.stat(), "/healthz", "Host: pool.example\r\n"), 200);
    let refused = |reason| {
        server.metric(&format!(
            "comet_api_refused_total{{listener=\"push.http\",reason=\"{reason}\"}}"
        ))
    };
    assert_eq!((refused("cross_site"), refused("wrong_host")), (2, 1));
}

#[test]
fn a_refused_caller_is_named_in_the_log() {
    let server = Process::start(&[]);
    assert_eq!(status(server.stat, "/metrics", "Host: evil.example\r\n"), 403);
    let line = line_with(&server.log, "monitor.stat: a request of 127.0.0.1:");
    let reason =
        " for \"evil.example\" is refused: the host of the request is no name of this server";
    assert!(line.contains(reason), "{line}");
}

#[test]
fn callers_need_a_token_where_there_are_any() {
    let tokens = format!("push.tokens=[\"{TOKEN}\", \"another-token-for-another\"]");
    let mut server = Server::start_locked(&[&tokens], TOKEN);
    let grpc = server.grpc().to_string();
    let broadcast = |token: Option<&str>| -> Result<Option<Ledger>, PushError> {
        let mut client = PushClient::connect(&grpc).unwrap();
        if let Some(token) = token {
            client = client.with_token(token.as_bytes()).unwrap();
        }
        client.broadcast(5, b"", None)
    };
    for token in [TOKEN, "another-token-for-another"] {
        assert_eq!(broadcast(Some(token)).unwrap(), Some(Ledger::default()));
        let header = format!("Host: any\r\nAuthorization: Bearer {token}\r\n");
        assert_eq!(push(server.http(), &header), 200);
    }
    for token in [None, Some("a-token-that-nobody-guesse")] {
        let error = broadcast(token).unwrap_err().to_string();
        assert!(error.contains("Unauthenticated"), "{error}");
    }
    assert_eq!(push(server.http(), "Host: localhost\r\n"), 401);
    // Other sections have locks of their own.
    assert_eq!(status(server.stat(), "/metrics", "Host: localhost\r\n"), 200);
    // Tokens change alive, and a connection ends whose token is gone.
    let mut kept = [TOKEN, "another-token-for-another"].map(|token| {
        let mut stream = TcpStream::connect(server.http()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_ne!(ask(&mut stream, token), "");
        stream
    });
    let newer = config(&["push.tokens=[\"another-token-for-another\"]"]);
    server.reload(&newer).unwrap();
    assert!(broadcast(Some(TOKEN)).is_err());
    assert!(broadcast(Some("another-token-for-another")).is_ok());
    assert_eq!(kept[0].read(&mut [0]).unwrap(), 0);
    assert_ne!(ask(&mut kept[1], "another-token-for-another"), "");
}

/// Asks for a page that is not there, over a connection that stays open; "" at its end.
fn ask(stream: &mut TcpStream, token: &str) -> String {
    let head =
        format!("GET /no-such-page HTTP/1.1\r\nHost: any\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut reply = [0; 4_096];
    let length = stream.read(&mut reply).unwrap();
    let reply = String::from_utf8_lossy(&reply[..length]).into_owned();
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 404 "), "{reply}");
    reply
}

#[test]
fn tokens_are_read_from_files_and_again_at_sighup() {
    let file = scratch::folder().join("push-token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let set = format!("push.tokens=[{{ file = {:?} }}]", file.to_str().unwrap());
    let server = Process::start(&[&set]);
    let grpc = server.grpc.to_string();
    let named = format!("@{}", file.display());
    let with_file = ["push", "--grpc", &grpc, "--token", &named, "all", "hello"];
    let (code, _, error) = run(&with_file);
    assert_eq!(code, NO_MATCH, "{error}");
    let (code, _, error) = run(&["push", "--grpc", &grpc, "all", "hello"]);
    assert_eq!(code, 1);
    assert!(error.contains("Unauthenticated"), "{error}");
    let renewed = "the-next-token-in-the-file";
    fs::write(&file, renewed).unwrap();
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "push.tokens changed");
    assert!(!line.contains(renewed) && !line.contains(TOKEN), "{line}");
    assert_eq!(run(&["push", "--grpc", &grpc, "--token", TOKEN, "all", "hello"]).0, 1);
    assert_eq!(run(&with_file).0, NO_MATCH);
}

#[test]
fn an_open_address_has_to_be_meant() {
    let (code, _, error) = run(&["--check", "--set", "push.http=[\"0.0.0.0:7172\"]"]);
    assert_eq!(code, 64);
    assert!(error.contains("push.tokens") && error.contains("push.insecure"), "{error}");
    let meant = with_sets(&["push.http=[\"0.0.0.0:0\"]", "push.insecure=true"]);
    assert_eq!(run(&[&["--check"][..], &meant].concat()).0, 0);
}
