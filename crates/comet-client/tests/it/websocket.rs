//! The blocking client over WebSocket, against tungstenite's server and a plain HTTP server.

use std::io::{Read, Write};
use std::net::TcpStream;

use comet_client::{Error, Message, Options, SessionError, op};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Bytes, Message as Wire, WebSocket, accept};

use crate::wire::{frame, serve};

/// One frame a client sent, as operation, sequence and body.
fn read_frame(socket: &mut WebSocket<TcpStream>) -> (i32, i32, Bytes) {
    let Wire::Binary(payload) = socket.read().unwrap() else { panic!("no binary message") };
    let word = |at: usize| i32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    assert_eq!(usize::try_from(word(0)).unwrap(), payload.len());
    (word(8), word(12), payload.slice(16..))
}

fn write(socket: &mut WebSocket<TcpStream>, payload: Vec<u8>) {
    socket.send(Wire::Binary(payload.into())).unwrap();
}

fn welcome(stream: TcpStream) -> WebSocket<TcpStream> {
    let mut socket = accept(stream).unwrap();
    let (operation, sequence, token) = read_frame(&mut socket);
    assert_eq!((operation, &token[..]), (7, &br#"{"mid":42}"#[..]));
    write(&mut socket, frame(8, sequence, b""));
    socket
}

fn options(address: String) -> Options {
    Options::websocket(address, "/sub", r#"{"mid":42}"#)
}

#[test]
fn requests_messages_pings_and_batches() {
    let (address, server) = serve(1, |_, stream| {
        let mut socket = welcome(stream);
        let (operation, sequence, room) = read_frame(&mut socket);
        assert_eq!((operation, &room[..]), (12, &b"live://1000"[..]));
        socket.send(Wire::Ping("are you there".into())).unwrap();
        write(&mut socket, frame(13, sequence, b""));
        assert_eq!(socket.read().unwrap(), Wire::Pong("are you there".into()));
        let run = [frame(1000, 1, b"first"), frame(1000, 2, &[7; 70_000])].concat();
        write(&mut socket, frame(9, 0, &run));
        let (operation, sequence, body) = read_frame(&mut socket);
        assert_eq!((operation, body.len()), (4, 4000));
        write(&mut socket, frame(4, sequence, b""));
        assert!(
            matches!(socket.read().unwrap(), Wire::Close(Some(close)) if close.code == 1000.into())
        );
    });
    let mut client = options(address).connect().unwrap();
    client.join("live://1000").unwrap();
    let mut next = || client.receive().unwrap().unwrap();
    assert_eq!(
        next(),
        Message {
            operation: 1000,
            sequence: 1,
            body: b"first".to_vec(),
            room: None,
            position: None
        }
    );
    assert_eq!(
        next(),
        Message { operation: 1000, sequence: 2, body: vec![7; 70_000], room: None, position: None }
    );
    let sequence = client.send(op::SEND, &[1; 4000]).unwrap();
    let echo = client.receive().unwrap().unwrap();
    assert_eq!(echo, Message { operation: 4, sequence, body: vec![], room: None, position: None });
    client.close().unwrap();
    server.join().unwrap();
}

#[test]
fn a_close_is_answered_and_reported_with_code_and_reason() {
    let (address, server) = serve(1, |_, stream| {
        let mut socket = welcome(stream);
        let close = CloseFrame { code: 1001.into(), reason: "draining".into() };
        socket.close(Some(close.clone())).unwrap();
        assert_eq!(socket.read().unwrap(), Wire::Close(Some(close)));
        assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
    });
    let mut client = options(address).connect().unwrap();
    match client.receive() {
        Err(Error::Session(SessionError::Closed { code: Some(1001), reason, .. })) => {
            assert_eq!(reason, "draining");
        }
        other => panic!("{other:?}"),
    }
    server.join().unwrap();
}

#[test]
fn the_status_of_a_refused_upgrade_is_reported() {
    let (address, server) = serve(1, |_, mut stream| {
        let mut request = [0; 4096];
        let len = stream.read(&mut request).unwrap();
        assert!(request[..len].starts_with(b"GET /sub HTTP/1.1\r\n"));
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let refused = options(address).connect();
    let expected = SessionError::UpgradeRefused { status: 404, retry_after: None };
    assert!(matches!(&refused, Err(Error::Session(error)) if *error == expected), "{refused:?}");
    server.join().unwrap();
}

#[test]
#[should_panic(expected = "host and path can stand in an HTTP request")]
fn a_path_with_a_line_break_panics() {
    let (address, _server) = serve(1, |_, _| {});
    let _ = Options::websocket(address, "/sub\r\nX: y", "42").connect();
}
