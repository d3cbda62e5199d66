//! The trace log: the events of listed users, and their bound.

use std::sync::Arc;

use comet_core::limits::TRACE_EVENTS_MAX;
use comet_core::{CloseReason, Limits, Message, Report, TraceEvent, TraceKind, Transport};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, masked};

fn limits(trace_users: &[i64]) -> Limits {
    Limits { trace_users: trace_users.into(), ..Limits::default() }
}

fn events(rig: &mut Rig) -> Vec<TraceEvent> {
    let reports = rig.take_reports().into_iter();
    reports
        .filter_map(|report| match report {
            Report::Trace(event) => Some(*event),
            _ => None,
        })
        .collect()
}

fn whats(rig: &mut Rig) -> Vec<TraceKind> {
    events(rig).into_iter().map(|event| event.what).collect()
}

fn read(operation: i32, sequence: i32, bytes: u32) -> TraceKind {
    TraceKind::Read { operation, sequence, bytes }
}

fn wrote(operation: i32, sequence: i32, bytes: u32) -> TraceKind {
    TraceKind::Wrote { operation, sequence, bytes }
}

#[test]
fn every_event_of_a_listed_user_is_reported() {
    let mut rig = Rig::new(2, limits(&[7, 9]));
    rig.join(1, "8/other/r/");
    rig.pass(1_234);
    let conn = rig.join(0, "7/k/r/");
    let reported = events(&mut rig);
    assert!(
        reported.iter().all(|event| event.conn == conn && event.user == 7 && &*event.key == "k")
    );
    assert!(reported.iter().all(|event| event.at.0 == 1_234));
    let [first, second] = &reported[..] else { panic!("{reported:?}") };
    assert_eq!(first.what, TraceKind::Authenticated { room: Some("r".into()) });
    assert_eq!(second.what, wrote(op::AUTH_REPLY, 1, 16));

    rig.feed(conn, &[frame(2, 5, b""), frame(4, 6, b"hello")].concat());
    let expected = [read(2, 5, 16), read(4, 6, 21), wrote(3, 5, 20), wrote(4, 6, 16)];
    assert_eq!(whats(&mut rig), expected);
    rig.push_room("r", 5, b"push");
    rig.push_room("r", op::RAW, &[frame(5, 0, b"1"), frame(6, 2, b"22")].concat());
    assert_eq!(whats(&mut rig), [wrote(5, 0, 20), wrote(5, 0, 17), wrote(6, 2, 18)]);
    rig.feed(conn, &frame(9, 1, b""));
    let reason = CloseReason::RawFromClient;
    let notice = 16 + "operation 9 is the server's".len() as u32;
    let expected = [read(9, 1, 16), TraceKind::Closed { reason }, wrote(6, 0, notice)];
    assert_eq!(whats(&mut rig), expected);
}

#[test]
fn a_frame_is_written_with_its_last_byte_on_either_transport() {
    let mut rig = Rig::new(1, limits(&[7]));
    let tcp = rig.join(0, "7/tcp/r/");
    let websocket = rig.connect(0, Transport::WebSocket);
    rig.ask(websocket, &[UPGRADE, &masked(0x82, &frame(7, 1, b"7/ws//"))].concat());
    rig.ask(websocket, &masked(0x89, b"ping"));
    whats(&mut rig);
    rig.push_keys(&["ws"], op::RAW, &[frame(5, 0, b"1"), frame(6, 2, b"22")].concat());
    assert_eq!(whats(&mut rig), [wrote(5, 0, 17), wrote(6, 2, 18)]);

    rig.allow(tcp, Some(0));
    for body in [b"1", b"2", b"3"] {
        rig.push_keys(&["tcp"], 5, body);
    }
    // The first is in flight alone, the others wait behind it together.
    rig.allow(tcp, Some(17 + 16));
    assert_eq!(whats(&mut rig), [wrote(5, 0, 17)]);
    rig.allow(tcp, Some(1));
    assert_eq!(whats(&mut rig), [wrote(5, 0, 17)]);
    rig.allow(tcp, None);
    assert_eq!(whats(&mut rig), [wrote(5, 0, 17)]);
}

#[test]
fn the_list_changes_at_run_time() {
    let mut rig = Rig::new(2, limits(&[]));
    let conns = [0, 1].map(|shard| rig.join(shard, &format!("{}/k{shard}//", 7 + shard)));
    let listed = |users: &[i64]| Message::Configure { limits: Arc::new(limits(users)) };
    let told = |rig: &mut Rig| -> Vec<i64> {
        for conn in conns {
            rig.ask(conn, &frame(2, 1, b""));
        }
        let mut users: Vec<i64> = events(rig).iter().map(|event| event.user).collect();
        users.dedup();
        users
    };
    assert_eq!(told(&mut rig), []);
    rig.send_all(&listed(&[7]));
    assert_eq!(told(&mut rig), [7]);
    rig.send_all(&listed(&[8]));
    assert_eq!(told(&mut rig), [8]);
    rig.send_all(&listed(&[]));
    assert_eq!(told(&mut rig), []);
}

#[test]
fn events_beyond_the_bound_are_counted_and_reported_as_missed() {
    let mut rig = Rig::new(1, limits(&[7]));
    let conn = rig.join(0, "7/k//");
    whats(&mut rig);
    let asked = TRACE_EVENTS_MAX as u32 + 100;
    let heartbeats: Vec<u8> = (0..asked).flat_map(|_| frame(16, 1, b"")).collect();
    // Reports are taken only after everything was read.
    rig.allow(conn, Some(0));
    let mut limits = limits(&[7]);
    limits.cli_proto = u16::MAX;
    rig.send_all(&Message::Configure { limits: Arc::new(limits) });
    rig.feed(conn, &heartbeats);
    let told = whats(&mut rig);
    assert_eq!(told.len(), TRACE_EVENTS_MAX + 1);
    assert!(told[..TRACE_EVENTS_MAX].iter().all(|what| *what == read(16, 1, 16)));
    assert_eq!(told[TRACE_EVENTS_MAX], TraceKind::Missed { events: 100 });
    assert_eq!(rig.shards[0].counters().trace_missed, 100);
    rig.ask(conn, &frame(2, 1, b""));
    assert_eq!(whats(&mut rig), [read(2, 1, 16)]);
}
