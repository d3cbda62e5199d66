//! Remote logic: tokens, client messages, renewals, and reports about keys.

use comet_core::{
    CloseReason, ConnId, Denied, DropReason, Hangup, Limits, Logic, Message, Report, ResumeLimits,
    Shard, ShardId, SocketShutdown, Transport,
};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, key_at, masked, plain};

fn rig(shards: u16) -> Rig {
    Rig::with_logic(shards, Limits::default(), Logic::Remote { renew_ms: (1_000, 3_000) })
}

/// A TCP client that waits for the answer to its token.
fn connect(rig: &mut Rig, shard: u16, token: &str) -> ConnId {
    let conn = rig.connect(shard, Transport::Tcp);
    rig.feed(conn, &frame(op::AUTH, 1, token.as_bytes()));
    conn
}

/// A TCP client that logic has accepted.
fn join(rig: &mut Rig, shard: u16, token: &str) -> ConnId {
    let conn = connect(rig, shard, token);
    rig.admit(conn);
    assert_eq!(rig.take(conn), frame(op::AUTH_REPLY, 1, b""));
    conn
}

/// Reports about keys: `+key` is a heartbeat, `-key` is disconnected, `=key` is claimed again.
fn key_reports(rig: &mut Rig) -> Vec<String> {
    let reports = rig.take_reports().into_iter().filter_map(|report| match report {
        Report::Heartbeat { key, .. } => Some(format!("+{key}")),
        Report::Disconnected { key, .. } => Some(format!("-{key}")),
        Report::Reclaimed { key, .. } => Some(format!("={key}")),
        _ => None,
    });
    reports.collect()
}

#[test]
fn the_answer_to_a_token_authenticates_the_client() {
    let mut rig = rig(2);
    let conn = rig.connect(1, Transport::Tcp);
    // Input behind the token is held.
    rig.feed(conn, &[frame(op::AUTH, 1, b"7/k/r/"), frame(op::HEARTBEAT, 2, b"")].concat());
    assert_eq!(rig.take(conn), b"");
    assert!(rig.shards[1].poll_auth().is_none());
    rig.admit(conn);
    let replies = [frame(op::AUTH_REPLY, 1, b""), frame(op::HEARTBEAT_REPLY, 2, &[0, 0, 0, 1])];
    assert_eq!(rig.take(conn), replies.concat());
    assert_eq!(rig.push_keys(&["k"], 5, b"x").queued, 1);
}

#[test]
fn a_denied_client_gets_the_reason_and_the_retry_after() {
    let cases = [
        (CloseReason::AuthRefused, "no such user", None, 1008, "no such user", ""),
        (
            CloseReason::LogicUnavailable,
            "",
            Some(2500),
            1013,
            "logic_unavailable; retry_after_ms=2500",
            "; retry_after_ms=2500",
        ),
        (
            CloseReason::AuthRefused,
            "banned",
            Some(0),
            1008,
            "banned; retry_after_ms=0",
            "; retry_after_ms=0",
        ),
    ];
    for (reason, sentence, retry_after_ms, code, told, hint) in cases {
        let denied = Denied { reason, sentence: sentence.into(), retry_after_ms };
        let mut rig = rig(1);
        let tcp = connect(&mut rig, 0, "7/k//");
        let answer = Err(denied.clone());
        rig.send(tcp.shard, Message::Identified { conn: tcp, answer });
        assert_eq!(rig.take(tcp), frame(op::DISCONNECT_REPLY, 0, told.as_bytes()));
        assert_eq!(rig.reason(tcp), reason);

        let websocket = rig.connect(0, Transport::WebSocket);
        rig.ask(websocket, &[UPGRADE, &masked(0x82, &frame(op::AUTH, 1, b"7/k//"))].concat());
        rig.send(websocket.shard, Message::Identified { conn: websocket, answer: Err(denied) });
        let detail = if sentence.is_empty() { "" } else { &format!(": {sentence}") };
        let close = format!("{}{detail}{hint}", reason.label());
        let close = [&u16::to_be_bytes(code)[..], close.as_bytes()].concat();
        let notice =
            [plain(0x82, &frame(op::DISCONNECT_REPLY, 0, told.as_bytes())), plain(0x88, &close)];
        assert_eq!(rig.take(websocket), notice.concat());
        assert!(key_reports(&mut rig).is_empty(), "logic accepted no client");
    }
}

