//! Shards that hand their state over to other shards, perhaps to a different number of them.

mod fixture;
mod held;
mod joined;
mod lists;
mod paced;
mod refused;
mod story;

use comet_core::limits::TICK_MS;
use comet_core::{
    Budget, CloseReason, ConnId, HistoryRule, Identity, LeftBehind, Limits, Logic, Message, Millis,
    Report, Settings, Shard, ShardId, Transport, distribute,
};
use comet_handover as handed;
use comet_proto::{Join, JoinReply, Leave, Position, RoomHandle, RoomRefusal, decode, op};

use crate::rig::{Rig, UPGRADE, frame, frame_2, masked, room_at};
use crate::rooms::{Seen, connect, seen};

use story::Story;

/// The numbers of shards that take over from two.
const COUNTS: [u16; 4] = [2, 1, 3, 5];

/// Every client gets the same bytes, and every push is counted the same.
#[test]
fn a_hand_over_amid_everything_changes_no_byte_and_no_count() {
    let plain = Story::tell(None);
    assert!(plain.outputs.values().all(|bytes| !bytes.is_empty()));
    for count in COUNTS {
        let handed_over = Story::tell(Some(count));
        handed_over.assert_as(&plain, &format!("{count} shards"));
    }
}

/// If the other process fails, the shards go on as if nothing had happened.
#[test]
fn shards_go_on_if_the_hand_over_is_undone() {
    for sealed in [None, Some(7), Some(usize::MAX)] {
        Story::tell_undone(sealed).assert_as(&Story::tell(None), "undone");
    }
}

/// Frames that are sealed together go on as one send, and each push counts once its last byte is taken.
#[test]
fn frames_that_are_sealed_together_stay_in_flight_together() {
    let bodies: Vec<_> = (0..7_u8).map(|number| [number; 20]).collect();
    for sealed in [None, Some(1), Some(26), Some(27), Some(70), Some(usize::MAX)] {
        for pieces in [1, 30, 100] {
            let mut rig = Rig::new(2, Limits::default());
            let conn = rig.join(1, "1/a//");
            rig.allow(conn, Some(0));
            for body in &bodies {
                rig.push_keys(&["a"], 5, body);
            }
            // The first push is a send, the others are one of which the kernel takes a frame and a quarter.
            rig.allow(conn, Some(36 + 36 + 9));
            rig.sealed = sealed;
            let mut output = rig.take(conn);
            let conn = rig.upgrade(1)[&conn];
            let mut counted = Vec::new();
            for _ in 0..200 {
                rig.allow(conn, Some(pieces));
                output.extend(rig.take(conn));
                let counters = rig.shards[0].counters();
                counted.push((output.len() as u64 / 36, counters.sent));
                assert_eq!(counters.lost, 0);
            }
            let expected = bodies.iter().flat_map(|body| frame(5, 0, body)).collect::<Vec<_>>();
            assert_eq!(output, expected, "{sealed:?} by {pieces}");
            let is_each = counted.iter().all(|(whole, sent)| whole == sent);
            assert!(is_each, "{sealed:?} by {pieces}: {counted:?}");
        }
    }
}

/// The driver has sealed a part of a send, which cannot be taken back.
#[test]
fn a_send_that_is_sealed_is_sent_once() {
    let plain = Story::tell(None);
    for count in COUNTS {
        for sealed in [1, 15, 16, 17, 40, 90, usize::MAX] {
            let handed_over = Story::tell_sealed(count, sealed);
            handed_over.assert_as(&plain, &format!("{count} shards, {sealed} bytes"));
        }
    }
}

#[test]
fn deadlines_are_as_far_away_as_before() {
    let limits = || Limits { heartbeat_ms: 3_000, write_ms: 700, ..Limits::default() };
    for count in COUNTS {
        let mut rig = Rig::new(2, limits());
        let silent = rig.join(0, "1/silent//");
        let spoke = rig.join(1, "2/spoke//");
        let stalled = rig.join(1, "3/stalled//");
        rig.pass(1_000);
        rig.ask(spoke, &frame(op::HEARTBEAT, 1, b""));
        rig.allow(stalled, Some(10));
        rig.push_keys(&["stalled"], 5, b"more than ten bytes");
        rig.pass(500);
        let renamed = rig.upgrade(count);
        let [silent, spoke, stalled] = [silent, spoke, stalled].map(|conn| renamed[&conn]);
        let closes = |rig: &mut Rig, conn: ConnId, millis: u64, reason: CloseReason| {
            rig.pass(millis);
            assert!(!rig.is_closed(conn), "{reason:?} is early, {count} shards");
            rig.pass(200);
            assert_eq!(rig.reason(conn), reason);
        };
        closes(&mut rig, stalled, 150, CloseReason::WriteTimeout);
        closes(&mut rig, silent, 1_100, CloseReason::HeartbeatTimeout);
        closes(&mut rig, spoke, 800, CloseReason::HeartbeatTimeout);
    }
}

