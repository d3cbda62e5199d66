//! Bounds that change at run time, origins, retained session numbers, members on other hosts, and gauges.

use std::sync::Arc;
use std::time::Duration;

use comet_core::limits::TURNED_AWAY_MS;
use comet_core::{
    Budget, CallId, CloseReason, Hangup, Limits, Message, Push, Report, ShardId, SlowConsumer,
    Transport, home_of_room, home_of_user,
};
use comet_proto::websocket::OriginPattern;
use comet_proto::{Encoded, op};

use crate::rig::{Rig, UPGRADE, frame, frame_2, masked, room_at};

fn configure(rig: &mut Rig, limits: Limits) {
    rig.send_all(&Message::Configure { limits: Arc::new(limits) });
}

#[test]
fn new_bounds_hold_from_the_next_event_on() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.join(0, "7/k/r/1000");
    let changed = Limits { connections: 1, body_max: 10, filter_rooms: true, ..Limits::default() };
    configure(&mut rig, changed);
    assert_eq!(rig.shards[0].handle_accept(Transport::Tcp), None);
    assert_eq!(rig.push_room("r", 5, b"").queued, 0);
    rig.feed(conn, &frame(4, 1, &[0; 11]));
    assert_eq!(rig.reason(conn), CloseReason::BadFrame);
}

/// A client learned its heartbeat interval earlier, in either protocol: from the auth reply or from the documentation.
#[test]
fn another_time_between_heartbeats_is_that_of_clients_to_come() {
    for (former, newer) in [(1_000, 5_000), (5_000, 1_000)] {
        let mut rig = Rig::new(1, Limits { heartbeat_ms: former, ..Limits::default() });
        let conns = [frame(op::AUTH, 1, b"7/a//"), frame_2(op::AUTH, 1, b"7/b//")].map(|auth| {
            let conn = rig.connect(0, Transport::Tcp);
            rig.ask(conn, &auth);
            conn
        });
        configure(&mut rig, Limits { heartbeat_ms: newer, ..Limits::default() });
        let newcomer = rig.join(0, "7/c//");
        for conn in conns.into_iter().chain([newcomer]) {
            rig.ask(conn, &frame(op::HEARTBEAT, 2, b""));
        }
        rig.pass(1_500);
        for conn in conns {
            assert_eq!(rig.is_closed(conn), former < 1_500, "{former} {newer}");
        }
        assert_eq!(rig.is_closed(newcomer), newer < 1_500, "{former} {newer}");
        rig.pass(4_000);
        for conn in conns.into_iter().chain([newcomer]) {
            assert_eq!(rig.reason(conn), CloseReason::HeartbeatTimeout);
        }
    }
}

#[test]
#[should_panic(expected = "trace_users is sorted")]
fn bounds_that_contradict_each_other_panic() {
    let mut rig = Rig::new(1, Limits::default());
    configure(&mut rig, Limits { trace_users: [2, 1].into(), ..Limits::default() });
}

#[test]
fn pages_of_other_origins_get_403() {
    let listed = ["https://push.example", "http://localhost:3000"]
        .map(|pattern| OriginPattern::parse(pattern).expect("a pattern"));
    let limits = Limits { origins: listed.into(), ..Limits::default() };
    let good = std::str::from_utf8(UPGRADE).unwrap();
    let check = |limits: &Limits, origin: Option<&str>, is_allowed: bool| {
        let mut rig = Rig::new(1, limits.clone());
        let conn = rig.connect(0, Transport::WebSocket);
        let header = origin.map_or(String::new(), |origin| format!("\r\nOrigin: {origin}"));
        let request = good.replace("\r\n\r\n", &format!("{header}\r\n\r\n"));
        let answer = String::from_utf8(rig.ask(conn, request.as_bytes())).unwrap();
        assert_eq!(rig.is_closed(conn), !is_allowed, "{origin:?}: {answer}");
        if is_allowed {
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
            let auth = masked(0x82, &frame(op::AUTH, 1, b"7/k//"));
            assert!(rig.ask(conn, &auth).ends_with(&frame(op::AUTH_REPLY, 1, b"")));
        } else {
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{head}");
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
            assert_eq!(rig.reason(conn), CloseReason::BadUpgrade);
        }
    };
    check(&limits, None, true);
    check(&limits, Some("https://push.example"), true);
    check(&limits, Some("HTTPS://Push.Example"), true);
    check(&limits, Some("https://push.example:443"), true);
    check(&limits, Some("http://localhost:3000"), true);
    for other in
        ["http://push.example", "https://push.example:444", "null", "", "https://push.example.evil"]
    {
        check(&limits, Some(other), false);
        check(&Limits::default(), Some(other), true);
    }
}

