//! Announcements that hosts have not made yet, and those that they repeat.

use std::ops::Range;

use super::*;

/// Announcing this many rooms takes longer than hosts take to settle.
const MANY_ROOMS: usize = 110_000;
const MINUTE_MS: u64 = 60_000;

/// A host of its own with a room, which knows one other.
fn host(seed: u64) -> Cluster<u32> {
    let mut cluster = Cluster::new("a".into(), true, seed);
    cluster.set_interest(Millis(0), &"r".into(), true);
    cluster.handle_event(Millis(0), Event::Connected);
    cluster.handle_event(Millis(0), Event::Announced { host: "b".into(), reads_stream: false });
    told(&mut cluster, Millis(0));
    cluster
}

/// The rooms announced when that is due, and whether others are asked about each.
fn told(cluster: &mut Cluster<u32>, now: Millis) -> Vec<(String, bool)> {
    cluster.handle_timeout(now);
    let commands = std::iter::from_fn(|| cluster.poll_command());
    let told = commands.filter_map(|command| match command {
        Command::AnnounceInterest { room, has_members: true, asks } => {
            Some((room.to_string(), asks))
        }
        _ => None,
    });
    told.collect()
}

/// The times at which all rooms are announced in these seconds, with `lost` notices so far in each.
fn tellings(cluster: &mut Cluster<u32>, seconds: Range<u64>, lost: fn(u64) -> u64) -> Vec<u64> {
    let mut times = Vec::new();
    for second in seconds {
        for now in (0..10).map(|tenth| Millis(second * 1_000 + tenth * 100)) {
            cluster.note_lost(now, lost(second));
            cluster.handle_event(now, Event::Announced { host: "b".into(), reads_stream: false });
            times.extend(told(cluster, now).iter().map(|_| now.0));
        }
    }
    times
}

fn may_miss_hosts(cluster: &mut Cluster<u32>, now: Millis) -> bool {
    let reply = ReplyTo("b 1".into());
    cluster.part(now, &room("r"), Tally::default(), &reply).may_miss_hosts
}

/// NATS was restarted. The hosts announce their rooms in the same order.
#[test]
fn hosts_do_not_rely_on_rooms_that_are_not_announced_yet() {
    let mut world = World::new(&["a", "b", "c"]);
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        world.event(name, Event::Disconnected);
        let host = world.hosts.get_mut(name).unwrap();
        for room in 0..MANY_ROOMS {
            host.cluster.set_interest(world.now, &format!("{name}{room}").into(), true);
        }
        host.cluster.set_interest(world.now, &"z".into(), true);
        host.members.insert("z".into(), number as u64 + 1);
    }
    ["a", "b", "c"].into_iter().for_each(|name| world.event(name, Event::Connected));
    for _ in 0..SETTLE_MS / ANNOUNCE_EVERY_MS + 2 {
        world.pass(ANNOUNCE_EVERY_MS);
    }
    let is_told = |world: &World, name| world.hosts[name].cluster.rooms.asked("z").is_some();
    assert!(!is_told(&world, "a"));
    let outcome = world.push("a", room("z")).expect("both have answered");
    assert_eq!((outcome.tally.matched, outcome.unanswered), (5, vec![]));
    while !is_told(&world, "a") {
        world.pass(ANNOUNCE_EVERY_MS);
    }
    // The answers have time to arrive.
    let told_at = world.now;
    while !world.hosts["a"].cluster.is_known(world.now, "z") {
        world.pass(ANNOUNCE_EVERY_MS);
    }
    assert_eq!(world.now, told_at.after(SETTLE_MS));
}

/// The host asked for members long ago, and announces its rooms to a host that has not heard that.
#[test]
fn a_room_is_announced_again_to_a_host_that_connects_later() {
    let mut cluster = host(1);
    let announced = |host: &str| Event::Announced { host: host.into(), reads_stream: false };
    let known_at = Millis(2 * SETTLE_MS);
    for second in 0..=known_at.0 / 1_000 {
        cluster.handle_event(Millis(second * 1_000), announced("b"));
        told(&mut cluster, Millis(second * 1_000));
    }
    assert!(!may_miss_hosts(&mut cluster, known_at));
    // Both had lost their connections. `b` comes back 4 s later.
    cluster.handle_event(known_at, Event::Disconnected);
    cluster.handle_event(known_at, Event::Connected);
    assert_eq!(told(&mut cluster, known_at).len(), 1);
    let back_at = known_at.after(4_000);
    let mut told_at = None;
    for now in (0..30).map(|half| known_at.after(500 * half)) {
        if now >= back_at {
            cluster.handle_event(now, announced("b"));
        }
        if !told(&mut cluster, now).is_empty() {
            assert_eq!(told_at.replace(now), None);
        }
        // Until then `b` may have announced nothing.
        let is_known = told_at.is_some_and(|told_at| told_at.after(SETTLE_MS) <= now);
        assert_eq!(may_miss_hosts(&mut cluster, now), !is_known, "{now:?}, told at {told_at:?}");
    }
    assert!(told_at.is_some_and(|told_at| told_at <= back_at.after(2_000)));
}

