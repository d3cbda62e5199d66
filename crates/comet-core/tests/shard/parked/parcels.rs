//! Parked pushes are sent together, and are still counted one by one.

use comet_core::{ConnId, Hangup, SlowConsumer, Tally, Transport};
use comet_proto::{decode, op};

use super::{PUSH, TOKEN, check_books, join, limits, parked, request, with};
use crate::rig::{Rig, UPGRADE, frame, frame_2, masked};

const BODIES: [&str; 3] = ["1", "a longer one", "3"];

/// A client on `transport` that comes back to a session with these pushes; its kernel takes `window` bytes.
fn come_back(rig: &mut Rig, transport: Transport, window: Option<usize>) -> ConnId {
    let (conn, ..) = join(rig, 0, TOKEN);
    rig.end(conn, Hangup::Cut(104));
    for body in BODIES {
        assert_eq!(rig.push_keys(&["k"], PUSH, body.as_bytes()), parked(1));
    }
    enter(rig, transport, window)
}

fn enter(rig: &mut Rig, transport: Transport, window: Option<usize>) -> ConnId {
    let conn = rig.connect(1, transport);
    rig.allow(conn, window);
    match transport {
        Transport::Tcp => rig.feed(conn, &request(TOKEN)),
        _ => {
            rig.feed(conn, UPGRADE);
            for frame in [frame_2(op::KEEP, 0, &[1]), frame_2(op::AUTH, 1, TOKEN.as_bytes())] {
                rig.feed(conn, &masked(0x82, &frame));
            }
        }
    }
    conn
}

/// The bodies of the pushes that `sent` contains completely.
fn bodies(transport: Transport, mut sent: &[u8]) -> Vec<String> {
    let mut bodies = Vec::new();
    if transport == Transport::WebSocket {
        let end = sent.windows(4).position(|end| end == b"\r\n\r\n");
        let Some(end) = end else { return bodies };
        sent = &sent[end + 4..];
    }
    loop {
        let message = match (transport, sent) {
            (Transport::Tcp, _) => sent,
            // Each frame is a message of its own, and none here is long.
            (_, [0x82, length @ 0..126, rest @ ..]) if rest.len() >= usize::from(*length) => rest,
            _ => return bodies,
        };
        let Ok(Some((frame, length))) = decode(message, usize::MAX) else { return bodies };
        if frame.operation == PUSH {
            bodies.push(String::from_utf8(frame.body.to_vec()).unwrap());
        }
        sent = &message[length..];
    }
}

fn sums(rig: &Rig) -> [u64; 4] {
    let mut sums = [0; 4];
    for shard in &rig.shards {
        let all = shard.counters();
        let of = [all.deliveries.queued, all.sent, all.lost, all.unsent];
        sums.iter_mut().zip(of).for_each(|(sum, more)| *sum += more);
    }
    sums
}

#[test]
fn a_connection_that_ends_amid_parked_pushes_leaves_the_rest_for_the_next() {
    for transport in [Transport::Tcp, Transport::WebSocket] {
        let mut rig = with(|_| {});
        let conn = come_back(&mut rig, transport, None);
        let all = rig.take(conn);
        assert_eq!(bodies(transport, &all), BODIES);
        let longest: usize =
            BODIES.iter().map(|body| frame(PUSH, 0, body.as_bytes()).len() + 2).sum();
        for cut in 1..=longest {
            let mut rig = with(|_| {});
            let conn = come_back(&mut rig, transport, Some(all.len() - cut));
            rig.end(conn, Hangup::Cut(104));
            let first = bodies(transport, &rig.take(conn));
            rig.run();
            let next = enter(&mut rig, Transport::Tcp, None);
            let mut came = first.clone();
            came.extend(bodies(Transport::Tcp, &rig.take(next)));
            assert_eq!(came, BODIES, "{transport:?} without its last {cut} bytes: {first:?} first");
            check_books(&rig);
            let unsent = BODIES.len() as u64 - first.len() as u64;
            let queued = BODIES.len() as u64 + unsent;
            assert_eq!(sums(&rig), [queued, BODIES.len() as u64, 0, unsent], "{cut}");
        }
    }
}

#[test]
fn a_hand_over_amid_parked_pushes_loses_and_repeats_none() {
    for transport in [Transport::Tcp, Transport::WebSocket] {
        let mut rig = with(|_| {});
        let conn = come_back(&mut rig, transport, None);
        let all = rig.take(conn);
        for left in [0, 1, 20, 40] {
            for ends in [false, true] {
                let mut rig = with(|_| {});
                let conn = come_back(&mut rig, transport, Some(all.len() - left));
                let conn = rig.upgrade(3)[&conn];
                let mut next = None;
                if ends {
                    rig.end(conn, Hangup::Cut(104));
                } else {
                    rig.allow(conn, None);
                    assert_eq!(rig.push_keys(&["k"], PUSH, b"4").queued, 1);
                }
                let first = rig.take(conn);
                let mut came = bodies(transport, &first);
                rig.run();
                if ends {
                    let conn = enter(&mut rig, transport, None);
                    came.extend(bodies(transport, &rig.take(conn)));
                    assert_eq!(came, BODIES, "{transport:?}, {left} bytes left");
                    next = Some(conn);
                } else {
                    assert_eq!(first[..all.len()], all, "{transport:?}, {left} bytes left");
                    assert_eq!(came, [&BODIES[..], &["4"]].concat());
                }
                check_books(&rig);
                let [queued, sent, lost, unsent] = sums(&rig);
                assert_eq!((queued, lost), (sent + unsent, 0), "{left} bytes left, {next:?}");
            }
        }
    }
}

/// Parked pushes are not dropped for newer ones, because the client was told their number.
#[test]
fn a_full_outbox_drops_no_parked_pushes() {
    for slow_consumer in [SlowConsumer::DropOldest, SlowConsumer::DropNewest] {
        let mut rig = Rig::new(2, comet_core::Limits { slow_consumer, svr_proto: 4, ..limits() });
        let conn = come_back(&mut rig, Transport::Tcp, Some(0));
        for body in ["4", "5", "6"] {
            rig.push_keys(&["k"], PUSH, body.as_bytes());
        }
        rig.allow(conn, None);
        let latest = if slow_consumer == SlowConsumer::DropOldest { "6" } else { "4" };
        assert_eq!(bodies(Transport::Tcp, &rig.take(conn)), [&BODIES[..], &[latest]].concat());
        let queued: u64 = rig.shards.iter().map(|shard| shard.counters().deliveries.queued).sum();
        let superseded: u64 = rig.shards.iter().map(|shard| shard.counters().superseded).sum();
        let [_, sent, lost, unsent] = sums(&rig);
        assert_eq!((queued, lost, unsent), (sent + superseded, 0, 0));
        check_books(&rig);
    }
}

#[test]
fn an_outbox_smaller_than_the_session_takes_the_parked_pushes_that_fit() {
    let mut rig = Rig::new(2, comet_core::Limits { svr_proto: 2, ..limits() });
    let conn = come_back(&mut rig, Transport::Tcp, None);
    assert_eq!(bodies(Transport::Tcp, &rig.take(conn)), BODIES[..2]);
    let mut tally = Tally::default();
    rig.shards.iter().for_each(|shard| tally += shard.counters().deliveries);
    assert_eq!((tally.queued, tally.dropped_total()), (2, 1));
    check_books(&rig);
}
