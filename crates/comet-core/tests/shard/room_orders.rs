//! Rooms that connections enter and leave by order of a push caller.

use comet_core::{CallId, ConnId, Limits, Message, Push, RoomOrder, Tally};
use comet_proto::{Position, op};

use crate::history::{TELL, Told, join_since, rules, told};
use crate::rig::{Rig, frame, key_at, room_at};
use crate::rooms::{Seen, connect, join_frame, members, seen_by};

fn order(is_join: bool, rooms: &[&str]) -> Push {
    Push::rooms(RoomOrder { rooms: rooms.iter().map(|room| (*room).into()).collect(), is_join })
}

/// The numbers of rooms changed, unchanged and refused, and of absent keys.
fn outcome(Tally { queued, unchanged, refused, absent, .. }: Tally) -> [u64; 4] {
    [queued, unchanged, refused, absent]
}

fn send_to_key(rig: &mut Rig, key: &str, push: Push) -> CallId {
    let call = rig.call();
    let home = comet_core::home_of_key(key, rig.shards.len() as u16);
    rig.send(home, Message::PushKeys { call, keys: vec![key.into()], push });
    call
}

fn to_key(rig: &mut Rig, key: &str, push: Push) -> [u64; 4] {
    let call = send_to_key(rig, key, push);
    outcome(rig.tally(call))
}

fn to_user(rig: &mut Rig, user: i64, push: Push) -> [u64; 4] {
    let call = rig.call();
    let home = comet_core::home_of_user(user, rig.shards.len() as u16);
    rig.send(home, Message::PushUsers { call, users: vec![user], push });
    outcome(rig.tally(call))
}

#[test]
fn clients_enter_and_leave_rooms_by_order() {
    let mut rig = Rig::new(2, Limits { rooms: 3, ..Limits::default() });
    let (near, far) = (room_at(0), room_at(1));
    let (new, _) = connect(&mut rig, 0, &format!("7/{}/{near}/", key_at(1)));
    let old = rig.join(1, "7/old//");
    let rooms = [near.as_str(), far.as_str(), "a", "b"];
    // One connection is in its room already, and neither has space for the last room.
    assert_eq!(to_user(&mut rig, 7, order(true, &rooms)), [2 + 3, 1, 1 + 1, 0]);
    let told = seen_by(&mut rig, new);
    let handle_of = |wanted: &str| {
        let handle = told.iter().find_map(|seen| match seen {
            Seen::Joined { room, handle, is_unasked: true, sequence: 0 } if room == wanted => {
                Some(*handle)
            }
            _ => None,
        });
        handle.expect("it was told")
    };
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(rig.take(old), b"", "it knows no handles");
    for room in [far.as_str(), "a"] {
        assert_eq!(rig.push_room(room, 1000, b"p").queued, 2);
        let (handle, body) = (handle_of(room), b"p".to_vec());
        assert_eq!(seen_by(&mut rig, new), [Seen::RoomPush { handle, operation: 1000, body }]);
        assert_eq!(rig.take(old), frame(1000, 0, b"p"));
    }
    let refused: u64 = (0..2).map(|shard| rig.shards[shard].counters().rooms_refused[0]).sum();
    assert_eq!(refused, 2);

    // The order names the first room too, and a room that one connection is not in.
    assert_eq!(to_key(&mut rig, &key_at(1), order(false, &[&near, "a", "b"])), [2, 1, 0, 0]);
    let told = seen_by(&mut rig, new);
    assert!(
        matches!(told[..], [Seen::Left { outcome: Ok(()), sequence: 0, .. }, Seen::Left { .. }]),
        "{told:?}"
    );
    assert_eq!(
        [members(&mut rig, &near), members(&mut rig, "a"), members(&mut rig, &far)],
        [1, 1, 2]
    );
    assert_eq!(to_key(&mut rig, "nobody", order(true, &["a"])), [0, 0, 0, 1]);
    let pushes: u64 = (0..2).map(|shard| rig.shards[shard].counters().pushes).sum();
    assert_eq!(pushes, 4, "two, each on both shards; orders are none");
    rig.hang_up(new);
    rig.hang_up(old);
    assert_eq!(rooms.map(|room| members(&mut rig, room)), [0; 4]);
}

/// The client's input is not held, so it may do anything while the room's home is asked.
#[test]
fn an_order_is_answered_once_the_rooms_home_has_answered() {
    let mut rig = Rig::new(2, Limits { rooms: 2, ..Limits::default() });
    let (key, far) = (key_at(0), room_at(1));
    let held = (1, 0);
    type Meanwhile = fn(&mut Rig, ConnId, &str);
    let nothing: Meanwhile = |_, _, _| {};
    let joins: Meanwhile = |rig, conn, room| {
        rig.feed(conn, &crate::rig::frame_2(op::CHANGE_ROOM, 3, room.as_bytes()));
    };
    let joins_further: Meanwhile =
        |rig, conn, room| rig.feed(conn, &join_frame(3, room.as_bytes()));
    let closes: Meanwhile = |rig, conn, _| rig.hang_up(conn);
    let leaves: Meanwhile = |rig, _, room| {
        assert_eq!(to_key(rig, &key_at(0), order(false, &[room])), [1, 0, 0, 0]);
    };
    let leaves_and_enters: Meanwhile = |rig, _, room| {
        assert_eq!(to_key(rig, &key_at(0), order(false, &[room])), [1, 0, 0, 0]);
        send_to_key(rig, &key_at(0), order(true, &[room]));
    };
    for (meanwhile, queued, in_it) in [
        (nothing, 1, 1),
        (closes, 0, 0),
        (leaves, 1, 0),
        (leaves_and_enters, 1, 1),
        (joins, 1, 1),
        (joins_further, 1, 1),
    ] {
        let (conn, _) = connect(&mut rig, 0, &format!("7/{key}//"));
        rig.held.insert(held);
        let call = send_to_key(&mut rig, &key, order(true, &[&far]));
        assert_eq!(rig.tally(call), Tally::default());
        meanwhile(&mut rig, conn, &far);
        rig.held.clear();
        rig.run();
        let tally = rig.tally(call);
        assert_eq!(tally.queued + tally.unchanged, queued, "{tally:?}");
        assert_eq!(tally.dropped_total(), 1 - queued);
        assert_eq!(members(&mut rig, &far), in_it);
        assert_eq!(rig.push_room(&far, 9, b"p").queued, u64::from(in_it));
        rig.hang_up(conn);
        assert_eq!(members(&mut rig, &far), 0);
    }
}

/// The last order takes effect, whether or not the room's home has answered before it.
#[test]
fn an_order_to_join_holds_behind_one_to_leave_while_a_client_catches_up() {
    let mut rig = Rig::new(2, Limits { history_rules: rules(10), ..Limits::default() });
    let (key, room) = (key_at(0), room_at(1));
    let (conn, _) = connect(&mut rig, 0, &format!("7/{key}//"));
    rig.held.insert((1, 0));
    rig.feed(conn, &join_since(&room, Some(Position { epoch: 0, offset: 0 })));
    for (is_join, expected) in [(false, [1, 0, 0, 0]), (true, [1, 0, 0, 0]), (true, [0, 1, 0, 0])] {
        assert_eq!(to_key(&mut rig, &key, order(is_join, &[&room])), expected, "{is_join}");
    }
    rig.held.clear();
    rig.run();
    let all = told(&rig.take(conn));
    assert!(matches!(all[..], [Told::Joined { .. }]), "{all:?}");
    assert_eq!(members(&mut rig, &room), 1);
    assert_eq!(rig.push_room(&room, TELL, b"p").queued, 1);
}
