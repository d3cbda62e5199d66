//! Sessions that outlast their connections, and the pushes to them meanwhile.

mod attacks;
mod bounds;
mod hand_over;
mod parcels;
mod returns;

use std::sync::Arc;

use comet_core::{
    CloseReason, ConnId, Hangup, Kick, Limits, Logic, Message, Millis, Push, Report, ResumeLimits,
    ShardId, SlowConsumer, Tally, Transport, home_of_key,
};
use comet_proto::{AuthReply, KeptSession, Resumed, decode, op};

use crate::rig::{Rig, frame, frame_2, masked};

const WINDOW_MS: u32 = 30_000;
const PUSH: i32 = 1_000;
/// A user and a key, without a room.
const TOKEN: &str = "7/k//";

fn limits() -> Limits {
    Limits {
        resume: ResumeLimits { window_ms: WINDOW_MS, ..ResumeLimits::default() },
        ..Limits::default()
    }
}

fn with(change: impl FnOnce(&mut ResumeLimits)) -> Rig {
    let mut limits = limits();
    change(&mut limits.resume);
    Rig::new(2, limits)
}

fn request(token: &str) -> Vec<u8> {
    [frame_2(op::KEEP, 0, &[1]), frame_2(op::AUTH, 1, token.as_bytes())].concat()
}

/// A client on `shard` that asks to keep its session: the connection, the content of its operation 8, and the bytes after it.
fn join(rig: &mut Rig, shard: u16, token: &str) -> (ConnId, Option<KeptSession>, Vec<u8>) {
    let conn = rig.connect(shard, Transport::Tcp);
    rig.feed(conn, &request(token));
    let (kept, rest) = welcome(&rig.take(conn));
    (conn, kept, rest)
}

fn welcome(bytes: &[u8]) -> (Option<KeptSession>, Vec<u8>) {
    let (reply, length) = decode(bytes, usize::MAX).expect("sound").expect("whole");
    assert_eq!(reply.operation, op::AUTH_REPLY);
    let kept = AuthReply::decode(reply.body).expect("protocol 2").kept;
    (kept, bytes[length..].to_vec())
}

fn resumed(parked: u32) -> Option<KeptSession> {
    let resumed = Resumed { parked, ..Resumed::default() };
    Some(KeptSession { resumed: Some(resumed) })
}

/// A goodbye behind a message that logic has is read, though its client has gone.
#[test]
fn a_goodbye_that_waits_behind_a_message_ends_the_session() {
    let mut rig = Rig::with_logic(1, limits(), Logic::Remote { renew_ms: (1_000, 3_000) });
    let conn = rig.connect(0, Transport::Tcp);
    rig.feed(conn, &request(TOKEN));
    rig.admit(conn);
    let last = [frame_2(op::SEND, 2, b"bye"), frame_2(op::KEEP, 3, &[0])].concat();
    rig.feed(conn, &last);
    rig.hang_up(conn);
    rig.send(conn.shard, Message::Receipt { conn, outcome: Ok(()) });
    assert_eq!(rig.reason(conn), CloseReason::PeerClosed);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"x"), Tally { absent: 1, ..Tally::default() });
}

/// Otherwise the pushes would be sent to a socket that nobody reads.
#[test]
fn pushes_to_a_client_that_has_left_are_parked_while_its_messages_are_read() {
    let mut rig = Rig::with_logic(1, limits(), Logic::Remote { renew_ms: (1_000, 3_000) });
    let connect = |rig: &mut Rig| {
        let conn = rig.connect(0, Transport::Tcp);
        rig.feed(conn, &request(TOKEN));
        rig.admit(conn);
        (conn, welcome(&rig.take(conn)))
    };
    let (conn, _) = connect(&mut rig);
    rig.feed(conn, &frame_2(op::SEND, 2, b"report").repeat(2));
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"x").queued, 1);
    rig.send(conn.shard, Message::Receipt { conn, outcome: Ok(()) });
    assert_eq!(rig.reason(conn), CloseReason::PeerClosed);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"y").parked, 1);
    let (_, (kept, rest)) = connect(&mut rig);
    assert_eq!((kept, rest), (resumed(2), [frame(PUSH, 0, b"x"), frame(PUSH, 0, b"y")].concat()));
}

