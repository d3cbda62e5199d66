//! What a shard costs without a kernel under it. Where a sample is one iteration, its preparation is not
//! measured.

mod rig;

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;

use comet_core::{Limits, SlowConsumer};
use comet_proto::VERSION_2;
use rig::{Rig, key, push, room};

/// Connections of a busy shard.
const CROWD: usize = 15_000;

fn main() {
    divan::main();
}

/// A push to a room whose members have nothing pending, into every outbox.
#[divan::bench(args = [1_000, CROWD], sample_size = 1)]
fn room_walk(bencher: Bencher, members: usize) {
    let rig = RefCell::new(Rig::with_members(1, members, 1));
    let (room, push) = (room(0).into(), push(128));
    bencher
        .counter(ItemsCount::new(members))
        .with_inputs(|| rig.borrow_mut().send_all())
        .bench_local_values(|()| {
            assert_eq!(rig.borrow_mut().push_room(&room, &push), members as u64);
        });
}

/// `frames` pushes to a room of 1,000, one send for each member, and its completion.
#[divan::bench(args = [1, 20])]
fn outbox(bencher: Bencher, frames: usize) {
    const MEMBERS: usize = 1_000;
    let mut rig = Rig::with_members(1, MEMBERS, 1);
    let (room, push) = (room(0).into(), push(128));
    bencher.counter(ItemsCount::new(frames * MEMBERS)).bench_local(|| {
        for _ in 0..frames {
            assert_eq!(rig.push_room(&room, &push), MEMBERS as u64);
        }
        rig.send_all();
    });
}

/// `frames` pushes to a room of 1,000 that wait behind a send, then all sends of them.
#[divan::bench(args = [1_000, 10_000], sample_size = 1)]
fn backlog(bencher: Bencher, frames: usize) {
    const MEMBERS: usize = 1_000;
    let limits = Limits { svr_proto: u16::MAX, outbox_bytes: 1 << 30, ..rig::limits() };
    let rig = RefCell::new(Rig::with_limits(1, limits));
    rig.borrow_mut().connect(MEMBERS, 1);
    let (room, push) = (room(0).into(), push(128));
    bencher
        .counter(ItemsCount::new(frames * MEMBERS))
        .with_inputs(|| {
            let mut rig = rig.borrow_mut();
            for _ in 0..frames {
                rig.push_room(&room, &push);
            }
        })
        .bench_local_values(|()| rig.borrow_mut().send_all());
}