/// Ticks of the new clock begin at other moments.
#[test]
fn a_write_deadline_is_never_early() {
    for offset in [0, 1, 43, 49] {
        for elapsed in [1, 2, 49, 50, 300] {
            let mut rig = Rig::new(1, Limits { write_ms: 700, ..Limits::default() });
            let conn = rig.join(0, "3/stalled//");
            rig.pass(offset);
            rig.allow(conn, Some(10));
            rig.push_keys(&["stalled"], 5, b"more than ten bytes");
            rig.pass(elapsed);
            let conn = rig.upgrade(1)[&conn];
            rig.pass(699 - elapsed);
            assert!(!rig.is_closed(conn), "after {offset} and {elapsed} ms");
            rig.pass(3 * TICK_MS + 1);
            assert_eq!(rig.reason(conn), CloseReason::WriteTimeout);
        }
    }
}

/// The former shard has not handled these deadlines yet.
#[test]
fn deadlines_that_have_passed_are_due_at_once() {
    let change: [fn(&mut handed::Connection); 2] =
        [|conn| conn.deadline_ms = 0, |conn| conn.token_ms = Some(0)];
    for change in change {
        let mut rig = Rig::new(1, Limits::default());
        rig.join(0, "7/k//");
        let (bytes, conns) = rig.hand_over().remove(0);
        let mut shard = handed::Shard::decode(&bytes).unwrap();
        change(&mut shard.connections[0]);
        let (part, _) = distribute(vec![(shard, conns)], 1).unwrap().remove(0);
        let now = Millis(1_010);
        let settings = Settings {
            shard: ShardId(0),
            shards: 1,
            limits: Limits::default().into(),
            logic: Logic::Embedded,
            hash_seed: 7,
            has_other_hosts: false,
        };
        let mut shard = Shard::new(&settings, now);
        shard.handle_time(now);
        shard.take_over(part);
        shard.release_input();
        assert!(shard.poll_timeout().is_some_and(|due| due <= now));
        shard.handle_time(now);
        shard.handle_deadlines(&mut Budget::slice());
        assert!(shard.poll_closed().is_some());
    }
}

/// A client of protocol 2, and the handles of its rooms.
fn with_rooms(rig: &mut Rig, shard: u16, key: &str, rooms: &[&str]) -> (ConnId, Vec<RoomHandle>) {
    let (conn, _) = connect(rig, shard, &format!("7/{key}//"));
    let mut handles = Vec::new();
    for room in rooms {
        let join = frame_2(op::JOIN, 1, &Join { since: None, room: room.as_bytes() }.encode());
        match &seen(&rig.ask(conn, &join))[..] {
            [Seen::Joined { handle, .. }] => handles.push(*handle),
            other => panic!("{other:?}"),
        }
    }
    (conn, handles)
}

fn leave(handle: RoomHandle) -> Vec<u8> {
    frame_2(op::LEAVE, 9, &Leave { handle }.encode())
}

#[test]
fn handles_stay_where_they_can() {
    for count in [2, 3, 4] {
        let mut rig = Rig::new(2, Limits::default());
        // Slots of rooms are not taken in order.
        let (gone, _) = with_rooms(&mut rig, 0, "gone", &["x", "y"]);
        let (one, ones) = with_rooms(&mut rig, 0, "one", &["a", "b"]);
        let (other, others) = with_rooms(&mut rig, 1, "other", &["b", "c"]);
        rig.hang_up(gone);
        assert_ne!(ones[1], others[0], "the handle of b");
        let renamed = rig.upgrade(count);
        let (one, other) = (renamed[&one], renamed[&other]);
        assert_eq!((rig.take(one), rig.take(other)), (vec![], vec![]), "{count} shards");
        rig.push_room("b", 5, b"to b");
        for (conn, handle) in [(one, ones[1]), (other, others[0])] {
            let push = Seen::RoomPush { handle, operation: 5, body: b"to b".to_vec() };
            assert_eq!(seen(&rig.take(conn)), [push]);
        }
        let left = Seen::Left { outcome: Ok(()), handle: ones[0], sequence: 9 };
        assert_eq!(seen(&rig.ask(one, &leave(ones[0]))), [left]);
    }
}

