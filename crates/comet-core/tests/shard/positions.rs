//! Positions of rooms that a client enters without operation 18, and recovery from these positions.

use comet_core::{ConnId, Limits, Message, Push, RoomOrder, Transport};
use comet_proto::{JoinReply, Position, decode, op};

use crate::history::{TELL, Told, join_since, rules, told};
use crate::rig::{Rig, frame, frame_2, room_at};

fn rig() -> Rig {
    Rig::new(2, Limits { history_rules: rules(100), ..Limits::default() })
}

/// A client of protocol 2 on shard 0, and the frames about rooms that it got after operation 8. It sends `behind` with its token.
fn connect(rig: &mut Rig, token: &str, behind: &[u8]) -> (ConnId, Vec<Told>) {
    let conn = rig.connect(0, Transport::Tcp);
    let request = [&frame_2(op::AUTH, 1, token.as_bytes())[..], behind].concat();
    let bytes = rig.ask(conn, &request);
    let (auth, consumed) = decode(&bytes, 1 << 20).unwrap().unwrap();
    assert_eq!(auth.operation, op::AUTH_REPLY);
    (conn, told(&bytes[consumed..]))
}

/// The only room in the frames, with its position.
fn entered(all: &[Told]) -> (comet_proto::RoomHandle, Position) {
    let [Told::Joined { handle, position: Some(position), recovered: None }] = all[..] else {
        panic!("{all:?}")
    };
    (handle, position)
}

fn offsets(all: &[Told]) -> Vec<u64> {
    let offset = |told: &Told| match told {
        Told::Push { offset, .. } => Some(*offset),
        _ => None,
    };
    all.iter().filter_map(offset).collect()
}

/// The home may be either shard, and the client's shard may know the room already from another member.
#[test]
fn the_room_of_a_token_is_recovered() {
    for (room, is_known) in [(room_at(0), false), (room_at(1), false), (room_at(1), true)] {
        let mut rig = rig();
        if is_known {
            rig.join(0, &format!("8/other/{room}/"));
        }
        let token = format!("7/k/{room}/");
        let (conn, all) = connect(&mut rig, &token, b"");
        let (_, start) = entered(&all);
        assert_eq!(start.offset, 0);
        rig.push_room(&room, TELL, b"1");
        assert_eq!(offsets(&told(&rig.take(conn))), [1]);
        rig.hang_up(conn);
        (2..=4).for_each(|_| _ = rig.push_room(&room, TELL, b"missed"));

        // The first request arrives with the token. The first answer is the present position of the room.
        let since = Position { offset: 1, ..start };
        let (conn, all) = connect(&mut rig, &token, &join_since(&room, Some(since)));
        let now = Some(Position { offset: 4, ..start });
        let Told::Joined { handle, position, recovered: None } = all[0] else { panic!("{all:?}") };
        assert_eq!(position, now);
        assert_eq!(all[1], Told::Joined { handle, position: now, recovered: Some(3) });
        assert_eq!(offsets(&all[2..]), [2, 3, 4]);
        rig.push_room(&room, TELL, b"5");
        assert_eq!(offsets(&told(&rig.take(conn))), [5]);
        let heartbeat = rig.ask(conn, &frame(op::HEARTBEAT, 9, b""));
        let members = [0, 0, 0, 1 + u8::from(is_known)];
        assert_eq!(heartbeat, frame(op::HEARTBEAT_REPLY, 9, &members), "it is its room still");
        assert_eq!(rig.shards[0].counters().recoveries, [0, 1]);
    }
}

/// The further rooms of a token are entered without a request. The client may request them meanwhile.
#[test]
fn further_rooms_of_a_token_are_recovered_once() {
    for home in [0, 1] {
        let mut rig = rig();
        let room = room_at(home);
        let token = format!("7/k/+{room}/");
        let (conn, all) = connect(&mut rig, &token, b"");
        let (_, start) = entered(&all);
        (1..=3).for_each(|_| _ = rig.push_room(&room, TELL, b"push"));
        assert_eq!(offsets(&told(&rig.take(conn))), [1, 2, 3]);
        rig.hang_up(conn);
        rig.push_room(&room, TELL, b"missed");
        let since = Some(Position { offset: 3, ..start });
        let (_, all) = connect(&mut rig, &token, &join_since(&room, since));
        let recovered = all.iter().filter_map(|told| match told {
            Told::Joined { recovered, .. } => *recovered,
            _ => None,
        });
        assert_eq!(recovered.collect::<Vec<u32>>(), [1], "{all:?}");
        assert_eq!(offsets(&all), [4]);
    }
}

