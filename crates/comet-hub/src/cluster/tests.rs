//! A few hosts and a broker in one thread.

mod announcing;
mod members;

use std::collections::{BTreeMap, BTreeSet};

use comet_core::Tally;

use super::*;

const LIMIT: u64 = 1_000;

/// Hosts, and a broker that executes their commands at once.
struct World {
    now: Millis,
    hosts: BTreeMap<&'static str, Host>,
}

struct Host {
    cluster: Cluster<u32>,
    subscribed: BTreeSet<Arc<str>>,
    gets_all_rooms: bool,
    /// Members of each room.
    members: BTreeMap<Arc<str>, u64>,
    /// Whether it refuses pushes.
    refuses: bool,
    /// Whether it does not answer.
    is_stopped: bool,
    /// Whether its connection to the broker is cut.
    is_cut: bool,
}

impl World {
    fn new(names: &[&'static str]) -> Self {
        Self::with_hosts(names, true)
    }

    fn with_hosts(names: &[&'static str], subscribes_rooms: bool) -> Self {
        let mut world = Self { now: Millis(0), hosts: BTreeMap::new() };
        names.iter().for_each(|name| world.connect(name, subscribes_rooms));
        world.pass(0);
        world.settle();
        world
    }

    fn connect(&mut self, name: &'static str, subscribes_rooms: bool) {
        let host = Host {
            cluster: Cluster::new(name.into(), subscribes_rooms, self.hosts.len() as u64),
            subscribed: BTreeSet::new(),
            gets_all_rooms: false,
            members: BTreeMap::new(),
            refuses: false,
            is_stopped: false,
            is_cut: false,
        };
        self.hosts.insert(name, host);
        self.event(name, Event::Connected);
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now.after(millis);
        let names: Vec<_> = self.hosts.keys().copied().collect();
        for &name in &names {
            let host = self.hosts.get_mut(name).unwrap();
            if !host.is_stopped {
                host.cluster.handle_timeout(self.now);
            }
        }
        names.into_iter().for_each(|name| self.carry_out(name));
    }

    fn event(&mut self, to: &str, event: Event) {
        let host = self.hosts.get_mut(to).unwrap();
        if host.is_stopped {
            return;
        }
        if let Event::Push { reply, .. } = &event
            && host.refuses
        {
            host.cluster.note_received(reply.as_ref());
            host.cluster.note_refused(reply.as_ref());
            let name = self.hosts.keys().copied().find(|name| *name == to).unwrap();
            return self.carry_out(name);
        }
        if let Event::Push { publication, reply } = event {
            host.cluster.note_received(reply.as_ref());
            let mut tally = Tally::default();
            if let Target::Room(room) = &publication.target {
                let members = host.members.get(room).copied().unwrap_or_default();
                (tally.matched, tally.queued) = (members, members);
            }
            if let Some(reply) = reply {
                let part = host.cluster.part(self.now, &publication.target, tally, &reply);
                let (host, call) = address(&reply);
                self.event(host, Event::Answered { call, part });
            }
            return;
        }
        host.cluster.handle_event(self.now, event);
        let name = self.hosts.keys().copied().find(|name| *name == to).unwrap();
        self.carry_out(name);
    }

    /// A host with members of the room of an order closes them.
    fn order(&mut self, name: &str, order: &Order, reply: &ReplyTo) {
        let host = self.hosts.get_mut(name).unwrap();
        if !host.is_stopped {
            host.cluster.note_received(Some(reply));
            let (mut tally, mut counts) = (Tally::default(), Vec::new());
            match order {
                Order::Change { target: OrderTarget::Room(room), .. } => {
                    let matched = host.members.remove(&**room).unwrap_or_default();
                    (tally.matched, tally.queued) = (matched, matched);
                }
                Order::Change { .. } => {}
                Order::Tell(Question::Counts { rooms }) => {
                    let members = |room: &String| host.members.get(&**room).copied();
                    counts = rooms.iter().map(|room| members(room).unwrap_or_default()).collect();
                }
                Order::Tell(_) | Order::CancelBroadcast { .. } => {}
            }
            let part = host.cluster.part(self.now, &Target::All, tally, reply);
            let part = Part { question_reply: QuestionReply { counts, page: None }, ..part };
            let (host, call) = address(reply);
            self.event(host, Event::Answered { call, part });
        }
    }

    fn others(&self, name: &str) -> Vec<&'static str> {
        let is_there = |other: &&str| *other != name && !self.hosts[other].is_cut;
        self.hosts.keys().copied().filter(is_there).collect()
    }

    fn carry_out(&mut self, name: &'static str) {
        while let Some(command) = self.hosts.get_mut(name).unwrap().cluster.poll_command() {
            let (others, host) = (self.others(name), HostName::from(name));
            let subscribers = |world: &Self, room: &Arc<str>| {
                let is_subscribed = |other: &&str| {
                    let host = &world.hosts[other];
                    host.gets_all_rooms || host.subscribed.contains(room)
                };
                others.iter().copied().filter(is_subscribed).collect::<Vec<_>>()
            };
            match command {
                Command::Subscribe { room } => {
                    self.hosts.get_mut(name).unwrap().subscribed.insert(room);
                }
                Command::SubscribeOnly { rooms } => {
                    self.hosts.get_mut(name).unwrap().subscribed = rooms.into_iter().collect();
                }
                Command::SubscribeAllRooms => {
                    self.hosts.get_mut(name).unwrap().gets_all_rooms = true;
                }
                Command::Unsubscribe { room } => {
                    self.hosts.get_mut(name).unwrap().subscribed.remove(&room);
                }
                Command::Publish { publication, call } => {
                    let to = match &publication.target {
                        Target::Room(room) => subscribers(self, room),
                        _ => others,
                    };
                    let reply = call.map(|ClusterCallId(call)| format!("{name} {call}").into());
                    for other in &to {
                        let (publication, reply) =
                            (publication.clone(), reply.clone().map(ReplyTo));
                        self.event(other, Event::Push { publication, reply });
                    }
                    if let Some(call) = call
                        && to.is_empty()
                    {
                        self.event(name, Event::NoResponders { call });
                    }
                }
                Command::Store { .. } => unreachable!("nobody pushes to the stream"),
                Command::PublishOrder { order, call } => {
                    let call = call.expect("it is expected");
                    for other in &others {
                        let (order, reply) = (order.clone(), format!("{name} {}", call.0));
                        self.order(other, &order, &ReplyTo(reply.into()));
                    }
                    if others.is_empty() {
                        self.event(name, Event::NoResponders { call });
                    }
                }
                Command::AnnounceInterest { room, has_members, asks } => {
                    for other in subscribers(self, &room) {
                        let (host, room) = (host.clone(), Arc::clone(&room));
                        let event = Event::Interest { host, room, has_members, asks };
                        self.event(other, event);
                    }
                }
                Command::AnswerInterest { room, to } => {
                    let event = Event::Interest { host, room, has_members: true, asks: false };
                    self.event(&to, event);
                }
                Command::AskMembers { room, call: ClusterCallId(call) } => {
                    for other in others {
                        let (room, reply) =
                            (Arc::clone(&room), ReplyTo(format!("{name} {call}").into()));
                        self.event(other, Event::MembersAsked { room, reply });
                    }
                }
                Command::AnswerNoMembers { to } => {
                    let (to, call) = address(&to);
                    self.event(to, Event::NoMembers { call, host });
                }
                Command::Refuse { to } => {
                    let (to, call) = address(&to);
                    self.event(to, Event::Refused { call, host });
                }
                Command::Announce { reads_stream } => {
                    for other in others {
                        self.event(other, Event::Announced { host: host.clone(), reads_stream });
                    }
                }
                Command::AnnounceKeys { .. } => {
                    unreachable!("each host has its own owners of keys")
                }
                Command::Leave => {
                    for other in others {
                        self.event(other, Event::Left { host: host.clone() });
                    }
                }
            }
        }
    }

    fn set_members(&mut self, name: &'static str, room: &str, members: u64) {
        let room: Arc<str> = room.into();
        let host = self.hosts.get_mut(name).unwrap();
        host.members.insert(Arc::clone(&room), members);
        host.cluster.set_interest(self.now, &room, members > 0);
        self.carry_out(name);
        // The announcements that are repeated.
        self.pass(ANNOUNCE_EVERY_MS);
    }

    fn push(&mut self, name: &'static str, target: Target) -> Option<ClusterOutcome> {
        let publication = Publication {
            target,
            accepts: 0,
            operation: 5,
            version: 0,
            sequence: 0,
            collapse_id: "".into(),
            body: Vec::new(),
            paced: None,
        };
        let cluster = &mut self.hosts.get_mut(name).unwrap().cluster;
        cluster.begin((self.now, LIMIT), publication, 1);
        self.carry_out(name);
        self.outcome(name)
    }

    /// Lets time pass until it is certain which hosts have members of a room.
    fn settle(&mut self) {
        (0..=SETTLE_MS / HOST_ANNOUNCE_MS).for_each(|_| self.pass(HOST_ANNOUNCE_MS));
    }

    fn outcome(&mut self, name: &str) -> Option<ClusterOutcome> {
        let outcome = self.hosts.get_mut(name).unwrap().cluster.poll_outcome();
        outcome.map(|(_, outcome)| outcome)
    }
}

/// The host and the call to which an answer goes.
fn address(ReplyTo(to): &ReplyTo) -> (&str, ClusterCallId) {
    let (host, call) = to.split_once(' ').unwrap();
    (host, ClusterCallId(call.parse().unwrap()))
}

fn room(name: &str) -> Target {
    Target::Room(name.into())
}

#[test]
fn the_parts_of_hosts_with_members_are_summed() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.set_members("b", "r", 3);
    world.set_members("c", "r", 4);
    // `a` has no members, and learns from the first answer which other hosts have to answer.
    let outcome = world.push("a", room("r")).expect("it is complete at once");
    assert_eq!((outcome.tally.matched, outcome.hosts, outcome.unanswered), (7, 2, vec![]));
    // `b` has members, and knows the others.
    let outcome = world.push("b", room("r")).expect("it is complete at once");
    assert_eq!((outcome.tally.matched, outcome.hosts), (4, 1));
    assert_eq!(world.hosts["d"].cluster.counts().received, 0, "no push where nobody is");
    world.set_members("c", "r", 0);
    let outcome = world.push("b", room("r")).expect("nobody is to answer");
    assert_eq!((outcome.tally.matched, outcome.hosts), (0, 0));
}

