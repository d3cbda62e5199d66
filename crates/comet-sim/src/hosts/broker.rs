//! A broker with subscriptions. Its messages take some time and keep their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use comet_core::Millis;
use comet_hub::cluster::{ClusterCallId, Command, Event, Part, ReplyTo, Target};

use super::Rng;

/// The longest time that a message is on its way, in each direction.
pub(super) const DELAY_MS: u64 = 4;

/// A message of a host.
pub(super) enum Message {
    Command(Command),
    Answer(ReplyAddress, Part),
}

/// The destination of an answer.
#[derive(Clone, Copy)]
pub(super) struct ReplyAddress {
    host: usize,
    call: ClusterCallId,
}

impl ReplyAddress {
    pub(super) fn parse(reply: &ReplyTo) -> Self {
        let (host, call) = reply.0.split_once(' ').expect("the broker wrote it");
        let number = |text: &str| text.parse::<u64>().expect("the broker wrote it");
        Self { host: number(host) as usize, call: ClusterCallId(number(call)) }
    }

    fn text(self) -> ReplyTo {
        ReplyTo(format!("{} {}", self.host, self.call.0).into())
    }
}

pub(super) struct Sent {
    from: usize,
    message: Message,
}

pub(super) enum Arrived {
    AtBroker(Sent),
    AtHost(usize, Event),
}

/// A host's connection. In each direction no message overtakes another.
#[derive(Clone, Copy, Default)]
struct Path {
    /// 0: there is no connection.
    epoch: u64,
    is_deaf: bool,
    last: [Millis; 2],
}

pub(super) struct Broker {
    pub(super) subscribes_rooms: bool,
    /// The number of messages delivered to hosts.
    pub(super) delivered: u64,
    rooms: BTreeMap<Arc<str>, BTreeSet<usize>>,
    paths: Vec<Path>,
    under_way: BTreeMap<(Millis, u64), (usize, u64, Arrived)>,
    sequence: u64,
}

impl Broker {
    pub(super) fn new(hosts: usize, subscribes_rooms: bool) -> Self {
        Self {
            subscribes_rooms,
            delivered: 0,
            rooms: BTreeMap::new(),
            paths: vec![Path::default(); hosts],
            under_way: BTreeMap::new(),
            sequence: 0,
        }
    }

    pub(super) fn connect(&mut self, host: usize, epoch: u64) {
        self.paths[host] = Path { epoch, ..Path::default() };
    }

    /// Ends the connection. Messages on their way are lost, and so are the subscriptions.
    pub(super) fn disconnect(&mut self, host: usize) {
        self.paths[host].epoch = 0;
        self.rooms.values_mut().for_each(|hosts| _ = hosts.remove(&host));
    }

    /// Loses all further messages, without the broker noticing it.
    pub(super) fn deafen(&mut self, host: usize) {
        self.paths[host].is_deaf = true;
    }

    /// The number of subscriptions to rooms; each host counts.
    pub(super) fn subscriptions(&self) -> usize {
        self.rooms.values().map(BTreeSet::len).sum()
    }

    pub(super) fn submit(&mut self, rng: &mut Rng, now: Millis, from: usize, message: Message) {
        self.send(rng, now, (from, 0), Arrived::AtBroker(Sent { from, message }));
    }

    fn send(&mut self, rng: &mut Rng, now: Millis, (host, way): (usize, usize), what: Arrived) {
        let path = &mut self.paths[host];
        if path.epoch == 0 || path.is_deaf {
            return;
        }
        path.last[way] = path.last[way].max(now.after(rng.between(0, DELAY_MS)));
        self.sequence += 1;
        self.under_way.insert((path.last[way], self.sequence), (host, path.epoch, what));
    }

    /// The next message that has arrived.
    pub(super) fn next(&mut self, now: Millis) -> Option<Arrived> {
        loop {
            let first = self.under_way.first_entry().filter(|first| first.key().0 <= now)?;
            let (host, epoch, what) = first.remove();
            let path = self.paths[host];
            if path.epoch == epoch && !path.is_deaf {
                self.delivered += u64::from(matches!(what, Arrived::AtHost(..)));
                return Some(what);
            }
        }
    }

