//! The reconnecting client.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use comet_client::{
    Backoff, Error, Event, Listener, Message, Options, Permanent, SessionError, Transport,
};
use comet_proto::{Join, JoinReply, Position, RoomHandle};
use tungstenite::handshake::derive_accept_key;

use crate::wire::{authenticate, frame, read_frame, serve, websocket};

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
        Event::Disconnected { reason, retry_in: Some(retry_in) } => (reason, retry_in),
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
            let text = b"not now; retry_after_ms=0";
            stream.write_all(&frame(reply, sequence, text)).unwrap();
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
                expect(16, b"1001,1003");
                expect(14, b"1000,1002");
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
    let message = |sequence, body: &[u8]| Message {
        operation: 5,
        sequence,
        body: body.to_vec(),
        room: None,
        position: None,
    };
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

/// The test checks the announced delays and does not wait for them.
#[test]
fn the_longer_of_server_delay_and_backoff_is_used() {
    const HINT: Duration = Duration::from_millis(1_234_567);
    // The body of the server's close notice, the reason in it, and the delay if it is accepted.
    let cases = [
        ("draining; retry_after_ms=1234567", "draining", Some(HINT)),
        ("draining; retry_after_ms=3600000", "draining", Some(Duration::from_secs(3600))),
        ("draining; retry_after_ms=0", "draining", Some(Duration::ZERO)),
        ("draining", "draining", None),
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

/// The Retry-After header of a refused upgrade is handled as the delay in a close notice.
#[test]
fn a_refused_upgrade_may_name_a_delay() {
    // The answer, and the delay if it is accepted; without one, whether another attempt may succeed.
    let cases = [
        ("429 Too Many Requests\r\nRetry-After: 30", Some(Duration::from_secs(30)), true),
        ("503 Service Unavailable\r\nretry-after:  7200 ", Some(Duration::from_secs(3600)), true),
        ("403 Forbidden\r\nRetry-After: 17", Some(Duration::from_secs(17)), true),
        ("429 Too Many Requests\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT", None, true),
        ("429 Too Many Requests\r\nRetry-After: +5", None, true),
        ("429 Too Many Requests\r\nRetry-After: 18446744073709551616", None, true),
        ("403 Forbidden\r\nRetry-After: soon", None, false),
    ];
    let (address, server) = serve(cases.len(), move |connection, mut stream| {
        read_head(&mut stream);
        write!(stream, "HTTP/1.1 {}\r\nContent-Length: 0\r\n\r\n", cases[connection].0).unwrap();
    });
    for (answer, delay, may_succeed) in cases {
        let options = Options::websocket(&*address, "/sub", "42");
        let mut listener = options.backoff(Backoff::new(BASE, MAX)).reconnecting();
        let Some(Event::Disconnected { reason, retry_in }) = listener.next() else {
            panic!("{answer}");
        };
        assert_eq!(reason.retry_after(), delay, "{answer}");
        assert_eq!(retry_in.is_some(), may_succeed, "{answer}");
        if let (Some(retry_in), Some(delay)) = (retry_in, delay) {
            assert_eq!(retry_in, delay, "{answer}");
        }
    }
    server.join().unwrap();
}

/// The server accepts and closes in one segment, before the listener can ask for its room.
#[test]
fn a_close_notice_in_the_same_segment_as_the_acceptance_is_kept() {
    let (address, server) = serve(1, |_, mut stream| {
        let (_, sequence, _) = read_frame(&mut stream);
        let notice = frame(6, 0, b"draining; retry_after_ms=30000");
        stream.write_all(&[frame(8, sequence, b""), notice].concat()).unwrap();
    });
    let mut listener = listener(address);
    listener.join("live://1").unwrap();
    connected(&mut listener);
    let (error, retry_in) = disconnected_with_delay(&mut listener);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)), "{error}");
    assert_eq!(retry_in, Duration::from_secs(30));
    server.join().unwrap();
}

/// The server closes before the client writes, so the write fails while the reason is unread.
#[test]
fn a_close_notice_is_found_behind_a_failed_write() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        stream.write_all(&frame(6, 0, b"replaced")).unwrap();
    });
    let mut client = Options::tcp(address, "42").connect().unwrap();
    server.join().unwrap();
    // The first write makes the closed peer answer with a reset, which fails a later one.
    let error = loop {
        if let Err(error) = client.send(4, b"x") {
            break error;
        }
    };
    assert_eq!(error.permanent(), Some(Permanent::Replaced), "{error}");
}

