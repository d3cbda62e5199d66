//! The session alone: any split of the input, batches, refusals, hostile lengths.

use std::time::Duration;

use comet_client::{
    AuthReply, FrameFault, KeptSession, Resumed, Session, SessionError, Transport, WebSocketFault,
    op,
};
use comet_proto::{JoinReply, RoomHandle};
use proptest::prelude::*;
use tungstenite::handshake::derive_accept_key;

use crate::wire::{frame, websocket};

type Seen = Vec<(i32, i32, Vec<u8>)>;

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::WebSocket];

fn session(transport: Transport) -> Session {
    Session::new(transport, "localhost:8090", "/sub", b"42").with_body_max(4096)
}

fn answer_with(session: &Session, status: &str, accept_of: &str) -> Vec<u8> {
    let request = str::from_utf8(session.output()).unwrap();
    let key = request.split("Sec-WebSocket-Key: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let accept = derive_accept_key(format!("{key}{accept_of}").as_bytes());
    format!(
        "HTTP/1.1 {status}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

/// The server's bytes that make a new session live.
fn welcome(session: &Session, transport: Transport) -> Vec<u8> {
    let reply = frame(8, 1, b"");
    match transport {
        Transport::Tcp => reply,
        Transport::WebSocket => {
            [answer_with(session, "101 Switching Protocols", ""), websocket(0x82, &reply)].concat()
        }
    }
}

/// A live session with nothing to send.
fn live(transport: Transport) -> Session {
    let mut session = session(transport);
    let welcome = welcome(&session, transport);
    assert!(!session.is_live());
    session.handle_input(&welcome, |frame, _| panic!("{frame:?}")).unwrap();
    assert!(session.is_live());
    session.consume_output(session.output().len());
    session
}

fn feed(session: &mut Session, input: &[u8]) -> (Seen, Result<(), SessionError>) {
    let mut seen = Seen::new();
    let outcome = session.handle_input(input, |frame, _| {
        seen.push((frame.operation, frame.sequence, frame.body.to_vec()));
    });
    (seen, outcome)
}

/// Checks that `input` ends a session with `expected`, and that it stays ended.
fn check_end(transport: Transport, input: &[u8], expected: &SessionError) {
    let mut session = live(transport);
    let (_, outcome) = feed(&mut session, input);
    assert_eq!(outcome.as_ref(), Err(expected), "{:x?}", &input[..input.len().min(40)]);
    assert_eq!(feed(&mut session, b"more"), (vec![], Err(SessionError::Over)));
    assert!(!session.is_live());
}

/// The bytes that a server sends for a group of frames: a single frame as it is, several as goim's
/// batch.
fn encode(transport: Transport, group: &[(i32, i32, Vec<u8>)]) -> Vec<u8> {
    let run: Vec<u8> = group
        .iter()
        .flat_map(|(operation, sequence, body)| frame(*operation, *sequence, body))
        .collect();
    match (transport, group.len()) {
        (Transport::Tcp, _) => run,
        (Transport::WebSocket, 1) => websocket(0x82, &run),
        (Transport::WebSocket, _) => websocket(0x82, &frame(9, 0, &run)),
    }
}

#[test]
fn a_new_session_sends_auth_or_the_upgrade() {
    let tcp = session(Transport::Tcp);
    assert_eq!(tcp.output(), b"\0\0\0\x12\0\x10\0\x02\0\0\0\x07\0\0\0\x0142");
    let websocket = session(Transport::WebSocket);
    let request = str::from_utf8(websocket.output()).unwrap();
    assert!(request.starts_with("GET /sub HTTP/1.1\r\nHost: localhost:8090\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n"), "the auth frame must wait: {request}");
}

/// goim's server accepts with an empty body, and repeats the client's version.
#[test]
fn the_body_of_the_auth_reply_shows_the_protocol_of_the_server() {
    let body = [2, 0, 0, 0, 0, 4, 0x93, 0xe0, 0, 0, 0x75, 0x30];
    let reply = AuthReply {
        not_renewed: None,
        heartbeat_ms: 300_000,
        expires_in_ms: Some(30_000),
        kept: None,
    };
    for (body, expected) in [
        (&b""[..], None),
        (&body[..11], None),
        (&body[..], Some(reply)),
        (&[&body[..], b"and more"].concat(), Some(reply)),
    ] {
        for version in [1, 2] {
            let mut session = session(Transport::Tcp);
            assert_eq!(session.auth_reply(), None);
            let mut acceptance = frame(8, 1, body);
            acceptance[7] = version;
            session.handle_input(&acceptance, |frame, _| panic!("{frame:?}")).unwrap();
            assert!(session.is_live());
            assert_eq!(session.auth_reply(), expected, "{body:x?}");
        }
    }
}

#[test]
fn a_kept_session_is_asked_for_before_the_token_and_ended_by_a_goodbye() {
    let keep = |body: u8| {
        let mut ask = frame(op::KEEP, 0, &[body]);
        ask[7] = 2;
        ask
    };
    let token = session(Transport::Tcp).output().to_vec();
    for is_kept in [true, false] {
        let mut session = Session::kept(Transport::Tcp, "localhost:8090", "/sub", b"42");
        assert_eq!(session.output(), [keep(1), token.clone()].concat());
        session.consume_output(session.output().len());
        let resumed = Some(Resumed { parked: 2, lost_full: 1, lost_memory: 0 });
        let kept = is_kept.then_some(KeptSession { resumed });
        let reply =
            AuthReply { not_renewed: None, heartbeat_ms: 300_000, expires_in_ms: None, kept };
        let renewed = AuthReply { expires_in_ms: Some(1), kept: None, ..reply };
        for body in [reply, renewed].map(|reply| reply.encode()) {
            session.handle_input(&frame(8, 1, &body), |_, _| ()).unwrap();
            assert_eq!(session.auth_reply().unwrap().kept, kept, "a renewal says nothing of it");
        }
        session.close();
        assert_eq!(session.output(), if is_kept { keep(0) } else { Vec::new() });
    }
}

#[test]
fn consumed_output_is_removed() {
    let mut session = session(Transport::Tcp);
    let all = session.output().to_vec();
    session.send(2, 7, b"");
    session.consume_output(5);
    assert_eq!(session.output(), [&all[5..], &frame(2, 7, b"")].concat());
    session.consume_output(session.output().len());
    assert_eq!(session.output(), b"");
}

/// The stream has an upgrade, a message, a batch, a ping between the fragments of a message, and
/// another message. It is cut in two at every byte.
#[test]
fn the_frames_do_not_depend_on_where_the_input_is_cut() {
    for transport in TRANSPORTS {
        let groups = [
            vec![(5, 1, b"one".to_vec())],
            vec![(5, 2, vec![2; 200]), (1000, 3, vec![])],
            vec![(3, 4, vec![0, 0, 0, 9])],
        ];
        let mut expected = groups.concat();
        let mut stream: Vec<u8> =
            groups.iter().flat_map(|group| encode(transport, group)).collect();
        if transport == Transport::WebSocket {
            let message = frame(5, 6, b"in three pieces");
            stream.extend(websocket(0x02, &message[..10]));
            stream.extend(websocket(0x89, b"are you there"));
            stream.extend(websocket(0x00, &message[10..20]));
            stream.extend(websocket(0x80, &message[20..]));
            stream.extend(websocket(0x82, &[frame(5, 7, b"no"), frame(5, 8, b"batch")].concat()));
            expected.extend([
                (5, 6, b"in three pieces".to_vec()),
                (5, 7, b"no".to_vec()),
                (5, 8, b"batch".to_vec()),
            ]);
        }
        for cut in 0.. {
            let mut session = session(transport);
            let input = [welcome(&session, transport), stream.clone()].concat();
            let Some((left, right)) = input.split_at_checked(cut) else {
                break;
            };
            let (mut seen, outcome) = feed(&mut session, left);
            outcome.unwrap();
            let (more, outcome) = feed(&mut session, right);
            outcome.unwrap();
            seen.extend(more);
            assert_eq!(seen, expected, "cut at {cut}");
            assert!(session.is_live());
        }
    }
}

fn groups() -> impl Strategy<Value = Vec<Seen>> {
    let body = prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 4000..=4096),
    ];
    let frame = (20_i32..2000, any::<i32>(), body);
    prop::collection::vec(prop::collection::vec(frame, 1..4), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn chunked_input_gives_the_frames_that_were_sent(
        groups in groups(),
        chunks in prop::collection::vec(1_usize..3000, 1..20),
        websocket: bool,
    ) {
        let transport = TRANSPORTS[usize::from(websocket)];
        let mut session = session(transport);
        let mut input = welcome(&session, transport);
        input.extend(groups.iter().flat_map(|group| encode(transport, group)));
        let mut rest = &input[..];
        let mut seen = Seen::new();
        for len in chunks.iter().cycle() {
            let (chunk, after) = rest.split_at(rest.len().min(*len));
            let (more, outcome) = feed(&mut session, chunk);
            prop_assert_eq!(outcome, Ok(()));
            seen.extend(more);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(seen, groups.concat());
    }

    #[test]
    fn no_input_causes_a_panic(
        input in prop::collection::vec(any::<u8>(), 0..400),
        cut in 0_usize..400,
        websocket: bool,
        upgraded: bool,
    ) {
        let transport = TRANSPORTS[usize::from(websocket)];
        let mut session = if upgraded { live(transport) } else { session(transport) };
        let (left, right) = input.split_at(cut.min(input.len()));
        let early = feed(&mut session, left).1;
        let late = feed(&mut session, right).1;
        if early.is_err() && !right.is_empty() {
            prop_assert_eq!(late, Err(SessionError::Over));
        }
    }
}

#[test]
fn a_session_ends_with_the_servers_reason() {
    let closed = |code, reason: &str| SessionError::Closed {
        code,
        reason: reason.to_owned(),
        retry_after: None,
        was_accepted: true,
    };
    let notice = frame(6, 0, b"heartbeat_timeout");
    check_end(Transport::Tcp, &notice, &closed(None, "heartbeat_timeout"));
    check_end(Transport::WebSocket, &websocket(0x82, &notice), &closed(None, "heartbeat_timeout"));
    check_end(
        Transport::WebSocket,
        &websocket(0x88, b"\x03\xe9draining"),
        &closed(Some(1001), "draining"),
    );
    check_end(Transport::WebSocket, &websocket(0x88, b""), &closed(None, ""));
    check_end(Transport::Tcp, &frame(6, 0, b"\xff"), &closed(None, "\u{fffd}"));
}

#[test]
fn a_close_notice_may_contain_a_delay() {
    let closed = |code| SessionError::Closed {
        code,
        reason: "draining".to_owned(),
        retry_after: Some(Duration::from_millis(1830)),
        was_accepted: true,
    };
    let text = b"draining; retry_after_ms=1830";
    let notice = frame(6, 0, text);
    check_end(Transport::Tcp, &notice, &closed(None));
    check_end(Transport::WebSocket, &websocket(0x82, &notice), &closed(None));
    let close = [&b"\x03\xe9"[..], text].concat();
    check_end(Transport::WebSocket, &websocket(0x88, &close), &closed(Some(1001)));
}

#[test]
fn frames_before_the_end_are_delivered() {
    let mut session = live(Transport::Tcp);
    let input = [frame(5, 1, b"last"), frame(6, 0, b"bye"), frame(5, 2, b"never")].concat();
    let (seen, outcome) = feed(&mut session, &input);
    assert_eq!(seen, [(5, 1, b"last".to_vec())]);
    assert!(matches!(outcome, Err(SessionError::Closed { .. })));
}

#[test]
fn bad_frames_end_the_session() {
    let long = [&(16_u32 + 4097).to_be_bytes()[..], b"\0\x10\0\x01"].concat();
    let too_large =
        SessionError::Frame(FrameFault::BodyTooLarge { body_len: 4097, body_max: 4096 });
    let cases: &[(&[u8], SessionError)] = &[
        (b"\0\0\0\x0f", SessionError::Frame(FrameFault::PackLen { pack_len: 15 })),
        (b"\0\0\0\0", SessionError::Frame(FrameFault::PackLen { pack_len: 0 })),
        (b"\0\0\0\x10\0\x11", SessionError::Frame(FrameFault::HeaderLen { header_len: 17 })),
        (&long, too_large),
        (
            b"\xff\xff\xff\xff",
            SessionError::Frame(FrameFault::BodyTooLarge {
                body_len: 0xffff_ffff - 16,
                body_max: 4096,
            }),
        ),
        (&frame(9, 0, &frame(9, 0, b"")), SessionError::StrayBatch),
    ];
    for (input, expected) in cases {
        check_end(Transport::Tcp, input, expected);
        if *expected != SessionError::StrayBatch {
            check_end(Transport::WebSocket, &websocket(0x82, &frame(9, 0, input)), expected);
        }
    }
    let nested = frame(9, 0, &frame(9, 0, b""));
    check_end(Transport::WebSocket, &websocket(0x82, &nested), &SessionError::StrayBatch);
    let cut = SessionError::Frame(FrameFault::Truncated { left: 18 });
    check_end(Transport::WebSocket, &websocket(0x82, &frame(5, 0, b"abc")[..18]), &cut);
}

#[test]
fn bad_websocket_frames_end_the_session() {
    let fragments_without_end =
        [websocket(0x02, &[0; 60_000]), websocket(0x00, &[0; 22_257])].concat();
    let cases: &[(&[u8], WebSocketFault)] = &[
        (b"\x82\x80\0\0\0\0", WebSocketFault::Masked),
        (b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", WebSocketFault::TooLarge),
        (b"\x82\x7f\0\0\0\0\xff\xff\xff\xff", WebSocketFault::TooLarge),
        (&fragments_without_end, WebSocketFault::TooLarge),
        (b"\xc2\x00", WebSocketFault::Reserved),
        (b"\x83\x00", WebSocketFault::Opcode),
        (b"\x81\x02hi", WebSocketFault::Text),
        (b"\x80\x00", WebSocketFault::Fragment),
        (b"\x02\x00\x82\x00", WebSocketFault::Fragment),
        (b"\x09\x00", WebSocketFault::Control),
        (b"\x89\x7e\x00\x80", WebSocketFault::Control),
        (b"\x88\x01\x03", WebSocketFault::Close),
        (b"\x88\x03\x03\xe8\xff", WebSocketFault::Close),
    ];
    for (input, fault) in cases {
        check_end(Transport::WebSocket, input, &SessionError::WebSocket(*fault));
    }
}

#[test]
fn a_refused_or_invalid_upgrade_ends_the_session() {
    let check = |answer: &dyn Fn(&Session) -> Vec<u8>, expected: &dyn Fn(&SessionError) -> bool| {
        let mut session = session(Transport::WebSocket);
        let answer = answer(&session);
        let request_len = session.output().len();
        let error = feed(&mut session, &answer).1.unwrap_err();
        assert!(expected(&error), "{error}");
        assert_eq!(session.output().len(), request_len, "such a server gets no token");
    };
    for (status, code) in [("404 Not Found", 404), ("426 Upgrade Required", 426), ("200 OK", 200)] {
        check(&|session| answer_with(session, status, ""), &|error| {
            *error == SessionError::UpgradeRefused { status: code, retry_after: None }
        });
    }
    let bad = |error: &SessionError| matches!(error, SessionError::BadUpgrade(_));
    check(&|session| answer_with(session, "101 Switching Protocols", "x"), &bad);
    check(&|_| b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec(), &bad);
    check(&|_| b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), &bad);
    check(&|_| [b"HTTP/1.1 101 OK\r\nX: ", &[b'a'; 9000][..]].concat(), &bad);
    check(
        &|session| {
            let mut answer = answer_with(session, "101 Switching Protocols", "");
            answer.truncate(answer.len() - 2);
            [answer, b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n".to_vec()].concat()
        },
        &bad,
    );
}

#[test]
fn pings_are_answered_up_to_a_bound() {
    let mut session = live(Transport::WebSocket);
    let ping = websocket(0x89, &[1; 125]);
    feed(&mut session, &ping).1.unwrap();
    assert_eq!(session.output()[..2], [0x8a, 0x80 | 125], "a masked pong");
    for _ in 0..10_000 {
        feed(&mut session, &ping).1.unwrap();
    }
    assert!(session.output().len() < 32 * 1024);
}

#[test]
fn a_closed_session_sends_a_close_and_nothing_after_it() {
    let mut session = live(Transport::WebSocket);
    session.close();
    session.send(2, 1, b"");
    assert_eq!(session.output().len(), 2 + 4 + 2);
    assert_eq!(session.output()[..2], [0x88, 0x82]);
}

/// The bench holds many thousands of sessions.
#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 128, "{} bytes", size_of::<Session>());
}

fn frame_2(operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = frame(operation, sequence, body);
    bytes[7] = 2;
    bytes
}

/// A push to the room `handle` in protocol 2.
fn room_push(handle: u32, operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    let prefix = [&handle.to_be_bytes()[..], &operation.to_be_bytes(), &[0; 8]].concat();
    frame_2(20, sequence, &[&prefix, body].concat())
}

#[test]
fn pushes_to_several_rooms_look_as_in_protocol_1_and_name_their_room() {
    let mut session = session(Transport::Tcp);
    let welcome = frame_2(8, 1, &[2, 0, 0, 0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0]);
    let primary = JoinReply::primary(RoomHandle(7), b"first");
    let input = [
        welcome,
        frame_2(19, 0, &primary.encode()),
        frame_2(19, 2, &JoinReply::joined(RoomHandle(9), b"second").encode()),
        room_push(9, 1000, 3, b"to the second"),
        room_push(7, 9, 0, &[frame(5, 1, b"a"), frame(6, 2, b"")].concat()),
        frame(4, 5, b"to its key"),
    ]
    .concat();
    let mut seen = Vec::new();
    let mut take = |session: &mut Session, input: &[u8]| {
        let outcome = session.handle_input(input, |frame, origin| {
            let room = origin.map(|origin| origin.room.to_owned());
            seen.push((frame.operation, frame.sequence, frame.body.to_vec(), room));
        });
        (std::mem::take(&mut seen), outcome)
    };
    let (frames, outcome) = take(&mut session, &input);
    assert_eq!(outcome, Ok(()));
    let joined = JoinReply::joined(RoomHandle(9), b"second").encode();
    let room = |name: &str| Some(name.to_owned());
    assert_eq!(
        frames,
        [
            (19, 2, joined, None),
            (1000, 3, b"to the second".to_vec(), room("second")),
            (5, 1, b"a".to_vec(), room("first")),
            (6, 2, vec![], room("first")),
            (4, 5, b"to its key".to_vec(), None),
        ]
    );
    assert_eq!(session.rooms().collect::<Vec<_>>(), ["first", "second"]);

    // The room of operation 12 changes.
    let third = JoinReply::primary(RoomHandle(1), b"third");
    let moved = [frame_2(13, 4, b"third"), frame_2(19, 0, &third.encode())].concat();
    assert_eq!(take(&mut session, &moved).0, [(13, 4, b"third".to_vec(), None)]);
    assert_eq!(session.rooms().collect::<Vec<_>>(), ["third", "second"]);

    session.consume_output(session.output().len());
    assert!(!session.remove_room(5, "first"));
    assert_eq!(session.output(), b"");
    assert!(session.remove_room(5, "second"));
    assert_eq!(session.output(), frame(21, 5, &[0, 0, 0, 9]));
    take(&mut session, &frame_2(22, 5, &[0, 0, 0, 0, 0, 0, 0, 9])).1.unwrap();
    let (_, outcome) = take(&mut session, &room_push(9, 5, 0, b"late"));
    assert_eq!(outcome, Err(SessionError::BadRoomFrame { operation: 20 }));
}

#[test]
fn an_invalid_room_frame_ends_the_session() {
    for (operation, body) in [(20, &[0; 15][..]), (19, &[0; 27]), (19, &[9; 40]), (22, &[0; 7])] {
        let mut session = session(Transport::Tcp);
        let welcome = frame_2(8, 1, &[2, 0, 0, 0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0]);
        let (_, outcome) = feed(&mut session, &[welcome, frame_2(operation, 2, body)].concat());
        assert_eq!(outcome, Err(SessionError::BadRoomFrame { operation }));
    }
    // In protocol 1 they are messages like any other.
    let mut session = live(Transport::Tcp);
    assert_eq!(feed(&mut session, &frame(20, 2, b"x")), (vec![(20, 2, b"x".to_vec())], Ok(())));
}
