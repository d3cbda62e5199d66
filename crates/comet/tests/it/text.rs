//! Clients of goim v1.2, which use JSON in text messages.

use comet_client::Transport;

use crate::peer::{Peer, frame, masked};
use crate::support::{Server, To, queued};

const TEXT: u8 = 0x81;

fn start() -> Server {
    Server::start(&["websocket.text=true"])
}

/// The next message, which must have one frame.
fn received_text(peer: &mut Peer) -> String {
    let mut message = received_batch(peer);
    assert_eq!(message.pop(), Some('\n'));
    message
}

/// The next text message.
fn received_batch(peer: &mut Peer) -> String {
    let (first, payload) = peer.read_websocket();
    assert_eq!(first, TEXT);
    String::from_utf8(payload).unwrap()
}

/// The exchange of goim v1.2's demo page, then a push and a batch of its job.
#[test]
fn the_exchange_with_goim_v1_is_identical_byte_for_byte() {
    let server = start();
    let mut peer = Peer::open(&server, Transport::WebSocket);
    let mut ask = |request: &str, reply: &str| {
        peer.write(&masked(TEXT, request.as_bytes()));
        assert_eq!(received_text(&mut peer), reply);
    };
    ask(r#"{"ver":1,"op":7,"seq":1,"body":42}"#, r#"[{"ver":1,"op":8,"seq":1,"body":{}}]"#);
    ask(r#"{"ver":1,"op":2,"seq":2,"body":{}}"#, r#"[{"ver":1,"op":3,"seq":2,"body":{}}]"#);
    ask(
        r#"{"ver":1,"op":4,"seq":1,"body":{"name":"anna","msg_body":"hi"}}"#,
        r#"[{"ver":1,"op":5,"seq":1,"body":{"name":"anna","msg_body":"hi"}}]"#,
    );
    ask(
        r#"{"ver":1,"op":254,"seq":3,"body":{}}"#,
        r#"[{"ver":1,"op":255,"seq":3,"body":{"test":"come on"}}]"#,
    );
    assert_eq!(server.push(To::Room("1"), 5, br#"{"test":1}"#), queued(1));
    assert_eq!(received_text(&mut peer), r#"[{"ver":1,"op":5,"seq":0,"body":{"test":1}}]"#);
    let batch = [frame(5, 0, br#"{"test":1}"#), frame(5, 0, b"no JSON")].concat();
    assert_eq!(server.push(To::Room("1"), 9, &batch), queued(1));
    assert_eq!(
        received_batch(&mut peer),
        r#"[{"ver":1,"op":5,"seq":0,"body":{"test":1}},{"ver":1,"op":5,"seq":0,"body":"no JSON"}]"#
    );
}

/// Chromium and Firefox offer compression and send headers of their own. The messages of a page come from `JSON.stringify` or
/// from a person who types them, and may be fragmented.
#[test]
fn clients_in_browsers_can_connect() {
    const CHROMIUM: &str = "Host: comet\r\nConnection: Upgrade\r\nPragma: no-cache\r\n\
        Cache-Control: no-cache\r\nUpgrade: websocket\r\nOrigin: null\r\nSec-WebSocket-Version: 13\r\n\
        Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    const FIREFOX: &str = "Host: comet\r\nAccept: */*\r\nSec-WebSocket-Version: 13\r\nOrigin: null\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Connection: keep-alive, Upgrade\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: websocket\r\n\
        Upgrade: websocket\r\n\r\n";
    let server = start();
    for (headers, token) in [
        (CHROMIUM, r#"{"ver":1,"op":7,"seq":1,"body":{"mid":1,"key":"c","accepts":[5]}}"#),
        (FIREFOX, "{ \"op\": 7, \"seq\": 1, \"body\": \"42\" }\n"),
    ] {
        let mut peer = Peer::connect(server.address(Transport::WebSocket), Transport::WebSocket);
        peer.write(format!("GET /sub HTTP/1.1\r\n{headers}").as_bytes());
        peer.expect_upgraded();
        let (begin, end) = token.as_bytes().split_at(20);
        peer.write(&[masked(0x01, begin), masked(0x89, b"?"), masked(0x80, end)].concat());
        assert_eq!(peer.read_websocket(), (0x8a, b"?".to_vec()));
        assert_eq!(received_text(&mut peer), r#"[{"ver":1,"op":8,"seq":1,"body":{}}]"#);
        peer.write(&masked(TEXT, br#"{"op":12,"seq":2,"body":"lobby"}"#));
        assert_eq!(received_text(&mut peer), r#"[{"ver":1,"op":13,"seq":2,"body":"lobby"}]"#);
        assert_eq!(server.push(To::Room("lobby"), 5, "gr\u{fc}\u{df}e".as_bytes()), queued(1));
        assert_eq!(
            received_text(&mut peer),
            "[{\"ver\":1,\"op\":5,\"seq\":0,\"body\":\"gr\u{fc}\u{df}e\"}]"
        );
        peer.write(&masked(0x88, b"\x03\xe8"));
        assert_eq!(peer.read_close(), (1000, "peer_closed".to_owned()));
        peer.expect_end();
    }
}
