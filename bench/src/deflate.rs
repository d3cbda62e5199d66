//! Compression between a WebSocket and its session (permessage-deflate, RFC 7692). The session does not notice it: the
//! offer is added to its request, and it gets messages as if they had arrived uncompressed.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;

use comet_client::Session;
use flate2::{Decompress, FlushDecompress};

/// The offer that Chromium makes.
const OFFER: &[u8] =
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
const ANSWER: &str = "Sec-WebSocket-Extensions: permessage-deflate;";
/// The end of a sync flush, which senders leave out.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The header bit of a compressed message.
const COMPRESSED: u8 = 0x40;

/// The compression of one connection.
pub(crate) struct Deflate {
    /// The part of the request that is not sent yet.
    request: Vec<u8>,
    /// Bytes of an answer or a frame that is not complete yet.
    input: Vec<u8>,
    is_open: bool,
}

impl Deflate {
    /// Adds an offer of compression to the request of `session`, of which nothing was sent yet.
    pub(crate) fn new(session: &mut Session) -> Self {
        let request = session.output();
        let head = request.strip_suffix(b"\r\n").expect("a request ends with a blank line");
        let offered = [head, OFFER].concat();
        session.consume_output(session.output().len());
        Self { request: offered, input: Vec::new(), is_open: false }
    }

    /// Passes on the input, uncompressed, in pieces. Fails if the server declined the offer, or `take` fails.
    pub(crate) fn receive(
        &mut self,
        input: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.input.is_empty() {
            let used = self.read(input, &mut take)?;
            self.input.extend_from_slice(&input[used..]);
            return Ok(());
        }
        let mut kept = std::mem::take(&mut self.input);
        kept.extend_from_slice(input);
        let used = self.read(&kept, &mut take)?;
        kept.drain(..used);
        self.input = kept;
        Ok(())
    }

    /// Writes the output of the session as far as the socket takes it; returns whether that was all.
    pub(crate) fn transmit(
        &mut self,
        session: &mut Session,
        socket: &TcpStream,
    ) -> io::Result<bool> {
        let is_sent = write_all(
            socket,
            &mut self.request,
            |request| request,
            |request, written| {
                request.drain(..written);
            },
        )?;
        Ok(is_sent
            && write_all(socket, session, |session| session.output(), Session::consume_output)?)
    }

    /// Returns the number of bytes that were used.
    fn read(
        &mut self,
        input: &[u8],
        take: &mut impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<usize, String> {
        let mut at = 0;
        if !self.is_open {
            let Some(end) = input.windows(4).position(|end| end == b"\r\n\r\n") else {
                return Ok(0);
            };
            take(without_answer(&input[..end + 4])?.as_bytes())?;
            self.is_open = true;
            at = end + 4;
        }
        while let Some(length) = frame_length(&input[at..]) {
            let Some(frame) = input.get(at..at + length) else { break };
            if frame[0] & COMPRESSED == 0 {
                take(frame)?;
            } else {
                INFLATED.with_borrow_mut(|inflated| take(inflated.message(frame)?))?;
            }
            at += length;
        }
        Ok(at)
    }
}

/// The server's answer without the header that the session did not ask for.
fn without_answer(answer: &[u8]) -> Result<String, String> {
    let answer = str::from_utf8(answer).map_err(|_| "the answer is not text")?;
    let is_refused = !answer.starts_with("HTTP/1.1 101 ");
    let lines = answer.split_inclusive("\r\n").filter(|line| !line.starts_with(ANSWER));
    let rest: String = lines.collect();
    match is_refused || rest.len() < answer.len() {
        true => Ok(rest),
        false => Err("the server declined compression: does it have websocket.deflate?".to_owned()),
    }
}

/// The length of the frame at the head of `input`; `None` if its header is not complete.
fn frame_length(input: &[u8]) -> Option<usize> {
    let (header, length) = header(input)?;
    Some(header + length)
}

/// The lengths of a frame's header and payload. A server does not mask its frames.
fn header(input: &[u8]) -> Option<(usize, usize)> {
    match *input.get(1)? {
        126 => {
            let length = input.get(2..4)?.try_into().expect("2 bytes");
            Some((4, u16::from_be_bytes(length).into()))
        }
        127 => {
            let length = input.get(2..10)?.try_into().expect("8 bytes");
            Some((10, usize::try_from(u64::from_be_bytes(length)).ok()?))
        }
        length => Some((2, length.into())),
    }
}

thread_local!(static INFLATED: RefCell<Inflated> = RefCell::new(Inflated::new()));

/// The latest compressed frame, and its message behind a header. All members of a room get the same frame, so the bench
/// inflates it only once.
struct Inflated {
    decompress: Decompress,
    frame: Vec<u8>,
    message: Vec<u8>,
}

impl Inflated {
    fn new() -> Self {
        Self { decompress: Decompress::new(false), frame: Vec::new(), message: Vec::new() }
    }

