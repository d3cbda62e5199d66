//! The blocking client over TCP, against a server on a thread.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use comet_client::{Error, Message, NotRenewed, Options, SessionError, op};

use crate::wire::{authenticate, frame, frame_2, read_frame, serve};

fn message(operation: i32, sequence: i32, body: &[u8]) -> Message {
    Message { operation, sequence, body: body.to_vec(), room: None, position: None }
}

#[test]
fn requests_messages_and_an_end_without_a_reason() {
    let (address, server) = serve(1, |_, mut stream| {
        assert_eq!(authenticate(&mut stream), b"42");
        let (operation, sequence, room) = read_frame(&mut stream);
        assert_eq!((operation, &room[..]), (12, &b"live://1000"[..]));
        // Messages and a reply to no request arrive before the reply.
        let batch =
            [frame(5, 1, b"a"), frame(1000, 2, b"b"), frame(13, sequence - 1, b"")].concat();
        stream.write_all(&[batch, frame(13, sequence, b"")].concat()).unwrap();
        let (operation, sequence, body) = read_frame(&mut stream);
        assert_eq!((operation, &body[..]), (14, &b"1000,-1"[..]));
        stream.write_all(&frame(15, sequence, &body)).unwrap();
        let (operation, sequence, body) = read_frame(&mut stream);
        assert_eq!((operation, &body[..]), (16, &b"1001"[..]));
        stream.write_all(&frame(17, sequence, &body)).unwrap();
        let (operation, sequence, body) = read_frame(&mut stream);
        assert_eq!((operation, &body[..]), (4, &b"hello"[..]));
        stream.write_all(&frame(4, sequence, b"")).unwrap();
    });
    let mut client = Options::tcp(address, "42").connect().unwrap();
    client.join("live://1000").unwrap();
    client.subscribe(&[1000, -1]).unwrap();
    client.unsubscribe(&[1001]).unwrap();
    let sequence = client.send(op::SEND, b"hello").unwrap();
    assert_eq!(client.receive().unwrap(), Some(message(5, 1, b"a")));
    assert_eq!(client.receive().unwrap(), Some(message(1000, 2, b"b")));
    assert_eq!(client.receive().unwrap(), Some(message(4, sequence, b"")));
    assert_eq!(client.receive().unwrap(), None);
    server.join().unwrap();
}

#[test]
fn many_operations_take_several_requests() {
    let operations: Vec<i32> = (0..2000).map(|index| i32::MIN + index).collect();
    let (address, server) = serve(1, {
        let operations = operations.clone();
        move |_, mut stream| {
            authenticate(&mut stream);
            let mut named = Vec::new();
            while named.len() < operations.len() {
                let (_, sequence, body) = read_frame(&mut stream);
                assert!(body.len() <= 4096);
                let names = str::from_utf8(&body).unwrap();
                named.extend(names.split(',').map(|name| name.parse::<i32>().unwrap()));
                stream.write_all(&frame(15, sequence, b"")).unwrap();
            }
            assert_eq!(named, operations);
        }
    });
    Options::tcp(address, "42").connect().unwrap().subscribe(&operations).unwrap();
    server.join().unwrap();
}

#[test]
fn heartbeats_are_sent_and_report_the_online_count() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        for online in [7_u8, 8] {
            let (operation, sequence, _) = read_frame(&mut stream);
            assert_eq!(operation, 2);
            stream.write_all(&frame(3, sequence, &[0, 0, 0, online])).unwrap();
        }
        stream.write_all(&frame(5, 0, b"after two heartbeats")).unwrap();
    });
    // An answer may take this long.
    let options = Options::tcp(address, "42").heartbeat(Duration::from_secs(10));
    let mut client = options.connect().unwrap();
    assert_eq!(client.online(), None);
    assert_eq!(client.receive().unwrap(), Some(message(5, 0, b"after two heartbeats")));
    assert_eq!(client.online(), Some(8));
    server.join().unwrap();
}

