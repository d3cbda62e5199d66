//! Gap markers of clients that catch up.

use comet_core::{ConnId, Limits, Message, SlowConsumer};
use comet_proto::{Position, RoomGap, RoomHandle, decode, op};

use crate::history::{TELL, Told, join_since, told};
use crate::rig::Rig;

use super::{history_position, limits, member, offsets};

/// A client that asks for missed pushes and reads nothing. A part of the history waits in its outbox, where newer pushes
/// replace it.
fn catching_up() -> (Rig, ConnId, RoomHandle) {
    let limits = Limits { outbox_bytes: 4_000, ..limits(SlowConsumer::DropOldest) };
    let mut rig = Rig::new(1, limits);
    let (conn, handle) = member(&mut rig, "r");
    let first = rig.push_room("r", TELL, b"push");
    assert_eq!(first.queued, 1);
    let all = told(&rig.take(conn));
    assert_eq!(offsets(&all), [1]);
    let position = history_position(&mut rig);
    rig.allow(conn, Some(0));
    (0..20).for_each(|_| _ = rig.push_room("r", TELL, &[b'x'; 500]));
    rig.feed(conn, &join_since("r", Some(Position { offset: 1, ..position })));
    (rig, conn, handle)
}

/// The client reads some more, and gets a push now and then. Returns the bytes that it has read.
fn round(rig: &mut Rig, conn: ConnId, round: usize) -> Vec<u8> {
    rig.allow(conn, Some(700));
    if round % 3 == 1 {
        (0..4).for_each(|_| _ = rig.push_keys(&["k"], 5, &[b'y'; 600]));
    }
    rig.take(conn)
}

#[test]
fn pushes_lost_while_a_client_catches_up_are_reported_as_gaps() {
    let (mut rig, conn, handle) = catching_up();
    let mut got: Vec<u8> = (0..40).flat_map(|number| round(&mut rig, conn, number)).collect();
    rig.allow(conn, None);
    got.extend(rig.take(conn));
    let mut of_room = Vec::new();
    while let Some((frame, consumed)) = decode(&got, 1 << 20).unwrap() {
        if frame.operation != 5 {
            of_room.extend_from_slice(&got[..consumed]);
        }
        got.drain(..consumed);
    }
    let mut known = 0;
    for told in told(&of_room) {
        match told {
            // The answer: everything since the first push.
            Told::Joined { .. } => known = 1,
            Told::Gap(RoomGap { first, last, .. }) if first <= known + 1 => known = known.max(last),
            Told::Push { offset, .. } if known > 0 => {
                assert!(offset <= known + 1, "{offset} after {known}");
                known = known.max(offset);
            }
            _ => {}
        }
    }
    assert_eq!(known, 21, "{handle:?}");
}

#[test]
fn no_gap_marker_follows_the_close_notice() {
    for rounds in 0..20 {
        let (mut rig, conn, _) = catching_up();
        let mut got: Vec<u8> = (0..rounds).flat_map(|at| round(&mut rig, conn, at)).collect();
        rig.send_all(&Message::Drain { over_ms: 0, retry_after_ms: 0 });
        rig.allow(conn, None);
        got.extend(rig.take(conn));
        let mut last = 0;
        while let Some((frame, consumed)) = decode(&got, 1 << 20).unwrap() {
            last = frame.operation;
            got.drain(..consumed);
        }
        assert_eq!(last, op::DISCONNECT_REPLY, "after {rounds} rounds");
    }
}
