//! A server that speaks HTTP/2 frame by frame, as a test wants: frames of gateways and other libraries,
//! and frames that a well-behaved server never sends.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use comet_wire::goim::logic::ConnectReply;
use tonic_prost::prost::Message;

/// The client's first bytes (RFC 9113, 3.4).
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113, 7.
const REFUSED_STREAM: u32 = 7;

/// The handling of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// A client or a message is accepted.
    Yes,
    /// The same, and no later call of the connection is processed.
    YesAndGoAway,
    /// There is no answer, and the stream is refused.
    RefuseStream,
    /// A page of a gateway.
    Page(&'static str),
    /// The head of a reply and a part of its message, then the end of the stream.
    Cut,
}

/// Listens as long as the process runs.
pub(crate) struct RawLogic {
    pub(crate) address: SocketAddr,
}

impl RawLogic {
    /// `answer` chooses the handling of each call except pings, by its number on the connection.
    pub(crate) fn start(answer: impl Fn(u32) -> Answer + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::serve(move |stream| {
            // The client has left.
            let _ = speak(&stream, &*answer);
        })
    }

    /// Sends the same bytes to each connection, whatever is asked.
    pub(crate) fn say(bytes: &'static [u8]) -> Self {
        Self::serve(move |mut stream| {
            let mut preface = [0; PREFACE];
            let _ = stream.read_exact(&mut preface).and_then(|()| stream.write_all(bytes));
        })
    }

    fn serve(connection: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connection = Arc::new(connection);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, connection) = (stream.unwrap(), Arc::clone(&connection));
                thread::spawn(move || connection(stream));
            }
        });
        Self { address }
    }
}

/// Serves one connection.
fn speak(stream: &TcpStream, answer: &dyn Fn(u32) -> Answer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream;
    let mut reader = BufReader::new(stream);
    reader.read_exact(&mut [0; PREFACE])?;
    writer.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    let (mut calls, mut is_away) = (0, false);
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    loop {
        let (kind, flags, stream, payload) = read_frame(&mut reader)?;
        if kind == DATA {
            bodies.entry(stream).or_default().extend(&payload);
        }
        let reply = match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, &payload),
            // The last bytes of a request.
            DATA if flags & END_STREAM != 0 && !is_away => {
                // Only a question of the health service is empty.
                if bodies[&stream].iter().all(|byte| *byte == 0) {
                    head(stream, &[(":status", "200"), ("grpc-status", "12")], END_STREAM)
                } else {
                    let answer = answer(calls);
                    calls += 1;
                    is_away = matches!(answer, Answer::YesAndGoAway);
                    reply(stream, answer)
                }
            }
            _ => continue,
        };
        writer.write_all(&reply)?;
    }
}

fn reply(stream: u32, answer: Answer) -> Vec<u8> {
    let ok = [(":status", "200"), ("content-type", "application/grpc")];
    let message = ConnectReply { mid: 1, key: "k1".to_owned(), ..ConnectReply::default() };
    let message = message.encode_to_vec();
    // A flag for compression, and the length.
    let mut body = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    body.extend(message);
    match answer {
        Answer::Yes | Answer::YesAndGoAway => {
            let mut reply = head(stream, &ok, 0);
            reply.extend(frame(DATA, 0, stream, &body));
            reply.extend(head(stream, &[("grpc-status", "0")], END_STREAM));
            if let Answer::YesAndGoAway = answer {
                let last = [stream.to_be_bytes(), 0_u32.to_be_bytes()].concat();
                reply.extend(frame(GOAWAY, 0, 0, &last));
            }
            reply
        }
        Answer::RefuseStream => frame(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes()),
        Answer::Page(status) => {
            let mut reply = head(stream, &[(":status", status), ("content-type", "text/html")], 0);
            reply.extend(frame(DATA, END_STREAM, stream, b"<h1>dial tcp 10.0.0.5:6379</h1>"));
            reply
        }
        Answer::Cut => {
            let mut reply = head(stream, &ok, 0);
            reply.extend(frame(DATA, END_STREAM, stream, &body[..body.len() - 1]));
            reply
        }
    }
}

fn read_frame(reader: &mut impl Read) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    reader.read_exact(&mut head)?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    reader.read_exact(&mut payload)?;
    Ok((kind, flags, u32::from_be_bytes(stream), payload))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Headers, each spelled out (RFC 7541, 6.2.2).
fn head(stream: u32, fields: &[(&str, &str)], flags: u8) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    frame(HEADERS, flags | END_HEADERS, stream, &block)
}
