//! Live traces: the connections whose events they get, and the removal of their state when they end.

use std::sync::Arc;

use comet_core::limits::LIVE_TRACES_MAX;
use comet_core::{
    Budget, CloseReason, ConnId, DropReason, Limits, LiveTrace, LiveTraces, Message, Report,
    Subject, TraceEvent, TraceId, TraceKind, Transport,
};
use comet_proto::op;

use crate::listings::Fake;
use crate::rig::{Rig, frame};

const TRACE: TraceId = TraceId(1);

/// Tells every shard of these traces, numbered from 1 on.
fn trace(rig: &mut Rig, subjects: impl IntoIterator<Item = Subject>) {
    let traces = (1..).zip(subjects).fold(LiveTraces::default(), |traces, (id, subject)| {
        traces.with(LiveTrace { id: TraceId(id), subject }).unwrap()
    });
    let limits = Limits { traces, ..rig.shards[0].limits().clone() };
    rig.send_all(&Message::Configure { limits: Arc::new(limits) });
    for shard in &mut rig.shards {
        while shard.has_listings() {
            shard.handle_listings(&mut Budget::new(100), &mut Fake);
        }
    }
}

/// The events for live traces since the last call. None of them is for the trace log.
fn told(rig: &mut Rig) -> Vec<TraceEvent> {
    let events = rig.take_reports().into_iter().filter_map(|report| match report {
        Report::Trace(event) => Some(*event),
        _ => None,
    });
    let events: Vec<_> = events.collect();
    assert!(events.iter().all(|event| !event.is_logged && !event.traces.is_empty()));
    events
}

fn whats(rig: &mut Rig) -> Vec<TraceKind> {
    told(rig).into_iter().map(|event| event.what).collect()
}

/// The connections with events, each once.
fn conns(rig: &mut Rig) -> Vec<ConnId> {
    let mut conns: Vec<_> = told(rig).into_iter().map(|event| event.conn).collect();
    conns.sort();
    conns.dedup();
    conns
}

#[test]
fn a_key_is_followed_from_its_registration_to_its_end() {
    let mut rig = Rig::new(2, Limits::default());
    trace(&mut rig, [Subject::Key("k".into())]);
    rig.join(1, "8/other/r/");
    let conn = rig.join(0, "7/k/r/5");
    let joined = [
        TraceKind::Authenticated { room: Some("r".into()) },
        TraceKind::Joined { room: "r".into() },
        TraceKind::Wrote { operation: op::AUTH_REPLY, sequence: 1, bytes: 16 },
    ];
    assert_eq!(whats(&mut rig), joined);

    rig.push_keys(&["k", "other"], 5, b"push");
    rig.push_keys(&["k", "other"], 6, b"push");
    let pushed = [
        TraceKind::Queued { operation: 5, bytes: 20, superseded: 0 },
        TraceKind::Wrote { operation: 5, sequence: 0, bytes: 20 },
        TraceKind::Dropped { operation: 6, reason: DropReason::Filtered },
    ];
    assert_eq!(whats(&mut rig), pushed);

    rig.feed(conn, &frame(op::CHANGE_ROOM, 2, b"s"));
    let moved = [
        TraceKind::Read { operation: op::CHANGE_ROOM, sequence: 2, bytes: 17 },
        TraceKind::Left { room: "r".into() },
        TraceKind::Joined { room: "s".into() },
        TraceKind::Wrote { operation: op::CHANGE_ROOM_REPLY, sequence: 2, bytes: 17 },
    ];
    assert_eq!(whats(&mut rig), moved);

    rig.hang_up(conn);
    let closed = told(&mut rig);
    assert_eq!(closed[0].what, TraceKind::Closed { reason: CloseReason::PeerClosed });
    assert_eq!((&*closed[0].key, closed[0].user, &*closed[0].traces), ("k", 7, &[TRACE][..]));

    rig.take(conn);
    rig.run();
    assert_eq!(rig.shards[0].traced(), 0, "it is gone");
}