#[test]
fn a_new_token_takes_the_place_of_an_expired_one() {
    let (address, server) = serve(2, |connection, mut stream| {
        let (_, sequence, token) = read_frame(&mut stream);
        assert_eq!(token, [&b"old"[..], b"new"][connection]);
        stream.write_all(&frame(8, sequence, b"")).unwrap();
        stream.write_all(&frame(6, 0, b"token_expired; retry_after_ms=1")).unwrap();
    });
    let options = Options::tcp(&*address, "old").backoff(Backoff::new(BASE, MAX));
    let mut listener = options.reconnecting();
    for _ in 0..2 {
        connected(&mut listener);
        let (error, _) = disconnected_with_delay(&mut listener);
        assert!(error.is_token_expired(), "{error}");
        listener.set_token("new");
    }
    server.join().unwrap();
}

#[test]
fn permanent_reasons_end_the_iteration() {
    let notice = |text: &'static [u8]| (Transport::Tcp, frame(6, 0, text));
    let close = |payload| (Transport::WebSocket, websocket(0x88, payload));
    let status = |status: &str| {
        (
            Transport::WebSocket,
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
        )
    };
    let cases = [
        (notice(b"no such user"), false, Some(Permanent::Refused)),
        (notice(b"logic is busy; retry_after_ms=1"), false, None),
        (notice(b"draining"), false, None),
        (notice(b"handshake_timeout"), false, None),
        (notice(b"too_many_sessions"), false, None),
        (notice(b"replaced"), true, Some(Permanent::Replaced)),
        (notice(b"kicked"), true, Some(Permanent::Kicked)),
        (notice(b"kicked: banned"), true, Some(Permanent::Kicked)),
        (notice(b"slow_consumer"), true, None),
        (notice(b"token_expired; retry_after_ms=1"), true, None),
        // Proxies that go away, restart or are overloaded, and one that does not answer.
        (close(b"\x03\xe9restart"), false, None),
        (close(b"\x03\xf4"), false, None),
        (close(b"\x03\xf5try again later"), false, None),
        (close(b""), false, None),
        (close(b"\x03\xf0auth_refused: no such token"), false, Some(Permanent::Refused)),
        (status("403 Forbidden"), false, Some(Permanent::NoUpgrade)),
        (status("429 Too Many Requests"), false, None),
        (status("503 Service Unavailable"), false, None),
    ];
    let answers = cases.clone();
    let (address, server) = serve(cases.len(), move |connection, mut stream| {
        let ((transport, answer), was_accepted, _) = &answers[connection];
        match (transport, was_accepted) {
            (Transport::Tcp, true) => drop(authenticate(&mut stream)),
            (Transport::Tcp, false) => drop(read_frame(&mut stream)),
            (Transport::WebSocket, _) => {
                let head = read_head(&mut stream);
                if !answer.starts_with(b"HTTP") {
                    upgrade(&mut stream, &head);
                }
            }
        }
        stream.write_all(answer).unwrap();
    });
    for ((transport, answer), was_accepted, permanent) in cases {
        let options = match transport {
            Transport::Tcp => Options::tcp(&*address, "42"),
            Transport::WebSocket => Options::websocket(&*address, "/sub", "42"),
        };
        let mut listener = options.backoff(Backoff::new(BASE, MAX)).reconnecting();
        if was_accepted {
            connected(&mut listener);
        }
        let Some(Event::Disconnected { reason, retry_in }) = listener.next() else {
            panic!("{}", String::from_utf8_lossy(&answer));
        };
        assert_eq!(reason.permanent(), permanent, "{reason}");
        assert_eq!(retry_in.is_none(), permanent.is_some(), "{reason}");
        if permanent.is_some() {
            assert!(listener.next().is_none());
        }
    }
    server.join().unwrap();
}

