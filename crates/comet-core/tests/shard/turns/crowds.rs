//! Pushes to crowds: large rooms and broadcasts, in slices that take turns with other pushes.

use std::sync::Arc;

use comet_core::limits::{
    CROWD_ABOVE, CROWD_BYTES, CROWD_SLICE, CROWD_UNITS, CROWDS_MAX, OWNERS_MAX,
};
use comet_core::{Budget, ConnId, Limits, LocalConnId, Message, Shard, Transport};
use comet_proto::op;

use crate::rig::{UPGRADE, frame, masked, push};

use super::counting::{CALL, Core};

const MEMBERS: usize = 4 * CROWD_SLICE;
const SLICE: u64 = CROWD_SLICE as u64;

/// A shard with `members` clients in the room `r`. A turn has one slice, and a room with more members than a slice is a crowd.
fn core(members: usize, limits: Limits) -> Core {
    let limits = Limits { crowd_above: limits.crowd_slice, ..limits };
    let mut core = Core::with_members(1, limits, members);
    core.turn(|_| {});
    core.slices = 1;
    core
}

fn to_room(body: &[u8]) -> Message {
    Message::DeliverRoom { call: CALL, room: "r".into(), push: push(5, body) }
}

fn to_all() -> Message {
    Message::Broadcast { call: CALL, push: push(5, b"all"), speed: None }
}

#[test]
fn a_push_to_few_waits_for_one_slice_of_a_crowd() {
    let mut core = core(MEMBERS, Limits::default());
    let first = core.turn(|shard| shard.handle_message(to_room(b"crowd")));
    assert_eq!((first.deliveries, first.transmits, first.reports), (SLICE, SLICE, 0));
    assert!(core.shard.takes_pushes());
    // The client is among the last of the crowd.
    let conns = vec![core.clients[MEMBERS - 1].local()];
    let message = Message::DeliverConns { call: CALL, conns, push: push(5, b"few") };
    let second = core.turn(|shard| shard.handle_message(message));
    assert_eq!((second.deliveries, second.transmits, second.reports), (SLICE + 1, SLICE + 1, 1));
    // The push of the crowd is offered to it nevertheless.
    let rest: Vec<_> = (0..2).map(|_| core.turn(|_| {})).collect();
    assert_eq!(rest.iter().map(|turn| turn.deliveries).sum::<u64>(), 2 * SLICE);
    assert_eq!((rest[1].reports, core.shard.has_crowds()), (1, false));
}

#[test]
fn pushes_that_come_meanwhile_are_sent_together() {
    let mut core = core(MEMBERS, Limits::default());
    core.turn(|shard| shard.handle_message(to_room(b"first")));
    core.turn(|shard| (0..10).for_each(|_| shard.handle_message(to_room(b"next"))));
    let mut turns = Vec::new();
    while core.shard.has_crowds() {
        turns.push(core.turn(|_| {}));
    }
    // Two slices of the first push are left, and four of the others.
    let transmits: Vec<u64> = turns.iter().map(|turn| turn.transmits).collect();
    assert_eq!(transmits, [SLICE; 6]);
    let reports: Vec<u64> = turns.iter().map(|turn| turn.reports).collect();
    assert_eq!(reports, [0, 1, 0, 0, 0, 10]);
    assert_eq!(core.shard.counters().deliveries.queued, 11 * MEMBERS as u64);
}

#[test]
fn a_long_batch_is_offered_to_fewer_at_once() {
    const BATCH: usize = 100;
    let mut core = core(MEMBERS, Limits::default());
    core.turn(|shard| shard.handle_message(to_room(b"first")));
    for _ in 0..BATCH {
        core.shard.handle_message(to_room(b"next"));
        core.shard.handle_pushes(&mut Budget::slice(), |_| None);
    }
    let mut total = 0;
    while core.shard.has_crowds() {
        let work = core.turn(|_| {});
        assert!(work.deliveries <= CROWD_UNITS as u64, "{}", work.deliveries);
        total += work.deliveries;
    }
    assert_eq!(total, (MEMBERS * (BATCH + 1)) as u64 - SLICE);
}

