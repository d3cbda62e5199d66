//! Pushes in special cases: cut sends, joins under way, full queues, the drain.

use comet_core::{
    CloseReason, DropReason, Kick, Limits, Message, Push, Report, ShardId, SlowConsumer,
    SocketShutdown, Transport, home_of_user,
};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, key_at, masked, plain, room_at};

#[test]
fn a_batch_is_the_inner_frames_on_tcp_and_one_message_on_websocket() {
    let mut rig = Rig::new(1, Limits::default());
    let tcp = rig.join(0, "/tcp/r/");
    let websocket = rig.connect(0, Transport::WebSocket);
    rig.ask(websocket, &[UPGRADE, &masked(0x82, &frame(7, 1, b"/ws/r/"))].concat());
    let batch = [frame(5, 0, b"one"), frame(5, 0, b"two")].concat();
    assert_eq!(rig.push_room("r", op::RAW, &batch).queued, 2);
    assert_eq!(rig.take(tcp), batch);
    assert_eq!(rig.take(websocket), plain(0x82, &frame(op::RAW, 0, &batch)));
}

#[test]
fn a_send_that_was_cut_is_lost_with_its_connection() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.join(0, "/k//");
    rig.allow(conn, Some(0));
    for body in [b"1", b"2"] {
        rig.push_keys(&["k"], 5, body);
    }
    rig.hang_up_amid(conn, 5);
    let counters = rig.shards[0].counters();
    assert_eq!((counters.sent, counters.lost, counters.waiting), (0, 2, 0));
    assert_eq!(counters.connections, 0);
}

#[test]
fn a_client_may_leave_a_room_with_the_input_behind_its_join() {
    let mut rig = Rig::new(2, Limits::default());
    let room = room_at(1);
    let conns = [0, 0].map(|shard| rig.join(shard, "///"));
    rig.held.insert((1, 0));
    for conn in conns {
        rig.feed(conn, &[frame(12, 1, room.as_bytes()), frame(12, 2, b"other")].concat());
    }
    rig.held.clear();
    rig.run();
    for conn in conns {
        assert_eq!(
            rig.take(conn),
            [frame(13, 1, room.as_bytes()), frame(13, 2, b"other")].concat()
        );
    }
    assert_eq!(rig.push_room(&room, 5, b"").matched, 0);
    assert_eq!(rig.push_room("other", 5, b"").queued, 2);
}

#[test]
fn a_push_too_large_for_any_outbox_drops_no_older_one() {
    let limits =
        Limits { outbox_bytes: 100, slow_consumer: SlowConsumer::DropOldest, ..Limits::default() };
    let mut rig = Rig::new(1, limits);
    let conn = rig.join(0, "/k//");
    rig.allow(conn, Some(0));
    for body in [b"1", b"2"] {
        rig.push_keys(&["k"], 5, body);
    }
    let tally = rig.push_keys(&["k"], 5, &[0; 100]);
    assert_eq!(tally.dropped[DropReason::OutboxFull as usize], 1);
    rig.allow(conn, None);
    assert_eq!(rig.take(conn), [frame(5, 0, b"1"), frame(5, 0, b"2")].concat());
}

/// The only place is taken by a push in flight. The newest push waits beside it, until a newer one comes.
#[test]
fn drop_oldest_always_takes_the_newest() {
    let limits =
        Limits { svr_proto: 1, slow_consumer: SlowConsumer::DropOldest, ..Limits::default() };
    let mut rig = Rig::new(1, limits);
    let conn = rig.join(0, "/k//");
    rig.allow(conn, Some(0));
    for body in [b"1", b"2", b"3"] {
        assert_eq!(rig.push_keys(&["k"], 5, body).queued, 1);
    }
    assert_eq!(rig.shards[0].counters().superseded, 1);
    rig.allow(conn, None);
    assert_eq!(rig.take(conn), [frame(5, 0, b"1"), frame(5, 0, b"3")].concat());
}

#[test]
fn no_push_overtakes_the_auth_reply() {
    let mut rig = Rig::new(2, Limits::default());
    let room = room_at(1);
    let conn = rig.connect(0, Transport::Tcp);
    rig.held.insert((1, 0));
    // Its key has its home on its own shard; its room's home does not answer.
    let key = key_at(0);
    rig.feed(conn, &frame(7, 1, format!("/{key}/{room}/").as_bytes()));
    let tally = rig.push_keys(&[&key], 5, b"early");
    assert_eq!(tally.dropped[DropReason::NotReady as usize], 1);
    rig.push_room(&room, 5, b"for members");
    assert_eq!(rig.take(conn), b"");
    rig.held.clear();
    rig.run();
    assert_eq!(rig.take(conn), [frame(8, 1, b""), frame(5, 0, b"for members")].concat());
}

