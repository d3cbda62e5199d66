//! The negotiation of permessage-deflate (RFC 7692), and the compression bit in frames of clients.

use comet_proto::websocket::{Accepted, Event, Fault, MessageKinds, read, upgrade};
use comet_proto::{Encoded, Frame};

use crate::support::masked;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const PING: u8 = 9;

const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The answer to a request with these values of `Sec-WebSocket-Extensions`, if the extension is used.
fn answer(offers: &[&str]) -> Option<String> {
    let offers: String =
        offers.iter().map(|offer| format!("Sec-WebSocket-Extensions: {offer}\r\n")).collect();
    let request = format!(
        "GET /sub HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offers}\r\n"
    );
    let mut upgrade = upgrade(request.as_bytes(), "/sub", 4096).unwrap().unwrap();
    let plain = upgrade.response.clone();
    let is_accepted = upgrade.accept_deflate();
    let response = String::from_utf8(upgrade.response).unwrap();
    assert!(response.ends_with("\r\n\r\n"));
    let line = response
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ").map(str::to_owned));
    assert_eq!(line.is_some(), is_accepted);
    if !is_accepted {
        assert_eq!(response.as_bytes(), plain);
    }
    line
}

#[test]
fn offers_are_accepted_or_declined() {
    #[track_caller]
    fn check(offers: &[&str], expected: Option<&str>) {
        assert_eq!(answer(offers).as_deref(), expected, "{offers:?}");
    }
    let largest = format!("{ANSWER}; server_max_window_bits=15");
    // Of Chromium and Node's ws, and of Firefox and Safari.
    check(&["permessage-deflate; client_max_window_bits"], Some(ANSWER));
    check(&["permessage-deflate"], Some(ANSWER));
    check(&["permessage-deflate; server_no_context_takeover"], Some(ANSWER));
    check(&[ANSWER], Some(ANSWER));
    check(&["Permessage-Deflate ;client_max_window_bits = 10"], Some(ANSWER));
    check(&["permessage-deflate; client_max_window_bits=\"15\""], Some(ANSWER));
    check(&["permessage-deflate; server_max_window_bits=15"], Some(&largest));
    // Several offers: the first that is acceptable.
    check(&["permessage-deflate; server_max_window_bits=10, permessage-deflate"], Some(ANSWER));
    check(&["x-webkit-deflate-frame", "bbf-usp; a=\"b, c\"", "permessage-deflate"], Some(ANSWER));
    check(&["x; a=\"\\\", permessage-deflate", "y"], None);
    check(&["permessage-deflate; server_max_window_bits=15, permessage-deflate"], Some(&largest));
    // Other extensions, and parameters that are unknown, repeated or have wrong values.
    check(&[], None);
    check(&[""], None);
    check(&["permessage-bzip2"], None);
    check(&["permessage-deflate-2"], None);
    check(&["permessage-deflate; server_max_window_bits"], None);
    check(&["permessage-deflate; server_max_window_bits=14"], None);
    for bits in ["7", "16", "08", "015", "", "x", "+9", "1O", "\"15"] {
        check(&[&format!("permessage-deflate; client_max_window_bits={bits}")], None);
        check(&[&format!("permessage-deflate; server_max_window_bits={bits}")], None);
    }
    check(&["permessage-deflate; server_no_context_takeover=1"], None);
    check(&["permessage-deflate; client_no_context_takeover=\"\""], None);
    check(&["permessage-deflate; client_max_window_bits; client_max_window_bits=9"], None);
    check(&["permessage-deflate; Server_No_Context_Takeover"], None);
    check(&["permessage-deflate; level=9"], None);
    check(&["permessage-deflate;"], None);
    check(&["permessage-deflate permessage-deflate"], None);
}

