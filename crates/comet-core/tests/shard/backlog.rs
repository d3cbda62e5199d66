//! Clients that are behind: which frames count against their bounds, and what equal outboxes share.

use comet_core::limits::WINDOW;
use comet_core::{CloseReason, DropReason, Limits, SlowConsumer, Transport};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, masked, plain};

const STALLED: usize = 200;

/// Clients in the room `r` whose sockets take no more bytes.
fn stalled(rig: &mut Rig, transport: Transport) -> Vec<comet_core::ConnId> {
    let conns: Vec<_> = (0..STALLED)
        .map(|_| {
            let conn = rig.connect(0, transport);
            let auth = frame(op::AUTH, 1, b"//r/");
            match transport {
                Transport::Tcp => rig.ask(conn, &auth),
                Transport::WebSocket => rig.ask(conn, &[UPGRADE, &masked(0x82, &auth)].concat()),
                Transport::EventStream => unreachable!("clients that send frames"),
            };
            conn
        })
        .collect();
    conns.iter().for_each(|&conn| rig.allow(conn, Some(0)));
    conns
}

#[test]
fn frames_that_the_kernel_took_count_as_sent_and_free_their_space() {
    let body = [0; 84];
    let by_count = Limits { svr_proto: 4, ..Limits::default() };
    let by_bytes = Limits { outbox_bytes: 400, ..Limits::default() };
    for limits in [by_count, by_bytes] {
        let mut rig = Rig::new(1, limits);
        let conn = rig.join(0, "/k//");
        rig.allow(conn, Some(0));
        // One is in flight, three wait.
        for _ in 0..4 {
            assert_eq!(rig.push_keys(&["k"], 5, &body).queued, 1);
        }
        let dropped = rig.push_keys(&["k"], 5, &body).dropped;
        assert_eq!(dropped[DropReason::OutboxFull as usize], 1);
        // The kernel takes the first frame, and two and a half of the other three, which are one send.
        rig.allow(conn, Some(350));
        assert_eq!(rig.shards[0].counters().sent, 3);
        assert_eq!(rig.shards[0].counters().waiting_bytes, 50);
        for _ in 0..3 {
            assert_eq!(rig.push_keys(&["k"], 5, &body).queued, 1);
        }
        assert_eq!(rig.push_keys(&["k"], 5, &body).queued, 0);
        rig.allow(conn, None);
        assert_eq!(rig.take(conn), frame(5, 0, &body).repeat(7));
        assert_eq!(rig.shards[0].counters().waiting, 0);
    }
}

#[test]
fn a_backlog_leaves_in_windows() {
    let limits = Limits { svr_proto: 20_000, ..Limits::default() };
    for body in [4, 1_100, 100_000] {
        let mut rig = Rig::new(1, limits.clone());
        let conn = rig.join(0, "/k//");
        rig.allow(conn, Some(0));
        let mut queued = 0;
        while rig.push_keys(&["k"], 5, &vec![0; body]).queued == 1 && queued < 20_000 {
            queued += 1;
        }
        let bytes = queued * (16 + body);
        let before = rig.shards[0].counters().sends;
        rig.allow(conn, None);
        assert_eq!(rig.take(conn).len(), bytes);
        // The frame in flight, and then windows. Frames are a little longer on a WebSocket.
        let sends = rig.shards[0].counters().sends - before;
        assert!(sends as usize <= bytes * 5 / 4 / WINDOW + 1, "{sends} sends of {bytes} bytes");
    }
}

#[test]
fn drop_oldest_keeps_the_newest_of_each_and_counts_the_others() {
    let limits =
        Limits { svr_proto: 8, slow_consumer: SlowConsumer::DropOldest, ..Limits::default() };
    let mut rig = Rig::new(1, limits);
    let conns = stalled(&mut rig, Transport::Tcp);
    let reader = rig.join(0, "//r/");
    let body = |number: u32| number.to_be_bytes();
    for number in 0..100 {
        assert_eq!(rig.push_room("r", 5, &body(number)).queued, STALLED as u64 + 1);
        assert_eq!(rig.take(reader), frame(5, 0, &body(number)));
        // A reply keeps its place, and is not dropped.
        if number == 50 {
            rig.feed(conns[0], &frame(op::SUBSCRIBE, 9, b""));
        }
    }
    let counters = rig.shards[0].counters();
    assert_eq!(
        (counters.superseded, counters.displaced),
        (92 * STALLED as u64, 92 * STALLED as u64)
    );
    assert_eq!(counters.waiting, 8 * STALLED as u64);
    let pushes = |numbers: std::ops::Range<u32>| -> Vec<u8> {
        numbers.flat_map(|number| frame(5, 0, &body(number))).collect()
    };
    for (at, conn) in conns.into_iter().enumerate() {
        rig.allow(conn, None);
        let reply = if at == 0 { frame(op::SUBSCRIBE_REPLY, 9, b"") } else { Vec::new() };
        assert_eq!(rig.take(conn), [pushes(0..1), reply, pushes(93..100)].concat());
    }
    assert_eq!(rig.shards[0].counters().waiting_bytes, 0);
}