#[test]
fn a_full_mesh_drops_pushes_and_counts_them() {
    let mut rig = Rig::new(2, Limits { mesh_backlog: 2, ..Limits::default() });
    let room = room_at(1);
    let conn = rig.join(0, &format!("//{room}/"));
    rig.held.insert((1, 0));
    for _ in 0..2 {
        assert_eq!(rig.push_room(&room, 5, b"waits").matched, 0);
    }
    let tally = rig.push_room(&room, 5, b"dropped");
    assert_eq!((tally.matched, tally.dropped[DropReason::MeshFull as usize]), (1, 1));
    rig.held.clear();
    rig.run();
    assert_eq!(rig.take(conn), [frame(5, 0, b"waits"), frame(5, 0, b"waits")].concat());
}

#[test]
fn a_drain_closes_all_and_reports_once() {
    let mut rig = Rig::new(1, Limits::default());
    let tcp = rig.join(0, "/tcp//");
    let websocket = rig.connect(0, Transport::WebSocket);
    rig.ask(websocket, &[UPGRADE, &masked(0x82, &frame(7, 1, b"/ws//"))].concat());
    let silent = rig.connect(0, Transport::Tcp);
    rig.send(ShardId(0), Message::Drain { over_ms: 0, retry_after_ms: 0 });
    rig.send(ShardId(0), Message::Drain { over_ms: 0, retry_after_ms: 0 });
    assert_eq!(rig.take(tcp), frame(6, 0, b"draining"));
    let notice = [plain(0x82, &frame(6, 0, b"draining")), plain(0x88, b"\x03\xe9draining")];
    assert_eq!(rig.take(websocket), notice.concat());
    for conn in [tcp, websocket, silent] {
        assert_eq!(rig.reason(conn), CloseReason::Draining);
        assert_eq!(rig.shut(conn), Some(SocketShutdown::Write));
    }
    assert_eq!(rig.shards[0].handle_accept(Transport::Tcp), None);
    rig.hang_up(tcp);
    rig.hang_up(websocket);
    let drained = |rig: &Rig| {
        rig.reports.iter().filter(|report| matches!(report, Report::Drained { .. })).count()
    };
    assert_eq!(drained(&rig), 0);
    rig.take(silent);
    rig.pass(2_100);
    assert_eq!(drained(&rig), 1);
}

fn kick() -> Push {
    Push::kick(Kick { sentence: "go".into(), retry_after_ms: None })
}

#[test]
fn a_kick_comes_behind_the_pushes_before_it() {
    let mut rig = Rig::new(2, Limits::default());
    let conn = rig.join(1, "7/k//");
    rig.push_user(7, 5, b"last");
    let call = rig.call();
    let home = home_of_user(7, 2);
    rig.send(home, Message::PushUsers { call, users: vec![7], push: kick() });
    let tally = rig.tally(call);
    assert_eq!((tally.matched, tally.queued, tally.absent), (1, 1, 0));
    assert_eq!(rig.take(conn), [frame(5, 0, b"last"), frame(6, 0, b"go")].concat());
    assert_eq!(rig.reason(conn), CloseReason::Kicked);
    let [deliveries, pushes] = [0, 1]
        .map(|shard| rig.shards[shard].counters())
        .map(|counters| (counters.deliveries.queued, counters.pushes))
        .into_iter()
        .fold([0, 0], |[queued, pushes], of| [queued + of.0, pushes + of.1]);
    assert_eq!((deliveries, pushes), (1, 1), "a kick is neither");
}

/// The key is claimed, and the client has no answer to its token yet.
#[test]
fn a_kick_reaches_a_client_that_is_being_registered() {
    let mut rig = Rig::new(2, Limits::default());
    let key = key_at(1);
    let conn = rig.connect(0, Transport::Tcp);
    rig.held.insert((1, 0));
    rig.feed(conn, &frame(op::AUTH, 1, format!("7/{key}//").as_bytes()));
    let call = rig.call();
    rig.send(ShardId(1), Message::PushKeys { call, keys: vec![key.as_str().into()], push: kick() });
    rig.held.clear();
    rig.run();
    assert_eq!(rig.reason(conn), CloseReason::Kicked);
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&[&key], 5, b"").absent, 1, "it holds the key no more");
}

#[test]
fn a_kick_of_a_large_room_closes_all_members() {
    let mut rig = Rig::new(1, Limits::default());
    for user in 0..2_000 {
        rig.join(0, &format!("{user}//r/"));
    }
    let call = rig.call();
    rig.send(ShardId(0), Message::PushRoom { call, room: "r".into(), push: kick() });
    assert_eq!(rig.tally(call).queued, 2_000);
    let counters = rig.shards[0].counters();
    assert_eq!((counters.closed[CloseReason::Kicked as usize], counters.live), (2_000, 0));
    assert_eq!(rig.push_room("r", 5, b"").matched, 0);
}
