//! Protocol 2: a connection in several rooms.

use std::collections::{BTreeMap, BTreeSet};

use comet_core::{CloseReason, ConnId, Limits, Transport};
use comet_proto::{
    Frame, Join, JoinReply, Leave, LeaveReply, RoomHandle, RoomPush, RoomRefusal, decode, op,
};
use proptest::prelude::*;

use crate::rig::{Rig, UPGRADE, frame, frame_2, masked, room_at};

/// A frame that was sent to a client. Bodies of pushes to rooms are decoded.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    Joined { room: String, handle: RoomHandle, is_unasked: bool, sequence: i32 },
    NotJoined { room: Vec<u8>, refusal: RoomRefusal, sequence: i32 },
    Left { outcome: Result<(), RoomRefusal>, handle: RoomHandle, sequence: i32 },
    RoomPush { handle: RoomHandle, operation: i32, body: Vec<u8> },
    Other { operation: i32, body: Vec<u8> },
}

pub(crate) fn seen(mut bytes: &[u8]) -> Vec<Seen> {
    let mut all = Vec::new();
    while let Some((frame, consumed)) = decode(bytes, 1 << 20).unwrap() {
        let Frame { operation, sequence, body, .. } = frame;
        all.push(match operation {
            op::JOIN_REPLY => {
                let JoinReply { outcome, is_unasked, room, .. } = JoinReply::decode(body).unwrap();
                match outcome {
                    Ok(handle) => {
                        let room = String::from_utf8(room.to_vec()).unwrap();
                        Seen::Joined { room, handle, is_unasked, sequence }
                    }
                    Err(refusal) => Seen::NotJoined { room: room.to_vec(), refusal, sequence },
                }
            }
            op::LEAVE_REPLY => {
                let LeaveReply { outcome, handle, .. } = LeaveReply::decode(body).unwrap();
                Seen::Left { outcome, handle, sequence }
            }
            op::ROOM_PUSH => {
                let RoomPush { handle, operation, body, offset } = RoomPush::decode(body).unwrap();
                assert_eq!(offset, 0);
                Seen::RoomPush { handle, operation, body: body.to_vec() }
            }
            _ => Seen::Other { operation, body: body.to_vec() },
        });
        bytes = &bytes[consumed..];
    }
    assert!(bytes.is_empty());
    all
}

/// A TCP client of protocol 2 that has read the answers to its token.
pub(crate) fn connect(rig: &mut Rig, shard: u16, token: &str) -> (ConnId, Vec<Seen>) {
    let conn = rig.connect(shard, Transport::Tcp);
    let mut told = seen(&rig.ask(conn, &frame_2(op::AUTH, 1, token.as_bytes())));
    assert!(matches!(told.remove(0), Seen::Other { operation: op::AUTH_REPLY, .. }), "{token}");
    (conn, told)
}

pub(crate) fn join_frame(sequence: i32, room: &[u8]) -> Vec<u8> {
    frame_2(op::JOIN, sequence, &Join { since: None, room }.encode())
}

fn leave_frame(sequence: i32, handle: RoomHandle) -> Vec<u8> {
    frame_2(op::LEAVE, sequence, &Leave { handle }.encode())
}

fn join(rig: &mut Rig, conn: ConnId, room: &str) -> RoomHandle {
    match &seen(&rig.ask(conn, &join_frame(5, room.as_bytes())))[..] {
        [Seen::Joined { room: named, handle, is_unasked: false, sequence: 5 }] if named == room => {
            *handle
        }
        other => panic!("{other:?}"),
    }
}

/// The number of members of `room`, according to its home.
pub(crate) fn members(rig: &mut Rig, room: &str) -> u32 {
    rig.pass(1_000);
    let known = rig.shards.iter().flat_map(comet_core::Shard::home_rooms);
    known.filter(|(name, _)| &**name == room).map(|(_, members)| members).sum()
}

