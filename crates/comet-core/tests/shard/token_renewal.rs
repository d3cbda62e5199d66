//! A client of protocol 2 renews its token, and stays beyond the end of the last one.

use comet_core::limits::TICK_MS;
use comet_core::{
    CloseReason, ConnId, Denied, Identity, Limits, Logic, Message, Report, ShardId, Transport,
    home_of_user,
};
use comet_proto::{AuthReply, NotRenewed, op};

use crate::rig::{Rig, frame, frame_2, key_at};

const REMOTE: Logic = Logic::Remote { renew_ms: (60_000, 60_000) };
const HEARTBEAT_MS: u32 = 1_000_000;
const HANDSHAKE_MS: u32 = 4_000;

fn rig(shards: u16) -> Rig {
    let limits =
        Limits { heartbeat_ms: HEARTBEAT_MS, handshake_ms: HANDSHAKE_MS, ..Limits::default() };
    Rig::with_logic(shards, limits, REMOTE)
}

fn identity(user: i64, key: &str, expires_in_ms: Option<u64>) -> Identity {
    Identity { user, key: Some(key.into()), expires_in_ms, ..Identity::default() }
}

fn answer(rig: &mut Rig, conn: ConnId, answer: Result<Identity, Denied>) {
    rig.send(conn.shard, Message::Identified { conn, answer });
}

fn replied(sequence: i32, not_renewed: Option<NotRenewed>, millis: Option<u32>) -> Vec<u8> {
    let reply =
        AuthReply { not_renewed, heartbeat_ms: HEARTBEAT_MS, expires_in_ms: millis, kept: None };
    frame_2(op::AUTH_REPLY, sequence, &reply.encode())
}

/// User 7 with key `k`, whose token expires in a second.
fn join(rig: &mut Rig) -> ConnId {
    let conn = rig.connect(0, Transport::Tcp);
    rig.feed(conn, &frame_2(op::AUTH, 1, b"first"));
    answer(rig, conn, Ok(identity(7, "k", Some(1_000))));
    assert_eq!(rig.take(conn), replied(1, None, Some(1_000)));
    rig.take_reports();
    conn
}

/// The tokens that logic is asked about.
fn asked(rig: &mut Rig) -> Vec<Vec<u8>> {
    let reports = rig.take_reports().into_iter();
    let tokens = reports.filter_map(|report| match report {
        Report::Identify(request) => Some(request.token.into_vec()),
        _ => None,
    });
    tokens.collect()
}

/// The keys whose end is reported to logic, and the keys whose sessions logic is to renew.
fn told(rig: &mut Rig) -> (Vec<String>, Vec<String>) {
    let (mut ended, mut renewed) = (Vec::new(), Vec::new());
    for report in rig.take_reports() {
        match report {
            Report::Disconnected { key, .. } => ended.push(key.into()),
            Report::Heartbeat { key, .. } => renewed.push(key.into()),
            _ => {}
        }
    }
    (ended, renewed)
}

#[test]
fn a_renewed_token_takes_the_place_of_the_last_one() {
    for (millis, said) in [(Some(2_000), Some(2_000)), (Some(100), Some(100)), (None, None)] {
        let mut rig = rig(2);
        let conn = join(&mut rig);
        rig.pass(500);
        rig.feed(conn, &frame_2(op::AUTH, 2, b"second"));
        assert_eq!(asked(&mut rig), [b"second"]);
        answer(&mut rig, conn, Ok(identity(7, "k", millis)));
        assert_eq!(rig.take(conn), replied(2, None, said));
        let last = millis.unwrap_or(900_000);
        rig.pass(last - 1);
        assert!(!rig.is_closed(conn), "{millis:?}");
        rig.pass(TICK_MS);
        assert_eq!(rig.is_closed(conn), millis.is_some());
        assert_eq!(rig.shards[0].counters().tokens_renewed, 1);
    }
}