/// The client left first, whatever closes its connection afterwards.
#[test]
fn the_session_of_a_client_that_has_left_outlasts_a_close_by_the_server() {
    let limits = Limits { outbox_bytes: 4_096, slow_consumer: SlowConsumer::Close, ..limits() };
    for by_upgrade in [false, true] {
        let remote = Logic::Remote { renew_ms: (1_000, 3_000) };
        let mut rig = Rig::with_logic(1, limits.clone(), remote);
        let conn = rig.connect(0, Transport::Tcp);
        rig.feed(conn, &request(TOKEN));
        rig.admit(conn);
        rig.feed(conn, &frame_2(op::SEND, 2, b"report").repeat(2));
        rig.hang_up(conn);
        if by_upgrade {
            rig.shards[0].close_left_behind(1_000);
            rig.run();
        } else {
            for _ in 0..3 {
                rig.push_keys(&["k"], PUSH, &[0; 2_000]);
            }
        }
        assert_eq!(rig.reason(conn), CloseReason::PeerClosed);
        assert_eq!(rig.push_keys(&["k"], PUSH, b"x").parked, 1);
    }
}

const FRESH: Option<KeptSession> = Some(KeptSession { resumed: None });

fn pushes(bodies: &[&str]) -> Vec<u8> {
    bodies.iter().flat_map(|body| frame(PUSH, 0, body.as_bytes())).collect()
}

fn parked(sessions: u64) -> Tally {
    Tally { parked: sessions, ..Tally::default() }
}

/// Checks that the ledgers of all shards together balance.
fn check_books(rig: &Rig) {
    let counters: Vec<_> = rig.shards.iter().map(comet_core::Shard::counters).collect();
    let sum = |of: fn(&comet_core::Counters) -> u64| counters.iter().map(of).sum::<u64>();
    let came = sum(|all| all.deliveries.parked + all.unsent);
    let went = sum(|all| all.resumed + all.parked_lost.iter().sum::<u64>() + all.parked);
    assert_eq!(came, went, "{counters:?}");
    for all in &counters {
        assert_eq!(all.deliveries.matched, all.deliveries.queued + all.deliveries.dropped_total());
    }
}

#[test]
fn a_key_that_reconnects_to_any_shard_gets_its_parked_pushes_in_order() {
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut rig = with(|_| {});
        let (conn, kept, _) = join(&mut rig, from, TOKEN);
        assert_eq!(kept, FRESH);
        rig.end(conn, Hangup::Cut(104));
        assert_eq!(rig.push_keys(&["k"], PUSH, b"1"), parked(1));
        assert_eq!(rig.push_user(7, PUSH, b"2"), parked(1));
        assert_eq!(rig.push_keys(&["k"], PUSH, b"3"), parked(1));
        let (conn, kept, rest) = join(&mut rig, to, TOKEN);
        assert_eq!((kept, rest), (resumed(3), pushes(&["1", "2", "3"])));
        assert_eq!(rig.push_user(7, PUSH, b"4").queued, 1);
        assert_eq!(rig.push_keys(&["k"], PUSH, b"5").queued, 1);
        assert_eq!(rig.take(conn), pushes(&["4", "5"]));
        check_books(&rig);
    }
}

#[test]
fn a_session_ends_with_its_window() {
    let mut rig = with(|_| {});
    let (conn, ..) = join(&mut rig, 0, TOKEN);
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"1"), parked(1));
    rig.pass(u64::from(WINDOW_MS) - 100);
    assert_eq!(rig.push_user(7, PUSH, b"2"), parked(1));
    rig.pass(200);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"3").absent, 1);
    assert_eq!(rig.push_user(7, PUSH, b"4").absent, 1);
    let (_, kept, rest) = join(&mut rig, 1, TOKEN);
    assert_eq!((kept, rest), (FRESH, Vec::new()));
    let lost: u64 = rig.shards.iter().map(|shard| shard.counters().parked_lost[0]).sum();
    assert_eq!(lost, 2, "expired");
    check_books(&rig);
}

