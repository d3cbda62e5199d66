//! Members of rooms while not all hosts know of them.

use super::*;

/// `b` has members, and the broker has lost its connection. No host has noticed this.
fn cut_off() -> World {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("b", "r", 3);
    world.hosts.get_mut("b").unwrap().is_cut = true;
    world
}

#[test]
fn without_subscribers_only_the_host_that_was_cut_off_is_named() {
    let mut world = cut_off();
    // `c` answers that it has no members. So only `b` may have some.
    assert_eq!(world.push("a", room("r")), None);
    world.pass(LIMIT);
    assert_eq!(world.outcome("a").unwrap().unanswered, [HostName::from("b")]);
}

#[test]
fn hosts_that_are_expected_and_not_subscribed_are_named_at_once() {
    let mut world = cut_off();
    world.hosts.get_mut("c").unwrap().is_cut = true;
    let outcome = world.push("a", Target::All).expect("nobody is to answer");
    assert_eq!(outcome.unanswered, [HostName::from("b"), "c".into()]);
}

#[test]
fn a_host_with_members_that_is_silent_is_named_each_time() {
    let mut world = World::new(&["a", "b"]);
    world.set_members("a", "r", 1);
    world.set_members("b", "r", 3);
    world.settle();
    world.hosts.get_mut("b").unwrap().is_stopped = true;
    for _ in 0..3 {
        assert_eq!(world.push("a", room("r")), None);
        world.pass(LIMIT);
        assert_eq!(world.outcome("a").unwrap().unanswered, [HostName::from("b")]);
    }
}

/// `a` hears no host: its own connection may be dead. So its knowledge of the rooms of `c` may be outdated.
#[test]
fn if_no_host_was_heard_silent_hosts_are_waited_for_and_named() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("a", "r", 1);
    world.set_members("b", "r", 3);
    world.settle();
    ["b", "c"].iter().for_each(|name| world.hosts.get_mut(name).unwrap().is_stopped = true);
    (0..4).for_each(|_| world.pass(HOST_ANNOUNCE_MS));
    assert_eq!(world.push("a", room("r")), None);
    (0..2).for_each(|_| world.pass(HOST_ANNOUNCE_MS));
    let mut unanswered = world.outcome("a").unwrap().unanswered;
    unanswered.sort();
    assert_eq!(unanswered, [HostName::from("b"), "c".into()]);
}

/// `nats.rooms` is a setting of each host.
#[test]
fn a_host_that_gets_pushes_to_all_rooms_names_others_with_members() {
    let mut world = World::new(&["a", "c"]);
    world.connect("b", false);
    world.set_members("b", "r", 1);
    world.set_members("c", "r", 2);
    world.settle();
    world.hosts.get_mut("c").unwrap().is_stopped = true;
    assert_eq!(world.push("a", room("r")), None, "c has not answered");
    world.pass(LIMIT);
    let outcome = world.outcome("a").unwrap();
    assert_eq!((outcome.tally.matched, outcome.unanswered), (1, vec!["c".into()]));
}

#[test]
fn hosts_that_have_just_got_members_do_not_end_a_call_for_each_other() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.set_members("b", "r", 3);
    // `b` does not learn of the members of `c`.
    world.hosts.get_mut("b").unwrap().is_cut = true;
    world.set_members("c", "r", 4);
    world.hosts.get_mut("b").unwrap().is_cut = false;
    let outcome = world.push("a", room("r")).expect("all have answered");
    assert_eq!((outcome.tally.matched, outcome.hosts, outcome.unanswered), (7, 2, vec![]));
}

#[test]
fn a_host_that_has_just_connected_asks_all() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("b", "r", 3);
    world.set_members("c", "r", 4);
    world.settle();
    for event in [Event::Disconnected, Event::Connected] {
        world.event("a", event);
    }
    world.hosts.get_mut("c").unwrap().is_cut = true;
    assert_eq!(world.push("a", room("r")), None, "c does not answer");
    world.pass(LIMIT);
    // There may be others that it does not know yet.
    let named = vec!["c".into(), UNKNOWN_HOSTS.into()];
    let outcome = world.outcome("a").unwrap();
    assert_eq!((outcome.tally.matched, outcome.unanswered), (3, named));
    world.hosts.get_mut("c").unwrap().is_cut = false;
    let outcome = world.push("a", room("r")).expect("all have answered");
    assert_eq!((outcome.tally.matched, outcome.unanswered), (7, vec![]));
}