#[test]
fn a_renewal_that_is_refused_or_has_another_identity_changes_nothing() {
    let unavailable = Denied { reason: CloseReason::LogicUnavailable, ..Denied::refused("") };
    for (given, why) in [
        (Err(Denied::refused("no")), NotRenewed::Refused),
        (Err(unavailable), NotRenewed::Unavailable),
        (Ok(identity(8, "k", Some(60_000))), NotRenewed::Refused),
        (Ok(identity(8, "other", Some(60_000))), NotRenewed::Refused),
    ] {
        let mut rig = rig(2);
        let conn = join(&mut rig);
        rig.pass(400);
        rig.feed(conn, &frame_2(op::AUTH, 2, b"second"));
        rig.take_reports();
        answer(&mut rig, conn, given.clone());
        assert_eq!(rig.take(conn), replied(2, Some(why), Some(600)), "{given:?}");
        // Logic learns that the unused session ended, and that the used one goes on.
        let (ended, renewed) = match &given {
            Ok(identity) if identity.key.as_deref() == Some("k") => (vec![], vec!["k".to_owned()]),
            Ok(_) => (vec!["other".to_owned()], vec![]),
            Err(_) => (vec![], vec![]),
        };
        assert_eq!(told(&mut rig), (ended, renewed), "{given:?}");
        rig.pass(599);
        assert!(!rig.is_closed(conn), "{given:?}");
        rig.pass(TICK_MS);
        assert_eq!(rig.reason(conn), CloseReason::TokenExpired);
        assert_eq!(rig.shards[0].counters().tokens_not_renewed, 1);
    }
}

/// goim's logic generates a key for each token without one.
#[test]
fn a_key_of_remote_logic_that_differs_is_given_back() {
    let mut rig = rig(2);
    let conn = join(&mut rig);
    rig.feed(conn, &frame_2(op::AUTH, 2, b"second"));
    rig.take_reports();
    answer(&mut rig, conn, Ok(identity(7, "made", Some(9_000))));
    assert_eq!(rig.take(conn), replied(2, None, Some(9_000)));
    assert_eq!(told(&mut rig), (vec!["made".to_owned()], vec![]));
    assert_eq!(rig.push_keys(&["k"], 5, b"").queued, 1);
    assert_eq!(rig.push_keys(&["made"], 5, b"").absent, 1);

    // A key that another connection holds goes on.
    let other = rig.connect(1, Transport::Tcp);
    rig.feed(other, &frame_2(op::AUTH, 1, b"other"));
    answer(&mut rig, other, Ok(identity(7, "held", None)));
    rig.feed(conn, &frame_2(op::AUTH, 3, b"third"));
    rig.take_reports();
    answer(&mut rig, conn, Ok(identity(7, "held", Some(9_000))));
    assert_eq!(told(&mut rig), (vec![], vec![]));
    assert_eq!(rig.push_keys(&["held"], 5, b"").queued, 1);
}

#[test]
fn embedded_logic_names_the_key_of_the_token() {
    let mut rig = Rig::new(2, Limits { heartbeat_ms: HEARTBEAT_MS, ..Limits::default() });
    for (first, second, why) in [
        ("7/k//", "7/k/r/5", None),
        ("7/k//", "7///", None),
        ("7///", "7///", None),
        ("7/k//", "7/other//", Some(NotRenewed::Refused)),
        ("7/k//", "8/k//", Some(NotRenewed::Refused)),
        ("7/k//", "no token", Some(NotRenewed::Refused)),
    ] {
        let conn = rig.connect(0, Transport::Tcp);
        rig.ask(conn, &frame_2(op::AUTH, 1, first.as_bytes()));
        let reply = rig.ask(conn, &frame_2(op::AUTH, 2, second.as_bytes()));
        assert_eq!(reply, replied(2, why, None), "{first} {second}");
        // The connection is unchanged.
        assert_eq!(rig.ask(conn, &frame(op::HEARTBEAT, 3, b"")), frame(3, 3, &[0; 4]));
        assert_eq!(rig.push_all(1000, b"all", None).queued, 1);
        rig.hang_up(conn);
    }
}

#[test]
fn one_renewal_is_under_way_and_pushes_come_meanwhile() {
    let mut rig = rig(1);
    let conn = join(&mut rig);
    let renewals = [2, 3, 4].map(|sequence| frame_2(op::AUTH, sequence, b"again"));
    rig.feed(conn, &[renewals.concat(), frame(op::HEARTBEAT, 5, b"")].concat());
    rig.push_keys(&["k"], 5, b"push");
    assert_eq!(rig.take(conn), frame(5, 0, b"push"));
    for sequence in [2, 3, 4] {
        assert_eq!(asked(&mut rig).len(), 1);
        answer(&mut rig, conn, Ok(identity(7, "k", Some(5_000))));
        assert!(rig.take(conn).starts_with(&replied(sequence, None, Some(5_000))));
    }
    assert_eq!(asked(&mut rig).len(), 0);
}