#[test]
fn nothing_is_parked_for_a_client_that_did_not_ask_or_if_parking_is_off() {
    for (limits, request) in [
        (Limits::default(), request(TOKEN)),
        (limits(), frame_2(op::AUTH, 1, TOKEN.as_bytes())),
        (limits(), [frame(op::KEEP, 0, &[1]), frame(op::AUTH, 1, TOKEN.as_bytes())].concat()),
        // The server generates a key for this client, and another one for its next connection.
        (limits(), [frame_2(op::KEEP, 0, &[1]), frame_2(op::AUTH, 1, b"7///")].concat()),
    ] {
        let mut rig = Rig::new(2, limits);
        let conn = rig.connect(0, Transport::Tcp);
        rig.feed(conn, &request);
        let reply = rig.take(conn);
        assert!(reply.len() <= 16 + AuthReply::LEN, "{reply:x?}");
        rig.hang_up(conn);
        assert_eq!(rig.push_user(7, PUSH, b"1").absent, 1);
        assert_eq!(rig.push_keys(&["k", "7_1"], PUSH, b"1").absent, 2);
        assert!(rig.shards.iter().all(|shard| shard.counters().parked_sessions == 0));
    }
}

#[test]
fn sessions_of_all_clients_are_kept_where_configured() {
    let mut rig = with(|resume| resume.for_all = true);
    let conn = rig.join(0, TOKEN);
    rig.hang_up(conn);
    assert_eq!(rig.push_user(7, PUSH, b"1"), parked(1));
    let conn = rig.connect(1, Transport::Tcp);
    rig.feed(conn, &frame(op::AUTH, 1, TOKEN.as_bytes()));
    let expected = [frame(op::AUTH_REPLY, 1, b""), pushes(&["1"])].concat();
    assert_eq!(rig.take(conn), expected, "protocol 1 has no byte more");
}

#[test]
fn a_goodbye_or_a_close_by_the_server_ends_a_kept_session() {
    type End = fn(&mut Rig, ConnId);
    let ends: [(End, CloseReason); 4] = [
        (
            |rig, conn| {
                rig.feed(conn, &frame_2(op::KEEP, 0, &[0]));
                rig.hang_up(conn);
            },
            CloseReason::PeerClosed,
        ),
        (|rig, conn| rig.feed(conn, &frame_2(op::RAW, 0, b"")), CloseReason::RawFromClient),
        (
            |rig, _| {
                let kick = Push::kick(Kick { sentence: "".into(), retry_after_ms: None });
                let call = rig.call();
                let home = home_of_key("k", 2);
                rig.send(home, Message::PushKeys { call, keys: vec!["k".into()], push: kick });
            },
            CloseReason::Kicked,
        ),
        (
            |rig, _| rig.send_all(&Message::Drain { over_ms: 0, retry_after_ms: 0 }),
            CloseReason::Draining,
        ),
    ];
    for (end, reason) in ends {
        let mut rig = with(|_| {});
        let (conn, ..) = join(&mut rig, 0, TOKEN);
        end(&mut rig, conn);
        rig.pass(10);
        assert_eq!(rig.reason(conn), reason);
        assert_eq!(rig.push_keys(&["k"], PUSH, b"1").absent, 1, "{reason:?}");
        assert_eq!(rig.push_user(7, PUSH, b"1").absent, 1, "{reason:?}");
    }
}

#[test]
fn a_page_that_is_loaded_again_keeps_its_session_and_one_that_says_goodbye_does_not() {
    let absent = Tally { absent: 1, ..Tally::default() };
    let (away, none, normal) = (1001_u16.to_be_bytes(), [], 1000_u16.to_be_bytes());
    let codes: [(&[u8], Tally); 3] = [(&away, parked(1)), (&none, parked(1)), (&normal, absent)];
    for (code, expected) in codes {
        let mut rig = with(|_| {});
        let conn = rig.connect(0, Transport::WebSocket);
        rig.feed(conn, crate::rig::UPGRADE);
        for frame in [frame_2(op::KEEP, 0, &[1]), frame_2(op::AUTH, 1, TOKEN.as_bytes())] {
            rig.feed(conn, &masked(0x82, &frame));
        }
        rig.feed(conn, &masked(0x88, code));
        assert_eq!(rig.reason(conn), CloseReason::PeerClosed);
        assert_eq!(rig.push_keys(&["k"], PUSH, b"1"), expected, "{code:?}");
    }
}

