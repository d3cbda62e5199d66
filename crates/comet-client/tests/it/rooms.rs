//! The session and rooms that keep a history: the requests that it makes by itself, and its handling of the answers.

use comet_client::{Arrival, Gap, GapState, Joined, Session, SessionError, Transport};
use comet_proto::{Join, JoinReply, Position, RoomGap, RoomHandle, decode, op};

use crate::wire::frame;

const HANDLE: RoomHandle = RoomHandle(7);

fn at(offset: u64) -> Position {
    Position { epoch: 9, offset }
}

fn frame_2(operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = frame(operation, sequence, body);
    bytes[7] = 2;
    bytes
}

fn push(offset: u64) -> Vec<u8> {
    let prefix = [&HANDLE.0.to_be_bytes()[..], &5_i32.to_be_bytes(), &offset.to_be_bytes()];
    frame_2(op::ROOM_PUSH, 0, &prefix.concat())
}

/// Operation 19 for the room, by the server if `sequence` is 0.
fn joined(sequence: i32, position: Option<Position>, recovered: Option<u32>) -> Vec<u8> {
    let reply = JoinReply::joined(HANDLE, b"r");
    let reply = JoinReply { is_unasked: sequence == 0, position, recovered, ..reply };
    frame_2(op::JOIN_REPLY, sequence, &reply.encode())
}

fn gap(first: u64, last: u64, is_outdated: bool) -> Vec<u8> {
    frame_2(op::GAP, 0, &RoomGap { handle: HANDLE, is_outdated, first, last }.encode())
}

/// A session that the server has accepted, and that knows the room of its token.
fn session(known: Option<Position>) -> Session {
    let mut session = Session::new(Transport::Tcp, "localhost", "/sub", b"42");
    if let Some(known) = known {
        session.resume("r", known);
    }
    session.consume_output(session.output().len());
    let welcome = frame_2(op::AUTH_REPLY, 1, &[2, 0, 0, 0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0]);
    session.handle_input(&welcome, |_, _| panic!("the reply to the token")).unwrap();
    session
}

#[derive(PartialEq, Eq, Debug)]
enum Seen {
    Push(u64),
    Answer(i32),
    Room(Joined),
    Left,
    Gap(u64, u64, GapState),
}

fn take(session: &mut Session, input: &[Vec<u8>]) -> Vec<Seen> {
    let mut all = Vec::new();
    let outcome = session.handle_arrivals(&input.concat(), |arrival| {
        all.push(match arrival {
            Arrival::Frame(frame, None) => Seen::Answer(frame.sequence),
            Arrival::Frame(_, Some(origin)) => Seen::Push(origin.position.unwrap().offset),
            Arrival::Room(room, joined) => {
                assert_eq!(room, "r");
                Seen::Room(joined)
            }
            Arrival::Left(room) => {
                assert_eq!(room, "r");
                Seen::Left
            }
            Arrival::Gap(Gap { room, first, last, state }) => {
                assert_eq!(&*room, "r");
                Seen::Gap(first, last, state)
            }
        });
    });
    assert_eq!(outcome, Ok(()));
    all
}

/// The position of the only join that waits to be sent, and its sequence number.
fn asked(session: &mut Session) -> (i32, Position) {
    let output = session.output().to_vec();
    session.consume_output(output.len());
    let (request, consumed) = decode(&output, 4096).unwrap().expect("a request");
    assert_eq!((request.operation, consumed), (op::JOIN, output.len()));
    let join = Join::decode(request.body).unwrap();
    assert_eq!(join.room, b"r");
    (request.sequence, join.since.unwrap())
}