    /// The frame without compression.
    fn message(&mut self, frame: &[u8]) -> Result<&[u8], String> {
        if frame == self.frame {
            return Ok(&self.message);
        }
        let (header, _) = header(frame).expect("it is complete");
        let input = [&frame[header..], &TAIL].concat();
        let mut payload = Vec::with_capacity(8 * input.len());
        self.decompress.reset(false);
        loop {
            let rest = &input[self.decompress.total_in() as usize..];
            self.decompress
                .decompress_vec(rest, &mut payload, FlushDecompress::Sync)
                .map_err(|error| error.to_string())?;
            if payload.len() < payload.capacity() {
                break;
            }
            payload.reserve(payload.len());
        }
        self.message.clear();
        self.message.extend([frame[0] & !COMPRESSED, 127]);
        self.message.extend((payload.len() as u64).to_be_bytes());
        self.message.extend(payload);
        self.frame.clear();
        self.frame.extend_from_slice(frame);
        Ok(&self.message)
    }
}

/// Writes the output of `source` as far as the socket takes it; returns whether that was all.
fn write_all<Source>(
    mut socket: &TcpStream,
    source: &mut Source,
    bytes: impl Fn(&Source) -> &[u8],
    consume: impl Fn(&mut Source, usize),
) -> io::Result<bool> {
    while !bytes(source).is_empty() {
        match socket.write(bytes(source)) {
            Ok(written) => consume(source, written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use comet_client::Transport;
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n";

    fn compressed(message: &[u8]) -> Vec<u8> {
        let mut payload = Vec::with_capacity(message.len() + 100);
        let mut compress = Compress::new(Compression::fast(), false);
        compress.compress_vec(message, &mut payload, FlushCompress::Sync).unwrap();
        let payload = payload.strip_suffix(&TAIL).unwrap();
        let length = u8::try_from(payload.len()).unwrap();
        [&[0x82 | COMPRESSED, length], payload].concat()
    }

    #[test]
    fn messages_come_uncompressed_in_whatever_pieces() {
        let message = [b'm'; 300];
        let plain = b"\x82\x05plain";
        let stream = [ACCEPTED, &compressed(&message), plain, &compressed(&message)].concat();
        let inflated = [&[0x82, 127, 0, 0, 0, 0, 0, 0, 1, 44], &message[..]].concat();
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
        let expected = [answer, &*inflated, plain, &inflated].concat();
        for piece in [1, 7, 1_000] {
            let mut session = Session::new(Transport::WebSocket, "host", "/sub", b"1");
            let mut deflate = Deflate::new(&mut session);
            assert!(deflate.request.ends_with(OFFER) && session.output().is_empty());
            let mut seen = Vec::new();
            for piece in stream.chunks(piece) {
                deflate
                    .receive(piece, |bytes| {
                        seen.extend_from_slice(bytes);
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_server_that_declines_is_named() {
        let mut session = Session::new(Transport::WebSocket, "host", "/sub", b"1");
        let mut deflate = Deflate::new(&mut session);
        let declined = deflate.receive(b"HTTP/1.1 101 Switching\r\n\r\n", |_| Ok(()));
        assert!(declined.unwrap_err().contains("websocket.deflate"));
    }
}
