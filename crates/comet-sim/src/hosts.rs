//! Many hosts that push for each other through a broker: the decisions of [`comet_hub::cluster`], without shards.
//!
//! Hosts come, leave, die and lose their connection, noticed at once or later, and the broker goes away. They lose
//! notices about rooms, and have no space for answers. Meanwhile rooms get and lose members, and hosts push. A push
//! must reach the hosts that it is meant for; otherwise its outcome names the host, or the host that pushed cannot have
//! heard of it. The last case is counted as untold.

mod broker;
mod costs;
mod outcomes;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use comet_core::{Millis, Tally};
use comet_hub::cluster::{
    Cluster, Command, Event, HOST_ANNOUNCE_MS, HOST_TIMEOUT_MS, HostName, Publication, Target,
};

use crate::rng::Rng;
use broker::{Broker, Message, ReplyAddress};
use outcomes::Pushes;

pub use costs::{HostsCosts, Loaded, load};

/// Time between two turns, milliseconds.
const TURN_MS: u64 = 5;
/// How long a push waits for answers, milliseconds.
const PUSH_TIMEOUT_MS: u64 = 1_000;
/// Changes that are older than this have no effect any more, because hosts have told each other about them.
const CALM_MS: u64 = 2 * HOST_ANNOUNCE_MS;
/// A new host, or a host with a new first member, is known after this time: one message there, one back, and a turn for
/// each.
const TOLD_MS: u64 = 4 * broker::DELAY_MS + 3 * TURN_MS;
/// How long faults and pushes continue, and how long hosts have to recover.
const RUN_MS: u64 = 20_000;
const RECOVERY_MS: u64 = HOST_TIMEOUT_MS + 2 * HOST_ANNOUNCE_MS;

/// What runs have covered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostsSummary {
    /// Pushes whose outcome is known.
    pub pushes: u64,
    /// Other hosts that pushes were meant for: those that were reached, and those that were not and are named in the
    /// outcome.
    pub reached: u64,
    /// See `reached`.
    pub named: u64,
    /// Hosts that were not reached, or whose part is missing, because they had just come or had just got their first
    /// member of the room. The host that pushed could not know about them.
    pub new: u64,
    /// Hosts that were not reached, or whose part is missing, while the outcome names others. So the caller knows that
    /// something is missing.
    pub unknown: u64,
    /// Other hosts that were not reached, or whose part is missing. The host that pushed had never heard of them,
    /// because one of the two had no connection, or a dead one that was not noticed yet.
    pub untold: u64,
    /// Messages that the broker delivered.
    pub messages: u64,
    /// Faults: hosts that died or left, lost connections, and outages of the broker.
    pub faults: u64,
}

impl AddAssign for HostsSummary {
    fn add_assign(&mut self, other: Self) {
        self.pushes += other.pushes;
        self.reached += other.reached;
        self.named += other.named;
        self.new += other.new;
        self.unknown += other.unknown;
        self.untold += other.untold;
        self.messages += other.messages;
        self.faults += other.faults;
    }
}

impl fmt::Display for HostsSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pushes, reached, named, new, unknown, untold, messages, faults } = self;
        write!(
            f,
            "{pushes} pushes reached {reached} other hosts; {named} named as unanswered; {new} had just come, {unknown} not named \
             beside others that are, {untold} never heard of; \
             {messages} messages; {faults} faults"
        )
    }
}

/// Runs `hosts` hosts from one seed.
///
/// # Errors
/// The first violation.
pub fn run(seed: u64, hosts: usize) -> Result<HostsSummary, String> {
    let told = |violation| format!("seed {seed}, {hosts} hosts: {violation}");
    World::new(seed, hosts).run().map_err(told)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    Up,
    /// Nothing arrives, but neither side has noticed yet.
    Dead {
        until: Millis,
    },
    Down {
        until: Millis,
    },
}

struct Host {
    name: HostName,
    cluster: Cluster<u64>,
    is_running: bool,
    link: Link,
    /// The number of the connection. Messages under way in an earlier one are lost.
    epoch: u64,
    /// The last change of the fields above.
    changed: Millis,
    /// The number of notices that it has lost.
    lost_notices: u64,
    /// When the last connection was lost.
    lost: Millis,
    /// The number of members of each room, and since when there are some.
    members: BTreeMap<usize, (u64, Millis)>,
}

struct World {
    now: Millis,
    rng: Rng,
    rooms: Vec<Arc<str>>,
    hosts: Vec<Host>,
    broker: Broker,
    pushes: Pushes,
    summary: HostsSummary,
    /// Whether queues overflow at times.
    overflows: bool,
}