#[test]
fn pushes_of_a_gap_marker_are_requested_and_delivered_once() {
    let mut session = session(None);
    let entered = Joined { position: Some(at(3)), recovered: None };
    assert_eq!(take(&mut session, &[joined(0, Some(at(3)), None)]), [Seen::Room(entered)]);
    // The answer repeats the pushes after the marker. A second marker changes nothing.
    let input = [push(4), gap(5, 6, false), push(7), gap(8, 8, false), push(9)];
    assert_eq!(take(&mut session, &input), [Seen::Push(4), Seen::Gap(5, 6, GapState::Asked)]);
    let (sequence, since) = asked(&mut session);
    assert_eq!((sequence < 0, since), (true, at(4)));
    let run = [1, 2, 3, 4, 5].map(|_| frame(5, 0, b"")).concat();
    let prefix = [&HANDLE.0.to_be_bytes()[..], &op::RAW.to_be_bytes(), &9_u64.to_be_bytes()];
    let missed = frame_2(op::ROOM_PUSH, 0, &[&prefix.concat()[..], &run].concat());
    let input = [joined(sequence, Some(at(9)), Some(5)), missed, push(10), gap(6, 8, false)];
    let repaired = Seen::Gap(5, 6, GapState::Repaired { missed: 5 });
    let pushes = (5..=10).map(Seen::Push);
    let expected: Vec<Seen> = std::iter::once(repaired).chain(pushes).collect();
    assert_eq!(take(&mut session, &input), expected);
    assert_eq!(session.output(), b"", "a late marker asks for nothing");

    // The next push is lost. Later pushes are delivered after the gap.
    assert_eq!(take(&mut session, &[gap(11, 12, false)]), [Seen::Gap(11, 12, GapState::Asked)]);
    let (sequence, since) = asked(&mut session);
    assert_eq!(since, at(10));
    let input = [push(13), joined(sequence, Some(at(20)), None), push(21), gap(22, 22, true)];
    let lost = Seen::Gap(11, 12, GapState::Lost);
    let outdated = Seen::Gap(22, 22, GapState::Outdated);
    assert_eq!(take(&mut session, &input), [lost, Seen::Push(21), outdated]);
    assert_eq!(session.output(), b"");
}

#[test]
fn a_session_goes_on_where_an_earlier_one_was() {
    let enter = [joined(0, Some(at(5)), None), push(6)];
    let room = |recovered| Seen::Room(Joined { position: Some(at(5)), recovered });
    // Nothing is missing; the position is unknown; or the room has a new epoch.
    let other = Position { epoch: 8, offset: 5 };
    for (known, recovered) in [(Some(at(5)), Some(0)), (None, None), (Some(other), None)] {
        let mut session = session(known);
        assert_eq!(take(&mut session, &enter), [room(recovered), Seen::Push(6)]);
        assert_eq!(session.output(), b"");
    }
    let mut session = session(Some(at(3)));
    assert_eq!(take(&mut session, &enter), []);
    let (sequence, since) = asked(&mut session);
    assert_eq!(since, at(3));
    let answer = [joined(sequence, Some(at(6)), Some(3)), push(4), push(5), push(6)];
    let back = Seen::Room(Joined { position: Some(at(6)), recovered: Some(3) });
    assert_eq!(take(&mut session, &answer), [back, Seen::Push(4), Seen::Push(5), Seen::Push(6)]);
}

/// The caller's own request is answered as before, and its room is not asked for twice.
#[test]
fn a_request_of_the_caller_stands_for_the_sessions_own() {
    let mut session = session(Some(at(3)));
    session.add_room(2, "r", Some(at(3)));
    assert_eq!(asked(&mut session), (2, at(3)));
    let input = [joined(0, Some(at(5)), None), push(6), joined(2, Some(at(6)), Some(3)), push(4)];
    assert_eq!(take(&mut session, &input), [Seen::Answer(2), Seen::Push(4)]);
    assert_eq!(session.output(), b"");
    // The session is in the room already, so its position stays.
    session.add_room(3, "r", None);
    session.consume_output(session.output().len());
    assert_eq!(
        take(&mut session, &[joined(3, None, None), push(5)]),
        [Seen::Answer(3), Seen::Push(5)]
    );
}

#[test]
fn an_invalid_gap_marker_ends_the_session() {
    let mut session = session(None);
    let outcome = session.handle_input(&frame_2(op::GAP, 0, &[0; 23]), |_, _| {});
    assert_eq!(outcome, Err(SessionError::BadRoomFrame { operation: op::GAP }));
}

/// Operation 19 with another handle, which the server sends unasked or as an answer.
fn renamed(sequence: i32, handle: u32, recovered: Option<u32>) -> Vec<u8> {
    let reply = JoinReply::joined(RoomHandle(handle), b"r");
    let position = recovered.map(|_| at(9));
    let reply = JoinReply { is_unasked: sequence == 0, position, recovered, ..reply };
    frame_2(op::JOIN_REPLY, sequence, &reply.encode())
}

fn left(sequence: i32, handle: u32, status: u8) -> Vec<u8> {
    let flags = if sequence == 0 { 4 } else { 0 };
    let body = [&[status, flags, 0, 0][..], &handle.to_be_bytes()].concat();
    frame_2(op::LEAVE_REPLY, sequence, &body)
}