/// Two shards become one, on which a handle can mean one room only.
#[test]
fn a_client_learns_a_handle_that_changes_and_the_former_one_means_nothing() {
    let mut rig = Rig::new(2, Limits::default());
    let (one, ones) = with_rooms(&mut rig, 0, "one", &["a", "b"]);
    let (other, others) = with_rooms(&mut rig, 1, "other", &["b", "a"]);
    assert_eq!(ones, others, "the same handles mean other rooms");
    let renamed = rig.upgrade(1);
    let news = [(one, ones), (other, others)].map(|(conn, former)| {
        let conn = renamed[&conn];
        (conn, former, seen(&rig.take(conn)))
    });
    for (conn, former, told) in news {
        rig.take(conn);
        let [
            Seen::Joined { room: first, handle: first_handle, is_unasked: true, .. },
            Seen::Joined { room: second, handle: second_handle, is_unasked: true, .. },
        ] = &told[..]
        else {
            panic!("{told:?}");
        };
        assert_ne!(first, second);
        assert!(former.iter().all(|known| known != first_handle && known != second_handle));
        // A request with the former handle, sent before the client read the new one, leaves no room.
        let refused =
            Seen::Left { outcome: Err(RoomRefusal::NoSuchHandle), handle: former[0], sequence: 9 };
        assert_eq!(seen(&rig.ask(conn, &leave(former[0]))), [refused]);
        rig.push_room(first, 5, b"now");
        let push = Seen::RoomPush { handle: *first_handle, operation: 5, body: b"now".to_vec() };
        assert_eq!(seen(&rig.take(conn)), [push]);
    }
}

#[test]
fn a_history_is_recovered_from_the_new_process() {
    let rule = HistoryRule { prefix: "r".into(), pushes: 10, bytes: 1 << 16, age_ms: 60_000 };
    for count in COUNTS {
        let mut rig =
            Rig::new(2, Limits { history_rules: [rule.clone()].into(), ..Limits::default() });
        let rooms = [room_at(0), room_at(1)];
        let (conn, _) = connect(&mut rig, 0, "7/k//");
        let join = |rig: &mut Rig, conn, room: &str, since| {
            let body = Join { since, room: room.as_bytes() }.encode();
            let told = rig.ask(conn, &frame_2(op::JOIN, 1, &body));
            let (first, consumed) = decode(&told, 1 << 20).unwrap().unwrap();
            let JoinReply { position, recovered, .. } = JoinReply::decode(first.body).unwrap();
            (position.unwrap(), recovered, told.len() > consumed)
        };
        let first = join(&mut rig, conn, &rooms[0], None).0;
        // This room had no push before the hand-over.
        let second = join(&mut rig, conn, &rooms[1], None).0;
        rig.push_room(&rooms[0], 5, b"before");
        let renamed = rig.upgrade(count);
        rig.hang_up(renamed[&conn]);
        rig.push_room(&rooms[0], 5, b"after");
        rig.push_room(&rooms[1], 5, b"after");
        let (conn, _) = connect(&mut rig, count - 1, "7/k//");
        for (room, since, missed) in [(&rooms[0], first, 2), (&rooms[1], second, 1)] {
            let (Position { epoch, offset }, recovered, has_pushes) =
                join(&mut rig, conn, room, Some(since));
            assert_eq!((epoch, offset), (since.epoch, missed), "{count} shards");
            assert_eq!((recovered, has_pushes), (Some(missed as u32), true));
        }
    }
}

#[test]
fn homes_keep_their_directory_over_a_hand_over() {
    for count in COUNTS {
        let limits = Limits { user_memory_ms: 60_000, ..Limits::default() };
        let mut rig = Rig::new(2, limits);
        let first = rig.join(0, "7/first/r/");
        let second = rig.join(1, "7/second/r/");
        let departed = rig.join(0, "8/departed//");
        let anonymous = rig.join(1, "///");
        let conns = [first, second, anonymous];
        rig.hang_up(departed);
        rig.hang_up(first);
        let before: Vec<_> = keys(&rig);
        let renamed = rig.upgrade(count);
        assert_eq!(keys(&rig), before, "{count} shards");
        assert_eq!(rig.push_keys(&["second"], 5, b"a").queued, 1);
        assert_eq!(rig.push_user(7, 5, b"b").queued, 1);
        assert_eq!(rig.push_room("r", 5, b"c").queued, 1);
        let pushes = [frame(5, 0, b"a"), frame(5, 0, b"b"), frame(5, 0, b"c")].concat();
        assert_eq!(rig.take(renamed[&second]), pushes);
        // Numbers of sessions go on, also of a user without one.
        for token in ["7/third//", "8/again//", "///", "///"] {
            rig.join(0, token);
        }
        let sessions: Vec<_> = rig.shards.iter().flat_map(Shard::live_conns).collect();
        let session = |key| sessions.iter().find(|conn| conn.key == key).map(|conn| conn.session);
        assert_eq!((session("third"), session("again")), (Some(3), Some(2)), "{count} shards");
        // The keys of anonymous users are still different.
        assert_eq!(keys(&rig).len(), 6, "{count} shards");
        let online: Vec<u32> =
            sessions.iter().filter(|conn| conn.key == "second").map(|conn| conn.online).collect();
        assert_eq!(online, [1]);
        // A newer connection with the key replaces one that was taken over.
        let newer = rig.join(count - 1, "7/second//");
        assert_eq!(rig.reason(renamed[&second]), CloseReason::Replaced);
        assert!(!rig.is_closed(newer) && !renamed.contains_key(&conns[0]));
    }
}

