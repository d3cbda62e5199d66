//! Faults of goim, and the right behaviour for each. The numbers are those of the list in `docs/PROTOCOL.md`.

use comet_core::{CloseReason, ConnId, DropReason, Limits, SlowConsumer, Tally, home_of_user};

use crate::rig::{Rig, frame, key_at};

fn tally(queued: u64, dropped: &[(DropReason, u64)], absent: u64) -> Tally {
    let mut tally = Tally { absent, ..Tally::default() };
    (0..queued).for_each(|_| tally.queue());
    for (reason, connections) in dropped {
        tally.drop_as(*reason, *connections);
    }
    tally
}

/// 1: the keys after a full connection got nothing. 2: the caller got a success.
#[test]
fn a_full_outbox_is_counted_and_holds_up_no_other_key() {
    let cases = [
        (SlowConsumer::DropNewest, 1, [b"1", b"2"]),
        (SlowConsumer::DropOldest, 0, [b"1", b"3"]),
        (SlowConsumer::Close, 1, [b"1", b"2"]),
    ];
    for (policy, dropped, kept) in cases {
        let limits = Limits { svr_proto: 2, slow_consumer: policy, ..Limits::default() };
        let mut rig = Rig::new(2, limits);
        let first = rig.join(0, "/first//");
        let others = [0, 1].map(|shard| rig.join(shard, &format!("/other{shard}//")));
        rig.allow(first, Some(0));
        for body in [b"1", b"2"] {
            assert_eq!(rig.push_keys(&["first"], 5, body), tally(1, &[], 0));
        }
        let result = rig.push_keys(&["first", "nobody", "other0", "other1"], 5, b"3");
        let full = (DropReason::OutboxFull, dropped);
        assert_eq!(result, tally(3 - dropped, &[full], 1), "{policy:?}");
        for other in others {
            assert_eq!(rig.take(other), frame(5, 0, b"3"));
        }
        assert_eq!(rig.is_closed(first), policy == SlowConsumer::Close);
        rig.allow(first, None);
        let mut expected: Vec<u8> = kept.iter().flat_map(|body| frame(5, 0, *body)).collect();
        if policy == SlowConsumer::Close {
            expected.extend(frame(6, 0, b"slow_consumer"));
        }
        assert_eq!(rig.take(first), expected, "{policy:?}");
    }
}

/// 3: replacing a key's connection waited for the old one's full queue.
#[test]
fn a_new_connection_does_not_wait_for_the_one_it_replaces() {
    for shard in [0, 1] {
        let mut rig = Rig::new(2, Limits { svr_proto: 1, ..Limits::default() });
        let old = rig.join(0, "7/k/r/");
        rig.allow(old, Some(0));
        rig.push_keys(&["k"], 5, b"waits");
        rig.push_keys(&["k"], 5, b"too much");
        // `join` asserts that the reply is there at once.
        let new = rig.join(shard, "7/k/r/");
        assert_eq!(rig.reason(old), CloseReason::Replaced);
        assert_eq!(rig.push_keys(&["k"], 5, b"for the new"), tally(1, &[], 0));
        assert_eq!(rig.take(new), frame(5, 0, b"for the new"));
        rig.allow(old, None);
        assert_eq!(rig.take(old), [frame(5, 0, b"waits"), frame(6, 0, b"replaced")].concat());
    }
}

/// 4: the late disconnect of a replaced connection made the user unreachable.
#[test]
fn the_late_release_of_a_replaced_connection_changes_nothing() {
    let mut rig = Rig::new(2, Limits::default());
    // Key and user have their home on shard 1.
    let key = key_at(1);
    let user = (1..).find(|user| home_of_user(*user, 2).0 == 1).expect("half of all users");
    let token = format!("{user}/{key}//");
    let old = rig.join(0, &token);
    // The release is delayed while a new connection claims the key.
    rig.held.insert((0, 1));
    rig.hang_up(old);
    let new = rig.join(1, &token);
    rig.held.clear();
    rig.run();
    assert_eq!(rig.push_keys(&[&key], 5, b"x"), tally(1, &[], 0));
    assert_eq!(rig.push_user(user, 5, b"y"), tally(1, &[], 0));
    assert_eq!(rig.take(new), [frame(5, 0, b"x"), frame(5, 0, b"y")].concat());
    assert!(!rig.is_closed(new));
}