#[test]
fn a_room_without_members_is_answered_at_once() {
    let mut world = World::new(&["a", "b"]);
    let outcome = world.push("a", room("nobody")).expect("there are no responders");
    assert_eq!(outcome, ClusterOutcome::default());
}

#[test]
fn a_host_that_does_not_answer_is_named() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("a", "r", 1);
    world.set_members("b", "r", 3);
    world.set_members("c", "r", 4);
    world.hosts.get_mut("c").unwrap().is_stopped = true;
    assert_eq!(world.push("a", room("r")), None, "c has not answered");
    world.pass(LIMIT);
    let outcome = world.outcome("a").expect("its time is over");
    assert_eq!((outcome.tally.matched, outcome.unanswered), (3, vec!["c".into()]));
    // After long enough silence the host is no longer waited for, and later it is forgotten.
    for (silent_ms, named) in [(HOST_TIMEOUT_MS, vec!["c".into()]), (HOST_FORGOTTEN_MS, vec![])] {
        for _ in 0..=silent_ms / HOST_ANNOUNCE_MS {
            world.pass(HOST_ANNOUNCE_MS);
        }
        let outcome = world.push("a", room("r")).expect("b has answered");
        assert_eq!((outcome.tally.matched, outcome.unanswered), (3, named));
    }
    // The host was named at the deadline, and by the push after its silence.
    assert_eq!(world.hosts["a"].cluster.counts().silent, 2);
}