    /// The next message that the host has sent, even if it has not arrived yet.
    pub(super) fn next_of(&mut self, host: usize) -> Option<Sent> {
        let is_of = |what: &Arrived| matches!(what, Arrived::AtBroker(sent) if sent.from == host);
        let key =
            self.under_way.iter().find(|(_, (_, _, what))| is_of(what)).map(|(key, _)| *key)?;
        match self.under_way.remove(&key)? {
            (_, _, Arrived::AtBroker(sent)) => Some(sent),
            _ => None,
        }
    }

    fn tell(&mut self, rng: &mut Rng, now: Millis, to: &[usize], event: &Event) {
        for host in to {
            self.send(rng, now, (*host, 1), Arrived::AtHost(*host, event.clone()));
        }
    }

    fn others(&self, from: usize) -> Vec<usize> {
        let is_connected = |host: &usize| self.paths[*host].epoch > 0 && *host != from;
        (0..self.paths.len()).filter(is_connected).collect()
    }

    fn subscribers(&self, room: &str, from: usize) -> Vec<usize> {
        if !self.subscribes_rooms {
            return self.others(from);
        }
        self.rooms.get(room).into_iter().flatten().copied().filter(|host| *host != from).collect()
    }

    /// Carries out a message of a host.
    pub(super) fn route(&mut self, rng: &mut Rng, now: Millis, Sent { from, message }: Sent) {
        let name = || format!("h{from}").into();
        let command = match message {
            Message::Answer(ReplyAddress { host, call }, part) => {
                return self.tell(rng, now, &[host], &Event::Answered { call, part });
            }
            Message::Command(command) => command,
        };
        match command {
            Command::Subscribe { room } => {
                self.rooms.entry(room).or_default().insert(from);
            }
            Command::Unsubscribe { room } => {
                self.rooms.entry(room).or_default().remove(&from);
            }
            Command::SubscribeOnly { rooms } => {
                self.rooms.values_mut().for_each(|hosts| _ = hosts.remove(&from));
                for room in rooms {
                    self.rooms.entry(room).or_default().insert(from);
                }
            }
            Command::Publish { publication, call } => {
                let to = match &publication.target {
                    Target::Room(room) => self.subscribers(room, from),
                    _ => self.others(from),
                };
                if let (Some(call), true) = (call, to.is_empty()) {
                    return self.tell(rng, now, &[from], &Event::NoResponders { call });
                }
                let reply = call.map(|call| ReplyAddress { host: from, call }.text());
                self.tell(rng, now, &to, &Event::Push { publication, reply });
            }
            Command::AnnounceInterest { room, has_members, asks } => {
                let to = self.subscribers(&room, from);
                let event = Event::Interest { host: name(), room, has_members, asks };
                self.tell(rng, now, &to, &event);
            }
            Command::AnswerInterest { room, to } => {
                let to: usize = to[1..].parse().expect("it is a name of these");
                let event = Event::Interest { host: name(), room, has_members: true, asks: false };
                self.tell(rng, now, &[to], &event);
            }
            Command::Announce { reads_stream } => {
                let to = self.others(from);
                self.tell(rng, now, &to, &Event::Announced { host: name(), reads_stream });
            }
            Command::Leave => {
                let to = self.others(from);
                self.tell(rng, now, &to, &Event::Left { host: name() });
            }
            Command::AskMembers { room, call } => {
                let to = self.others(from);
                let reply = ReplyAddress { host: from, call }.text();
                self.tell(rng, now, &to, &Event::MembersAsked { room, reply });
            }
            Command::AnswerNoMembers { to } => {
                let ReplyAddress { host, call } = ReplyAddress::parse(&to);
                self.tell(rng, now, &[host], &Event::NoMembers { call, host: name() });
            }
            Command::Refuse { to } => {
                let ReplyAddress { host, call } = ReplyAddress::parse(&to);
                self.tell(rng, now, &[host], &Event::Refused { call, host: name() });
            }
            Command::AnnounceKeys { clock, keys } => {
                let to = self.others(from);
                self.tell(rng, now, &to, &Event::Keys { host: name(), clock, keys });
            }
            Command::PublishOrder { order, call } => {
                let to = self.others(from);
                let Some(call) = call else { return };
                if to.is_empty() {
                    return self.tell(rng, now, &[from], &Event::NoResponders { call });
                }
                let reply = ReplyAddress { host: from, call }.text();
                self.tell(rng, now, &to, &Event::Ordered { order, reply });
            }
            Command::SubscribeAllRooms => assert!(!self.subscribes_rooms),
            Command::Store { .. } => unreachable!("no room has a history that hosts share"),
        }
    }
}