#[test]
fn pushes_that_the_kernel_has_not_taken_are_parked_before_later_ones() {
    for is_silent in [false, true] {
        let mut rig = with(|_| {});
        let (conn, ..) = join(&mut rig, 0, TOKEN);
        let first = pushes(&["1"]).len();
        rig.allow(conn, Some(first + 5));
        for body in ["1", "2"] {
            assert_eq!(rig.push_keys(&["k"], PUSH, body.as_bytes()).queued, 1);
        }
        assert_eq!(rig.push_user(7, PUSH, b"3").queued, 1);
        if is_silent {
            rig.pass(10_000);
            assert_eq!(rig.reason(conn), CloseReason::WriteTimeout);
        } else {
            rig.end(conn, Hangup::Cut(104));
        }
        assert_eq!(rig.push_keys(&["k"], PUSH, b"4"), parked(1));
        // The second push was cut off, so the client cannot have read it.
        assert_eq!(rig.take(conn).len(), first + 5);
        let (_, kept, rest) = join(&mut rig, 1, TOKEN);
        assert_eq!((kept, rest), (resumed(3), pushes(&["2", "3", "4"])), "{is_silent}");
        let lost: u64 = rig.shards.iter().map(|shard| shard.counters().lost).sum();
        assert_eq!(lost, 0);
        check_books(&rig);
    }
}

/// An operator reverts a mistake. Pushes that arrived meanwhile are not lost unnoticed.
#[test]
fn pushes_that_wait_while_parking_is_off_are_parked_once_it_is_on_again() {
    for is_upgraded in [false, true] {
        let mut rig = with(|_| {});
        let (mut conn, ..) = join(&mut rig, 0, TOKEN);
        rig.allow(conn, Some(0));
        let off = Limits { resume: ResumeLimits::default(), ..limits() };
        assert!(!off.resume.is_on());
        if is_upgraded {
            conn = rig.upgrade_with(2, |_| off)[&conn];
        } else {
            rig.send_all(&Message::Configure { limits: Arc::new(off) });
        }
        assert_eq!(rig.push_keys(&["k"], PUSH, b"1").queued, 1);
        rig.send_all(&Message::Configure { limits: Arc::new(limits()) });
        rig.hang_up(conn);
        let (_, kept, rest) = join(&mut rig, 1, TOKEN);
        assert_eq!((kept, rest), (resumed(1), pushes(&["1"])), "{is_upgraded}");
        check_books(&rig);
    }
}

#[test]
fn a_client_that_is_back_before_its_end_is_noticed_gets_the_rest() {
    for (from, to) in [(0, 0), (0, 1), (1, 0)] {
        let mut rig = with(|_| {});
        let (old, ..) = join(&mut rig, from, TOKEN);
        rig.allow(old, Some(0));
        assert_eq!(rig.push_keys(&["k"], PUSH, b"1").queued, 1);
        assert_eq!(rig.push_user(7, PUSH, b"2").queued, 1);
        let (new, kept, rest) = join(&mut rig, to, TOKEN);
        assert_eq!(rig.reason(old), CloseReason::Replaced);
        assert_eq!((kept, rest), (resumed(2), pushes(&["1", "2"])));
        // One session of the user is left.
        assert_eq!(rig.push_user(7, PUSH, b"3").matched, 1);
        assert_eq!(rig.take(new), pushes(&["3"]));
        check_books(&rig);
    }
}

