//! Bounds of parked sessions, and which pushes are parked.

use comet_core::{ResumeLimits, Shard, Tally};
use comet_proto::{KeptSession, Resumed, op};

use super::{FRESH, PUSH, TOKEN, check_books, join, parked, pushes, resumed, with};
use crate::rig::{frame, frame_2};

#[test]
fn a_parked_session_is_bounded_and_reports_lost_pushes() {
    let body = "x".repeat(100);
    let full = Tally { matched: 1, dropped: [0, 0, 0, 0, 0, 0, 0, 1], ..Tally::default() };
    let frame_bytes = frame(PUSH, 0, body.as_bytes()).len() as u32 + 2;
    let by_memory = Resumed { parked: 2, lost_full: 0, lost_memory: 1 };
    let by_session = Resumed { parked: 2, lost_full: 1, lost_memory: 0 };
    type Change = fn(&mut ResumeLimits, u32);
    let changes: [(Change, Resumed); 3] = [
        (|resume, _| resume.messages = 2, by_session),
        (|resume, bytes| resume.bytes = 2 * bytes + 1, by_session),
        (|resume, bytes| resume.memory = 512 + 2 + 3 * bytes as usize + 2 * 64, by_memory),
    ];
    for (change, expected) in changes {
        let mut rig = with(|resume| change(resume, frame_bytes));
        let (conn, ..) = join(&mut rig, 0, TOKEN);
        rig.hang_up(conn);
        for _ in 0..2 {
            assert_eq!(rig.push_keys(&["k"], PUSH, body.as_bytes()), parked(1));
        }
        assert_eq!(rig.push_keys(&["k"], PUSH, body.as_bytes()), full);
        let (_, kept, rest) = join(&mut rig, 1, TOKEN);
        assert_eq!(kept, Some(KeptSession { resumed: Some(expected) }));
        assert_eq!(rest, pushes(&[&body, &body]));
        check_books(&rig);
        let counters: Vec<_> = rig.shards.iter().map(Shard::counters).collect();
        assert!(counters.iter().all(|all| (all.parked_bytes, all.parked_sessions) == (0, 0)));
    }
}

#[test]
fn a_session_for_which_there_is_no_memory_ends() {
    let mut rig = with(|resume| resume.memory = 100);
    let (conn, ..) = join(&mut rig, 0, TOKEN);
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"1").absent, 1);
    assert_eq!(rig.push_user(7, PUSH, b"1").absent, 1);
    let (_, kept, _) = join(&mut rig, 1, TOKEN);
    assert_eq!(kept, FRESH);
}

#[test]
fn only_operations_that_the_session_accepts_are_parked() {
    let mut rig = with(|_| {});
    let (conn, ..) = join(&mut rig, 0, "7/k//1000");
    rig.feed(conn, &frame_2(op::SUBSCRIBE, 2, b"1001"));
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"1"), parked(1));
    assert_eq!(rig.push_keys(&["k"], 1_002, b"2").dropped_total(), 1);
    assert_eq!(rig.push_keys(&["k"], 1_001, b"3"), parked(1));
    // The next connection has not subscribed yet, but its session had.
    let (_, _, rest) = join(&mut rig, 1, "7/k//1000");
    assert_eq!(rest, [pushes(&["1"]), frame(1_001, 0, b"3")].concat());
}

#[test]
fn rooms_and_broadcasts_are_not_parked() {
    let mut rig = with(|_| {});
    let (conn, ..) = join(&mut rig, 0, "7/k/room/");
    rig.allow(conn, Some(0));
    rig.push_all(PUSH, b"all", None);
    rig.push_room("room", PUSH, b"room");
    rig.push_keys(&["k"], PUSH, b"1");
    rig.hang_up(conn);
    assert_eq!(rig.push_room("room", PUSH, b"room"), Tally::default());
    assert_eq!(rig.push_all(PUSH, b"all", None), Tally::default());
    let (_, kept, rest) = join(&mut rig, 1, TOKEN);
    assert_eq!((kept, rest), (resumed(1), pushes(&["1"])));
    let lost: u64 = rig.shards.iter().map(|shard| shard.counters().lost).sum();
    assert_eq!(lost, 2, "the others were in the outbox");
}