impl World {
    fn new(seed: u64, hosts: usize) -> Self {
        let mut rng = Rng::new(seed);
        let rooms = rng.between(1, 2 * hosts as u64);
        let subscribes_rooms = rng.percent(80);
        let host = |number: usize| {
            let name: HostName = format!("h{number}").into();
            Host {
                cluster: Cluster::new(name.clone(), subscribes_rooms, seed ^ number as u64),
                name,
                is_running: true,
                link: Link::Down { until: Millis(0) },
                epoch: 0,
                changed: Millis(0),
                lost_notices: 0,
                lost: Millis(0),
                members: BTreeMap::new(),
            }
        };
        Self {
            now: Millis(0),
            rng,
            rooms: (0..rooms).map(|room| format!("r{room}").into()).collect(),
            hosts: (0..hosts).map(host).collect(),
            broker: Broker::new(hosts, subscribes_rooms),
            pushes: Pushes::default(),
            summary: HostsSummary::default(),
            overflows: false,
        }
    }

    fn run(mut self) -> Result<HostsSummary, String> {
        self.overflows = true;
        while self.now < Millis(RUN_MS) {
            for _ in 0..self.rng.between(0, 2) {
                self.change_members();
            }
            for _ in 0..self.rng.between(0, 2) {
                let by = self.rng.below(self.hosts.len());
                let target = self.any_target();
                self.push(by, target);
            }
            if self.rng.percent(2) {
                self.fault();
            }
            self.turn()?;
        }
        self.recover()?;
        // All hosts know each other again, so each push must reach all.
        for room in 0..self.rooms.len() {
            let by = self.rng.below(self.hosts.len());
            self.push(by, Target::Room(Arc::clone(&self.rooms[room])));
            self.push(by, Target::All);
            self.turn()?;
        }
        self.pass(2 * PUSH_TIMEOUT_MS)?;
        self.pushes.ensure_ended()?;
        self.summary.messages = self.broker.delivered;
        Ok(self.summary)
    }

    /// Starts and connects all hosts, and waits until they have told each other everything.
    fn recover(&mut self) -> Result<(), String> {
        for number in 0..self.hosts.len() {
            if !self.hosts[number].is_running {
                self.start(number);
            }
        }
        self.pass(RECOVERY_MS)
    }