#[test]
fn a_host_that_leaves_ends_the_wait_for_it() {
    let mut world = World::new(&["a", "b"]);
    world.hosts.get_mut("b").unwrap().is_stopped = true;
    assert_eq!(world.push("a", Target::All), None);
    world.event("a", Event::Left { host: "b".into() });
    let outcome = world.outcome("a").expect("it is complete");
    assert_eq!(outcome.unanswered, vec![HostName::from("b")]);
    assert_eq!(world.push("a", Target::All), Some(ClusterOutcome::default()));
}

#[test]
fn without_a_connection_all_known_hosts_are_named() {
    let mut world = World::new(&["a", "b"]);
    world.event("a", Event::Disconnected);
    let outcome = world.push("a", room("r")).expect("nothing was published");
    assert_eq!(outcome.unanswered, vec![HostName::from("b")]);
    assert_eq!(world.hosts["a"].cluster.counts().not_published, 1);
    world.pass(2 * HOST_TIMEOUT_MS);
    let outcome = world.push("a", room("r")).expect("nothing was published");
    assert_eq!(outcome.unanswered, vec![HostName::from("b")], "nobody was heard to go");
}

#[test]
fn without_any_answer_all_hosts_that_may_have_members_are_named() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set_members("b", "r", 3);
    world.hosts.get_mut("b").unwrap().is_stopped = true;
    // `a` has no members, so it waits for the first answer.
    assert_eq!(world.push("a", room("r")), None);
    world.pass(LIMIT);
    let outcome = world.outcome("a").expect("its time is over");
    assert_eq!((outcome.hosts, outcome.unanswered), (0, vec!["b".into(), "c".into()]));
    assert_eq!(world.hosts["a"].cluster.counts().silent, 2);
    // The same holds if it is considered dead before the call ends.
    assert_eq!(world.push("a", room("r")), None);
    world.event("a", Event::Left { host: "b".into() });
    world.pass(LIMIT);
    let outcome = world.outcome("a").expect("its time is over");
    assert_eq!(outcome.unanswered, vec![HostName::from("b"), "c".into()]);
    assert_eq!(world.hosts["a"].cluster.counts().silent, 4);
}