#[test]
fn the_session_number_of_a_user_is_retained_for_a_time() {
    let mut rig = Rig::new(2, Limits { user_memory_ms: 1_000, ..Limits::default() });
    let sessions = |rig: &Rig| -> Vec<i32> {
        let all = rig.shards.iter().flat_map(|shard| shard.sessions().collect::<Vec<_>>());
        all.map(|(_, session, _)| session).collect()
    };
    let visit = |rig: &mut Rig, expected: i32| {
        let conn = rig.join(0, "42///");
        assert_eq!(sessions(rig), [expected]);
        rig.hang_up(conn);
        let home = usize::from(home_of_user(42, 2).0);
        assert_eq!(rig.shards[home].counters().users, 0);
    };
    visit(&mut rig, 1);
    rig.pass(900);
    visit(&mut rig, 2);
    // The time counts from the end of the last session.
    rig.pass(900);
    visit(&mut rig, 3);
    rig.pass(1_300);
    visit(&mut rig, 1);
    configure(&mut rig, Limits::default());
    rig.pass(300);
    visit(&mut rig, 1);
    visit(&mut rig, 1);
    rig.pass(3_000);
    assert!(rig.shards.iter().all(|shard| shard.poll_timeout().is_none()));
}

#[test]
fn heartbeats_count_members_on_other_hosts_and_reports_do_not() {
    let mut rig = Rig::new(2, Limits::default());
    let rooms = [room_at(0), room_at(1)];
    let set_remote = |rig: &mut Rig, members: [u32; 2]| {
        for (room, members) in rooms.iter().zip(members) {
            let rooms = match members {
                0 => vec![("other".into(), 9)],
                members => vec![(room.as_str().into(), members), ("other".into(), 9)],
            };
            rig.send(home_of_room(room, 2), Message::RemoteRoomCounts { rooms });
        }
    };
    let online = |rig: &mut Rig, conn| {
        let reply = rig.ask(conn, &frame(2, 1, b""));
        i32::from_be_bytes(reply[16..].try_into().unwrap())
    };
    // The counts of other hosts arrive before the room has a member here.
    set_remote(&mut rig, [100, 200]);
    let conns = [0, 0, 1].map(|room| rig.join(0, &format!("//{}/", rooms[room])));
    rig.pass(500);
    assert_eq!(conns.map(|conn| online(&mut rig, conn)), [102, 102, 201]);
    set_remote(&mut rig, [0, u32::MAX]);
    rig.pass(500);
    assert_eq!(conns.map(|conn| online(&mut rig, conn)), [2, 2, i32::MAX]);
    let mut local: Vec<u32> = (0..2_u16)
        .flat_map(|shard| rig.shards[usize::from(shard)].home_rooms())
        .map(|(_, members)| members)
        .collect();
    local.sort_unstable();
    assert_eq!(local, [1, 2]);
    rig.take_reports();
    rig.send(ShardId(0), Message::Rooms { call: CallId(99) });
    let Some(Report::Rooms { rooms, .. }) = rig.take_reports().pop() else { panic!("asked") };
    assert_eq!(rooms.len(), 1);
}

#[test]
fn tls_and_proxy_failures_have_close_reasons_of_their_own() {
    for (how, reason) in [
        (Hangup::Tls("no certificate".into()), CloseReason::TlsFailed),
        (Hangup::Proxy("not a header".into()), CloseReason::BadProxyHeader),
    ] {
        let mut rig = Rig::new(1, Limits::default());
        let conn = rig.connect(0, Transport::Tcp);
        rig.end(conn, how);
        assert_eq!(rig.reason(conn), reason);
        assert_eq!(rig.take(conn), b"");
        assert_eq!(rig.shards[0].counters().connections, 0);
    }
}

#[test]
fn turn_times_are_added_up_and_the_longest_is_kept() {
    let mut rig = Rig::new(1, Limits::default());
    for micros in [5, 40, 7] {
        rig.shards[0].handle_turn(micros);
    }
    let counters = rig.shards[0].counters();
    let times = counters.turn_times;
    assert_eq!(
        (times.count(), times.sum(), counters.turn_micros_max),
        (3, Duration::from_micros(52), 40)
    );
}