#[test]
fn a_client_is_not_promised_pushes_that_its_new_connection_may_filter() {
    // The key's home is not the old connection's shard.
    let home = home_of_key("k", 2).0;
    let owner = 1 - home;
    let mut rig = with(|_| {});
    let (old, ..) = join(&mut rig, owner, TOKEN);
    rig.allow(old, Some(0));
    assert_eq!(rig.push_keys(&["k"], PUSH, b"1").queued, 1);
    // The home does not know which operations the old connection accepts until its shard has answered.
    rig.held.insert((home, owner));
    let new = rig.connect(owner, Transport::Tcp);
    rig.feed(new, &request("7/k//2000"));
    for operation in [PUSH, 2_000] {
        assert_eq!(rig.push_keys(&["k"], operation, b"2"), parked(1));
    }
    rig.held.clear();
    rig.run();
    let (kept, rest) = welcome(&rig.take(new));
    assert_eq!((kept, rest), (resumed(1), [pushes(&["1"]), frame(2_000, 0, b"2")].concat()));
    check_books(&rig);
}

#[test]
fn pushes_on_the_way_to_a_connection_that_ends_are_not_overtaken() {
    // The key's home is not the connection's shard.
    let home = home_of_key("k", 2).0;
    let owner = 1 - home;
    let mut rig = with(|_| {});
    let (conn, ..) = join(&mut rig, owner, TOKEN);
    rig.held.insert((home, owner));
    for body in ["1", "2"] {
        rig.push_keys(&["k"], PUSH, body.as_bytes());
    }
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"3"), parked(1), "the home knows of the end");
    let next = rig.connect(home, Transport::Tcp);
    rig.feed(next, &request(TOKEN));
    assert!(rig.take(next).is_empty(), "the answer waits for the rest");
    assert_eq!(rig.push_keys(&["k"], PUSH, b"4"), parked(1));
    rig.held.clear();
    rig.run();
    let (kept, rest) = welcome(&rig.take(next));
    assert_eq!((kept, rest), (resumed(4), pushes(&["1", "2", "3", "4"])));
    check_books(&rig);
}

#[test]
fn pushes_between_the_answer_and_its_room_wait_for_the_answer() {
    let room = crate::rig::room_at(1);
    let token = format!("7/k/{room}/");
    let mut rig = with(|_| {});
    let (conn, ..) = join(&mut rig, 1, &token);
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"1"), parked(1));
    let next = rig.connect(0, Transport::Tcp);
    rig.held.insert((1, 0));
    rig.feed(next, &request(&token));
    let tally = rig.push_keys(&["k"], PUSH, b"2");
    rig.held.clear();
    rig.run();
    assert_eq!(tally.dropped_total(), 0);
    let (kept, rest) = welcome(&rig.take(next));
    assert!(kept.is_some_and(|kept| kept.resumed.is_some()));
    let joined = decode(&rest, usize::MAX).unwrap().unwrap();
    assert_eq!(joined.0.operation, op::JOIN_REPLY);
    assert_eq!(rest[joined.1..], pushes(&["1", "2"]));
}

#[test]
fn a_client_that_leaves_before_its_answer_does_not_change_the_session() {
    let home = home_of_key("k", 2).0;
    let other = 1 - home;
    let mut rig = with(|_| {});
    let (conn, ..) = join(&mut rig, other, TOKEN);
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"1"), parked(1));
    let next = rig.connect(other, Transport::Tcp);
    rig.held.insert((home, other));
    rig.feed(next, &request(TOKEN));
    rig.hang_up(next);
    rig.held.clear();
    rig.run();
    assert_eq!(rig.push_user(7, PUSH, b"2"), parked(1));
    let (_, kept, rest) = join(&mut rig, home, TOKEN);
    assert_eq!((kept, rest), (resumed(2), pushes(&["1", "2"])));
    check_books(&rig);
}

#[test]
fn a_kick_ends_a_parked_session() {
    let mut rig = with(|_| {});
    let (conn, ..) = join(&mut rig, 0, TOKEN);
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"1"), parked(1));
    let call = rig.call();
    let push = Push::kick(Kick { sentence: "".into(), retry_after_ms: None });
    rig.send(comet_core::home_of_user(7, 2), Message::PushUsers { call, users: vec![7], push });
    assert_eq!(rig.tally(call), parked(1));
    assert_eq!(rig.push_user(7, PUSH, b"1").absent, 1);
    let (_, kept, rest) = join(&mut rig, 1, TOKEN);
    assert_eq!((kept, rest), (FRESH, Vec::new()));
    check_books(&rig);
}

