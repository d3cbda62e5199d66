//! Event streams (Server-Sent Events), read by curl.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use comet_client::Transport;

use crate::listen_tls::server_named;
use crate::process::lines;
use crate::support::{PATIENCE, Server, To, get, queued};

/// A running curl that is killed with the value.
struct Curl {
    child: Child,
    lines: Receiver<String>,
}

impl Curl {
    /// `None`: curl is not installed.
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
        let line = self.lines.recv_timeout(PATIENCE).expect("a line");
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
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the beginning of a stream in the room `a`, then a push, then its end by a kick.
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
fn a_refused_request_gets_a_status_and_is_counted() {
    let server = Server::start(&[]);
    let url = format!("http://{}/sse", server.address(Transport::WebSocket));
    let Some(curl) = Curl::start(&["--data", "x"], &url) else { return };
    assert_eq!(curl.next(), "HTTP/1.1 405 Method Not Allowed");
    server.until("comet_closed_total{reason=\"bad_upgrade\"}", 1);
}

/// The id of the next block, which must have no event.
#[track_caller]
fn next_id(curl: &Curl) -> String {
    let block = curl.block();
    let [line] = &block[..] else { panic!("{block:?}") };
    line.strip_prefix("id: ").unwrap_or_else(|| panic!("{line}")).to_owned()
}

#[test]
fn a_stream_with_a_last_event_id_gets_the_missed_events() {
    let server = Server::start(&[r#"history.rules=[{rooms="h://"}]"#]);
    let query = "/sse?token=%7B%22mid%22%3A1%7D&rooms=h%3A%2F%2Fa,h%3A%2F%2Fb,plain";
    let url = format!("http://{}{query}", server.address(Transport::WebSocket));
    let object = |room: &str, offset: u64| {
        format!(r#"{{"ver":1,"op":5,"seq":0,"room":"{room}","offset":{offset},"body":{offset}}}"#)
    };
    let Some(curl) = Curl::start(&["--header", "Last-Event-ID: nonsense"], &url) else { return };
    assert_eq!(curl.block()[0], "HTTP/1.1 200 OK");
    assert_eq!(curl.block(), ["retry: 3000"]);
    let warning = curl.block();
    assert!(warning[1].contains(r#""warning":"unknown_last_event_id""#), "{warning:?}");
    // The server may send ids between the rooms.
    let mut rooms = Vec::new();
    while rooms.len() < 3 {
        rooms.extend(curl.block().into_iter().filter(|line| line.starts_with("data: ")));
    }
    let lost = r#","recovered":false"#;
    assert_eq!(rooms, [room_line("h://a", lost), room_line("h://b", lost), room_line("plain", "")]);
    assert_eq!(server.push(To::Room("h://a"), 5, b"1"), queued(1));
    let mut block = curl.block();
    while block[0].starts_with("id: ") {
        block = curl.block();
    }
    assert_eq!(block, [format!("data: [{}]", object("h://a", 1))]);
    let id = next_id(&curl);
    drop(curl);
    server.until("comet_connections", 0);
    server.push(To::Room("h://a"), 5, b"2");
    server.push(To::Room("h://b"), 5, b"1");
    server.push(To::Room("h://b"), 5, b"2");

    let by_header = Curl::start(&["--header", &format!("Last-Event-ID: {id}")], &url).unwrap();
    let by_query = Curl::start(&[], &format!("{url}&last_event_id={id}")).unwrap();
    for curl in [by_header, by_query] {
        let mut blocks = Vec::new();
        while blocks.len() < 7 {
            blocks.extend(Some(curl.block()).filter(|block| !block[0].starts_with("id: ")));
        }
        let lines: Vec<_> = blocks[2..].iter().filter_map(|block| block.last()).collect();
        let all = [
            room_line("h://a", r#","recovered":1"#),
            format!("data: [{}]", object("h://a", 2)),
            room_line("h://b", r#","recovered":2"#),
            format!("data: [{},{}]", object("h://b", 1), object("h://b", 2)),
            room_line("plain", ""),
        ];
        assert_eq!(lines, all.iter().collect::<Vec<_>>());
    }
    assert_eq!(server.metric("comet_recovered_total"), 4);
    assert_eq!(server.metric("comet_unknown_event_ids_total"), 1);
}

fn room_line(room: &str, recovered: &str) -> String {
    format!(r#"data: {{"room":"{room}"{recovered}}}"#)
}