#[test]
fn waiting_bytes_are_counted_until_they_are_sent_or_lost() {
    let waiting = |rig: &Rig| rig.shards[0].counters().waiting_bytes;
    let limits =
        Limits { svr_proto: 2, slow_consumer: SlowConsumer::DropOldest, ..Limits::default() };
    let mut rig = Rig::new(1, limits);
    let [slow, other] = ["/slow/r/", "/other/r/"].map(|token| rig.join(0, token));
    assert_eq!(waiting(&rig), 0);
    rig.allow(slow, Some(5));
    rig.push_room("r", 5, b"1234");
    assert_eq!(waiting(&rig), 15);
    rig.push_room("r", 5, b"12345678");
    assert_eq!(waiting(&rig), 15 + 24);
    // A push of another length replaces the one that waits.
    rig.push_room("r", 5, b"1");
    assert_eq!(waiting(&rig), 15 + 17);
    rig.feed(slow, &frame(2, 1, b""));
    assert_eq!(waiting(&rig), 15 + 17 + 20);
    rig.hang_up(slow);
    rig.hang_up(other);
    assert_eq!(waiting(&rig), 0);
    let counters = rig.shards[0].counters();
    assert_eq!((counters.lost, counters.superseded, counters.waiting), (2, 1, 0));
}

/// The client may try again: the user may have fewer sessions later.
#[track_caller]
fn check_told_to_wait(notice: &[u8]) {
    let text = std::str::from_utf8(&notice[16..]).expect("a sentence");
    let wait = text.strip_prefix("too_many_sessions; retry_after_ms=").expect("a time to wait");
    assert!(TURNED_AWAY_MS.contains(&wait.parse().expect("a number")), "{text}");
}

/// This holds for connections on any shard, and whether logic or the home chose the key.
#[test]
fn a_user_has_no_more_sessions_than_allowed() {
    for keys in [["", "", ""], ["a", "b", "c"]] {
        let mut rig = Rig::new(2, Limits { user_sessions: 2, ..Limits::default() });
        let token = |key: &str| format!("7/{key}//");
        let first = rig.join(0, &token(keys[0]));
        rig.join(1, &token(keys[1]));
        let third = rig.connect(0, Transport::Tcp);
        rig.feed(third, &frame(op::AUTH, 1, token(keys[2]).as_bytes()));
        check_told_to_wait(&rig.take(third));
        assert_eq!(rig.push_user(7, 5, b"x").queued, 2);
        // Another user may have a session, and this user may once one of its sessions has ended.
        rig.join(0, "8///");
        rig.hang_up(first);
        rig.join(1, &token(keys[2]));
        assert_eq!(rig.push_user(7, 5, b"x").queued, 2);
    }
}

/// The client's network has failed, and the server has not noticed yet.
#[test]
fn a_user_with_all_its_sessions_takes_its_own_key_back() {
    let mut rig = Rig::new(2, Limits { user_sessions: 1, ..Limits::default() });
    let former = rig.join(0, "7/a//");
    let next = rig.join(1, "7/a//");
    assert_eq!(rig.take(former), frame(op::DISCONNECT_REPLY, 0, b"replaced"));
    assert_eq!(rig.push_user(7, 5, b"x").queued, 1);
    assert_eq!(rig.take(next), frame(5, 0, b"x"));
    // The user still has one session.
    let other = rig.connect(0, Transport::Tcp);
    rig.feed(other, &frame(op::AUTH, 1, b"7/b//"));
    check_told_to_wait(&rig.take(other));
}

#[test]
fn handshakes_and_pushes_are_timed_by_the_clock_of_the_turns() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.connect(0, Transport::Tcp);
    rig.pass(100);
    rig.feed(conn, &frame(op::AUTH, 1, b"7/k/r/1000"));
    let handshakes = rig.shards[0].counters().handshake_times;
    assert_eq!((handshakes.count(), handshakes.sum()), (1, Duration::from_millis(100)));

    let take = |rig: &mut Rig| {
        let push = Push::new(1000, Encoded::verbatim(b"frame"));
        let message = Message::PushRoom { call: CallId(99), room: "r".into(), push };
        rig.shards[0].handle_message(message);
        rig.shards[0].handle_pushes(&mut Budget::slice(), |_| None);
    };
    let times = |rig: &Rig| {
        let times = rig.shards[0].counters().push_times;
        (times.count(), times.sum())
    };
    rig.shards[0].handle_turn(10);
    take(&mut rig);
    rig.shards[0].handle_turn(20);
    assert_eq!(times(&rig), (0, Duration::ZERO), "the send is not queued");
    take(&mut rig);
    rig.run();
    rig.shards[0].handle_turn(30);
    let both = (2, Duration::from_micros(100));
    assert_eq!(times(&rig), both, "each from the turn of the first on");
    rig.ask(conn, &frame(op::HEARTBEAT, 1, b""));
    rig.shards[0].handle_turn(40);
    assert_eq!(times(&rig), both);
}