/// The handle of the only request to leave that waits to be sent, and its sequence number.
fn leaves(session: &mut Session) -> (i32, u32) {
    let output = session.output().to_vec();
    session.consume_output(output.len());
    let (request, consumed) = decode(&output, 4096).unwrap().expect("a request");
    assert_eq!((request.operation, consumed), (op::LEAVE, output.len()));
    (request.sequence, u32::from_be_bytes(request.body.try_into().unwrap()))
}

/// A session in the room at the position 3.
fn member() -> Session {
    let mut session = session(None);
    take(&mut session, &[joined(0, Some(at(3)), None)]);
    session
}

#[test]
fn a_room_that_gets_another_handle_keeps_its_position() {
    let mut session = member();
    assert_eq!(take(&mut session, &[renamed(0, 8, None)]), []);
    assert_eq!(session.rooms().collect::<Vec<_>>(), ["r"]);
    let gap = RoomGap { handle: RoomHandle(8), is_outdated: false, first: 4, last: 9 };
    let gap = frame_2(op::GAP, 0, &gap.encode());
    assert_eq!(take(&mut session, &[gap]), [Seen::Gap(4, 9, GapState::Asked)]);
    assert_eq!(asked(&mut session).1, at(3));
}

#[test]
fn a_request_to_leave_that_crosses_another_handle_is_repeated() {
    let mut session = member();
    assert!(session.remove_room(5, "r"));
    assert_eq!(leaves(&mut session), (5, HANDLE.0));
    assert_eq!(take(&mut session, &[renamed(0, HANDLE.0, None)]), []);
    assert_eq!(session.output(), b"", "the same handle");
    assert_eq!(take(&mut session, &[renamed(0, 8, None), left(5, HANDLE.0, 3)]), []);
    assert_eq!(leaves(&mut session), (5, 8));
    assert_eq!(take(&mut session, &[left(5, 8, 0)]), [Seen::Answer(5)]);
    assert_eq!(session.rooms().count(), 0);
}

#[test]
fn an_order_to_leave_goes_before_a_repair_of_the_session() {
    let mut session = member();
    let input = [gap(4, 4, false), left(0, HANDLE.0, 0)];
    assert_eq!(take(&mut session, &input), [Seen::Gap(4, 4, GapState::Asked), Seen::Left]);
    let (sequence, _) = asked(&mut session);
    let input = [joined(sequence, Some(at(5)), Some(2)), push(4), gap(6, 7, false)];
    assert_eq!(take(&mut session, &input), []);
    assert_eq!(session.rooms().count(), 0);
    let (sequence, handle) = leaves(&mut session);
    assert_eq!((sequence < 0, handle), (true, HANDLE.0));
    assert_eq!(take(&mut session, &[left(sequence, handle, 0)]), []);
    assert!(!session.remove_room(6, "r"));
}

#[test]
fn after_an_order_to_leave_that_a_repair_has_crossed_the_latest_wish_counts() {
    for by_caller in [true, false] {
        let mut session = member();
        take(&mut session, &[gap(4, 4, false), left(0, HANDLE.0, 0)]);
        let (sequence, _) = asked(&mut session);
        let repaired = joined(sequence, Some(at(5)), Some(2));
        if by_caller {
            session.add_room(6, "r", None);
            session.consume_output(session.output().len());
            let input = [repaired, joined(6, None, None)];
            assert_eq!(take(&mut session, &input), [Seen::Answer(6)]);
        } else {
            let back = Seen::Room(Joined { position: Some(at(5)), recovered: Some(2) });
            assert_eq!(take(&mut session, &[joined(0, Some(at(5)), None), repaired]), [back]);
        }
        assert_eq!(session.output(), b"", "{by_caller}");
        assert_eq!(take(&mut session, &[push(5)]), [Seen::Push(5)]);
    }
}

/// The caller gets the answer to its request, so it gets no event about the order as well.
#[test]
fn an_order_to_leave_that_crosses_a_request_of_the_caller_gives_no_event() {
    let mut session = member();
    assert!(session.remove_room(5, "r"));
    let input = [left(0, HANDLE.0, 0), left(5, HANDLE.0, 3)];
    assert_eq!(take(&mut session, &input), [Seen::Answer(5)]);
    assert_eq!(take(&mut session, &[renamed(0, 8, None)]), []);
    session.add_room(6, "r", None);
    let input = [left(0, 8, 0), renamed(6, 9, None)];
    assert_eq!(take(&mut session, &input), [Seen::Answer(6)]);
    assert_eq!(session.rooms().count(), 1);
    assert_eq!(take(&mut session, &[left(0, 9, 0)]), [Seen::Left]);
}