#[test]
fn pushes_to_each_room_reach_a_client_with_its_handle() {
    let mut rig = Rig::new(2, Limits::default());
    let (near, far) = (room_at(0), room_at(1));
    let (conn, told) = connect(&mut rig, 0, &format!("7/k/{near}/"));
    let [Seen::Joined { room, handle: first, is_unasked: true, sequence: 0 }] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(*room, near);
    let second = join(&mut rig, conn, &far);
    assert_ne!(*first, second);
    // Joining the room of the token, or a room a second time, gives the present handle and adds no member.
    assert_eq!(join(&mut rig, conn, &near), *first);
    assert_eq!(join(&mut rig, conn, &far), second);
    assert_eq!((members(&mut rig, &near), members(&mut rig, &far)), (1, 1));

    // Clients of protocol 1 get plain pushes, and so does this client by its key.
    let other = rig.join(1, &format!("8/o/{far}/"));
    for (room, handle, reached) in [(&near, *first, 1), (&far, second, 2)] {
        let tally = rig.push_room(room, 1000, b"hello");
        assert_eq!((tally.matched, tally.queued), (reached, reached));
        let body = b"hello".to_vec();
        let expected = Seen::RoomPush { handle, operation: 1000, body };
        assert_eq!(seen(&rig.take(conn)), [expected]);
    }
    assert_eq!(rig.take(other), frame(1000, 0, b"hello"));
    rig.push_keys(&["k"], 1001, b"you");
    rig.push_all(1002, b"all", None);
    assert_eq!(rig.take(conn), [frame(1001, 0, b"you"), frame(1002, 0, b"all")].concat());
    rig.take(other);

    // A batch is a run of frames on each transport.
    let run = [frame(5, 0, b"a"), frame(6, 0, b"b")].concat();
    rig.push_room(&far, op::RAW, &run);
    let expected = Seen::RoomPush { handle: second, operation: op::RAW, body: run.clone() };
    assert_eq!(seen(&rig.take(conn)), [expected]);
    assert_eq!(rig.take(other), run);

    let left = seen(&rig.ask(conn, &leave_frame(9, second)));
    assert_eq!(left, [Seen::Left { outcome: Ok(()), handle: second, sequence: 9 }]);
    assert_eq!(rig.push_room(&far, 1000, b"gone").matched, 1);
    assert_eq!(rig.take(conn), b"");
    assert_eq!(members(&mut rig, &far), 1);
}

/// One send of a WebSocket has the handle in it as well, and members of both protocols are in one walk.
#[test]
fn websocket_members_get_whole_messages() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.connect(0, Transport::WebSocket);
    rig.ask(conn, UPGRADE);
    rig.ask(conn, &masked(0x82, &frame_2(op::AUTH, 1, b"7/k/r/")));
    let old = rig.connect(0, Transport::WebSocket);
    rig.ask(old, UPGRADE);
    rig.ask(old, &masked(0x82, &frame(op::AUTH, 1, b"8/o/r/")));
    for length in [1, 90, 200, 70_000] {
        let body = vec![b'x'; length];
        assert_eq!(rig.push_room("r", 7, &body).queued, 2);
        for (conn, inner) in [(conn, 16), (old, 0)] {
            let bytes = rig.take(conn);
            let header = bytes.len() - 16 - inner - length;
            assert_eq!(bytes[0], 0x82);
            assert_eq!(
                header,
                [2, 4, 10][usize::from(bytes[1] >= 126) + usize::from(bytes[1] > 126)]
            );
            let (frame, consumed) = decode(&bytes[header..], 1 << 20).unwrap().unwrap();
            assert_eq!(consumed, bytes.len() - header);
            assert_eq!(&frame.body[inner..], body);
        }
    }
}

/// The rooms of a token are announced after the auth reply, in any order of the homes' answers, up to the bound of rooms.
#[test]
fn a_token_names_further_rooms() {
    let mut rig = Rig::new(2, Limits { rooms: 4, ..Limits::default() });
    let (near, far) = (room_at(0), room_at(1));
    for first in [&near, &far, ""] {
        let token = format!("7/k/{first}+{near}+{far}+{near}+a+b+c/");
        let (conn, told) = connect(&mut rig, 0, &token);
        let mut named = Vec::new();
        for seen in &told {
            let Seen::Joined { room, handle, is_unasked: true, sequence: 0 } = seen else {
                panic!("{seen:?}")
            };
            named.push(room.as_str());
            assert_eq!(rig.push_room(room, 1000, b"p").queued, 1);
            let expected = Seen::RoomPush { handle: *handle, operation: 1000, body: b"p".to_vec() };
            assert_eq!(seen_by(&mut rig, conn), [expected]);
        }
        named.sort_unstable();
        let mut expected = vec!["a", near.as_str(), far.as_str()];
        expected.sort_unstable();
        assert_eq!(named, expected, "{token}");
        assert!(!rig.is_closed(conn));
        rig.hang_up(conn);
        assert_eq!(members(&mut rig, &far), 0);
    }
    // Four different names are considered, and two are beyond the bound.
    assert_eq!(rig.shards[0].counters().rooms_refused, [6, 0, 0, 0]);

    // Clients of protocol 1 get plain pushes, and no frames about rooms.
    let old = rig.connect(0, Transport::Tcp);
    let token = frame(op::AUTH, 1, format!("7/k/{near}+{far}+a/").as_bytes());
    assert_eq!(rig.ask(old, &token), frame(op::AUTH_REPLY, 1, b""));
    for room in [near.as_str(), far.as_str(), "a"] {
        assert_eq!(rig.push_room(room, 1000, room.as_bytes()).queued, 1);
        assert_eq!(rig.take(old), frame(1000, 0, room.as_bytes()));
    }
    rig.hang_up(old);
    assert_eq!(members(&mut rig, &far) + members(&mut rig, &near) + members(&mut rig, "a"), 0);
}

