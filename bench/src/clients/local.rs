//! The clients of a run in one process: their connections, and what they do besides receiving.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;

use comet_proto::Position;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::accounting::StreamId;
use crate::accounting::visits::VisitAccounts;
use crate::clients::churn::{ChurnPlan, Guests};
use crate::clients::member::Member;
use crate::clients::slow::SlowReaders;
use crate::clients::talk::Talk;
use crate::clients::visits::{VisitPlan, Visits};
use crate::clock::now_ns;
use crate::dial::Dialer;
use crate::findings::{Findings, GuestSums, TalkSums};
use crate::message::STAMP_LEN;
use crate::pauses::Pauses;
use crate::receiver::Receiver;
use crate::recorder::Recorder;

/// The number of connections begun before those under way are looked at.
const BURST: usize = 16;

/// A command to all clients of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ClientCommand {
    /// Connect these members, by number.
    Dial(Range<usize>),
    /// Reset all figures: from now on messages are expected to be of `run`. Members that are connected now are expected
    /// to receive everything: one stream, or with `all_streams` the streams of their room, of their key and of the
    /// broadcasts.
    Restart { run: u32, size: usize, all_streams: bool },
    /// One heartbeat of each connection every so many ns; 0 for none.
    Heartbeat(u64),
    /// Guests begin to come and go.
    StartGuests(ChurnPlan),
    /// No more guests; those that are there leave.
    StopGuests,
    /// Slow readers begin to be slow, at so many bytes a second.
    SlowDown(u32),
    /// They read like the others again.
    ReadNormally,
    /// This share of the members loses its connection and makes a new one.
    Reconnect(f64),
    /// From now on the longest pause of each member is measured afresh, where it is sent a message of its room every so
    /// many ns.
    MeasurePauses(u64),
    /// Members need not receive these messages: their callers were told that the push had failed.
    Excuse(Vec<(StreamId, u64)>),
    /// All members lose their connections.
    CutOff,
    /// Each member asks to be in its further rooms.
    EnterFurtherRooms,
    /// Members send messages to logic, one every so many ns.
    Talk(u64),
    /// Members begin to visit further rooms.
    Visit(VisitPlan),
    /// No more messages to logic, and no more requests to enter or leave rooms.
    StopTalkAndVisits,
}

/// The clients of one process.
pub(crate) struct LocalClients {
    pub receiver: Receiver,
    dialer: Dialer,
    /// Numbers of the members to be connected.
    waiting: VecDeque<usize>,
    members: Vec<Member>,
    /// The positions of members that were cut off, in the history of their room.
    known: HashMap<usize, Position>,
    /// Members that have yet to ask for their further rooms.
    entering: VecDeque<Member>,
    /// Whether members have several streams.
    all_streams: bool,
    guests: Guests,
    slow: Option<SlowReaders>,
    talk: Option<Talk>,
    visits: Option<Visits>,
}

impl LocalClients {
    /// Clients without a connection yet. Before the first restart no message is expected. Fails if the host refuses a
    /// descriptor.
    pub(crate) fn new(dialer: Dialer) -> io::Result<Self> {
        let mut recorder = Recorder::new(0, dialer.operation, STAMP_LEN);
        recorder.accounts.callers = dialer.crowd.callers;
        Ok(Self {
            receiver: Receiver::new(recorder)?,
            dialer,
            waiting: VecDeque::new(),
            members: Vec::new(),
            known: HashMap::new(),
            entering: VecDeque::new(),
            all_streams: false,
            guests: Guests::default(),
            slow: None,
            talk: None,
            visits: None,
        })
    }

    /// Does what is due and handles events, for at most `timeout_ns`. Fails if a connection cannot be begun, or epoll
    /// failed; what a server does to a connection is only counted.
    pub(crate) fn turn(&mut self, mut timeout_ns: u64) -> Result<()> {
        if !self.waiting.is_empty() && self.begin_waiting()? {
            timeout_ns = 0;
        }
        for member in self.entering.drain(..self.entering.len().min(BURST)) {
            let rooms = self.dialer.crowd.further_rooms(member.number);
            self.receiver.enter_rooms(member.index, rooms);
            timeout_ns = 0;
        }
        if let Some(due_ns) = self.guests.act(&mut self.receiver, &self.dialer)? {
            timeout_ns = timeout_ns.min(due_ns.saturating_sub(now_ns()));
        }
        if let Some(slow) = &mut self.slow {
            let due_ns = slow.act(&mut self.receiver);
            timeout_ns = timeout_ns.min(due_ns.saturating_sub(now_ns()));
        }
        let Self { receiver, members, talk, visits, dialer, .. } = self;
        let talk = talk.as_mut().map(|talk| talk.act(receiver, members));
        let visits = visits.as_mut().map(|visits| visits.act(receiver, &dialer.crowd, members));
        for due_ns in talk.into_iter().chain(visits) {
            timeout_ns = timeout_ns.min(due_ns.saturating_sub(now_ns()));
        }
        Ok(self.receiver.turn(timeout_ns)?)
    }