#[test]
fn a_host_that_lost_messages_reports_it_and_asks_for_members_again() {
    let mut world = World::new(&["a", "b"]);
    world.set_members("a", "r", 1);
    world.settle();
    let part = |world: &mut World| {
        let (now, host) = (world.now, world.hosts.get_mut("a").unwrap());
        let reply = ReplyTo("b 1".into());
        host.cluster.part(now, &room("r"), Tally::default(), &reply).may_miss_hosts
    };
    assert!(!part(&mut world));
    // The announcement of `b` about its members is lost.
    world.hosts.get_mut("a").unwrap().is_cut = true;
    world.set_members("b", "r", 2);
    world.hosts.get_mut("a").unwrap().is_cut = false;
    let now = world.now;
    world.hosts.get_mut("a").unwrap().cluster.note_lost(now, 1);
    assert!(part(&mut world));
    world.settle();
    world.settle();
    assert!(!part(&mut world));
    let outcome = world.push("a", room("r")).expect("b has answered");
    assert_eq!(outcome.tally.matched, 2);
}

#[test]
fn a_host_that_has_just_started_reports_that_it_knows_no_other() {
    let mut world = World::new(&["a"]);
    for event in [Event::Disconnected, Event::Connected] {
        world.event("a", event);
    }
    let outcome = world.push("a", Target::All).expect("nobody is expected");
    assert_eq!(outcome.unanswered, [HostName::from(UNKNOWN_HOSTS)]);
    world.pass(HOST_ANNOUNCE_MS);
    assert_eq!(world.push("a", Target::All), Some(ClusterOutcome::default()));
}

/// The connection of `a` may be dead without a sign of it, for longer than any host may be silent.
#[test]
fn where_all_others_are_silent_all_are_named_until_they_come_back() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("b", "r", 3);
    for host in ["b", "c"] {
        world.hosts.get_mut(host).unwrap().is_stopped = true;
    }
    for _ in 0..=HOST_TIMEOUT_MS / HOST_ANNOUNCE_MS {
        world.pass(HOST_ANNOUNCE_MS);
    }
    let named = [HostName::from("b"), "c".into()];
    for target in [room("r"), Target::All] {
        let outcome = world.push("a", target).expect("nobody is waited for");
        assert_eq!(outcome.unanswered, named);
    }
    world.event("a", Event::Disconnected);
    assert_eq!(world.push("a", Target::All).unwrap().unanswered, named);
    world.event("a", Event::Connected);
    let named = [UNKNOWN_HOSTS.into(), HostName::from("b"), "c".into()];
    assert_eq!(world.push("a", Target::All).unwrap().unanswered, named);
    world.hosts.get_mut("b").unwrap().is_stopped = false;
    world.event("a", Event::Left { host: "c".into() });
    world.pass(HOST_ANNOUNCE_MS);
    world.pass(ANNOUNCE_EVERY_MS);
    let outcome = world.push("a", room("r")).expect("b has answered");
    assert_eq!((outcome.tally.matched, outcome.unanswered), (3, vec![]));
}

/// Meanwhile it hears no host, and the announcements of others about rooms wait to be read.
#[test]
fn a_host_that_was_stopped_takes_no_other_for_silent_and_asks_all() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("a", "r", 1);
    world.set_members("b", "r", 3);
    world.settle();
    world.hosts.get_mut("a").unwrap().is_stopped = true;
    world.set_members("c", "r", 4);
    (0..2 * HOST_TIMEOUT_MS / HOST_ANNOUNCE_MS).for_each(|_| world.pass(HOST_ANNOUNCE_MS));
    world.hosts.get_mut("a").unwrap().is_stopped = false;
    let outcome = world.push("a", room("r")).expect("all have answered");
    assert_eq!((outcome.tally.matched, outcome.hosts, outcome.unanswered), (7, 2, vec![]));
}