#[test]
fn another_user_with_the_key_gets_nothing_of_the_session() {
    for is_noticed in [true, false] {
        let mut rig = with(|_| {});
        let (conn, ..) = join(&mut rig, 0, TOKEN);
        rig.allow(conn, Some(0));
        rig.push_keys(&["k"], PUSH, b"1");
        if is_noticed {
            rig.hang_up(conn);
        }
        let (_, kept, rest) = join(&mut rig, 1, "8/k//");
        assert!(rest.is_empty(), "{is_noticed}");
        let parked = kept.expect("asked").resumed.map_or(0, |resumed| resumed.parked);
        assert_eq!(parked, 0);
        assert_eq!(rig.push_user(7, PUSH, b"2").absent, 1);
        assert_eq!(rig.push_user(8, PUSH, b"3").queued, 1);
        check_books(&rig);
    }
}

#[test]
fn a_key_that_another_host_holds_is_not_parked_here() {
    let mut rig = with(|_| {});
    for is_connected in [false, true] {
        let (conn, ..) = join(&mut rig, 0, TOKEN);
        if !is_connected {
            rig.hang_up(conn);
            assert_eq!(rig.push_keys(&["k"], PUSH, b"1"), parked(1));
        }
        let at = Millis(rig.now() + 1_000);
        let keys = vec![("k".into(), at)];
        rig.send(home_of_key("k", 2), Message::HeldElsewhere { keys, wins_ties: true });
        assert_eq!(rig.push_keys(&["k"], PUSH, b"2").absent, 1);
        assert_eq!(rig.push_user(7, PUSH, b"2").absent, 1);
        check_books(&rig);
    }
}

#[test]
fn remote_logic_learns_of_the_end_with_the_session() {
    let logic = Logic::Remote { renew_ms: (600_000, 600_000) };
    let mut rig = Rig::with_logic(2, limits(), logic);
    let conn = rig.connect(0, Transport::Tcp);
    rig.feed(conn, &request(TOKEN));
    rig.admit(conn);
    rig.take_reports();
    rig.hang_up(conn);
    let is_end = |report: &Report| matches!(report, Report::Disconnected { user: 7, .. });
    assert!(!rig.take_reports().iter().any(is_end), "logic goes on to send pushes here");
    rig.pass(u64::from(WINDOW_MS) + 100);
    assert!(rig.take_reports().iter().any(is_end));
}

#[test]
fn the_window_is_no_longer_than_the_token() {
    let mut rig = Rig::with_logic(2, limits(), Logic::Remote { renew_ms: (600_000, 600_000) });
    let conn = rig.connect(0, Transport::Tcp);
    rig.feed(conn, &request(TOKEN));
    let identity = comet_core::Identity {
        user: 7,
        key: Some("k".into()),
        expires_in_ms: Some(5_000),
        ..comet_core::Identity::default()
    };
    rig.send(ShardId(0), Message::Identified { conn, answer: Ok(identity) });
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"1"), parked(1));
    rig.pass(5_200);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"1").absent, 1);
}

#[test]
fn a_user_with_many_kept_sessions_has_a_tally_for_each() {
    let mut rig = with(|_| {});
    let mut conns = Vec::new();
    for number in 0..20 {
        conns.push(join(&mut rig, number % 2, &format!("7/k{number}//")).0);
    }
    let plain = rig.join(0, "7/plain//");
    conns[..5].iter().for_each(|&conn| rig.hang_up(conn));
    let before = rig.take_reports().len();
    let tally = rig.push_user(7, PUSH, b"1");
    assert_eq!((tally.queued, tally.parked, tally.matched, tally.absent), (16, 5, 16, 0));
    assert_eq!(rig.take(plain), pushes(&["1"]));
    // The announced pushes arrive, and no others.
    let mut missing = 0;
    for report in rig.take_reports() {
        match report {
            Report::Tally { partials, .. } => missing += i64::from(partials),
            Report::PartialTally { settles, .. } => missing -= i64::from(settles),
            _ => {}
        }
    }
    assert_eq!(missing, 0, "{before}");
}