/// With this interval a heartbeat is always due: one is sent before each waiting message, though
/// none is answered.
#[test]
fn heartbeats_are_sent_while_messages_wait() {
    let (address, server) = serve(1, |_, mut stream| {
        let (_, sequence, _) = read_frame(&mut stream);
        let messages = [b"a", b"b", b"c"].map(|body| frame(5, 0, body)).concat();
        // In one write, so that the client reads them at once.
        stream.write_all(&[frame(8, sequence, b""), messages].concat()).unwrap();
        for _ in 0..3 {
            assert_eq!(read_frame(&mut stream).0, 2);
        }
    });
    let options = Options::tcp(address, "42").heartbeat(Duration::from_nanos(1));
    let mut client = options.connect().unwrap();
    for body in [b"a", b"b", b"c"] {
        assert_eq!(client.receive().unwrap(), Some(message(5, 0, body)));
    }
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_silent_server_is_an_error() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), 16, "one heartbeat");
    });
    let options = Options::tcp(address, "42").heartbeat(Duration::from_millis(20));
    let mut client = options.connect().unwrap();
    assert!(matches!(client.receive(), Err(Error::Silent)));
    assert!(matches!(client.receive_timeout(Duration::ZERO), Err(Error::Ended)));
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_receive_timeout_is_no_error() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        read_frame(&mut stream);
        stream.write_all(&frame(5, 0, b"late")).unwrap();
    });
    let mut client = Options::tcp(address, "42").connect().unwrap();
    assert_eq!(client.receive_timeout(Duration::from_millis(5)).unwrap(), None);
    client.send(op::SEND, b"now").unwrap();
    let received = client.receive_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(received, Some(message(5, 0, b"late")));
    let end = client.receive_timeout(Duration::from_secs(60));
    assert!(matches!(end, Err(Error::Ended)), "{end:?}");
    server.join().unwrap();
}

#[test]
fn messages_are_received_before_the_servers_reason() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        let last = [frame(5, 0, b"last"), frame(6, 0, b"replaced")].concat();
        stream.write_all(&last).unwrap();
    });
    let mut client = Options::tcp(address, "42").connect().unwrap();
    assert_eq!(client.receive().unwrap(), Some(message(5, 0, b"last")));
    match client.receive() {
        Err(Error::Session(SessionError::Closed { code: None, reason, .. })) => {
            assert_eq!(reason, "replaced");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(client.send(op::SEND, b""), Err(Error::Ended)));
    assert_eq!(client.receive().unwrap(), None);
    server.join().unwrap();
}

#[test]
fn refused_and_unanswered_tokens_are_errors() {
    let (address, server) = serve(2, |connection, mut stream| {
        read_frame(&mut stream);
        if connection == 0 {
            stream.write_all(&frame(6, 0, b"auth_refused")).unwrap();
        } else {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "until the client gives up");
        }
    });
    let options = Options::tcp(address, "42");
    let refused = options.connect();
    assert!(matches!(refused, Err(Error::Session(SessionError::Closed { .. }))), "{refused:?}");
    let unanswered = options.timeout(Duration::from_millis(100)).connect();
    assert!(matches!(unanswered, Err(Error::Unanswered(_))), "{unanswered:?}");
    server.join().unwrap();
}

#[test]
fn messages_can_be_received_after_an_unanswered_request() {
    let (address, server) = serve(1, |_, mut stream| {
        let (_, sequence, _) = read_frame(&mut stream);
        // In one write, so that the message is there before the request.
        let came = [frame(8, sequence, b""), frame(5, 0, b"came")].concat();
        stream.write_all(&came).unwrap();
        assert_eq!(read_frame(&mut stream).0, 12);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    let options = Options::tcp(address, "42").timeout(Duration::from_secs(5));
    let mut client = options.connect().unwrap();
    assert!(matches!(client.join("room"), Err(Error::Unanswered(_))));
    assert_eq!(client.receive().unwrap(), Some(message(5, 0, b"came")));
    assert_eq!(client.receive().unwrap(), None);
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_reply_followed_by_a_close_is_a_success() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        let (_, sequence, _) = read_frame(&mut stream);
        let last = [frame(13, sequence, b""), frame(6, 0, b"draining")].concat();
        stream.write_all(&last).unwrap();
    });
    let mut client = Options::tcp(address, "42").connect().unwrap();
    client.join("room").unwrap();
    assert!(matches!(client.receive(), Err(Error::Session(SessionError::Closed { .. }))));
    server.join().unwrap();
}

