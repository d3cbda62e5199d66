//! The WebSocket side of a session: the upgrade, reading frames (borrowed) and writing masked frames.

use std::io::Cursor;

use rand::random;
use tungstenite::Error as WireError;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::client::{Request, Response, generate_key, generate_request};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::{StatusCode, header};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::error::{SessionError, WebSocketFault};
use crate::retry_after;

/// The longest accepted answer to the upgrade, in bytes; servers of this protocol send some 130.
const ANSWER_MAX: usize = 8 * 1024;

/// The longest payload of a ping, a pong or a close (RFC 6455 section 5.5).
const CONTROL_MAX: u64 = 125;

/// An upgrade that was requested and is not answered yet.
pub(crate) struct Upgrade {
    accept: String,
}

impl Upgrade {
    /// The request to send, and the state that checks its answer.
    ///
    /// # Panics
    /// If `host` is not a valid header value or `path` not a valid request target.
    pub(crate) fn request(host: &str, path: &str) -> (Vec<u8>, Self) {
        let key = generate_key();
        let accept = derive_accept_key(key.as_bytes());
        let request = Request::builder()
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, key)
            .body(())
            .expect("host and path can stand in an HTTP request");
        let (bytes, _) = generate_request(request).expect("every header of an upgrade is there");
        (bytes, Self { accept })
    }

    /// Reads the server's answer at the start of `input`. Returns its length if it accepts the
    /// upgrade; `None`: it is not complete.
    pub(crate) fn answer(&self, input: &[u8]) -> Result<Option<usize>, SessionError> {
        let parsed = Response::try_parse(input)
            .map_err(|_| SessionError::BadUpgrade("the answer is not HTTP/1.1"))?;
        let Some((len, response)) = parsed else {
            return match input.len() {
                ANSWER_MAX.. => Err(SessionError::BadUpgrade("the answer does not end")),
                _ => Ok(None),
            };
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let delay = response.headers().get(header::RETRY_AFTER);
            let delay = delay.and_then(|value| value.to_str().ok());
            return Err(SessionError::UpgradeRefused {
                status: response.status().as_u16(),
                retry_after: delay.and_then(retry_after::of_header),
            });
        }
        let headers = response.headers();
        let lists = |name, token: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token))
        };
        if !lists(header::UPGRADE, "websocket") || !lists(header::CONNECTION, "upgrade") {
            return Err(SessionError::BadUpgrade("the answer does not upgrade to WebSocket"));
        }
        if headers.get(header::SEC_WEBSOCKET_ACCEPT).is_none_or(|value| *value != self.accept) {
            return Err(SessionError::BadUpgrade("the accept key does not match"));
        }
        // RFC 6455 section 4.1: the server must not grant what was not requested.
        if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
            || headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
        {
            return Err(SessionError::BadUpgrade("the answer grants what was not requested"));
        }
        Ok(Some(len))
    }
}

/// The frame at the start of an input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// The frame is incomplete. The input must have at least this length.
    Wants(usize),
    /// A frame, and how many bytes of the input it uses.
    Frame { opcode: OpCode, is_final: bool, payload: &'a [u8], used: usize },
}

/// Reads one frame of a server, of at most `payload_max` bytes, from the start of `input`.
pub(crate) fn parse(input: &[u8], payload_max: usize) -> Result<Parsed<'_>, WebSocketFault> {
    let mut cursor = Cursor::new(input);
    let parsed = FrameHeader::parse(&mut cursor).map_err(|error| match error {
        WireError::Protocol(ProtocolError::InvalidOpcode(_)) => WebSocketFault::Opcode,
        // Reading from a slice fails only at its end, and that is `Ok(None)`.
        _ => WebSocketFault::Header,
    })?;
    let Some((header, len)) = parsed else {
        return Ok(Parsed::Wants(input.len() + 1));
    };
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(WebSocketFault::Reserved);
    }
    if header.mask.is_some() {
        return Err(WebSocketFault::Masked);
    }
    if matches!(header.opcode, OpCode::Control(_)) && (len > CONTROL_MAX || !header.is_final) {
        return Err(WebSocketFault::Control);
    }
    let len = usize::try_from(len)
        .ok()
        .filter(|len| *len <= payload_max)
        .ok_or(WebSocketFault::TooLarge)?;
    let start = usize::try_from(cursor.position()).expect("a position in a slice");
    let used = start + len;
    Ok(match input.get(start..used) {
        Some(payload) => {
            Parsed::Frame { opcode: header.opcode, is_final: header.is_final, payload, used }
        }
        None => Parsed::Wants(used),
    })
}

