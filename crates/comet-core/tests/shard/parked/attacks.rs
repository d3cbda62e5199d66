//! Clients that claim one session all at once, and users with more sessions or pushes than there is space for.

use comet_core::{CloseReason, ResumeLimits, Shard, Tally, Transport, home_of_key};

use super::{PUSH, TOKEN, WINDOW_MS, check_books, limits, parked, pushes, request, welcome, with};
use crate::rig::Rig;

/// The last claimant gets all pushes, whatever the home has sent to the first one by then. No push is delivered twice.
#[test]
fn a_session_that_many_connections_claim_at_once_goes_to_the_last() {
    let home = home_of_key("k", 2).0;
    for away in [(home, 1 - home), (1 - home, home)] {
        let mut rig = with(|_| {});
        let (gone, ..) = super::join(&mut rig, 1 - home, TOKEN);
        rig.hang_up(gone);
        for body in ["1", "2", "3"] {
            assert_eq!(rig.push_keys(&["k"], PUSH, body.as_bytes()), parked(1));
        }
        rig.held.insert(away);
        let claimants = [0, 1, 0, 1, 1, 0].map(|shard| {
            let conn = rig.connect(shard, Transport::Tcp);
            rig.feed(conn, &request(TOKEN));
            conn
        });
        // The messages for this push are held as well.
        rig.push_user(7, PUSH, b"4");
        rig.held.clear();
        rig.run();
        let open: Vec<_> = claimants.into_iter().filter(|&conn| !rig.is_closed(conn)).collect();
        let [owner] = open[..] else { panic!("{} hold the key", open.len()) };
        let (kept, rest) = welcome(&rig.take(owner));
        assert!(kept.is_some_and(|kept| kept.resumed.is_some()), "{kept:?}");
        assert_eq!(rest, pushes(&["1", "2", "3", "4"]), "{away:?}");
        for conn in claimants.into_iter().filter(|&conn| conn != owner) {
            assert_eq!(rig.reason(conn), CloseReason::Replaced);
            let bytes = rig.take(conn);
            assert!(!contains_push(&bytes), "{bytes:x?}");
        }
        assert_eq!(rig.push_keys(&["k"], PUSH, b"5").queued, 1);
        check_books(&rig);
    }
}

fn contains_push(mut bytes: &[u8]) -> bool {
    while let Ok(Some((frame, length))) = comet_proto::decode(bytes, usize::MAX) {
        if frame.operation == PUSH {
            return true;
        }
        bytes = &bytes[length..];
    }
    false
}

/// Shards where user 7 has this many sessions, all without a connection.
fn many(keys: u32, resume: ResumeLimits) -> Rig {
    let mut rig = Rig::new(2, comet_core::Limits { resume, ..limits() });
    for number in 0..keys {
        let (conn, ..) = super::join(&mut rig, (number % 2) as u16, &format!("7/k{number}//"));
        rig.hang_up(conn);
    }
    rig
}

fn sum(rig: &Rig, of: fn(&comet_core::Counters) -> u64) -> u64 {
    rig.shards.iter().map(Shard::counters).map(|counters| of(&counters)).sum()
}

#[test]
fn ten_thousand_sessions_of_one_user_are_parked_and_end() {
    let mut rig = many(10_000, limits().resume);
    assert_eq!(rig.push_user(7, PUSH, b"1"), parked(10_000));
    assert_eq!(sum(&rig, |all| all.parked_sessions), 10_000);
    let (_, _, rest) = super::join(&mut rig, 0, "7/k77//");
    assert_eq!(rest, pushes(&["1"]));
    let tally = rig.push_user(7, PUSH, b"2");
    assert_eq!((tally.queued, tally.parked), (1, 9_999));
    rig.pass(u64::from(WINDOW_MS) + 100);
    let tally = rig.push_user(7, PUSH, b"3");
    assert_eq!((tally.queued, tally.parked, tally.absent), (1, 0, 0), "{tally:?}");
    assert_eq!(sum(&rig, |all| all.parked_sessions + all.parked_bytes), 0);
    check_books(&rig);
}

/// The memory for parked pushes of a shard is bounded, whatever a user's clients and callers do. Pushes that do not fit are
/// reported and counted.
#[test]
fn the_memory_of_parked_sessions_is_a_bound() {
    const MEMORY: usize = 64 << 10;
    let mut rig = many(300, ResumeLimits { memory: MEMORY, ..limits().resume });
    let sessions = sum(&rig, |all| all.parked_sessions);
    assert!((150..300).contains(&sessions), "{sessions} have found space");
    let mut parked = 0;
    for _ in 0..4 {
        let tally: Tally = rig.push_user(7, PUSH, &[b'x'; 200]);
        assert_eq!(tally.parked + tally.dropped_total(), sessions, "{tally:?}");
        parked += tally.parked;
    }
    for shard in &rig.shards {
        let counters = shard.counters();
        assert!(counters.parked_bytes <= MEMORY as u64, "{counters:?}");
    }
    assert_eq!(sum(&rig, |all| all.parked), parked);
    rig.pass(u64::from(WINDOW_MS) + 100);
    assert_eq!(sum(&rig, |all| all.parked_lost[0]), parked, "expired");
    check_books(&rig);
}