#[test]
fn calls_end_with_the_connection_that_their_answers_come_by() {
    let mut world = World::new(&["a", "b"]);
    world.set_members("b", "r", 3);
    world.hosts.get_mut("b").unwrap().is_stopped = true;
    assert_eq!(world.push("a", room("r")), None);
    assert_eq!(world.push("a", Target::All), None);
    world.event("a", Event::Disconnected);
    for _ in 0..2 {
        let outcome = world.outcome("a").expect("nobody can answer");
        assert_eq!(outcome.unanswered, vec![HostName::from("b")]);
    }
}

#[test]
fn without_a_connection_a_host_reports_that_it_knows_no_other() {
    let mut world = World::new(&["a"]);
    assert_eq!(world.push("a", room("r")), Some(ClusterOutcome::default()), "it is alone");
    world.event("a", Event::Disconnected);
    let outcome = world.push("a", room("r")).expect("nothing was published");
    assert_eq!(outcome.unanswered, vec![HostName::from(UNKNOWN_HOSTS)]);
}

#[test]
fn with_pushes_to_all_rooms_every_host_is_to_answer() {
    let mut world = World::with_hosts(&["a", "b", "c"], false);
    world.set_members("c", "r", 4);
    let outcome = world.push("a", room("r")).expect("all have answered");
    assert_eq!((outcome.tally.matched, outcome.hosts), (4, 2));
}

#[test]
fn a_host_that_was_late_is_asked_for_its_rooms_again() {
    let mut world = World::new(&["a", "b"]);
    world.set_members("a", "r", 1);
    world.set_members("b", "r", 3);
    world.hosts.get_mut("b").unwrap().is_stopped = true;
    assert_eq!(world.push("a", room("r")), None);
    world.pass(LIMIT);
    assert_eq!(world.outcome("a").unwrap().unanswered, vec![HostName::from("b")]);
    world.hosts.get_mut("b").unwrap().is_stopped = false;
    world.pass(ANNOUNCE_EVERY_MS);
    let outcome = world.push("a", room("r")).expect("b has answered");
    assert_eq!((outcome.tally.matched, outcome.hosts), (3, 1));
    // The same holds after it was considered dead.
    world.hosts.get_mut("b").unwrap().is_stopped = true;
    for _ in 0..=HOST_TIMEOUT_MS / HOST_ANNOUNCE_MS {
        world.pass(HOST_ANNOUNCE_MS);
    }
    world.hosts.get_mut("b").unwrap().is_stopped = false;
    world.pass(HOST_ANNOUNCE_MS);
    world.pass(ANNOUNCE_EVERY_MS);
    let outcome = world.push("a", room("r")).expect("b has answered");
    assert_eq!((outcome.tally.matched, outcome.hosts), (3, 1));
}

#[test]
fn many_rooms_are_announced_in_slices() {
    let mut cluster: Cluster<()> = Cluster::new("a".into(), true, 1);
    for number in 0..3 * ANNOUNCED_AT_ONCE {
        cluster.set_interest(Millis(0), &format!("r{number}").into(), true);
    }
    cluster.handle_event(Millis(0), Event::Connected);
    let (mut now, mut told) = (Millis(0), Vec::new());
    while told.iter().sum::<usize>() < 3 * ANNOUNCED_AT_ONCE {
        cluster.handle_timeout(now);
        let commands = std::iter::from_fn(|| cluster.poll_command());
        told.push(commands.filter(|it| matches!(it, Command::AnnounceInterest { .. })).count());
        now = cluster.poll_timeout().unwrap();
    }
    assert_eq!(told, [ANNOUNCED_AT_ONCE; 3]);
}

#[test]
fn hosts_that_lost_their_connection_learn_of_each_other_again() {
    let mut world = World::new(&["a", "b"]);
    world.set_members("a", "r", 1);
    world.event("a", Event::Disconnected);
    // This is announced while `a` cannot hear it.
    world.hosts.get_mut("a").unwrap().is_stopped = true;
    world.set_members("b", "r", 2);
    world.hosts.get_mut("a").unwrap().is_stopped = false;
    world.event("a", Event::Connected);
    let outcome = world.push("a", room("r")).expect("b has answered");
    assert_eq!((outcome.tally.matched, outcome.hosts), (2, 1));
}