pub(crate) fn seen_by(rig: &mut Rig, conn: ConnId) -> Vec<Seen> {
    seen(&rig.take(conn))
}

#[test]
fn operation_12_may_choose_a_room_that_was_joined_before() {
    let mut rig = Rig::new(2, Limits::default());
    let (a, b) = (room_at(0), room_at(1));
    let (conn, _) = connect(&mut rig, 0, &format!("7/k/{a}/"));
    let handle = join(&mut rig, conn, &b);
    // The client is in that room already. Only the room that its heartbeats count changes.
    let told = seen(&rig.ask(conn, &frame_2(12, 3, b.as_bytes())));
    let replied = Seen::Other { operation: 13, body: b.clone().into_bytes() };
    let joined = Seen::Joined { room: b.clone(), handle, is_unasked: true, sequence: 0 };
    assert_eq!(told, [replied, joined]);
    assert_eq!((members(&mut rig, &a), members(&mut rig, &b)), (0, 1));
    assert_eq!(join(&mut rig, conn, &b), handle);
    // A room that it was not in is announced with its handle after the reply.
    let told = seen(&rig.ask(conn, &frame_2(12, 4, a.as_bytes())));
    let [Seen::Other { operation: 13, .. }, Seen::Joined { handle, is_unasked: true, .. }] =
        told[..]
    else {
        panic!("{told:?}")
    };
    let left = seen(&rig.ask(conn, &leave_frame(5, handle)));
    assert_eq!(left, [Seen::Left { outcome: Ok(()), handle, sequence: 5 }]);
    assert_eq!(rig.ask(conn, &frame_2(2, 6, b"")), frame_2(3, 6, &[0; 4]));
    assert_eq!((members(&mut rig, &a), members(&mut rig, &b)), (0, 0));
}

#[test]
fn room_requests_that_cannot_be_met_are_answered_and_counted() {
    let mut rig = Rig::new(1, Limits { rooms: 3, ..Limits::default() });
    let (conn, _) = connect(&mut rig, 0, "7/k/r/");
    join(&mut rig, conn, "a");
    let handle = join(&mut rig, conn, "b");
    let refused = |rig: &mut Rig, request: &[u8], room: &[u8], refusal| {
        let expected = Seen::NotJoined { room: room.to_vec(), refusal, sequence: 4 };
        assert_eq!(seen(&rig.ask(conn, request)), [expected]);
    };
    refused(&mut rig, &join_frame(4, b"c"), b"c", RoomRefusal::TooManyRooms);
    for bad in [&b""[..], &[0xff], &[b'x'; 257]] {
        refused(&mut rig, &join_frame(4, bad), bad, RoomRefusal::BadName);
    }
    for short in [&b""[..], b"\0\0\0", b"\x01\0\0\0twelve bytes"] {
        refused(&mut rig, &frame_2(op::JOIN, 4, short), b"", RoomRefusal::BadName);
    }
    let left = seen(&rig.ask(conn, &leave_frame(4, handle)));
    assert_eq!(left, [Seen::Left { outcome: Ok(()), handle, sequence: 4 }]);
    for gone in [handle, RoomHandle(77), RoomHandle(u32::MAX)] {
        let outcome = Err(RoomRefusal::NoSuchHandle);
        let expected = [Seen::Left { outcome, handle: gone, sequence: 4 }];
        assert_eq!(seen(&rig.ask(conn, &leave_frame(4, gone))), expected);
    }
    rig.ask(conn, &frame_2(op::LEAVE, 4, b"123"));
    join(&mut rig, conn, "c");
    let refused = rig.shards[0].counters().rooms_refused;
    assert_eq!(refused, [1, 6, 4, 0]);
    assert!(!rig.is_closed(conn));

    rig.feed(conn, &frame_2(op::ROOM_PUSH, 4, b""));
    assert_eq!(rig.reason(conn), CloseReason::BadFrame);
}

