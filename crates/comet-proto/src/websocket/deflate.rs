//! The negotiation of permessage-deflate (RFC 7692): which offers of a client are accepted.
//!
//! A server that accepts here keeps no compression state for a connection: both sides begin each message anew
//! (`server_no_context_takeover`, `client_no_context_takeover`), so the same compressed message serves all clients.

/// The name of the extension (RFC 7692 7).
const NAME: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";
/// The window that messages are compressed with: 2^15 bytes, the largest there is.
const WINDOW_BITS: u8 = 15;

/// An acceptable offer of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeflateOffer {
    /// It names the largest window. The answer must then repeat it (RFC 7692 7.1.2.1).
    names_window: bool,
}

impl DeflateOffer {
    /// The header line of the response, without the CRLF.
    pub(super) fn response(self) -> &'static str {
        if self.names_window {
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
             client_no_context_takeover; server_max_window_bits=15"
        } else {
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
             client_no_context_takeover"
        }
    }
}

/// The first acceptable offer in the value of a `Sec-WebSocket-Extensions` header. Offers of other extensions, with a
/// parameter that is unknown, repeated or has a wrong value, or for a smaller window than ours are passed over (RFC 7692 7).
pub(super) fn first_offer(value: &[u8]) -> Option<DeflateOffer> {
    let value = str::from_utf8(value).ok()?;
    split(value, ',').find_map(offer)
}

fn offer(extension: &str) -> Option<DeflateOffer> {
    let mut parts = split(extension, ';').map(str::trim_ascii);
    if !parts.next()?.eq_ignore_ascii_case(NAME) {
        return None;
    }
    let mut seen = [false; 4];
    let mut names_window = false;
    for parameter in parts {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim_ascii(), Some(unquoted(value.trim_ascii()))),
            None => (parameter, None),
        };
        let at = match (name, value) {
            (SERVER_NO_CONTEXT_TAKEOVER, None) => 0,
            (CLIENT_NO_CONTEXT_TAKEOVER, None) => 1,
            // All clients that negotiated share one form of a message, which may use the largest window.
            (SERVER_MAX_WINDOW_BITS, Some(bits)) if window_bits(bits)? == WINDOW_BITS => {
                names_window = true;
                2
            }
            // A hint that the response may name a window. Messages of any window can be read, so it names none (RFC
            // 7692 7.1.2.2).
            (CLIENT_MAX_WINDOW_BITS, None) => 3,
            (CLIENT_MAX_WINDOW_BITS, Some(bits)) => {
                window_bits(bits)?;
                3
            }
            _ => return None,
        };
        if std::mem::replace(&mut seen[at], true) {
            return None;
        }
    }
    Some(DeflateOffer { names_window })
}

/// 8 to 15, without leading zeros (RFC 7692 7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    match value.as_bytes() {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// A value may be a quoted string of what is a token (RFC 6455 9.1). No value here needs an escape.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// The parts of a list between separators that are not in a quoted string (RFC 9110 5.6.4).
fn split(list: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    list.split(move |character| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match character {
            '"' if !was_escaped => is_quoted = !is_quoted,
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            _ => {}
        }
        character == separator && !is_quoted
    })
}