/// The token of the first attempt may still be under way. The server then takes it for the younger one.
#[test]
fn a_client_that_may_have_replaced_itself_reconnects_once() {
    let (go_on, gone_on) = mpsc::channel();
    let (address, server) = serve(3, move |connection, mut stream| {
        if connection == 0 {
            read_frame(&mut stream);
            return gone_on.recv().unwrap();
        }
        authenticate(&mut stream);
        stream.write_all(&frame(6, 0, b"replaced")).unwrap();
    });
    let options = Options::tcp(&*address, "42").timeout(Duration::from_secs(5));
    let mut listener = options.backoff(Backoff::new(BASE, MAX)).reconnecting();
    assert!(matches!(disconnected(&mut listener), Error::Unanswered(_)));
    go_on.send(()).unwrap();
    connected(&mut listener);
    assert_eq!(disconnected(&mut listener).permanent(), Some(Permanent::Replaced));
    connected(&mut listener);
    let event = listener.next();
    assert!(matches!(event, Some(Event::Disconnected { retry_in: None, .. })), "{event:?}");
    server.join().unwrap();
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Answers the request to upgrade, and waits for the token behind it.
fn upgrade(stream: &mut (impl Read + Write), head: &str) {
    let key = head.split("Sec-WebSocket-Key: ").nth(1);
    let accept = derive_accept_key(key.unwrap().split("\r\n").next().unwrap().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_listener_is_stopped_while_it_receives_and_while_it_waits() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        stream.write_all(&frame(5, 1, b"one")).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "until it is stopped");
    });
    let mut receiving = listener(address);
    let stopper = receiving.stopper();
    connected(&mut receiving);
    assert!(matches!(receiving.next(), Some(Event::Message(_))));
    let stopping = thread::spawn(move || stopper.stop());
    assert!(receiving.next().is_none());
    assert!(receiving.next().is_none());
    stopping.join().unwrap();
    server.join().unwrap();

    let hour = Duration::from_secs(3600);
    let refused = "127.0.0.1:1";
    let options = Options::tcp(refused, "42").backoff(Backoff::new(hour, hour));
    let mut waiting = options.reconnecting();
    let stopper = waiting.stopper();
    assert!(matches!(waiting.next(), Some(Event::Disconnected { .. })));
    let stopping = thread::spawn(move || stopper.stop());
    assert!(waiting.next().is_none(), "an hour earlier");
    stopping.join().unwrap();
}

/// The second request is answered without a position: nothing has changed.
#[test]
fn a_room_that_is_asked_for_twice_goes_on_from_its_position() {
    let position = Position { epoch: 9, offset: 3 };
    let (address, server) = serve(2, move |connection, mut stream| {
        let (_, sequence, _) = read_frame(&mut stream);
        let welcome = [2, 0, 0, 0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0];
        stream.write_all(&frame(8, sequence, &welcome)).unwrap();
        for answer in [Some(position), None].into_iter().take(2 - connection) {
            let (operation, sequence, body) = read_frame(&mut stream);
            let since = Join::decode(&body).unwrap().since;
            assert_eq!((operation, since), (18, (connection == 1).then_some(position)));
            let reply = JoinReply { position: answer, ..JoinReply::joined(RoomHandle(1), b"r") };
            stream.write_all(&frame(19, sequence, &reply.encode())).unwrap();
        }
    });
    let mut listener = listener(address);
    connected(&mut listener);
    for _ in 0..2 {
        listener.add_room("r").unwrap();
        assert!(matches!(listener.next(), Some(Event::Room { outcome: Ok(_), .. })));
    }
    disconnected(&mut listener);
    connected(&mut listener);
    server.join().unwrap();
}

/// The reason, which decides on the next attempt, is in the event. The call whose request it interrupts does not have it.
#[test]
fn the_reason_that_interrupts_a_request_is_in_the_disconnect_event() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        assert_eq!(read_frame(&mut stream).0, 14);
        stream.write_all(&[frame(5, 1, b"one"), frame(6, 0, b"kicked")].concat()).unwrap();
    });
    let mut listener = listener(address);
    connected(&mut listener);
    assert!(matches!(listener.subscribe(&[1]), Err(Error::Ended)));
    listener.join("as without a connection").unwrap();
    assert!(matches!(listener.next(), Some(Event::Message(_))));
    let event = listener.next();
    let Some(Event::Disconnected { reason, retry_in: None }) = event else { panic!("{event:?}") };
    assert_eq!(reason.permanent(), Some(Permanent::Kicked));
    server.join().unwrap();
}