/// 5: no order per room or per key.
#[test]
fn pushes_to_a_room_and_to_a_key_keep_their_order() {
    let mut rig = Rig::new(3, Limits::default());
    let members = [0, 1, 2].map(|shard| rig.join(shard, &format!("7/k{shard}/r/")));
    rig.held.extend([(0, 1), (1, 2), (2, 0)]);
    let mut sent = Vec::new();
    for number in 0..60_u8 {
        rig.push_room("r", 5, &[number]);
        sent.extend(frame(5, 0, &[number]));
        if number % 20 == 10 {
            rig.held.clear();
            rig.run();
            rig.held.extend([(0, 2), (1, 0), (2, 1)]);
        }
    }
    rig.held.clear();
    rig.run();
    for member in members {
        assert_eq!(rig.take(member), sent);
    }
    let mut sent = Vec::new();
    for number in 0..20_u8 {
        rig.push_keys(&["k0", "k1", "k2"], 5, &[number]);
        sent.extend(frame(5, 0, &[number]));
    }
    for member in members {
        assert_eq!(rig.take(member), sent);
    }
}

/// 6: rooms are not filtered by operation. That is the default here too; a setting turns the filter on.
#[test]
fn rooms_are_filtered_by_operation_where_that_is_set() {
    for filter_rooms in [false, true] {
        let mut rig = Rig::new(2, Limits { filter_rooms, ..Limits::default() });
        let conn = rig.join(0, "7/k/r/1000");
        let filtered = tally(0, &[(DropReason::Filtered, 1)], 0);
        assert_eq!(rig.push_keys(&["k"], 5, b""), filtered);
        assert_eq!(rig.push_user(7, 5, b""), filtered);
        assert_eq!(rig.push_all(5, b"", None), filtered);
        let expected = if filter_rooms { filtered } else { tally(1, &[], 0) };
        assert_eq!(rig.push_room("r", 5, b""), expected);
        rig.take(conn);
        for (request, accepted) in [(14, true), (16, false)] {
            rig.ask(conn, &frame(request, 1, b"5"));
            let expected = if accepted { tally(1, &[], 0) } else { filtered };
            assert_eq!(rig.push_keys(&["k"], 5, b""), expected);
        }
    }
}

/// 7: a broadcast's speed works in bursts of whole seconds.
#[test]
fn a_paced_broadcast_is_smooth() {
    let mut rig = Rig::new(1, Limits::default());
    let conns: Vec<ConnId> = (0..100).map(|number| rig.join(0, &format!("/k{number}//"))).collect();
    rig.pass(1_234);
    assert_eq!(rig.push_all(5, b"paced", Some(50)), Tally::default());
    let reached = |rig: &Rig| rig.shards[0].counters().sent;
    for tenth in 1..20 {
        rig.pass(100);
        assert!(
            (tenth * 5..=tenth * 5 + 1).contains(&reached(&rig)),
            "{} after {tenth}",
            reached(&rig)
        );
    }
    rig.pass(200);
    assert_eq!(reached(&rig), 100);
    for conn in conns {
        assert_eq!(rig.take(conn), frame(5, 0, b"paced"));
    }
}

/// 9: a change to the present room broke its list, and the last leave did not lower the count.
#[test]
fn the_count_of_a_room_follows_joins_and_leaves() {
    let mut rig = Rig::new(2, Limits::default());
    let conns = [0, 0, 1].map(|shard| rig.join(shard, "///"));
    let check = |rig: &mut Rig, conn: ConnId, room: &str, online: u8| {
        rig.take(conn);
        assert_eq!(rig.ask(conn, &frame(12, 1, room.as_bytes())), frame(13, 1, room.as_bytes()));
        rig.pass(500);
        assert_eq!(rig.ask(conn, &frame(2, 2, b"")), frame(3, 2, &[0, 0, 0, online]), "{room}");
    };
    check(&mut rig, conns[0], "r", 1);
    check(&mut rig, conns[0], "r", 1);
    check(&mut rig, conns[1], "r", 2);
    check(&mut rig, conns[2], "r", 3);
    check(&mut rig, conns[1], "r", 3);
    assert_eq!(rig.push_room("r", 5, b""), tally(3, &[], 0));
    check(&mut rig, conns[0], "", 0);
    check(&mut rig, conns[0], "", 0);
    check(&mut rig, conns[1], "other", 1);
    check(&mut rig, conns[2], "r", 1);
    assert_eq!(rig.push_room("r", 5, b""), tally(1, &[], 0));
    rig.hang_up(conns[2]);
    rig.pass(500);
    assert_eq!(rig.push_room("r", 5, b""), tally(0, &[], 0));
    let rooms: Vec<_> = rig.shards.iter().flat_map(comet_core::Shard::home_rooms).collect();
    assert_eq!(rooms, [("other".into(), 1)]);
}