/// The client sent its new token in time. Logic is slow, or handles a message before it.
#[test]
fn a_renewal_that_is_under_way_is_waited_for() {
    for before in [vec![], frame(op::SEND, 2, b"message")] {
        for is_renewed in [true, false] {
            let mut rig = rig(1);
            let conn = join(&mut rig);
            rig.pass(900);
            rig.feed(conn, &[before.clone(), frame_2(op::AUTH, 3, b"second")].concat());
            rig.pass(HANDSHAKE_MS.into());
            if !before.is_empty() {
                rig.send(conn.shard, Message::Receipt { conn, outcome: Ok(()) });
            }
            assert_eq!(asked(&mut rig), [b"second"]);
            assert!(!rig.is_closed(conn));
            let given = match is_renewed {
                true => Ok(identity(7, "k", Some(60_000))),
                false => Err(Denied::refused("no")),
            };
            answer(&mut rig, conn, given);
            rig.pass(50_000);
            assert_eq!(rig.is_closed(conn), !is_renewed);
            if !is_renewed {
                assert_eq!(rig.reason(conn), CloseReason::TokenExpired);
            }
        }
    }
}

/// Otherwise the connection would stay without a valid token.
#[test]
fn refused_renewals_one_behind_the_other_do_not_keep_a_connection() {
    let mut rig = rig(1);
    let conn = join(&mut rig);
    rig.feed(conn, &frame_2(op::AUTH, 2, b"bad"));
    let joined = rig.now();
    while !rig.is_closed(conn) {
        rig.feed(conn, &frame_2(op::AUTH, 2, b"bad"));
        answer(&mut rig, conn, Err(Denied::refused("no")));
        rig.pass(TICK_MS);
    }
    assert_eq!(rig.reason(conn), CloseReason::TokenExpired);
    let most = u64::from(1_000 + HANDSHAKE_MS);
    assert!((most..=most + 2 * TICK_MS).contains(&(rig.now() - joined)));
}

#[test]
fn a_connection_may_end_amid_its_renewal() {
    let mut rig = rig(2);
    let conn = join(&mut rig);
    rig.feed(conn, &frame_2(op::AUTH, 2, b"late"));
    rig.pass(u64::from(1_000 + HANDSHAKE_MS) + 2 * TICK_MS);
    assert_eq!(rig.reason(conn), CloseReason::TokenExpired);
    assert_eq!(told(&mut rig).0, ["k"]);
    // Logic has begun a session again.
    answer(&mut rig, conn, Ok(identity(7, "k", Some(5_000))));
    assert_eq!(told(&mut rig).0, ["k"]);
}

/// The eviction of the old connection is under way, and the younger connection has ended already.
#[test]
fn a_renewal_of_a_replaced_connection_leaves_no_session_at_logic() {
    let mut rig = rig(2);
    let key = key_at(1);
    let user = (1..).find(|user| home_of_user(*user, 2) == ShardId(1)).unwrap();
    let old = rig.connect(0, Transport::Tcp);
    rig.feed(old, &frame_2(op::AUTH, 1, b"first"));
    answer(&mut rig, old, Ok(identity(user, &key, None)));
    rig.feed(old, &frame_2(op::AUTH, 2, b"second"));

    rig.held.insert((1, 0));
    let young = rig.connect(1, Transport::Tcp);
    rig.feed(young, &frame_2(op::AUTH, 1, b"young"));
    answer(&mut rig, young, Ok(identity(user, &key, None)));
    rig.hang_up(young);
    assert_eq!(told(&mut rig).0, [&*key]);

    answer(&mut rig, old, Ok(identity(user, &key, None)));
    assert_eq!(told(&mut rig).0, [&*key]);
    rig.held.clear();
    rig.run();
    assert_eq!(rig.reason(old), CloseReason::Replaced);
    assert_eq!(told(&mut rig).0, [""; 0]);
}