/// Of two connections with one key the one that sent its token later stays, in any order of logic's answers.
#[test]
fn the_younger_connection_stays_if_logic_answers_the_older_one_last() {
    for (shards, wait) in [([0, 1], 1), ([1, 0], 1), ([0, 0], 0)] {
        for answers_younger_first in [false, true] {
            let mut rig = rig(2);
            let older = connect(&mut rig, shards[0], "7/k/r/");
            rig.pass(wait);
            let younger = connect(&mut rig, shards[1], "7/k/r/");
            if answers_younger_first {
                rig.admit(younger);
                rig.admit(older);
                // This connection was never authenticated.
                assert_eq!(rig.take(older), frame(op::DISCONNECT_REPLY, 0, b"replaced"));
            } else {
                rig.admit(older);
                rig.admit(younger);
                let authenticated = frame(op::AUTH_REPLY, 1, b"");
                let replaced = frame(op::DISCONNECT_REPLY, 0, b"replaced");
                assert_eq!(rig.take(older), [authenticated, replaced].concat());
            }
            assert_eq!(rig.reason(older), CloseReason::Replaced);
            assert_eq!(rig.take(younger), frame(op::AUTH_REPLY, 1, b""));
            for tally in [
                rig.push_keys(&["k"], 5, b"key"),
                rig.push_user(7, 5, b"user"),
                rig.push_room("r", 5, b"room"),
            ] {
                assert_eq!((tally.matched, tally.queued), (1, 1));
            }
            rig.hang_up(older);
            assert!(key_reports(&mut rig).is_empty(), "the key has an owner all the time");
            rig.hang_up(younger);
            assert_eq!(key_reports(&mut rig), ["-k"]);
            let counters = rig.shards.iter().map(Shard::counters);
            assert_eq!(counters.map(|counters| counters.keys + counters.users).sum::<u64>(), 0);
        }
    }
}

#[test]
fn an_older_connection_gets_the_key_if_the_younger_one_is_gone_by_then() {
    let mut rig = rig(2);
    let older = connect(&mut rig, 0, "7/k//");
    rig.pass(1);
    let younger = connect(&mut rig, 1, "7/k//");
    rig.admit(younger);
    rig.hang_up(younger);
    rig.admit(older);
    assert_eq!(rig.take(older), frame(op::AUTH_REPLY, 1, b""));
    // Logic learned of the end of the younger session after it had accepted the older connection.
    assert_eq!(key_reports(&mut rig), ["-k", "=k"]);
}

#[test]
fn a_long_sentence_is_cut_between_characters() {
    let mut rig = rig(1);
    let conn = connect(&mut rig, 0, "7/k//");
    let answer = Err(Denied::refused("ü".repeat(4000)));
    rig.send(conn.shard, Message::Identified { conn, answer });
    assert_eq!(rig.take(conn), frame(op::DISCONNECT_REPLY, 0, "ü".repeat(512).as_bytes()));
}

#[test]
fn logic_gets_one_message_of_a_client_at_a_time_and_pushes_overtake_it() {
    let mut rig = rig(2);
    let key = key_at(1);
    let conn = join(&mut rig, 0, &format!("7/{key}/r/"));
    let requests =
        [frame(op::SEND, 5, b"one"), frame(4711, 6, b"two"), frame(op::HEARTBEAT, 7, b"")];
    rig.feed(conn, &requests.concat());
    let receives = |rig: &mut Rig| -> Vec<(ConnId, i64, String, i32, i32, Vec<u8>)> {
        let reports = rig.take_reports().into_iter();
        let receives = reports.filter_map(|report| match report {
            Report::Receive { conn, user, key, operation, sequence, body } => {
                Some((conn, user, key.into(), operation, sequence, body.into()))
            }
            _ => None,
        });
        receives.collect()
    };
    assert_eq!(receives(&mut rig), [(conn, 7, key.clone(), op::SEND, 5, b"one".to_vec())]);
    assert_eq!(rig.push_keys(&[&key], 5, b"push").queued, 1);
    assert_eq!(rig.push_room("r", 5, b"room").queued, 1);
    assert_eq!(rig.take(conn), [frame(5, 0, b"push"), frame(5, 0, b"room")].concat());

    rig.send(conn.shard, Message::Receipt { conn, outcome: Ok(()) });
    assert_eq!(rig.take(conn), frame(op::SEND, 5, b""));
    assert_eq!(receives(&mut rig), [(conn, 7, key, 4711, 6, b"two".to_vec())]);
    // goim's fault 10: a failure was answered with success.
    rig.send(conn.shard, Message::Receipt { conn, outcome: Err("try later".into()) });
    let replies = [frame(4711, 6, b"try later"), frame(op::HEARTBEAT_REPLY, 7, &[0, 0, 0, 1])];
    assert_eq!(rig.take(conn), replies.concat());
    assert_eq!(rig.shards[0].counters().received, 2);
    // An answer that no client waits for is ignored.
    rig.send(conn.shard, Message::Receipt { conn, outcome: Ok(()) });
    assert_eq!(rig.take(conn), b"");
}