#[test]
fn each_subject_has_its_own_connections() {
    let check = |subject: Subject, expected: &[usize]| {
        // The clients connect after the trace begins, and in the second round before it.
        for is_early in [true, false] {
            let mut rig = Rig::new(2, Limits::default());
            if is_early {
                trace(&mut rig, [subject.clone()]);
            }
            let clients = [(0, "7/a/r/"), (1, "7/b/s/"), (0, "8/c/r/"), (1, "0/d//")];
            let clients = clients.map(|(shard, token)| {
                let conn = rig.connect(shard, Transport::Tcp);
                if rig.shards[usize::from(shard)].limits().needs_addresses() {
                    let address = comet_core::SocketInfo::address(&mut Fake, conn).unwrap();
                    rig.shards[usize::from(shard)].handle_source(conn, address.ip());
                }
                rig.feed(conn, &frame(op::AUTH, 1, token.as_bytes()));
                conn
            });
            if !is_early {
                trace(&mut rig, [subject.clone()]);
            }
            told(&mut rig);
            rig.push_all(5, b"x", None);
            let expected: Vec<_> = expected.iter().map(|at| clients[*at]).collect();
            let mut expected = expected;
            expected.sort();
            assert_eq!(conns(&mut rig), expected, "{subject:?}, early: {is_early}");

            // After the end of the trace no events are reported, and no connection is traced.
            trace(&mut rig, []);
            rig.push_all(5, b"x", None);
            assert_eq!(told(&mut rig), []);
            assert!(rig.shards.iter().all(|shard| shard.live_conns().all(|c| c.traces.is_empty())));
        }
    };
    check(Subject::Key("b".into()), &[1]);
    check(Subject::User(7), &[0, 1]);
    check(Subject::User(0), &[3]);
    check(Subject::Room("r".into()), &[0, 2]);
    // Of both shards the first slots.
    check(Subject::Network("10.0.0.0".parse().unwrap()), &[0, 1]);
    check(Subject::Network("10.0.0.0/8".parse().unwrap()), &[0, 1, 2, 3]);
    check(Subject::Network("192.0.2.0/24".parse().unwrap()), &[]);
}

#[test]
fn a_room_is_followed_as_long_as_a_client_is_in_it() {
    let mut rig = Rig::new(1, Limits::default());
    trace(&mut rig, [Subject::Room("r".into()), Subject::Room("s".into()), Subject::User(7)]);
    let conn = rig.join(0, "8/k//");
    assert_eq!(told(&mut rig), [], "it is in no room");
    let moved = |rig: &mut Rig, room: &str| -> Vec<(TraceKind, Vec<u64>)> {
        rig.feed(conn, &frame(op::CHANGE_ROOM, 2, room.as_bytes()));
        let ids = |event: &TraceEvent| event.traces.iter().map(|TraceId(id)| *id).collect();
        let moves = told(rig).into_iter().filter(|event| {
            matches!(event.what, TraceKind::Joined { .. } | TraceKind::Left { .. })
        });
        moves.map(|event| (event.what.clone(), ids(&event))).collect()
    };
    let joined = |room: &str| TraceKind::Joined { room: room.into() };
    let left = |room: &str| TraceKind::Left { room: room.into() };
    assert_eq!(moved(&mut rig, "r"), [(joined("r"), vec![1])]);
    assert_eq!(moved(&mut rig, "s"), [(left("r"), vec![1]), (joined("s"), vec![2])]);
    assert_eq!(moved(&mut rig, "t"), [(left("s"), vec![2])]);
    rig.feed(conn, &frame(op::HEARTBEAT, 3, b""));
    assert_eq!(told(&mut rig), []);
}

#[test]
fn a_client_at_a_traced_address_is_traced_from_its_accept() {
    let mut rig = Rig::new(1, Limits::default());
    trace(&mut rig, [Subject::Network("2001:db8::/32".parse().unwrap())]);
    let conn = rig.connect(0, Transport::Tcp);
    let address = "2001:db8::1".parse().unwrap();
    rig.shards[0].handle_source(conn, address);
    rig.feed(conn, &frame(op::AUTH, 1, b"nonsense"));
    let whats = whats(&mut rig);
    let read = TraceKind::Read { operation: op::AUTH, sequence: 1, bytes: 24 };
    assert_eq!(whats[..2], [TraceKind::Accepted { address }, read]);
    let refused = CloseReason::AuthRefused;
    assert!(whats.contains(&TraceKind::Closed { reason: refused }), "{whats:?}");
}

#[test]
fn an_event_is_for_all_traces_it_concerns() {
    let mut rig = Rig::new(1, Limits::default());
    trace(&mut rig, (0..LIVE_TRACES_MAX).map(|_| Subject::User(7)));
    rig.join(0, "7/k//");
    let all: Vec<_> = (1..=LIVE_TRACES_MAX as u64).map(TraceId).collect();
    assert!(told(&mut rig).iter().all(|event| *event.traces == all));
}
