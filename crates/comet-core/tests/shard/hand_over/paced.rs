//! Paced broadcasts that go on at the shards of another process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use comet_core::{CallId, ConnId, DropReason, Limits, Message, Report, ShardId, Tally, distribute};
use comet_handover as handed;
use comet_handover::feature;

use crate::rig::{Rig, frame, push};

use super::COUNTS;

const CLIENTS: usize = 60;

/// The same number in the fixtures, which were written after 21 clients had got the broadcast.
const BODY: &[u8] = b"paced";

/// Two shards with clients, to which a broadcast goes at 10 and 20 connections a second.
fn begun(clients: usize) -> (Rig, Vec<ConnId>, CallId) {
    let mut rig = Rig::new(2, Limits::default());
    let join = |number| rig.join((number % 2) as u16, &format!("/k{number}//"));
    let conns: Vec<ConnId> = (0..clients).map(join).collect();
    let call = rig.call();
    for (shard, speed) in [(0, 10), (1, 20)] {
        let speed = std::num::NonZeroU32::new(speed);
        let message = Message::Broadcast { call, push: push(5, BODY), speed };
        rig.send(ShardId(shard), message);
    }
    (rig, conns, call)
}

/// The outcome of the broadcast of `call`, and the shards on which it ended.
fn ends(rig: &mut Rig, call: CallId) -> (Tally, Vec<ShardId>) {
    let (mut sum, mut shards) = (Tally::default(), Vec::new());
    for report in rig.take_reports() {
        if let Report::PacedEnded { call: of, shard, tally } = report {
            assert_eq!(of, call);
            sum += tally;
            shards.push(shard);
        }
    }
    shards.sort();
    (sum, shards)
}

fn rename(conns: &mut [ConnId], renamed: &BTreeMap<ConnId, ConnId>) {
    conns.iter_mut().for_each(|conn| *conn = renamed[conn]);
}

fn reached(rig: &Rig) -> u64 {
    rig.shards.iter().map(|shard| shard.counters().deliveries.queued).sum()
}

fn assert_each_got_it(rig: &mut Rig, conns: &[ConnId]) {
    for &conn in conns {
        assert_eq!(rig.take(conn), frame(5, 0, BODY), "{conn:?}");
    }
}

#[test]
fn a_paced_broadcast_reaches_each_client_once_for_any_number_of_shards() {
    for first in COUNTS {
        for second in COUNTS {
            let (mut rig, mut conns, call) = begun(CLIENTS);
            rig.pass(500);
            // Slots that have become free do not count as clients.
            let left = conns.remove(0);
            rig.hang_up(left);
            rename(&mut conns, &rig.upgrade(first));
            rig.pass(700);
            rename(&mut conns, &rig.upgrade(second));
            rig.pass(10_000);
            let case = format!("{first}, then {second} shards");
            assert_each_got_it(&mut rig, &conns);
            let (tally, _) = ends(&mut rig, call);
            let expected = CLIENTS as u64;
            assert_eq!((tally.matched, tally.queued), (expected, expected), "{case}");
        }
    }
}

#[test]
fn the_total_speed_of_a_paced_broadcast_stays_the_same() {
    for count in COUNTS {
        let (mut rig, mut conns, call) = begun(4 * CLIENTS);
        rig.pass(1_000);
        let before = reached(&rig);
        assert!((30..=32).contains(&before), "{before}");
        rename(&mut conns, &rig.upgrade(count));
        rig.pass(2_000);
        let more = reached(&rig) - before;
        // The first step may come at once, and each shard rounds its share up.
        let most = 60 + 2 * u64::from(count) + 2;
        assert!((57..=most).contains(&more), "{more} with {count} shards");
        assert_eq!(ends(&mut rig, call).1, []);
    }
}

/// On one shard the broadcast was complete before the hand-over, on the other it was not.
#[test]
fn a_paced_broadcast_is_reported_as_ended_once_by_each_new_shard() {
    for count in COUNTS {
        let (mut rig, mut conns, call) = begun(CLIENTS);
        rig.pass(1_600);
        let (ended, shards) = ends(&mut rig, call);
        assert_eq!((ended.queued, shards), (30, vec![ShardId(1)]));
        let parts = rig.hand_over();
        let decode = |(bytes, conns): &(Vec<u8>, Vec<ConnId>)| {
            (handed::Shard::decode(bytes).unwrap(), conns.clone())
        };
        let parts = distribute(parts.iter().map(decode).collect(), count).unwrap();
        let on: Vec<_> = parts.iter().flat_map(|(part, _)| part.paced()).collect();
        let all = if count == 2 { vec![ShardId(0)] } else { (0..count).map(ShardId).collect() };
        assert_eq!(on, all.iter().map(|&shard| (shard, call)).collect::<Vec<_>>());
        rename(&mut conns, &rig.upgrade(count));
        rig.pass(10_000);
        let (tally, shards) = ends(&mut rig, call);
        assert_eq!((tally.queued, shards), (30, all));
        assert_each_got_it(&mut rig, &conns);
    }
}