#[test]
fn a_client_that_waits_for_logic_has_a_last_deadline_and_may_leave() {
    let limits = Limits { heartbeat_ms: 1_000, ..Limits::default() };
    let mut rig = Rig::with_logic(1, limits, Logic::Remote { renew_ms: (1, 1) });
    let [waits, goes] = ["7/k//", "7/l//"].map(|token| join(&mut rig, 0, token));
    rig.feed(waits, &[frame(op::SEND, 1, b"x"), frame(op::HEARTBEAT, 2, b"")].concat());
    rig.feed(goes, &frame(op::SEND, 1, b"x"));
    rig.hang_up(goes);
    rig.send(goes.shard, Message::Receipt { conn: goes, outcome: Ok(()) });
    rig.pass(1_900);
    assert!(!rig.is_closed(waits));
    rig.pass(250);
    assert_eq!(rig.reason(waits), CloseReason::HeartbeatTimeout);
    rig.send(waits.shard, Message::Receipt { conn: waits, outcome: Ok(()) });
    assert_eq!(rig.take(waits), frame(op::DISCONNECT_REPLY, 0, b"heartbeat_timeout"));
}

/// TCP has acknowledged these messages. goim passes them to logic, too.
#[test]
fn the_messages_of_a_client_that_has_left_come_to_logic() {
    let mut rig = rig(1);
    let conn = connect(&mut rig, 0, "7/k//");
    let (one, two) = (frame(op::SEND, 1, b"one"), frame(op::SEND, 2, b"two"));
    // The last frame is cut.
    rig.feed(conn, &[&one[..], &two, &one[..5]].concat());
    rig.hang_up(conn);
    rig.admit(conn);
    for expected in [b"one", b"two"] {
        assert!(!rig.is_closed(conn));
        let reports = rig.take_reports().into_iter();
        let bodies: Vec<_> = reports
            .filter_map(|report| match report {
                Report::Receive { body, .. } => Some(body),
                _ => None,
            })
            .collect();
        assert_eq!(bodies, [Box::from(&expected[..])]);
        rig.send(conn.shard, Message::Receipt { conn, outcome: Ok(()) });
    }
    assert_eq!(
        (rig.reason(conn), rig.shut(conn)),
        (CloseReason::PeerClosed, Some(SocketShutdown::Both))
    );
}

/// The client closes its socket while a push is unread, so its kernel resets the connection.
#[test]
fn a_reset_and_a_failed_send_lose_no_message_that_has_come() {
    let mut rig = rig(1);
    for in_flight in [false, true] {
        let conn = join(&mut rig, 0, "7/k//");
        if in_flight {
            rig.allow(conn, Some(0));
            rig.push_keys(&["k"], 5, b"push");
        }
        rig.feed(conn, &frame(op::SEND, 1, b"x").repeat(3));
        rig.end(conn, Hangup::Cut(104));
        for _ in 0..3 {
            let is_message = |report: &Report| matches!(report, Report::Receive { .. });
            assert_eq!(rig.take_reports().iter().filter(|report| is_message(report)).count(), 1);
            rig.send(conn.shard, Message::Receipt { conn, outcome: Ok(()) });
        }
        assert_eq!(rig.reason(conn), CloseReason::PeerClosed);
        assert_eq!(rig.shards[0].counters().lost, u64::from(in_flight));
    }
}

#[test]
fn too_many_messages_that_wait_for_logic_close() {
    let mut rig = rig(1);
    let conn = join(&mut rig, 0, "7/k//");
    rig.feed(conn, &frame(op::SEND, 0, b""));
    for _ in 0..16 {
        rig.feed(conn, &frame(op::SEND, 1, &[9; 4096]));
        assert!(!rig.is_closed(conn));
    }
    rig.feed(conn, &frame(op::SEND, 1, &[9; 4096]));
    assert_eq!(rig.reason(conn), CloseReason::InputOverflow);
}