/// The kernel copies each byte of each send, so a slice has a bound of bytes, too.
#[test]
fn large_pushes_are_offered_to_fewer_at_once() {
    const ALL: usize = CROWD_SLICE;
    let mut core = core(ALL, Limits::default());
    let conns = locals(&core.clients);
    let call = CALL;
    let push = |bytes| push(5, &vec![0; bytes]);
    for (bytes, slice) in [(100, ALL), (8_000, ALL), (100_000, 83), (1 << 20, 7), (9 << 20, 1)] {
        let cases = [
            ("a room", Message::DeliverRoom { call, room: "r".into(), push: push(bytes) }),
            ("everybody", Message::Broadcast { call, push: push(bytes), speed: None }),
            ("keys", Message::DeliverConns { call, conns: conns.clone(), push: push(bytes) }),
        ];
        for (case, message) in cases {
            let mut turns = vec![core.turn(|shard| shard.handle_message(message)).deliveries];
            while core.shard.has_crowds() {
                turns.push(core.turn(|_| {}).deliveries);
            }
            core.turn(|_| {});
            let last = turns.pop().expect("there is one");
            assert!(turns.iter().all(|turn| *turn == slice as u64), "{case}, {bytes}: {turns:?}");
            assert!(last <= slice as u64, "{case}, {bytes}: {last}");
            assert_eq!(turns.iter().sum::<u64>() + last, ALL as u64, "{case}, {bytes}");
            assert!(slice == 1 || slice * bytes <= CROWD_BYTES, "{bytes}");
        }
    }
}

#[test]
fn a_push_to_many_keys_is_a_crowd() {
    // Their home finds half of them in a message.
    const MEMBERS: usize = 2 * OWNERS_MAX;
    const SLICE: u64 = OWNERS_MAX as u64 / 2;
    let mut core = core(MEMBERS, Limits { crowd_slice: SLICE as usize, ..Limits::default() });
    let keys = (0..MEMBERS).map(|slot| slot.to_string().into()).collect();
    let many = Message::PushKeys { call: CALL, keys, push: push(5, b"many") };
    let few = |core: &Core, client: usize| {
        let conns = locals(&core.clients[client..=client]);
        Message::DeliverConns { call: CALL, conns, push: push(5, b"few") }
    };
    core.slices = 1;
    core.shard.handle_message(many);
    let mut turns = Vec::new();
    while core.shard.has_pushes() {
        turns.push(core.turn(|_| {}));
    }
    // A client that has got the push gets the next one at once; other clients get it in the turn of the crowd.
    let (first, last) = (few(&core, 0), few(&core, MEMBERS - 1));
    turns.push(core.turn(|shard| shard.handle_message(first)));
    assert_eq!(turns.last().map(|turn| turn.deliveries), Some(SLICE + 1));
    turns.push(core.turn(|shard| shard.handle_message(last)));
    assert_eq!(turns.last().map(|turn| turn.deliveries), Some(SLICE));
    while core.shard.has_crowds() {
        turns.push(core.turn(|_| {}));
    }
    let deliveries: Vec<u64> = turns.iter().map(|turn| turn.deliveries).collect();
    assert!(deliveries.iter().all(|turn| *turn <= SLICE + 1), "{deliveries:?}");
    assert_eq!(deliveries.iter().sum::<u64>(), MEMBERS as u64 + 2);
}

fn locals(clients: &[ConnId]) -> Vec<LocalConnId> {
    clients.iter().map(|conn| conn.local()).collect()
}

#[test]
fn crowds_take_turns() {
    let mut core = core(MEMBERS, Limits::default());
    let reports = |core: &mut Core, message: Option<Message>| {
        core.turn(|shard| message.into_iter().for_each(|one| shard.handle_message(one))).reports
    };
    assert_eq!(reports(&mut core, Some(to_room(b"room"))), 0);
    assert_eq!(reports(&mut core, Some(to_all())), 0);
    // Two slices of the room are left and four of all.
    let ends: Vec<u64> =
        std::iter::from_fn(|| core.shard.has_crowds().then(|| reports(&mut core, None))).collect();
    assert_eq!(ends, [0, 0, 0, 1, 0, 1]);
}

