//! The reconnecting client.

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
    let (reason, retry_in) = disconnected_with_delay(listener);
    assert!((BASE..=MAX).contains(&retry_in), "{retry_in:?}");
    reason
}

/// Why the connection was lost or could not be made, and the delay before the next attempt.
fn disconnected_with_delay(listener: &mut Listener) -> (Error, Duration) {
    match listener.next().unwrap() {
        Event::Disconnected { reason, retry_in } => (reason, retry_in),
        other => panic!("{other:?}"),
    }
}

fn connected(listener: &mut Listener) {
    let event = listener.next().unwrap();
    assert!(matches!(event, Event::Connected), "{event:?}");
    assert!(listener.client().is_some());
}

/// The first connection gets room and operations one by one. The second gets them before the event
/// `Connected`. The server refuses the third connection and accepts the fourth.
#[test]
fn a_reconnect_restores_room_and_operations() {
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
fn a_room_joined_before_the_first_connection_is_joined_there() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        let (operation, sequence, room) = read_frame(&mut stream);
        assert_eq!((operation, &room[..]), (12, &b""[..]), "leave the token's room");
        stream.write_all(&frame(13, sequence, b"")).unwrap();
    });
    let mut listener = listener(address);
    listener.join("").unwrap();
    assert!(matches!(listener.join(&"x".repeat(5000)), Err(Error::BodyTooLong { len: 5000 })));
    connected(&mut listener);
    server.join().unwrap();
}

/// No delay is waited for: the test checks the announced delays.
#[test]
fn the_longer_of_server_delay_and_backoff_is_used() {
    const HINT: Duration = Duration::from_millis(1_234_567);
    // The body of the server's close notice, the reason in it, and the delay if it is accepted.
    let cases = [
        ("draining; retry_after_ms=1234567", "draining", Some(HINT)),
        ("draining; retry_after_ms=3600000", "draining", Some(Duration::from_secs(3600))),
        ("draining; retry_after_ms=0", "draining", Some(Duration::ZERO)),
        ("draining", "draining", None),
        ("draining; retry_after_ms=3600001", "draining; retry_after_ms=3600001", None),
        ("draining; retry_after_ms=-1", "draining; retry_after_ms=-1", None),
        ("draining; retry_after_ms=", "draining; retry_after_ms=", None),
    ];
    // Each text is first the answer to a token, and then the end of a live connection.
    let (address, server) = serve(2 * cases.len(), move |connection, mut stream| {
        let notice = frame(6, 0, cases[connection / 2].0.as_bytes());
        if connection % 2 == 0 {
            read_frame(&mut stream);
        } else {
            authenticate(&mut stream);
        }
        stream.write_all(&notice).unwrap();
    });
    for (text, expected, delay) in cases {
        for is_live in [false, true] {
            let mut listener = listener(address.clone());
            if is_live {
                connected(&mut listener);
            }
            let (error, retry_in) = disconnected_with_delay(&mut listener);
            assert_eq!(error.retry_after(), delay, "{text}");
            let Error::Session(SessionError::Closed { reason, .. }) = error else {
                panic!("{error}");
            };
            assert_eq!(reason, expected);
            match delay.filter(|delay| *delay > MAX) {
                Some(delay) => assert_eq!(retry_in, delay),
                None => assert!((BASE..=MAX).contains(&retry_in), "{text}: {retry_in:?}"),
            }
        }
    }
    server.join().unwrap();
}