/// `b` connects so late after `a` that `a` knows for certain which hosts have members, except for `b`.
#[test]
fn a_host_that_is_back_late_is_asked_for_its_members() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("a", "r", 1);
    world.set_members("b", "r", 3);
    world.set_members("c", "r", 4);
    for event in [Event::Disconnected, Event::Connected] {
        world.event("a", event);
    }
    world.hosts.get_mut("b").unwrap().is_cut = true;
    world.hosts.get_mut("b").unwrap().is_stopped = true;
    for _ in 0..HOST_TIMEOUT_MS / HOST_ANNOUNCE_MS {
        world.pass(HOST_ANNOUNCE_MS - 1);
    }
    world.hosts.get_mut("b").unwrap().is_cut = false;
    world.event("a", Event::Announced { host: "b".into(), reads_stream: false });
    world.hosts.get_mut("b").unwrap().is_stopped = false;
    world.pass(HOST_TIMEOUT_MS / HOST_ANNOUNCE_MS);
    world.hosts.get_mut("b").unwrap().is_stopped = true;
    assert_eq!(world.push("a", room("r")), None, "b may have members");
    world.pass(LIMIT);
    assert_eq!(world.outcome("a").unwrap().unanswered, [HostName::from("b")]);
}

fn kick(world: &mut World, by: &'static str) -> Option<ClusterOutcome> {
    let action = Action::Kick { reason: String::new(), retry_after_ms: 0 };
    let order = Order::Change { target: OrderTarget::Room("r".into()), action };
    ordered(world, by, order)
}

fn ordered(world: &mut World, by: &'static str, order: Order) -> Option<ClusterOutcome> {
    let now = world.now;
    world.hosts.get_mut(by).unwrap().cluster.order((now, LIMIT), order, 1);
    world.carry_out(by);
    world.outcome(by)
}

#[test]
fn all_hosts_carry_out_an_order_or_are_named() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("b", "r", 3);
    world.set_members("c", "r", 4);
    let outcome = kick(&mut world, "a").expect("all have answered");
    assert_eq!((outcome.tally.queued, outcome.hosts, outcome.unanswered), (7, 2, vec![]));
    world.hosts.get_mut("c").unwrap().is_stopped = true;
    assert_eq!(kick(&mut world, "a"), None);
    world.pass(LIMIT);
    assert_eq!(world.outcome("a").unwrap().unanswered, [HostName::from("c")]);
    for host in ["b", "c"] {
        world.hosts.get_mut(host).unwrap().is_cut = true;
    }
    let outcome = kick(&mut world, "a").expect("nobody gets it");
    assert_eq!(outcome.unanswered, [HostName::from("b"), "c".into()]);
    world.event("a", Event::Disconnected);
    let outcome = kick(&mut world, "a").expect("it is not published");
    assert_eq!(outcome.unanswered, [HostName::from("b"), "c".into()]);
}

#[test]
fn the_counts_of_hosts_are_summed_at_their_places() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("b", "r", 3);
    world.set_members("c", "r", 4);
    world.set_members("c", "s", 1);
    let rooms = || ["r", "nobody", "s"].map(str::to_owned).to_vec();
    let count = || Order::Tell(Question::Counts { rooms: rooms() });
    let outcome = ordered(&mut world, "a", count()).expect("all have answered");
    assert_eq!((outcome.counts, outcome.hosts), (vec![7, 0, 1], 2));
    world.hosts.get_mut("c").unwrap().is_stopped = true;
    assert_eq!(ordered(&mut world, "a", count()), None);
    world.pass(LIMIT);
    let outcome = world.outcome("a").unwrap();
    assert_eq!((outcome.counts, outcome.unanswered), (vec![3, 0, 0], vec!["c".into()]));
}

/// Otherwise the call would wait for this host until the deadline.
#[test]
fn a_host_that_refuses_a_push_is_named_at_once() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("b", "r", 3);
    world.set_members("c", "r", 4);
    world.settle();
    world.hosts.get_mut("b").unwrap().refuses = true;
    // No host knows which have members: the first answer would show it.
    for target in [room("r"), Target::All] {
        let outcome = world.push("a", target.clone()).expect("all have answered or refused");
        assert_eq!(outcome.unanswered, [HostName::from("b")]);
        let members = if target == Target::All { 0 } else { 4 };
        assert_eq!((outcome.hosts, outcome.tally.matched), (1, members));
    }
    // `a` has members itself, so it knows.
    world.set_members("a", "r", 1);
    world.settle();
    let outcome = world.push("a", room("r")).expect("all have answered or refused");
    assert_eq!((outcome.unanswered, outcome.tally.matched), (vec!["b".into()], 4));
}