#[test]
fn a_paced_broadcast_is_cancelled_by_its_id_after_a_hand_over() {
    for count in COUNTS {
        let (mut rig, mut conns, call) = begun(CLIENTS);
        rig.pass(500);
        rename(&mut conns, &rig.upgrade(count));
        rig.pass(100);
        let queued = reached(&rig);
        rig.send_all(&Message::CancelBroadcast { call });
        let (tally, _) = ends(&mut rig, call);
        assert_eq!((tally.matched, tally.queued), (queued, queued), "{count}");
        rig.pass(10_000);
        assert_eq!(reached(&rig), queued);
    }
}

/// If the other process fails, the shards go on with the broadcast.
#[test]
fn a_paced_broadcast_goes_on_if_the_hand_over_fails() {
    let (mut rig, conns, call) = begun(CLIENTS);
    rig.pass(500);
    rig.hand_over();
    rig.pass(10_000);
    let (tally, shards) = ends(&mut rig, call);
    assert_eq!((tally.queued, shards), (CLIENTS as u64, vec![ShardId(0), ShardId(1)]));
    assert_each_got_it(&mut rig, &conns);
}

#[test]
fn a_hand_over_with_paced_broadcasts_requires_that_feature() {
    let (mut rig, ..) = begun(CLIENTS);
    assert_eq!(rig.shards[0].required_by_connections(), [feature::PACED]);
    for (bytes, _) in rig.hand_over() {
        assert_eq!(handed::Shard::decode(&bytes).unwrap().required, [feature::PACED]);
    }
}

#[test]
fn an_inconsistent_paced_broadcast_is_refused() {
    let check = |what: &str, change: fn(&mut handed::PacedBroadcast)| {
        let (mut rig, ..) = begun(CLIENTS);
        rig.pass(500);
        let parts = rig.hand_over().into_iter().map(|(bytes, conns)| {
            let mut shard = handed::Shard::decode(&bytes).unwrap();
            change(&mut shard.paced[0]);
            (shard, conns)
        });
        let Err(fault) = distribute(parts.collect(), 3) else { panic!("{what}: it is taken") };
        assert!(fault.to_string().contains(what), "{fault}");
    };
    check("whose frame is none", |paced| paced.tcp_at = 1 << 20);
    check("without speed", |paced| paced.connections_per_second = 0);
    check("connections that are none", |paced| paced.visited[0].count = 1 << 20);
    check("connections that are none", |paced| paced.visited.push(paced.visited[0]));
    check("connections that are none", |paced| paced.visited[0].first = u32::MAX);
    check("more connections than there can be", |paced| paced.queued = u64::MAX);
    check("more connections than there can be", |paced| {
        paced.dropped.insert(DropReason::Filtered.label().to_owned(), u64::MAX);
    });
}

fn path(shard: usize) -> PathBuf {
    let name = format!("../comet-handover/fixtures/paced-shard-{shard}.bin");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// As `fixture.rs`: hand-overs of former releases, which every later one must read.
#[test]
fn a_paced_broadcast_of_a_former_release_goes_on() {
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        let (mut rig, ..) = begun(CLIENTS);
        rig.pass(650);
        assert_eq!(reached(&rig), 21);
        for (shard, (bytes, _)) in rig.hand_over().iter().enumerate() {
            std::fs::write(path(shard), bytes).unwrap();
        }
    }
    for count in COUNTS {
        let parts = [0, 1].map(|shard| {
            let handed = handed::Shard::decode(&std::fs::read(path(shard)).unwrap()).unwrap();
            let sockets = vec![(); handed.connections.len()];
            (handed, sockets)
        });
        let mut rig = Rig::new(count, Limits::default());
        let conns = rig.take_over(distribute(parts.into(), count).unwrap());
        rig.pass(10_000);
        let got = conns.iter().filter(|(conn, ())| rig.take(*conn) == frame(5, 0, BODY)).count();
        assert_eq!(got, CLIENTS - 21);
        let (tally, _) = ends(&mut rig, CallId(1));
        assert_eq!(tally.queued, CLIENTS as u64);
        assert!(rig.shards.iter().all(|shard| shard.obstacles().may_hand_over()));
    }
}