/// Only remote logic reports the members of other hosts. Without it the last counts would never be replaced.
#[test]
fn members_on_other_hosts_are_forgotten_where_logic_is_embedded_from_then_on() {
    let remote = Logic::Remote { renew_ms: (600_000, 600_000) };
    for (logic, online) in [(remote, 6), (Logic::Embedded, 1)] {
        for count in COUNTS {
            let mut rig = Rig::with_logic(2, Limits::default(), remote);
            let conn = rig.connect(0, Transport::Tcp);
            rig.feed(conn, &frame(op::AUTH, 1, b""));
            let (key, room) = (Some("k".into()), Some("r".into()));
            let identity = Identity { key, room, ..Identity::default() };
            rig.send(conn.shard, Message::Identified { conn, answer: Ok(identity) });
            let rooms = vec![("r".into(), 5), ("later".into(), 5)];
            for shard in [0, 1].map(ShardId) {
                rig.send(shard, Message::RemoteRoomCounts { rooms: rooms.clone() });
            }
            rig.pass(1_000);
            rig.take(conn);
            let beat = |rig: &mut Rig, conn| {
                let reply = rig.ask(conn, &frame(op::HEARTBEAT, 2, b""));
                u32::from_be_bytes(reply[16..].try_into().unwrap())
            };
            assert_eq!(beat(&mut rig, conn), 6);
            rig.set_logic(logic);
            let conn = rig.upgrade(count)[&conn];
            assert_eq!(beat(&mut rig, conn), online, "{count}");
            rig.ask(conn, &frame(op::CHANGE_ROOM, 3, b"later"));
            rig.pass(1_000);
            assert_eq!(beat(&mut rig, conn), online, "{count}");
        }
    }
}

fn keys(rig: &Rig) -> Vec<String> {
    let keys = rig.shards.iter().flat_map(Shard::keys);
    let mut keys: Vec<String> = keys.map(|(key, _)| key.to_owned()).collect();
    keys.sort();
    keys
}

#[test]
fn unauthenticated_clients_are_left_behind_and_closed_with_a_retry_after() {
    let mut rig = Rig::new(2, Limits::default());
    let stays = rig.join(0, "1/k//");
    let silent = rig.connect(0, Transport::Tcp);
    let upgrading = rig.connect(1, Transport::WebSocket);
    rig.feed(upgrading, &UPGRADE[..20]);
    let open = rig.connect(1, Transport::WebSocket);
    rig.ask(open, UPGRADE);
    let behind: Vec<_> = rig.shards.iter().flat_map(Shard::left_behind).collect();
    assert_eq!(behind, [silent, upgrading, open].map(|conn| (conn, LeftBehind::Handshake)));
    for shard in &mut rig.shards {
        shard.close_left_behind(3_000);
    }
    rig.run();
    for conn in [silent, upgrading, open] {
        assert_eq!(rig.reason(conn), CloseReason::Draining);
    }
    let text = String::from_utf8_lossy(&rig.take(silent)).into_owned();
    assert!(text.contains("draining; retry_after_ms="), "{text}");
    assert!(rig.take(upgrading).starts_with(b"HTTP/1.1 429 "));
    let behind: Vec<_> = rig.shards.iter().flat_map(Shard::left_behind).collect();
    assert!(behind.iter().all(|&(_, why)| why == LeftBehind::Closing));
    let renamed = rig.upgrade(1);
    assert_eq!(renamed.keys().collect::<Vec<_>>(), [&stays]);
    let counters = rig.shards[0].counters();
    assert_eq!(counters.closed[CloseReason::Draining as usize], 3);
    assert_eq!((counters.connections, counters.live, counters.handshakes), (1, 1, 0));
}