#[test]
fn a_room_closed_as_slow_shares_its_last_send() {
    for transport in [Transport::Tcp, Transport::WebSocket] {
        let limits =
            Limits { svr_proto: 8, slow_consumer: SlowConsumer::Close, ..Limits::default() };
        let mut rig = Rig::new(1, limits);
        let conns = stalled(&mut rig, transport);
        for _ in 0..8 {
            assert_eq!(rig.push_room("r", 5, b"x").queued, STALLED as u64);
        }
        assert_eq!(rig.push_room("r", 5, b"x").queued, 0);
        // The send in flight ends, and the rest follows in one buffer for all.
        let first = match transport {
            Transport::Tcp => frame(5, 0, b"x"),
            Transport::WebSocket => plain(0x82, &frame(5, 0, b"x")),
            Transport::EventStream => unreachable!("clients that send frames"),
        };
        for &conn in &conns {
            assert_eq!(rig.reason(conn), CloseReason::SlowConsumer);
            rig.shards[0].handle_sent(conn, first.len());
        }
        let mut sends = Vec::new();
        while let Some(transmit) = rig.shards[0].poll_transmit() {
            sends.push(
                transmit.slices.map(|slice| (slice.as_ptr(), slice.len())).collect::<Vec<_>>(),
            );
        }
        assert_eq!(sends.len(), STALLED);
        sends.dedup();
        assert_eq!(sends.len(), 1);
        assert_eq!(sends[0].len(), 1);
    }
}

/// The bytes that the outboxes of the only shard hold.
fn held(rig: &Rig) -> u64 {
    rig.shards[0].counters().held_bytes
}

#[test]
fn outboxes_that_hold_too_much_together_are_full_but_for_clients_that_keep_up() {
    let bound = 100_000;
    let mut rig = Rig::new(1, Limits { outbox_memory: bound, ..Limits::default() });
    let body = [0; 9_900];
    let slow = rig.join(0, "/slow//");
    rig.allow(slow, Some(0));
    let queued = (0..20).map(|_| rig.push_keys(&["slow"], 5, &body).queued).sum::<u64>();
    assert!((10..12).contains(&queued), "{queued} of 20");
    // A client that keeps up still gets pushes.
    let quick = rig.join(0, "/quick//");
    for _ in 0..20 {
        assert_eq!(rig.push_keys(&["quick"], 5, &body).queued, 1);
        assert_eq!(rig.take(quick), frame(5, 0, &body));
    }
    // Many others that are stalled, with a push each: up to an eighth beyond the bound.
    for number in 0..10 {
        let key = format!("k{number}");
        let conn = rig.join(0, &format!("/{key}//"));
        rig.allow(conn, Some(0));
        rig.push_keys(&[&key], 5, &body);
        assert!(held(&rig) <= bound + bound / 8 + 10_000, "{}", held(&rig));
    }
    let refused = rig.push_keys(&["quick"], 5, &body).dropped;
    assert_eq!(refused[DropReason::OutboxFull as usize], 1);
    // What is sent makes space.
    rig.allow(slow, None);
    assert_eq!(rig.take(slow), frame(5, 0, &body).repeat(queued as usize));
    assert_eq!(rig.push_keys(&["quick"], 5, &body).queued, 1);
}

#[test]
fn drop_oldest_gives_memory_back_where_outboxes_hold_too_much_together() {
    let limits = Limits {
        outbox_memory: 100_000,
        slow_consumer: SlowConsumer::DropOldest,
        ..Limits::default()
    };
    let mut rig = Rig::new(1, limits);
    let conns = stalled(&mut rig, Transport::Tcp);
    for _ in 0..100 {
        assert_eq!(rig.push_room("r", 5, &[0; 9_900]).queued, STALLED as u64);
        assert!(held(&rig) <= 120_000, "{}", held(&rig));
    }
    for conn in conns {
        rig.allow(conn, None);
    }
    let counters = rig.shards[0].counters();
    assert_eq!((counters.waiting, counters.held_bytes), (0, 0));
    assert_eq!(counters.sent + counters.superseded, 100 * STALLED as u64);
}

/// Each client has a reply among its pushes, so no two outboxes have the same content. They still share the pushes.
#[test]
fn a_push_that_many_outboxes_hold_takes_its_bytes_once() {
    const PUSHES: usize = 30;
    let limits = Limits {
        svr_proto: 8,
        outbox_memory: 1_000_000,
        slow_consumer: SlowConsumer::DropOldest,
        ..Limits::default()
    };
    let mut rig = Rig::new(1, limits);
    let conns = stalled(&mut rig, Transport::Tcp);
    let body = [0; 9_900];
    for number in 0..PUSHES {
        assert_eq!(rig.push_room("r", 5, &body).queued, STALLED as u64);
        if number == 4 {
            for (at, &conn) in conns.iter().enumerate() {
                rig.feed(conn, &frame(op::SUBSCRIBE, at as i32, b""));
            }
        }
        // The outboxes hold at most as many dropped pushes as waiting ones, and the replies.
        assert!(held(&rig) <= 17 * 10_000 + STALLED as u64 * 1_000, "{}", held(&rig));
    }
    assert_eq!(rig.shards[0].counters().superseded, (PUSHES - 8) as u64 * STALLED as u64);
    for conn in conns {
        rig.allow(conn, None);
        assert_eq!(rig.take(conn).len(), 8 * (16 + body.len()) + 16);
    }
    assert_eq!((rig.shards[0].counters().waiting, held(&rig)), (0, 0));
}