#[test]
fn a_heartbeat_renews_the_session_at_random_intervals() {
    let mut rig = rig(2);
    let conn = join(&mut rig, 0, "7/k//");
    let mut renewed_at = vec![rig.now()];
    for _ in 0..400 {
        rig.pass(50);
        rig.feed(conn, &frame(op::HEARTBEAT, 1, b""));
        if !key_reports(&mut rig).is_empty() {
            renewed_at.push(rig.now());
        }
    }
    let pauses: Vec<u64> = renewed_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((6..=20).contains(&pauses.len()), "{pauses:?}");
    assert!(pauses.iter().all(|pause| (1_000..=3_100).contains(pause)), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
}

#[test]
fn a_failed_renewal_is_repeated_with_the_next_heartbeat() {
    for shard in [0, 1] {
        let mut rig = rig(2);
        let (key, heartbeat) = (key_at(1), frame(op::HEARTBEAT, 1, b""));
        let conn = join(&mut rig, shard, &format!("7/{key}//"));
        rig.pass(3_100);
        rig.feed(conn, &heartbeat);
        assert_eq!(key_reports(&mut rig), [format!("+{key}")]);
        rig.feed(conn, &heartbeat);
        assert!(key_reports(&mut rig).is_empty(), "it has been renewed");
        rig.send(ShardId(1), Message::RenewalFailed { key: (*key).into() });
        rig.feed(conn, &heartbeat);
        assert_eq!(key_reports(&mut rig), [format!("+{key}")]);
        rig.feed(conn, &heartbeat);
        assert!(key_reports(&mut rig).is_empty(), "once is enough");
        // No connection is left to renew it.
        rig.hang_up(conn);
        key_reports(&mut rig);
        rig.send(ShardId(1), Message::RenewalFailed { key: (*key).into() });
        assert!(key_reports(&mut rig).is_empty());
    }
}

#[test]
fn only_the_last_owner_of_a_key_is_reported_as_disconnected() {
    for shard in [0, 1] {
        let mut rig = rig(2);
        let old = join(&mut rig, 0, "7/k//");
        let new = join(&mut rig, shard, "7/k//");
        assert_eq!(rig.reason(old), CloseReason::Replaced);
        rig.hang_up(old);
        assert!(key_reports(&mut rig).is_empty(), "the key is held");
        rig.hang_up(new);
        assert_eq!(key_reports(&mut rig), ["-k"]);
    }
}

#[test]
fn a_late_release_reports_nothing() {
    let mut rig = rig(2);
    let key = key_at(1);
    let token = format!("/{key}//");
    let old = join(&mut rig, 0, &token);
    rig.held.insert((0, 1));
    rig.hang_up(old);
    let new = join(&mut rig, 1, &token);
    rig.hang_up(new);
    assert_eq!(key_reports(&mut rig), [format!("-{key}")]);
    rig.held.clear();
    rig.run();
    assert!(key_reports(&mut rig).is_empty());
}

#[test]
fn a_client_that_left_before_its_answer_is_reported_as_disconnected() {
    let mut rig = rig(2);
    let gone = connect(&mut rig, 0, "7/k//");
    rig.hang_up(gone);
    rig.admit(gone);
    assert_eq!(key_reports(&mut rig), ["-k"]);
    // Once more, while another connection holds the key.
    let gone = connect(&mut rig, 0, "7/k//");
    let holder = join(&mut rig, 1, "7/k//");
    rig.hang_up(gone);
    key_reports(&mut rig);
    let answer = Ok(comet_core::Identity { key: Some("k".into()), ..Default::default() });
    rig.send(gone.shard, Message::Identified { conn: gone, answer });
    assert!(key_reports(&mut rig).is_empty());
    assert_eq!(rig.push_keys(&["k"], 5, b"x").dropped[DropReason::Closing as usize], 0);
    assert!(!rig.is_closed(holder));
    // The same if the shard refuses the identity that logic gave.
    let refused = connect(&mut rig, 0, &format!("7/other/{}/", "r".repeat(257)));
    rig.admit(refused);
    assert_eq!(rig.reason(refused), CloseReason::AuthRefused);
    assert_eq!(key_reports(&mut rig), ["-other"]);
}

/// Logic accepts the new owner, then learns that the old one is gone, and only then is the key claimed.
#[test]
fn a_claim_behind_a_disconnect_is_reported() {
    let mut rig = rig(2);
    let key = key_at(1);
    let token = format!("7/{key}//");
    let old = join(&mut rig, 0, &token);
    let new = connect(&mut rig, 0, &token);
    rig.hang_up(old);
    rig.admit(new);
    assert_eq!(key_reports(&mut rig), [format!("-{key}"), format!("={key}")]);
    // After twice the handshake timeout no connect can have crossed the disconnect.
    rig.hang_up(new);
    key_reports(&mut rig);
    rig.pass(10_500);
    join(&mut rig, 0, &token);
    assert!(key_reports(&mut rig).is_empty());
    assert_eq!(rig.shards[1].counters().keys, 1);
}

/// The shard stalls between logic's answer and the claim, for longer than the key's home remembers an end.
#[test]
fn a_claim_after_a_stall_is_followed_by_a_renewal() {
    let mut rig = rig(2);
    let key = key_at(1);
    let new = connect(&mut rig, 0, &format!("7/{key}//"));
    rig.pass(1_000);
    rig.stall(20_000);
    rig.admit(new);
    assert_eq!(key_reports(&mut rig), [format!("+{key}")]);
}

/// Two clients with one key claim it late, and hang up before they get the answer. The younger one leaves a parked session.
/// Logic must learn of the session, though the key's home may have forgotten that it reported an end meanwhile.
#[test]
fn a_late_claim_whose_client_is_gone_is_followed_by_a_renewal() {
    let resume = ResumeLimits { window_ms: 30_000, for_all: true, ..ResumeLimits::default() };
    let limits = Limits { key_memory_ms: 1_000, resume, ..Limits::default() };
    let logic = Logic::Remote { renew_ms: (10_000, 10_000) };
    let mut rig = Rig::with_logic(2, limits, logic);
    let key = key_at(1);
    let token = format!("7/{key}//");
    let [older, younger] = [(); 2].map(|()| connect(&mut rig, 0, &token));
    rig.pass(2_000);
    rig.held.insert((1, 0));
    rig.admit(older);
    rig.admit(younger);
    rig.hang_up(older);
    rig.hang_up(younger);
    rig.held.clear();
    rig.run();
    assert_eq!(rig.push_keys(&[&key], 5, b"x").parked, 1);
    assert_eq!(key_reports(&mut rig).last(), Some(&format!("+{key}")));
}

/// Logic may accept the next client before control receives the end and passes it on.
#[test]
fn an_end_that_waits_for_control_is_remembered_for_longer() {
    let limits = Limits { key_memory_ms: 1_000, ..Limits::default() };
    let logic = Logic::Remote { renew_ms: (10_000, 10_000) };
    for (waits, expected) in [(true, vec!["-k", "=k"]), (false, vec![])] {
        let mut rig = Rig::with_logic(1, limits.clone(), logic);
        let first = join(&mut rig, 0, "7/k//");
        rig.take_reports();
        rig.hang_up(first);
        rig.pass(900);
        let ended = rig.take_reports().pop().expect("an end");
        assert!(matches!(ended, Report::Disconnected { .. }), "{ended:?}");
        if waits {
            rig.shards[0].return_report(ended);
        }
        rig.pass(900);
        join(&mut rig, 0, "7/k//");
        assert_eq!(key_reports(&mut rig), expected);
    }
}

/// Only remote logic needs a report that a key is held again. A process without it may take over from one that used it.
#[test]
fn a_process_without_logic_reports_no_key_of_its_former_one() {
    let remote = Logic::Remote { renew_ms: (1_000, 3_000) };
    for (logic, expected) in [(Logic::Embedded, vec![]), (remote, vec!["=k"])] {
        let mut rig = rig(2);
        let gone = join(&mut rig, 0, "7/k//");
        rig.hang_up(gone);
        assert_eq!(key_reports(&mut rig), ["-k"]);
        rig.set_logic(logic);
        rig.upgrade(2);
        let again = connect(&mut rig, 1, "7/k//");
        if logic == remote {
            rig.admit(again);
        }
        assert_eq!(rig.take(again), frame(op::AUTH_REPLY, 1, b""));
        assert_eq!(key_reports(&mut rig), expected);
    }
}