#[test]
fn a_body_that_is_too_long_is_not_sent() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        assert_eq!(read_frame(&mut stream), (4, 2, vec![1; 4096]));
    });
    let mut client = Options::tcp(&*address, "42").connect().unwrap();
    let refused = client.send(op::SEND, &[1; 4097]);
    assert!(matches!(refused, Err(Error::BodyTooLong { len: 4097 })), "{refused:?}");
    client.send(op::SEND, &[1; 4096]).unwrap();
    server.join().unwrap();
    let token = Options::tcp(address, [1; 4097]).connect();
    assert!(matches!(token, Err(Error::BodyTooLong { len: 4097 })), "{token:?}");
}

#[test]
fn hostile_lengths_end_the_connection() {
    let (address, server) = serve(2, |connection, mut stream| {
        authenticate(&mut stream);
        let pack_len: u32 = [17 + (4 << 20), u32::MAX][connection];
        stream.write_all(&pack_len.to_be_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    for _ in 0..2 {
        let end = Options::tcp(&*address, "42").connect().unwrap().receive();
        assert!(matches!(end, Err(Error::Session(SessionError::Frame(_)))), "{end:?}");
    }
    server.join().unwrap();
}

#[test]
fn an_address_without_a_server_is_an_error() {
    let address = "127.0.0.1:1";
    let refused = Options::tcp(address, "42").connect();
    assert!(matches!(refused, Err(Error::Io(_))), "{refused:?}");
}

#[test]
fn a_token_is_renewed_where_the_server_speaks_protocol_2() {
    let body = |flags, seconds: u32| {
        let expiry = (seconds * 1_000).to_be_bytes();
        [&[2, flags, 0, 0, 0, 4, 0x93, 0xe0][..], &expiry].concat()
    };
    let (address, server) = serve(2, move |connection, mut stream| {
        if connection == 0 {
            return drop(authenticate(&mut stream));
        }
        let (_, sequence, _) = read_frame(&mut stream);
        stream.write_all(&frame(8, sequence, &body(0, 9))).unwrap();
        for (flags, seconds) in [(0, 60), (1, 50), (2, 40)] {
            let (operation, sequence, token) = read_frame(&mut stream);
            assert_eq!((operation, &token[..]), (7, &b"fresh"[..]));
            let push = frame(5, 0, b"meanwhile");
            stream.write_all(&[push, frame(8, sequence, &body(flags, seconds))].concat()).unwrap();
        }
    });
    let mut old = Options::tcp(&*address, "42").connect().unwrap();
    assert!(matches!(old.renew(b"fresh"), Err(Error::NeedsProtocol2)));
    let mut client = Options::tcp(address, "42").connect().unwrap();
    assert_eq!(client.auth_reply().unwrap().expires_in_ms, Some(9_000));
    for (not_renewed, millis) in [
        (None, 60_000),
        (Some(NotRenewed::Refused), 50_000),
        (Some(NotRenewed::Unavailable), 40_000),
    ] {
        let reply = client.renew(b"fresh").unwrap();
        assert_eq!((reply.not_renewed, reply.expires_in_ms), (not_renewed, Some(millis)));
        assert_eq!(client.receive().unwrap().unwrap().body, b"meanwhile");
    }
    server.join().unwrap();
}

/// The server closes a client that misses its heartbeat deadline, whatever interval the program sets.
#[test]
fn heartbeats_are_sent_at_half_the_interval_that_the_server_demands() {
    let (address, server) = serve(1, |_, mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (_, sequence, _) = read_frame(&mut stream);
        let welcome = [2, 0, 0, 0, 0, 0, 0x4e, 0x20, 0, 0, 0, 0];
        stream.write_all(&frame_2(8, sequence, &welcome)).unwrap();
        let (operation, sequence, _) = read_frame(&mut stream);
        assert_eq!(operation, 2);
        stream.write_all(&frame(3, sequence, b"")).unwrap();
        stream.write_all(&frame(5, 1, b"alive")).unwrap();
    });
    let options = Options::tcp(address, "42").heartbeat(Duration::from_secs(3600));
    let mut client = options.connect().unwrap();
    assert_eq!(client.receive().unwrap().unwrap().body, b"alive");
    server.join().unwrap();
}