#[test]
fn lost_notices_are_asked_for_less_and_less_often() {
    let mut cluster = host(1);
    // One notice is lost in each second.
    let times = tellings(&mut cluster, 1..1_200, |second| second);
    assert!((6..15).contains(&times.len()), "{times:?}");
    let last = times.windows(2).next_back().map(|pair| pair[1] - pair[0]).unwrap();
    assert!((150_000..=300_000).contains(&last), "{times:?}");
    // A minute after the next announcement nothing was lost, so the first pause is short again.
    let end = times.last().unwrap() / 1_000 + 301;
    tellings(&mut cluster, 1_200..end + 61, |_| 1_199);
    let times = tellings(&mut cluster, end + 61..end + 121, |_| 1_200);
    assert_eq!(times.len(), 1);
    let pause_ms = times[0] - (end + 61) * 1_000;
    assert!((2_500..=SETTLE_MS).contains(&pause_ms), "{pause_ms}");
}

/// The hosts lost notices at the same moment, for the same reason.
#[test]
fn hosts_that_lost_the_same_notices_ask_at_different_times() {
    let mut first: Vec<u64> =
        (0..8).map(|seed| tellings(&mut host(seed), 10..20, |_| 1)[0]).collect();
    first.sort();
    first.dedup();
    assert!(first.len() > 3, "{first:?}");
}

#[test]
fn until_lost_notices_were_asked_for_nothing_is_relied_on() {
    let mut cluster = host(1);
    assert_eq!(tellings(&mut cluster, 1..20, |_| 0), [0; 0]);
    assert!(!may_miss_hosts(&mut cluster, Millis(20_000)));
    let mut relied_on = 0;
    let mut told_at: Option<u64> = None;
    for second in 20..520 {
        // More are lost in the first three minutes.
        let lost = |second: u64| second.min(200);
        told_at = tellings(&mut cluster, second..second + 1, lost).last().copied().or(told_at);
        let now = Millis(second * 1_000 + 999);
        if !may_miss_hosts(&mut cluster, now) {
            relied_on += 1;
            let is_told = told_at.is_some_and(|told_at| told_at + SETTLE_MS <= now.0);
            assert!(is_told && second >= 200, "{now:?}, told at {told_at:?}");
        }
    }
    assert!(relied_on > 0);
}

/// The hosts that wait for the answers notice missing pushes and orders.
#[test]
fn pushes_that_were_dropped_are_no_notices() {
    let counts = EngineCounts { dropped: 4_465, dropped_bytes: 7, ..EngineCounts::default() };
    assert_eq!(counts.lost_notices(), 0);
    let counts = EngineCounts { dropped_notices: 2, dropped_early: 1, ..counts };
    assert_eq!(counts.lost_notices(), 3);
}

/// Otherwise each host that gets the answer would ask, and there is no space for its question.
#[test]
fn an_answer_that_finds_no_room_does_not_ask() {
    let mut cluster = host(1);
    for to in ["b", "c", "d"] {
        cluster.handle_refused(
            Millis(20),
            Command::AnswerInterest { room: "r".into(), to: to.into() },
        );
    }
    let next = cluster.poll_timeout().unwrap().max(Millis(20));
    assert_eq!(told(&mut cluster, next), [("r".to_owned(), false)]);
    assert!(told(&mut cluster, next.after(ANNOUNCE_EVERY_MS)).is_empty());
    // An announcement that was to ask still asks.
    let (room, has_members) = ("r".into(), true);
    cluster.handle_refused(next, Command::AnnounceInterest { room, has_members, asks: true });
    assert_eq!(told(&mut cluster, next.after(ANNOUNCE_EVERY_MS)), [("r".to_owned(), true)]);
}

/// The engine takes no commands for a long time.
#[test]
fn unannounced_rooms_are_kept_once_and_only_while_they_have_members() {
    let mut cluster = host(1);
    for number in 0..1_000 {
        let room: Arc<str> = format!("gone{number}").into();
        cluster.set_interest(Millis(20), &room, true);
        while let Some(command) = cluster.poll_command() {
            cluster.handle_refused(Millis(20), command);
        }
        cluster.set_interest(Millis(20), &room, false);
        while let Some(command) = cluster.poll_command() {
            cluster.handle_refused(Millis(20), command);
        }
    }
    assert!(!cluster.rooms.announces());
    for _ in 0..1_000 {
        let (room, has_members) = ("r".into(), true);
        cluster.handle_refused(
            Millis(20),
            Command::AnnounceInterest { room, has_members, asks: true },
        );
    }
    assert_eq!(told(&mut cluster, Millis(MINUTE_MS)).len(), 1);
}