#[test]
fn a_change_of_the_room_tells_the_position_and_allows_a_recovery() {
    let mut rig = rig();
    let (one, other) = (room_at(1), room_at(0));
    let (conn, all) = connect(&mut rig, &format!("7/k/{one}/"), b"");
    let (_, start) = entered(&all);
    let change = |rig: &mut Rig, room: &str| {
        let bytes = rig.ask(conn, &frame_2(op::CHANGE_ROOM, 2, room.as_bytes()));
        let (reply, consumed) = decode(&bytes, 1 << 20).unwrap().unwrap();
        assert_eq!((reply.operation, reply.body), (op::CHANGE_ROOM_REPLY, room.as_bytes()));
        let (told, _) = decode(&bytes[consumed..], 1 << 20).unwrap().unwrap();
        let JoinReply { position, is_primary, is_unasked, .. } =
            JoinReply::decode(told.body).unwrap();
        assert!(is_primary && is_unasked);
        position
    };
    assert_eq!(change(&mut rig, &other).unwrap().offset, 0);
    (1..=2).for_each(|_| _ = rig.push_room(&one, TELL, b"missed"));
    assert_eq!(change(&mut rig, &one), Some(Position { offset: 2, ..start }));
    let all = told(&rig.ask(conn, &join_since(&one, Some(start))));
    let [Told::Joined { recovered: Some(2), .. }, ..] = all[..] else { panic!("{all:?}") };
    assert_eq!(offsets(&all), [1, 2]);
    // The client is in the room already, and may have unread pushes. So the server tells it no position.
    assert_eq!(change(&mut rig, &one), None);
    // The same for a room that it entered by operation 18.
    rig.ask(conn, &join_since(&other, None));
    assert_eq!(change(&mut rig, &other), None);
}

#[test]
fn rooms_by_order_of_a_caller_have_a_position() {
    let mut rig = rig();
    let room = room_at(1);
    let (conn, _) = connect(&mut rig, "7/k//", b"");
    rig.push_room(&room, TELL, b"before");
    for is_first in [true, false] {
        let order = RoomOrder { rooms: [room.as_str().into()].into(), is_join: true };
        let (call, push) = (rig.call(), Push::rooms(order));
        let home = comet_core::home_of_key("k", 2);
        rig.send(home, Message::PushKeys { call, keys: vec!["k".into()], push });
        let (handle, position) = entered(&told(&rig.take(conn)));
        assert_eq!(position.offset, if is_first { 1 } else { 2 });
        let leave = frame_2(op::LEAVE, 6, &comet_proto::Leave { handle }.encode());
        rig.push_room(&room, TELL, b"push");
        assert_eq!(offsets(&told(&rig.take(conn))), [position.offset + 1]);
        rig.ask(conn, &leave);
    }
}

/// The answer needs no message to the home, and other members do not notice the request.
#[test]
fn a_member_that_has_all_is_answered_at_once() {
    let mut rig = rig();
    let room = room_at(1);
    let (conn, all) = connect(&mut rig, &format!("7/k/{room}/"), b"");
    let (handle, start) = entered(&all);
    rig.push_room(&room, TELL, b"push");
    rig.take(conn);
    let position = Position { offset: 1, ..start };
    let join = join_since(&room, Some(position));
    rig.held.insert((0, 1));
    rig.feed(conn, &join);
    let joined = Told::Joined { handle, position: Some(position), recovered: Some(0) };
    assert_eq!(told(&rig.take(conn)), [joined]);
    assert_eq!(rig.shards[0].counters().recoveries, [0, 1]);
}