    fn pass(&mut self, millis: u64) -> Result<(), String> {
        let end = self.now.after(millis);
        while self.now < end {
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), String> {
        self.now = self.now.after(TURN_MS);
        for number in 0..self.hosts.len() {
            self.mend_link(number);
            let host = &mut self.hosts[number];
            if host.is_running && host.cluster.poll_timeout().is_some_and(|due| due <= self.now) {
                host.cluster.handle_timeout(self.now);
            }
            self.carry_out(number)?;
        }
        while let Some(message) = self.broker.next(self.now) {
            self.take(message)?;
        }
        Ok(())
    }

    /// Carries out the changes of a host's link that are due.
    fn mend_link(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        match host.link {
            Link::Dead { until } if until <= self.now => {
                let until = self.now.after(self.rng.between(0, 8_000));
                self.cut(number, Link::Down { until });
                let host = &mut self.hosts[number];
                host.cluster.handle_event(self.now, Event::Disconnected);
            }
            Link::Down { until } if until <= self.now && host.is_running => {
                (host.link, host.changed) = (Link::Up, self.now);
                host.epoch += 1;
                self.broker.connect(number, host.epoch);
                host.cluster.handle_event(self.now, Event::Connected);
            }
            _ => {}
        }
    }

    fn cut(&mut self, number: usize, link: Link) {
        let host = &mut self.hosts[number];
        if host.link == Link::Up {
            host.lost = self.now;
        }
        (host.link, host.changed) = (link, self.now);
        // The broker notices the end of a connection, but not that nothing arrives any more.
        match link {
            Link::Dead { .. } => self.broker.deafen(number),
            _ => self.broker.disconnect(number),
        }
    }

    fn start(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        let seed = self.rng.between(0, u64::MAX);
        host.cluster = Cluster::new(host.name.clone(), self.broker.subscribes_rooms, seed);
        (host.is_running, host.changed, host.lost_notices) = (true, self.now, 0);
        host.members.clear();
        host.link = Link::Down { until: self.now };
    }

    fn fault(&mut self) {
        let number = self.rng.below(self.hosts.len());
        let is_up = self.hosts[number].link == Link::Up;
        let until = self.now.after(self.rng.between(0, 8_000));
        self.summary.faults += 1;
        match self.rng.below(8) {
            _ if !self.hosts[number].is_running => self.start(number),
            0 | 1 => {
                // The host dies. With `0` it says before that it leaves.
                if self.rng.percent(50) && is_up {
                    self.broker.submit(
                        &mut self.rng,
                        self.now,
                        number,
                        Message::Command(Command::Leave),
                    );
                    while let Some(message) = self.broker.next_of(number) {
                        // It stays until that message is sent.
                        self.broker.route(&mut self.rng, self.now, message);
                    }
                }
                self.hosts[number].is_running = false;
                self.cut(number, Link::Down { until });
                self.pushes.abandon(number);
            }
            2..=4 if is_up => {
                self.cut(number, Link::Down { until });
                self.hosts[number].cluster.handle_event(self.now, Event::Disconnected);
            }
            5 | 6 if is_up => {
                // A client of a broker takes some time to notice that.
                let until = self.now.after(self.rng.between(0, 15_000));
                self.cut(number, Link::Dead { until });
            }
            7 if self.rng.percent(10) => {
                for number in 0..self.hosts.len() {
                    let until = self.now.after(self.rng.between(100, 4_000));
                    self.cut(number, Link::Down { until });
                    self.hosts[number].cluster.handle_event(self.now, Event::Disconnected);
                }
            }
            _ => {}
        }
    }

    fn change_members(&mut self) {
        let (number, room) = (self.rng.below(self.hosts.len()), self.rng.below(self.rooms.len()));
        let host = &mut self.hosts[number];
        if !host.is_running {
            return;
        }
        let count = self.rng.between(0, 3);
        let since = match host.members.get(&room) {
            Some((before, since)) if *before > 0 => *since,
            _ => self.now,
        };
        host.members.insert(room, (count, since));
        host.cluster.set_interest(self.now, &self.rooms[room], count > 0);
    }

    fn any_target(&mut self) -> Target {
        match self.rng.below(4) {
            0 => Target::All,
            // The key of a connection on that host.
            1 => Target::Keys([self.rng.below(self.hosts.len()).to_string().into()].into()),
            _ => Target::Room(Arc::clone(&self.rooms[self.rng.below(self.rooms.len())])),
        }
    }

    fn push(&mut self, by: usize, target: Target) {
        if !self.hosts[by].is_running {
            return;
        }
        let known = self.hosts[by].cluster.other_hosts().cloned().collect();
        let push = self.pushes.begin((by, known), self.now, target.clone());
        let publication = Publication {
            target,
            accepts: 0,
            operation: 1000,
            version: 0,
            sequence: 0,
            collapse_id: "".into(),
            body: push.to_be_bytes().to_vec(),
            paced: None,
        };
        self.hosts[by].cluster.begin((self.now, PUSH_TIMEOUT_MS), publication, push);
    }

    /// The number of connections of a host that a push is meant for.
    fn matched(&self, number: usize, target: &Target) -> u64 {
        match target {
            Target::Room(name) => {
                let members = self.hosts[number].members.iter();
                let of_room = members.filter(|(room, _)| self.rooms[**room] == *name);
                of_room.map(|(_, (count, _))| count).sum()
            }
            Target::Keys(keys) => u64::from(*keys[0] == *number.to_string()),
            _ => 1,
        }
    }

    /// Carries out the commands of a host, as the driver of control does.
    fn carry_out(&mut self, number: usize) -> Result<(), String> {
        if !self.hosts[number].is_running {
            return Ok(());
        }
        while let Some(command) = self.hosts[number].cluster.poll_command() {
            let host = &mut self.hosts[number];
            match command {
                Command::Publish { call, .. } if matches!(host.link, Link::Down { .. }) => {
                    host.cluster.not_published(call);
                }
                command @ Command::AnswerInterest { .. }
                    if self.overflows && self.rng.percent(5) =>
                {
                    host.cluster.handle_refused(self.now, command);
                }
                command => {
                    self.broker.submit(&mut self.rng, self.now, number, Message::Command(command));
                }
            }
        }
        while let Some((push, outcome)) = self.hosts[number].cluster.poll_outcome() {
            self.check(push, &outcome)?;
        }
        Ok(())
    }

    /// Handles a message that has arrived at the broker or at a host.
    fn take(&mut self, message: broker::Arrived) -> Result<(), String> {
        let (to, event) = match message {
            broker::Arrived::AtBroker(message) => {
                self.broker.route(&mut self.rng, self.now, message);
                return Ok(());
            }
            broker::Arrived::AtHost(to, event) => (to, event),
        };
        if let Event::Push { publication, reply } = event {
            let push = u64::from_be_bytes(publication.body[..].try_into().expect("it is a number"));
            let matched = self.matched(to, &publication.target);
            self.pushes.reach(push, to, matched)?;
            let host = &mut self.hosts[to];
            host.cluster.note_received(reply.as_ref());
            let tally = Tally { matched, queued: matched, ..Tally::default() };
            if let Some(reply) = reply {
                let part = host.cluster.part(self.now, &publication.target, tally, &reply);
                let answer = Message::Answer(ReplyAddress::parse(&reply), part);
                self.broker.submit(&mut self.rng, self.now, to, answer);
            }
        } else if self.overflows && matches!(event, Event::Interest { .. }) && self.rng.percent(1) {
            let Host { cluster, lost_notices, .. } = &mut self.hosts[to];
            *lost_notices += 1;
            cluster.note_lost(self.now, *lost_notices);
        } else {
            self.hosts[to].cluster.handle_event(self.now, event);
        }
        self.carry_out(to)
    }
}