/// The connection waits for an answer of logic. The next process cannot ask again.
#[test]
fn connections_left_behind_count_as_closed_and_their_pushes_as_lost() {
    let mut rig = Rig::with_logic(1, Limits::default(), Logic::Remote { renew_ms: (1, 1) });
    let conn = rig.connect(0, Transport::Tcp);
    rig.feed(conn, &frame(op::AUTH, 1, b"7/k//"));
    rig.admit(conn);
    rig.feed(conn, &frame(op::SEND, 2, b"for logic"));
    assert_eq!(rig.shards[0].obstacles().answers, 1);
    rig.allow(conn, Some(0));
    rig.push_keys(&["k"], 5, b"never read");
    let behind: Vec<_> = rig.shards[0].left_behind().collect();
    assert_eq!(behind, [(conn, LeftBehind::AwaitsAnswer)]);
    assert!(rig.upgrade(2).is_empty());
    let counters = rig.shards[0].counters();
    assert_eq!((counters.deliveries.queued, counters.lost, counters.waiting), (1, 1, 0));
    assert_eq!(counters.closed[CloseReason::Draining as usize], 1);
    assert_eq!(counters.keys + rig.shards[1].counters().keys, 0);
    let is_end =
        |report: &Report| matches!(report, Report::Disconnected { user: 7, key } if &**key == "k");
    assert_eq!(rig.take_reports().iter().filter(|report| is_end(report)).count(), 1);
}

#[test]
fn a_shard_reports_the_obstacles_to_a_hand_over() {
    let mut rig = Rig::new(2, Limits::default());
    let conn = rig.join(0, "7/k/r/");
    assert!(rig.shards.iter().all(|shard| shard.obstacles().is_none()));
    rig.allow(conn, Some(3));
    rig.push_keys(&["k"], 5, b"half of it");
    assert_eq!(rig.shards[0].obstacles().transmits, 1);
    assert_eq!(rig.shards[0].obstacles().to_string(), "1 sends");
    rig.freeze();
    assert!(rig.shards[0].obstacles().is_none());
    // The send is made again.
    rig.allow(conn, None);
    assert_eq!(rig.take(conn), frame(5, 0, b"half of it"));
    rig.shards[0].handle_message(Message::Snapshot { call: comet_core::CallId(9) });
    assert_eq!(rig.shards[0].obstacles().messages, 1);
    rig.run();
    let call = rig.call();
    let push = crate::rig::push(5, b"slow");
    let speed = std::num::NonZeroU32::new(1);
    rig.send_all(&Message::Broadcast { call, push, speed });
    // Paced broadcasts move.
    assert!(rig.shards.iter().all(|shard| shard.obstacles().may_hand_over()));
}

/// Interest in rooms is reported anew: another process has asked for them.
#[test]
fn rooms_with_members_are_reported_to_the_new_control() {
    for count in COUNTS {
        let mut rig = Rig::reporting_rooms(2);
        rig.join(0, "7/k/r/");
        rig.join(1, "8/l/r/");
        rig.take_reports();
        rig.upgrade(count);
        let reports = rig.take_reports();
        let interest = reports.iter().filter(|report| {
            matches!(report, Report::RoomInterest { room, has_members: true } if &**room == "r")
        });
        assert_eq!(interest.count(), 1, "{count} shards");
    }
}

/// An unfinished WebSocket message and half a frame are read to their end.
#[test]
fn a_message_in_pieces_is_read_on() {
    for count in COUNTS {
        let mut rig = Rig::new(2, Limits::default());
        let conn = rig.connect(1, Transport::WebSocket);
        rig.ask(conn, &[UPGRADE, &masked(0x82, &frame(op::AUTH, 1, b"7/k//"))].concat());
        let heartbeat = frame(op::HEARTBEAT, 3, b"");
        let pieces = [masked(0x02, &heartbeat[..5]), masked(0x80, &heartbeat[5..])].concat();
        let half = pieces.len() - 4;
        assert_eq!(rig.ask(conn, &pieces[..half]), b"");
        let conn = rig.upgrade(count)[&conn];
        let told = rig.ask(conn, &pieces[half..]);
        assert_eq!(told.first(), Some(&0x82), "{count} shards");
        let (reply, _) = decode(&told[2..], 1 << 10).unwrap().unwrap();
        assert_eq!((reply.operation, reply.sequence), (op::HEARTBEAT_REPLY, 3));
    }
}
