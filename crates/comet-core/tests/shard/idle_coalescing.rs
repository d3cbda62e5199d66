//! When received bytes may wait, so that heartbeats are answered together.

use comet_core::limits::COALESCE_AFTER_MS;
use comet_core::{ConnId, Limits, Message, Millis, ShardId, Transport};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, masked};

const COALESCE_MS: u64 = 20;

/// Clients on a shard where nothing has happened for a long time.
fn idle(coalesce_ms: u64) -> (Rig, Vec<ConnId>) {
    let limits = Limits { coalesce_ms: coalesce_ms as u32, ..Limits::default() };
    let mut rig = Rig::new(1, limits);
    let clients = (0..4).map(|user| rig.join(0, &format!("{user}/k{user}/r/"))).collect();
    rig.pass(2 * u64::from(COALESCE_AFTER_MS));
    (rig, clients)
}

fn beat(rig: &mut Rig, client: ConnId) -> Option<Millis> {
    let reply = rig.ask(client, &frame(op::HEARTBEAT, 3, b""));
    assert_eq!(reply[..16], frame(op::HEARTBEAT_REPLY, 3, &[0; 4])[..16]);
    rig.shards[0].poll_coalesced_wait()
}

#[test]
fn heartbeats_close_after_one_another_may_wait() {
    let (mut rig, clients) = idle(COALESCE_MS);
    assert_eq!(rig.shards[0].poll_coalesced_wait(), None);
    // One heartbeat does not show that another one follows soon.
    assert_eq!(beat(&mut rig, clients[0]), None);
    rig.pass(2 * COALESCE_MS - 1);
    let now = 2 * u64::from(COALESCE_AFTER_MS) + 2 * COALESCE_MS - 1;
    assert_eq!(beat(&mut rig, clients[1]), Some(Millis(now + COALESCE_MS)));
    rig.pass(COALESCE_MS);
    // No heartbeat arrived in that time. The next one does not wait, and counts as the first again.
    assert_eq!(rig.shards[0].poll_coalesced_wait(), None);
    rig.pass(COALESCE_MS);
    assert_eq!(beat(&mut rig, clients[2]), None);
}

#[test]
fn without_heartbeats_nothing_waits() {
    let (rig, _) = idle(10 * u64::from(COALESCE_AFTER_MS));
    assert_eq!(rig.shards[0].poll_coalesced_wait(), None);
}

#[test]
fn with_coalescing_off_nothing_waits() {
    let (mut rig, clients) = idle(0);
    for client in clients {
        assert_eq!(beat(&mut rig, client), None);
        rig.pass(1);
    }
}

#[test]
fn other_activity_ends_the_wait() {
    type Activity = fn(&mut Rig, ConnId);
    let activities: [(&str, Activity); 6] = [
        ("a message", |rig, client| rig.feed(client, &frame(op::CHANGE_ROOM, 4, b"s"))),
        ("heartbeats too close", |rig, client| {
            rig.feed(client, &frame(op::HEARTBEAT, 4, b"").repeat(2));
        }),
        ("a push", |rig, _| {
            assert_eq!(rig.push_room("r", 5, b"x").queued, 4);
        }),
        ("a connection", |rig, _| {
            rig.connect(0, Transport::Tcp);
        }),
        ("a ping", |rig, _| {
            let conn = rig.connect(0, Transport::WebSocket);
            rig.feed(conn, UPGRADE);
            rig.feed(conn, &masked(0x89, b"?"));
        }),
        ("a drain", |rig, _| {
            rig.send(ShardId(0), Message::Drain { over_ms: 0, retry_after_ms: 0 });
        }),
    ];
    for (what, happens) in activities {
        let (mut rig, clients) = idle(COALESCE_MS);
        assert_eq!(beat(&mut rig, clients[0]), None, "{what}");
        rig.pass(1);
        assert!(beat(&mut rig, clients[1]).is_some(), "{what}");
        happens(&mut rig, clients[2]);
        assert_eq!(rig.shards[0].poll_coalesced_wait(), None, "{what}");
    }
}
