//! The client that comes back.

use std::io::Write;
use std::time::Duration;

use comet_client::{Backoff, Error, Event, Listener, Message, Options, SessionError};

use crate::wire::{authenticate, frame, read_frame, serve};

const BASE: Duration = Duration::from_millis(1);
const MAX: Duration = Duration::from_millis(5);

fn listener(address: String) -> Listener {
    Options::tcp(address, "42").backoff(Backoff::new(BASE, MAX)).reconnecting()
}

fn disconnected(listener: &mut Listener) -> Error {
    match listener.next().unwrap() {
        Event::Disconnected { reason, retry_in } => {
            assert!((BASE..=MAX).contains(&retry_in), "{retry_in:?}");
            reason
        }
        other => panic!("{other:?}"),
    }
}

fn connected(listener: &mut Listener) {
    let event = listener.next().unwrap();
    assert!(matches!(event, Event::Connected), "{event:?}");
    assert!(listener.client().is_some());
}

/// The first connection is told room and operations one by one; the second gets them before anybody
/// hears that it is there. The third server refuses, the fourth takes it again.
#[test]
fn a_lost_connection_is_made_again_as_it_was() {
    let (address, server) = serve(4, |connection, mut stream| {
        let mut expect = |operation: i32, body: &[u8]| {
            let (asked, sequence, said) = read_frame(&mut stream);
            assert_eq!((asked, &said[..]), (operation, body), "on connection {connection}");
            let reply = if connection == 2 { 6 } else { operation + 1 };
            stream.write_all(&frame(reply, sequence, b"not now")).unwrap();
        };
        expect(7, b"42");
        match connection {
            0 => {
                expect(14, b"1000,1001,1002");
                expect(16, b"1001,1003");
                expect(12, b"old");
                expect(12, b"live://1");
                stream.write_all(&frame(5, 1, b"first")).unwrap();
            }
            2 => {}
            _ => {
                expect(14, b"1000,1002");
                expect(16, b"1001,1003");
                expect(12, b"live://1");
                stream.write_all(&frame(5, 2, b"again")).unwrap();
            }
        }
    });
    let mut listener = listener(address);
    assert!(listener.client().is_none());
    connected(&mut listener);
    listener.subscribe(&[1000, 1001, 1002]).unwrap();
    listener.unsubscribe(&[1001, 1003]).unwrap();
    listener.join("old").unwrap();
    listener.join("live://1").unwrap();
    assert!(matches!(listener.join(&"x".repeat(5000)), Err(Error::BodyTooLong { .. })));
    let message = |sequence, body: &[u8]| Message { operation: 5, sequence, body: body.to_vec() };
    assert!(matches!(listener.next(), Some(Event::Message(said)) if said == message(1, b"first")));
    assert!(matches!(disconnected(&mut listener), Error::Ended));
    assert!(listener.client().is_none());
    connected(&mut listener);
    assert!(matches!(listener.next(), Some(Event::Message(said)) if said == message(2, b"again")));
    assert!(matches!(disconnected(&mut listener), Error::Ended));
    let refused = disconnected(&mut listener);
    assert!(matches!(refused, Error::Session(SessionError::Closed { .. })), "{refused}");
    connected(&mut listener);
    server.join().unwrap();
}

#[test]
fn what_is_asked_before_the_first_connection_is_asked_there() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        let (operation, sequence, room) = read_frame(&mut stream);
        assert_eq!((operation, &room[..]), (12, &b""[..]), "leave the token's room");
        stream.write_all(&frame(13, sequence, b"")).unwrap();
    });
    let mut listener = listener(address);
    listener.join("").unwrap();
    connected(&mut listener);
    server.join().unwrap();
}
