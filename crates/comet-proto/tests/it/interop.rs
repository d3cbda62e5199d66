//! tungstenite's client against this crate as the server, without a socket.

use std::io::{self, Read, Write};

use comet_proto::websocket::{Accepted, Event, Fragments, MessageKinds, read, upgrade};
use comet_proto::{Encoded, Frame, decode};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Bytes, Error, Message, client};

/// Returns every frame with the next sequence number.
#[derive(Default)]
struct Echo {
    upgraded: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    fragments: Option<Box<Fragments>>,
    scratch: Vec<u8>,
}

impl Echo {
    fn take_input(&mut self) {
        while let Some(consumed) = self.take_one() {
            self.input.drain(..consumed);
        }
    }

    fn take_one(&mut self) -> Option<usize> {
        if !self.upgraded {
            let upgrade = upgrade(&self.input, "/sub", 1024).unwrap()?;
            self.output.extend(upgrade.response);
            self.upgraded = true;
            return Some(upgrade.consumed);
        }
        let (event, consumed) = read(
            &self.input,
            &mut self.fragments,
            &mut self.scratch,
            Accepted { message_max: 200_000, kinds: MessageKinds::Binary, deflate: false },
        )
        .unwrap()?;
        let answer = match event {
            Event::Message(message) => {
                let (frame, _) = decode(message, 200_000).unwrap().unwrap();
                Encoded::frame(&Frame { sequence: frame.sequence + 1, ..frame })
            }
            Event::Ping(payload) => Encoded::pong(payload),
            Event::Close(code) => Encoded::close(code.unwrap_or(1000), "bye"),
            Event::Pong | Event::Fragment => return Some(consumed),
            Event::Text(_) | Event::Compressed { .. } => {
                unreachable!("only plain binary messages are taken")
            }
        };
        self.output.extend_from_slice(answer.for_websocket());
        Some(consumed)
    }
}

impl Write for Echo {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.input.extend_from_slice(bytes);
        self.take_input();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Echo {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.output.as_slice().read(buffer)?;
        self.output.drain(..taken);
        Ok(taken)
    }
}

#[test]
fn a_tungstenite_client_exchanges_frames_pings_and_closes() {
    let (mut socket, response) = client("ws://comet.example/sub?v=1", Echo::default()).unwrap();
    assert_eq!(response.status(), 101);

    for body_len in [0, 1, 109, 110, 4096, 65_519, 65_520, 100_000] {
        let body = vec![0x5a; body_len];
        let frame = Frame { version: 1, operation: 4, sequence: 7, body: &body };
        let sent = Bytes::copy_from_slice(Encoded::frame(&frame).for_tcp());
        socket.send(Message::Binary(sent)).unwrap();
        let received = socket.read().unwrap().into_data();
        let expected = Frame { sequence: 8, ..frame };
        assert_eq!(decode(&received, body_len), Ok(Some((expected, received.len()))));
    }

    socket.send(Message::Ping("are you there".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("are you there".into()));

    socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })).unwrap();
    let close = CloseFrame { code: CloseCode::Away, reason: "bye".into() };
    assert_eq!(socket.read().unwrap(), Message::Close(Some(close)));
    assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
}