    /// Carries out a command. Fails if epoll does.
    pub(crate) fn execute(&mut self, command: ClientCommand) -> Result<()> {
        match command {
            ClientCommand::Dial(which) => self.waiting.extend(which),
            ClientCommand::Restart { run, size, all_streams } => {
                self.restart(run, size, all_streams);
            }
            ClientCommand::Heartbeat(interval_ns) => {
                self.receiver.heartbeats.set_interval(interval_ns, now_ns());
            }
            ClientCommand::StartGuests(plan) => self.guests.start(plan),
            ClientCommand::StopGuests => self.guests.stop(&mut self.receiver),
            ClientCommand::SlowDown(bytes_per_second) => {
                let mut slow = SlowReaders::new(bytes_per_second);
                for member in &self.members {
                    let reading = self.dialer.crowd.reading(member.number);
                    slow.add(&mut self.receiver, member.index, reading)?;
                }
                self.slow = Some(slow);
            }
            ClientCommand::ReadNormally => {
                if let Some(slow) = self.slow.take() {
                    slow.release(&mut self.receiver)?;
                }
            }
            ClientCommand::Reconnect(share) => self.reconnect(share),
            ClientCommand::MeasurePauses(interval_ns) => {
                let pauses = &mut self.receiver.recorder.pauses;
                *pauses = Some(Pauses::begin(interval_ns, now_ns(), pauses.take()));
            }
            ClientCommand::Excuse(messages) => {
                let accounts = &mut self.receiver.recorder.accounts;
                let mut visits = self.receiver.recorder.visits.as_mut();
                messages.into_iter().for_each(|(stream, sequence)| match &mut visits {
                    Some(visits) if stream.kind == StreamId::FURTHER => {
                        visits.excuse(stream, sequence);
                    }
                    _ => accounts.excuse(stream, sequence),
                });
            }
            ClientCommand::CutOff => {
                for member in std::mem::take(&mut self.members) {
                    if let Some(room) = self.room_with_history(member.number)
                        && let Some(position) = self.receiver.position(member.index, &room)
                    {
                        self.known.insert(member.number, position);
                    }
                    self.receiver.close(member.index);
                }
            }
            ClientCommand::EnterFurtherRooms => self.entering.extend(&self.members),
            ClientCommand::Talk(interval_ns) => self.talk = Some(Talk::start(interval_ns)),
            ClientCommand::Visit(plan) => self.visits = Some(Visits::start(plan)),
            ClientCommand::StopTalkAndVisits => {
                self.talk.iter_mut().for_each(Talk::stop);
                self.visits.iter_mut().for_each(Visits::stop);
            }
        }
        Ok(())
    }

    /// The findings since the last restart; `sent` holds the number of messages sent to each stream, by kind.
    pub(crate) fn findings(&self, sent: &[Vec<u64>]) -> Findings {
        let recorder = &self.receiver.recorder;
        // If members have all their streams, a connection without subscriptions is one that was closed.
        let to_single = if self.all_streams { &[] } else { sent };
        let is_healthy = |connection: usize| !recorder.is_slow(connection);
        let (healthy_expected, healthy_lost) = recorder.accounts.lost_by(to_single, is_healthy);
        let is_open = |connection: usize| self.receiver.is_live(connection);
        let (_, open_lost) = recorder.accounts.lost_by(to_single, is_open);
        let guests = GuestSums { moved: recorder.found.guests.moved, ..self.guests.sums };
        let members = self.members.iter().map(|member| member.index);
        // The pauses of those that read nothing only show that they do not read.
        let members = members.filter(|&index| !recorder.is_slow(index));
        let of_members = |pauses: &Pauses| pauses.longest(members, now_ns());
        let [deliveries, mut visits] = recorder.accounts.close(to_single, sent);
        visits += recorder.visits.as_ref().map(VisitAccounts::close).unwrap_or_default();
        let sent_to_logic = self.talk.as_ref().map_or(0, |talk| talk.sent);
        Findings {
            talk: TalkSums { sent: sent_to_logic, ..recorder.found.talk },
            deliveries,
            healthy_expected,
            healthy_lost,
            open_lost,
            visits,
            guests,
            pauses: recorder.pauses.as_ref().map(of_members).unwrap_or_default(),
            ..recorder.found.clone()
        }
    }

    /// Begins as many connections as may be under way; returns whether there could be more.
    fn begin_waiting(&mut self) -> Result<bool> {
        let room = self.dialer.in_flight.saturating_sub(self.receiver.opening());
        for _ in 0..room.min(BURST) {
            let Some(number) = self.waiting.pop_front() else { break };
            let index = self.dialer.begin(&mut self.receiver, number, now_ns())?;
            if let Some(room) = self.room_with_history(number)
                && let Some(position) = self.known.remove(&number)
            {
                self.receiver.resume(index, &room, position);
            }
            self.members.push(Member { number, index });
            if self.all_streams {
                self.subscribe(Member { number, index }, false);
            }
        }
        Ok(!self.waiting.is_empty() && self.receiver.opening() < self.dialer.in_flight)
    }

    /// The room that a member rejoins with its position.
    fn room_with_history(&self, number: usize) -> Option<String> {
        let crowd = &self.dialer.crowd;
        let room = crowd.room_of(number).filter(|_| crowd.keeps_positions)?;
        Some(crowd.room(room))
    }

    fn restart(&mut self, run: u32, size: usize, all_streams: bool) {
        self.receiver.recorder.restart(run, size);
        self.guests.sums = Default::default();
        self.all_streams = all_streams;
        if all_streams {
            for member in self.members.clone() {
                self.subscribe(member, self.receiver.is_live(member.index));
            }
        }
    }

    fn subscribe(&mut self, member: Member, from_the_start: bool) {
        let room = self.dialer.crowd.room_of(member.number).map(StreamId::room);
        let own = StreamId::key(member.number);
        for stream in room.into_iter().chain([own, StreamId::broadcast()]) {
            self.receiver.recorder.accounts.subscribe(member.index, stream, from_the_start);
        }
    }

    fn reconnect(&mut self, share: f64) {
        let count = (self.members.len() as f64 * share.clamp(0.0, 1.0)).round() as usize;
        for member in self.members.drain(..count).collect::<Vec<_>>() {
            self.receiver.close(member.index);
            self.waiting.push_back(member.number);
        }
    }
}