/// What a full outbox does, and in what the outboxes of clients that do not read differ.
const STALLED: [(SlowConsumer, Differ); 8] = [
    (SlowConsumer::DropNewest, Differ::Nowhere),
    (SlowConsumer::DropNewest, Differ::Taken),
    (SlowConsumer::DropNewest, Differ::Begin),
    (SlowConsumer::DropNewest, Differ::Reply),
    (SlowConsumer::DropOldest, Differ::Nowhere),
    (SlowConsumer::DropOldest, Differ::Taken),
    (SlowConsumer::DropOldest, Differ::Begin),
    (SlowConsumer::DropOldest, Differ::Reply),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Differ {
    Nowhere,
    /// In the bytes that the kernel took of the frame under way: 100 kinds.
    Taken,
    /// And in the push that it took no more of: 200 kinds.
    Begin,
    /// Each has a reply of its own among what waits.
    Reply,
}

/// A push to a room of 4,000. Every other client does not read, and its outbox is full.
#[divan::bench(args = STALLED, sample_size = 1)]
fn stalled(bencher: Bencher, (slow_consumer, differ): (SlowConsumer, Differ)) {
    const MEMBERS: usize = 4_000;
    let limits = Limits { slow_consumer, ..rig::limits() };
    let full = usize::from(limits.svr_proto);
    let mut rig = Rig::with_limits(1, limits);
    rig.connect(MEMBERS, 1);
    let (room, push) = (room(0).into(), push(128));
    let begins = if differ == Differ::Begin { 200 } else { 1 };
    let kinds = if differ == Differ::Nowhere { 1 } else { 100 };
    for pushes in 0..begins + 2 * full {
        rig.push_room(&room, &push);
        rig.begin_sends();
        rig.complete_sends(|number| {
            let begin = number / 2 % begins;
            match number % 2 == 0 && pushes >= begin {
                true if pushes == begin => 1 + number / 2 % kinds,
                true => 0,
                false => usize::MAX,
            }
        });
        if pushes == full / 2 && differ == Differ::Reply {
            // With a number of its own each.
            rig.heartbeat_each();
        }
    }
    let rig = RefCell::new(rig);
    bencher
        .counter(ItemsCount::new(MEMBERS))
        .with_inputs(|| {
            let mut rig = rig.borrow_mut();
            rig.begin_sends();
            rig.complete_sends(|number| if number % 2 == 0 { 0 } else { usize::MAX });
        })
        .bench_local_values(|()| rig.borrow_mut().push_room(&room, &push));
}

/// 10,000 connections in `rooms` rooms: one push to each room, sends and completions.
#[divan::bench(args = [1, 100, 10_000])]
fn rooms(bencher: Bencher, rooms: usize) {
    const MEMBERS: usize = 10_000;
    let mut rig = Rig::with_members(1, MEMBERS, rooms);
    let names: Vec<Arc<str>> = (0..rooms).map(|number| room(number).into()).collect();
    let push = push(128);
    bencher.counter(ItemsCount::new(MEMBERS)).bench_local(|| {
        let queued: u64 = names.iter().map(|room| rig.push_room(room, &push)).sum();
        assert_eq!(queued, MEMBERS as u64);
        rig.send_all();
    });
}

/// 99 joins of each of 1,000 connections, to rooms of 99 or to rooms of their own, with the replies.
#[divan::bench(args = [1_000, 99_000], sample_size = 1)]
fn further_rooms(bencher: Bencher, rooms: usize) {
    const MEMBERS: usize = 1_000;
    const EACH: usize = 99;
    let connected = || {
        let mut rig = Rig::with_limits(1, rig::limits());
        rig.version = VERSION_2;
        rig.connect(MEMBERS, 1);
        rig
    };
    bencher.counter(ItemsCount::new(MEMBERS * EACH)).with_inputs(connected).bench_local_values(
        |mut rig| {
            rig.enter_rooms(EACH, rooms);
            // What ends a rig is not measured.
            rig
        },
    );
}

/// A push to a room with members on all shards, one of which is its home: the message between them, sends
/// and completions.
#[divan::bench(args = [1, 2])]
fn shards(bencher: Bencher, shards: u16) {
    const MEMBERS: usize = 1_000;
    let mut rig = Rig::with_members(shards, MEMBERS, 1);
    let (room, push) = (room(0).into(), push(128));
    bencher.counter(ItemsCount::new(MEMBERS)).bench_local(|| {
        assert_eq!(rig.push_room(&room, &push), MEMBERS as u64);
        rig.send_all();
    });
}

/// A push to `keys` keys of 15,000, sends and completions.
#[divan::bench(args = [1, 500])]
fn keys(bencher: Bencher, keys: usize) {
    let mut rig = Rig::with_members(1, CROWD, 1);
    let keys: Vec<Box<str>> = (0..keys).map(|number| key(number * 29).into()).collect();
    let push = push(128);
    bencher.counter(ItemsCount::new(keys.len())).bench_local(|| {
        assert_eq!(rig.push_keys(black_box(&keys), &push), keys.len() as u64);
        rig.send_all();
    });
}

/// The deadlines of a second: 15,000 connections, each with a heartbeat every 30 seconds, of 60 allowed.
#[divan::bench(sample_size = 1)]
fn wheel_second(bencher: Bencher) {
    let rig = RefCell::new(Rig::with_members(1, CROWD, 1));
    bencher
        .with_inputs(|| {
            let mut rig = rig.borrow_mut();
            rig.heartbeat(CROWD / 30);
            rig.send_all();
        })
        .bench_local_values(|()| {
            let mut rig = rig.borrow_mut();
            for _ in 0..20 {
                rig.pass(50);
            }
        });
    assert!(rig.borrow_mut().shards[0].poll_closed().is_none(), "all deadlines were moved in time");
}

/// A heartbeat, its reply sent.
#[divan::bench]
fn heartbeats(bencher: Bencher) {
    const COUNT: usize = 100;
    let mut rig = Rig::with_members(1, CROWD, 1);
    bencher.counter(ItemsCount::new(COUNT)).bench_local(|| {
        rig.heartbeat(COUNT);
        rig.send_all();
    });
}

/// Accept, token, claim of the key, room, reply; beside 15,000 other connections.
#[divan::bench(sample_size = 1)]
fn connect(bencher: Bencher) {
    const COUNT: usize = 1_000;
    let rig = RefCell::new(Rig::with_members(1, CROWD + COUNT, 1));
    bencher
        .counter(ItemsCount::new(COUNT))
        .with_inputs(|| rig.borrow_mut().hang_up(COUNT))
        .bench_local_values(|()| rig.borrow_mut().connect(COUNT, 1));
}

/// The end of a connection: it leaves room, key and user, and its slot is free.
#[divan::bench(sample_size = 1)]
fn disconnect(bencher: Bencher) {
    const COUNT: usize = 1_000;
    let rig = RefCell::new(Rig::with_members(1, CROWD, 1));
    bencher
        .counter(ItemsCount::new(COUNT))
        .with_inputs(|| rig.borrow_mut().connect(COUNT, 1))
        .bench_local_values(|()| rig.borrow_mut().hang_up(COUNT));
}