/// A crowd of twelve slices does not starve one of two.
#[test]
fn a_large_crowd_leaves_a_small_one_its_turns() {
    const LARGE: usize = 12;
    let mut core = core(LARGE + 2, Limits { crowd_slice: 1, ..Limits::default() });
    let movers = core.clients[LARGE..].to_vec();
    core.slices = usize::MAX;
    core.turn(|shard| {
        for conn in movers {
            shard.handle_recv(conn, &frame(op::CHANGE_ROOM, 2, b"small"));
        }
    });
    core.turn(|_| {});
    core.slices = 1;
    let small = Message::DeliverRoom { call: CALL, room: "small".into(), push: push(5, b"small") };
    // A batch of pushes to the large one waits, too.
    core.turn(|shard| (0..3).for_each(|_| shard.handle_message(to_room(b"large"))));
    core.turn(|_| {});
    let mut reports = vec![core.turn(|shard| shard.handle_message(small)).reports];
    while core.shard.has_crowds() {
        reports.push(core.turn(|_| {}).reports);
    }
    assert_eq!(reports.iter().position(|reports| *reports > 0), Some(3), "{reports:?}");
    assert_eq!(reports.iter().sum::<u64>(), 4);
}

#[test]
fn a_room_that_one_turn_sends_to_is_no_crowd() {
    let mut core = Core::with_members(1, Limits::default(), CROWD_ABOVE);
    core.turn(|_| {});
    let work = core.turn(|shard| shard.handle_message(to_room(b"x")));
    assert_eq!((work.transmits, work.reports), (CROWD_ABOVE as u64, 1));
    assert!(!core.shard.has_crowds());
}

/// Its accept, its upgrade and its token wait for the sends of a turn each.
#[test]
fn a_client_that_connects_beside_a_crowd_waits_for_few_sends() {
    let mut core = Core::with_members(1, Limits::default(), 2 * CROWD_ABOVE);
    core.turn(|_| {});
    core.slices = 1;
    let token = masked(0x82, &frame(op::AUTH, 1, b""));
    let mut conn = None;
    let accept = |shard: &mut Shard| conn = shard.handle_accept(Transport::WebSocket);
    core.shard.handle_message(to_room(b"x"));
    let mut turns = vec![core.turn(accept)];
    let conn = conn.expect("the shard is not full");
    for bytes in [UPGRADE, &token] {
        turns.push(core.turn(|shard| shard.handle_recv(conn, bytes)));
    }
    assert!(core.in_flight.iter().any(|(sent, _)| *sent == conn), "the reply");
    let sends: u64 = turns.iter().map(|turn| turn.transmits).sum();
    assert!(core.shard.has_crowds() && sends < 1_000, "{turns:?}");
}

/// The remaining pushes wait in the inbox.
#[test]
fn a_crowd_has_as_many_pushes_waiting_as_a_turn_takes() {
    let limits = Limits { svr_proto: 20, ..Limits::default() };
    let mut core = core(MEMBERS, limits);
    let mut taken = 0;
    while core.shard.takes_pushes() {
        core.shard.handle_message(to_room(b"x"));
        core.shard.handle_pushes(&mut Budget::slice(), |_| None);
        taken += 1;
    }
    // Half an outbox of them waits for the crowd's turn.
    assert_eq!(taken, 10);
    while core.shard.has_crowds() {
        core.turn(|_| {});
    }
    assert_eq!(core.shard.counters().deliveries.dropped_total(), 0);
    assert!(core.shard.takes_pushes());
}

#[test]
fn a_shard_has_a_bound_of_crowds() {
    let mut core = core(2 * CROWDS_MAX, Limits { crowd_slice: 1, ..Limits::default() });
    let name = |client: usize| format!("room{}", client / 2);
    core.slices = usize::MAX;
    let clients = core.clients.clone();
    core.turn(|shard| {
        for (client, conn) in clients.into_iter().enumerate() {
            shard.handle_recv(conn, &frame(op::CHANGE_ROOM, 2, name(client).as_bytes()));
        }
    });
    core.turn(|_| {});
    for client in (0..2 * CROWDS_MAX).step_by(2) {
        assert!(core.shard.takes_pushes());
        let room: Arc<str> = name(client).into();
        core.shard.handle_message(Message::DeliverRoom { call: CALL, room, push: push(5, b"x") });
        core.shard.handle_pushes(&mut Budget::slice(), |_| None);
    }
    assert!(!core.shard.takes_pushes());
    // One of them ends.
    core.slices = CROWDS_MAX + 1;
    assert_eq!(core.turn(|_| {}).reports, 1);
    assert!(core.shard.takes_pushes());
}