/// The code and the text of a close frame; no code where the payload is empty.
pub(crate) fn parse_close(payload: &[u8]) -> Result<(Option<u16>, &str), WebSocketFault> {
    match payload {
        [] => Ok((None, "")),
        [_] => Err(WebSocketFault::Close),
        [high, low, text @ ..] => {
            let text = str::from_utf8(text).map_err(|_| WebSocketFault::Close)?;
            Ok((Some(u16::from_be_bytes([*high, *low])), text))
        }
    }
}

/// Appends one binary message to `output`.
pub(crate) fn write_binary(output: &mut Vec<u8>, payload: &[u8]) {
    write(output, OpCode::Data(Data::Binary), payload);
}

/// Appends a control frame to `output`. Its payload must be within the limit that also holds for received ones.
pub(crate) fn write_control(output: &mut Vec<u8>, control: Control, payload: &[u8]) {
    debug_assert!(payload.len() as u64 <= CONTROL_MAX);
    write(output, OpCode::Control(control), payload);
}

/// Appends a frame with an unpredictable mask, as each frame of a client must have (RFC 6455
/// section 5.3).
fn write(output: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    let mask: [u8; 4] = random();
    let header = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
    header.format(payload.len() as u64, output).expect("writing to memory does not fail");
    output.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_a_server_are_parsed_or_refused() {
        let binary = OpCode::Data(Data::Binary);
        #[rustfmt::skip]
        let cases: &[(&[u8], Result<Parsed<'_>, WebSocketFault>)] = &[
            (b"", Ok(Parsed::Wants(1))),
            (b"\x82", Ok(Parsed::Wants(2))),
            (b"\x82\x03ab", Ok(Parsed::Wants(5))),
            (b"\x82\x02abc", Ok(Parsed::Frame { opcode: binary, is_final: true, payload: b"ab", used: 4 })),
            (b"\x02\x00", Ok(Parsed::Frame { opcode: binary, is_final: false, payload: b"", used: 2 })),
            (b"\x82\x7e\x00", Ok(Parsed::Wants(4))),
            (b"\x82\x7e\x00\xc8", Ok(Parsed::Wants(204))),
            (b"\x82\x7e\x00\xc9", Err(WebSocketFault::TooLarge)),
            (b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", Err(WebSocketFault::TooLarge)),
            (b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", Err(WebSocketFault::TooLarge)),
            (b"\x82\x82\x00\x00\x00\x00ab", Err(WebSocketFault::Masked)),
            (b"\xc2\x00", Err(WebSocketFault::Reserved)),
            (b"\xa2\x00", Err(WebSocketFault::Reserved)),
            (b"\x92\x00", Err(WebSocketFault::Reserved)),
            (b"\x83\x00", Err(WebSocketFault::Opcode)),
            (b"\x8b\x00", Err(WebSocketFault::Opcode)),
            (b"\x09\x00", Err(WebSocketFault::Control)),
            (b"\x89\x7e\x00\x7e", Err(WebSocketFault::Control)),
        ];
        for (input, expected) in cases {
            assert_eq!(parse(input, 200), *expected, "{input:x?}");
        }
    }

    #[test]
    fn close_payloads_are_parsed_or_refused() {
        assert_eq!(parse_close(b""), Ok((None, "")));
        assert_eq!(parse_close(b"\x03\xe9bye"), Ok((Some(1001), "bye")));
        assert_eq!(parse_close(b"\x03"), Err(WebSocketFault::Close));
        assert_eq!(parse_close(b"\x03\xe9\xff"), Err(WebSocketFault::Close));
    }

    #[test]
    fn written_frames_are_masked_and_unmask_to_the_payload() {
        let mut output = Vec::new();
        write_binary(&mut output, &[7; 300]);
        let mut cursor = Cursor::new(&output);
        let (header, len) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        let mask = header.mask.expect("a client masks");
        let start = usize::try_from(cursor.position()).unwrap();
        let plain: Vec<u8> = output[start..]
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect();
        assert_eq!((header.opcode, len), (OpCode::Data(Data::Binary), 300));
        assert_eq!(plain, [7; 300]);
    }
}