/// From a client of protocol 1 these operations are messages for logic, as in goim.
#[test]
fn protocol_1_has_no_room_operations() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.join(0, "7/k/r/");
    for operation in op::JOIN..=op::LEAVE_REPLY {
        assert_eq!(rig.ask(conn, &frame(operation, 3, b"\0\0\0\0a")), frame(operation, 3, b""));
    }
    assert_eq!(rig.push_room("a", 5, b"x").matched, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Join(usize, usize),
    Leave(usize, usize),
    Change(usize, usize),
    Push(usize),
    Reconnect(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (client, room) = (0..6_usize, 0..5_usize);
    prop_oneof![
        4 => (client.clone(), room.clone()).prop_map(|(client, room)| Step::Join(client, room)),
        2 => (client.clone(), room.clone()).prop_map(|(client, room)| Step::Leave(client, room)),
        1 => (client.clone(), room.clone()).prop_map(|(client, room)| Step::Change(client, room)),
        3 => room.prop_map(Step::Push),
        1 => client.prop_map(Step::Reconnect),
    ]
}

/// A client, and the rooms that it is in.
struct Model {
    conn: ConnId,
    rooms: BTreeMap<usize, RoomHandle>,
    main: Option<usize>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_push_reaches_exactly_the_members_of_the_room(
        steps in prop::collection::vec(step(), 1..80),
        slice in 1..4_usize,
    ) {
        let limits = Limits { crowd_above: slice, crowd_slice: slice, ..Limits::default() };
        let mut rig = Rig::new(2, Limits { rooms: 4, ..limits });
        let name = |room: usize| format!("room-{room}");
        let mut clients: Vec<Model> = Vec::new();
        let connect = |rig: &mut Rig, number: usize| {
            let (conn, told) = connect(rig, number as u16 % 2, &format!("{number}/k{number}//"));
            assert!(told.is_empty());
            Model { conn, rooms: BTreeMap::new(), main: None }
        };
        for number in 0..6 {
            clients.push(connect(&mut rig, number));
        }
        for step in steps {
            match step {
                Step::Join(client, room) => {
                    let Model { conn, rooms, .. } = &mut clients[client];
                    let told = seen(&rig.ask(*conn, &join_frame(5, name(room).as_bytes())));
                    let is_full = rooms.len() == 4 && !rooms.contains_key(&room);
                    match &told[..] {
                        [Seen::Joined { handle, .. }] if !is_full => {
                            let known = *rooms.entry(room).or_insert(*handle);
                            prop_assert_eq!(known, *handle);
                        }
                        [Seen::NotJoined { .. }] if is_full => {}
                        other => panic!("{other:?}"),
                    }
                }
                Step::Leave(client, room) => {
                    let Model { conn, rooms, main } = &mut clients[client];
                    let Some(handle) = rooms.remove(&room) else { continue };
                    main.take_if(|main| *main == room);
                    let told = seen(&rig.ask(*conn, &leave_frame(6, handle)));
                    prop_assert_eq!(told, [Seen::Left { outcome: Ok(()), handle, sequence: 6 }]);
                }
                Step::Change(client, room) => {
                    let Model { conn, rooms, main } = &mut clients[client];
                    if let Some(former) = main.replace(room).filter(|former| *former != room) {
                        rooms.remove(&former);
                    }
                    let told = seen(&rig.ask(*conn, &frame_2(12, 7, name(room).as_bytes())));
                    if let [_, Seen::Joined { handle, .. }] = &told[..] {
                        prop_assert_eq!(*rooms.entry(room).or_insert(*handle), *handle);
                    }
                    prop_assert!(rooms.contains_key(&room));
                }
                Step::Push(room) => {
                    let members: Vec<&Model> =
                        clients.iter().filter(|client| client.rooms.contains_key(&room)).collect();
                    let tally = rig.push_room(&name(room), 9_000, b"p");
                    prop_assert_eq!(tally.queued, members.len() as u64);
                    for client in &clients {
                        let body = b"p".to_vec();
                        let push = |&handle| Seen::RoomPush { handle, operation: 9_000, body };
                        let expected = client.rooms.get(&room).map(push);
                        prop_assert_eq!(seen(&rig.take(client.conn)), Vec::from_iter(expected));
                    }
                }
                Step::Reconnect(client) => {
                    rig.hang_up(clients[client].conn);
                    clients[client] = connect(&mut rig, client);
                }
            }
            for client in &clients {
                let handles: BTreeSet<RoomHandle> = client.rooms.values().copied().collect();
                prop_assert_eq!(handles.len(), client.rooms.len());
            }
        }
        for room in 0..5 {
            let count = clients.iter().filter(|client| client.rooms.contains_key(&room)).count();
            prop_assert_eq!(members(&mut rig, &name(room)), count as u32);
        }
        clients.iter().for_each(|client| rig.hang_up(client.conn));
        for shard in &rig.shards {
            prop_assert_eq!(shard.counters().further_rooms, 0);
            prop_assert!(shard.home_rooms().is_empty());
        }
    }
}