fn read_all(frames: &[u8], deflate: bool, kinds: MessageKinds) -> Result<Vec<String>, Fault> {
    let accepted = Accepted { message_max: 64, kinds, deflate };
    let (mut at, mut fragments, mut scratch, mut seen) = (0, None, Vec::new(), Vec::new());
    while let Some((event, consumed)) = read(&frames[at..], &mut fragments, &mut scratch, accepted)?
    {
        seen.push(match event {
            Event::Compressed { payload, is_text } => {
                format!("{} {}", if is_text { "text" } else { "binary" }, payload.escape_ascii())
            }
            event => format!("{event:?}"),
        });
        at += consumed;
    }
    Ok(seen)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, [7, 11, 13, 17], payload)
}

#[test]
fn the_bit_marks_compressed_messages() {
    #[track_caller]
    fn check(frames: &[Vec<u8>], expected: Result<&[&str], Fault>) {
        let frames = frames.concat();
        let seen = read_all(&frames, true, MessageKinds::Any);
        let expected = expected.map(|seen| seen.iter().map(|&seen| seen.to_owned()).collect());
        assert_eq!(seen, expected);
        // Without the extension the bit is a fault wherever it is.
        assert_eq!(read_all(&frames, false, MessageKinds::Any), Err(Fault::ReservedBits));
    }
    check(&[frame(FIN | RSV1 | BINARY, b"data")], Ok(&["binary data"]));
    check(&[frame(FIN | RSV1 | TEXT, b"data")], Ok(&["text data"]));
    check(
        &[
            frame(RSV1 | TEXT, b"da"),
            frame(FIN | PING, b""),
            frame(CONTINUATION, b"t"),
            frame(FIN | CONTINUATION, b"a"),
        ],
        Ok(&["Fragment", "Ping([])", "Fragment", "text data"]),
    );
    check(&[frame(FIN | RSV1 | PING, b"")], Err(Fault::ReservedBits));
    let begin = frame(RSV1 | BINARY, b"d");
    check(&[begin.clone(), frame(FIN | RSV1 | CONTINUATION, b"a")], Err(Fault::ReservedBits));
    check(&[begin.clone(), frame(RSV1 | CONTINUATION, b"a")], Err(Fault::ReservedBits));
    check(&[frame(FIN | RSV1 | 0x20 | BINARY, b"")], Err(Fault::ReservedBits));
    // A message that does not compress is a little longer; the bound holds for all fragments together.
    check(&[frame(FIN | RSV1 | BINARY, &[b'x'; 80])], Ok(&[&format!("binary {}", "x".repeat(80))]));
    check(&[frame(FIN | RSV1 | BINARY, &[b'x'; 200])], Err(Fault::TooLarge));
    check(&[begin, frame(CONTINUATION, &[b'x'; 200])], Err(Fault::TooLarge));
}

#[test]
fn a_kind_that_is_not_accepted_is_a_fault_also_compressed() {
    let text = frame(FIN | RSV1 | TEXT, b"data");
    assert_eq!(read_all(&text, true, MessageKinds::Binary), Err(Fault::Text));
    let binary = frame(FIN | RSV1 | BINARY, b"data");
    assert_eq!(read_all(&binary, true, MessageKinds::Text), Err(Fault::Binary));
}

#[test]
fn inflated_text_is_utf_8() {
    assert_eq!(Event::inflated(b"a\xff", true), Err(Fault::TextNotUtf8));
    assert_eq!(Event::inflated(b"a", true), Ok(Event::Text("a")));
    assert_eq!(Event::inflated(b"a\xff", false), Ok(Event::Message(b"a\xff")));
}

#[test]
fn a_compressed_message_keeps_its_kind() {
    let frame = Frame { version: 1, operation: 5, sequence: 0, body: b"{}" };
    let plain = Encoded::frame(&frame);
    let compressed = plain.to_compressed(b"deflated");
    assert_eq!(compressed.for_websocket(), b"\xc2\x08deflated");
    assert_eq!(compressed.message(), b"deflated");
    assert!(compressed.for_tcp().is_empty());
    let text = plain.to_text().to_compressed(&[b'x'; 126]);
    assert_eq!(text.for_websocket()[..4], *b"\xc1\x7e\0\x7e");
}
