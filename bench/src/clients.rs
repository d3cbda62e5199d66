//! The clients of a run in one process: their connections, and what they do beside receiving.

mod churn;
mod sipping;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::churn::{Churn, Guests};
pub(crate) use self::churn::{ChurnPlan, guests_max};
use self::sipping::Sipping;
use crate::Result;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns};
use crate::crowd::{Crowd, Reading};
use crate::dial::Dialer;
use crate::findings::Findings;
use crate::receiver::Receiver;
use crate::sampler::Counts;
use crate::sender::Progress;
use crate::source::Sources;
use crate::target::Doors;
use crate::visits::StreamId;

/// Connections begun between two looks at those under way.
const BURST: usize = 16;
/// How long nothing may happen while handshakes are under way.
const STALL_NS: u64 = 10 * SECOND_NS;

/// What the clients of a process have to know from the beginning.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub run: u32,
    pub operation: i32,
    /// Bytes of nearly all bodies.
    pub size: usize,
    pub doors: Doors,
    pub crowd: Crowd,
    pub sources: Option<Sources>,
    /// Kernel receive buffer of those who are slow to read.
    pub slow_buffer: Option<usize>,
    /// Handshakes under way at once.
    pub in_flight: usize,
}

/// What clients are told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// New books: what comes is of `run`. Who is there now is to get everything: one stream, or where it is
    /// a `visitor` all that concerns it.
    Begin { run: u32, size: usize, visitors: bool },
    /// A heartbeat of each connection every so many ns; 0 for none.
    Heartbeat(u64),
    /// Guests begin to come and go.
    Churn(ChurnPlan),
    /// No more guests; those who are there leave.
    Calm,
    /// Those who are slow to read begin to be: so many bytes a second.
    Impede(u32),
    /// They read again as the others do.
    Release,
    /// This share of the members loses its connection and makes a new one.
    Reconnect(f64),
}

/// What kind of stream a message of a visitor is; its number is added to the run's.
pub(crate) mod kind {
    pub(crate) const ROOM: u32 = 0;
    pub(crate) const KEY: u32 = 1;
    pub(crate) const EVERYBODY: u32 = 2;
}

/// The clients of one process.
pub(crate) struct Clients {
    receiver: Receiver,
    dialer: Dialer,
    in_flight: usize,
    /// Members that are to be connected, by number.
    waiting: VecDeque<usize>,
    members: Vec<Member>,
    /// Members have several streams.
    are_visitors: bool,
    churn: Option<Churn>,
    guests: Guests,
    sipping: Option<Sipping>,
}

/// A connection that is meant to stay.
#[derive(Clone, Copy)]
struct Member {
    number: usize,
    /// At the receiver.
    index: usize,
}

impl Clients {
    /// Clients without a connection yet, whose deliveries are reported to `progress`.
    ///
    /// # Errors
    ///
    /// The host refuses another descriptor.
    pub(crate) fn new(setup: Setup, progress: Arc<Progress>) -> io::Result<Self> {
        let Setup { run, operation, size, doors, crowd, sources, slow_buffer, in_flight } = setup;
        let mut receiver = Receiver::new(run, operation, size, progress)?;
        receiver.expect_callers(crowd.callers);
        Ok(Self {
            receiver,
            dialer: Dialer { doors, crowd, sources, slow_buffer },
            in_flight,
            waiting: VecDeque::new(),
            members: Vec::new(),
            are_visitors: false,
            churn: None,
            guests: Guests::default(),
            sipping: None,
        })
    }

    /// Distinct deliveries since the books were opened.
    pub(crate) fn received(&self) -> u64 {
        self.receiver.books().received()
    }

    /// Connections that are authenticated and open.
    pub(crate) fn live(&self) -> usize {
        self.receiver.live()
    }

    /// What was counted since the clients are there.
    pub(crate) fn counts(&self) -> Counts {
        self.receiver.counts()
    }

    /// Connects members `which`; returns when all are live. `watch` is called now and then.
    ///
    /// # Errors
    ///
    /// A connection was refused, closed, or nothing happened for ten seconds; or `watch` failed.
    pub(crate) fn dial(
        &mut self,
        which: Range<usize>,
        mut watch: impl FnMut(&Self) -> Result<()>,
    ) -> Result<()> {
        let wanted = self.live() + which.len();
        self.waiting.extend(which);
        let mut live = self.live();
        let mut moved_ns = now_ns();
        while self.live() < wanted {
            self.turn(100 * MILLISECOND_NS)?;
            if let Some((reason, count)) = self.receiver.close_reasons().first_key_value() {
                return Err(format!("{count} connections failed: {reason}").into());
            }
            if self.live() > live {
                (live, moved_ns) = (self.live(), now_ns());
            } else if now_ns() > moved_ns + STALL_NS {
                let opening = self.receiver.opening();
                return Err(format!("{opening} handshakes are not answered; {live} were").into());
            }
            watch(self)?;
        }
        Ok(())
    }

    /// Does what is due and handles what comes, for at most `timeout_ns`.
    ///
    /// # Errors
    ///
    /// A connection cannot be begun, or epoll failed. What a server does to one is counted.
    pub(crate) fn turn(&mut self, timeout_ns: u64) -> Result<()> {
        let mut timeout_ns = timeout_ns;
        if !self.waiting.is_empty() && self.begin_waiting()? {
            timeout_ns = 0;
        }
        if let Some(churn) = &mut self.churn {
            let due_ns = churn.act(&mut self.guests, &mut self.receiver, &self.dialer)?;
            timeout_ns = timeout_ns.min(due_ns.saturating_sub(now_ns()));
        }
        if let Some(sipping) = &mut self.sipping {
            let due_ns = sipping.act(&mut self.receiver);
            timeout_ns = timeout_ns.min(due_ns.saturating_sub(now_ns()));
        }
        Ok(self.receiver.turn(timeout_ns)?)
    }

    /// Carries out an order.
    ///
    /// # Errors
    ///
    /// epoll failed.
    pub(crate) fn obey(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Begin { run, size, visitors } => self.open_books(run, size, visitors),
            Order::Heartbeat(interval_ns) => self.receiver.set_heartbeat(interval_ns),
            Order::Churn(plan) => self.churn = Some(Churn::new(plan)),
            Order::Calm => {
                self.churn = None;
                self.guests.leave_all(&mut self.receiver);
            }
            Order::Impede(bytes_per_second) => {
                let mut sipping = Sipping::new(bytes_per_second);
                for member in &self.members {
                    let reading = self.dialer.crowd.reading(member.number);
                    if reading != Reading::AtOnce {
                        self.receiver.mute(member.index)?;
                        sipping.add(member.index, reading);
                    }
                }
                self.sipping = Some(sipping);
            }
            Order::Release => {
                if let Some(sipping) = self.sipping.take() {
                    sipping.release(&mut self.receiver)?;
                }
            }
            Order::Reconnect(share) => self.reconnect(share),
        }
        Ok(())
    }

    /// What was found since the books were opened; `sent` has the number of messages of each stream by
    /// kind. The books stay open.
    pub(crate) fn findings(&self, sent: &[Vec<u64>]) -> Findings {
        let books = self.receiver.books();
        let of_members = sent.first().filter(|_| !self.are_visitors).map_or(&[][..], Vec::as_slice);
        let is_healthy = |connection: usize| !books.is_impaired(connection);
        let (healthy_expected, healthy_lost) = books.accounts.lost_by(of_members, is_healthy);
        let is_open = |connection: usize| self.receiver.is_live(connection);
        let (_, open_lost) = books.accounts.lost_by(of_members, is_open);
        let mut guests = self.guests.sums;
        guests.moved = books.moved;
        Findings {
            deliveries: books.accounts.close(of_members),
            healthy_expected,
            healthy_lost,
            open_lost,
            visits: books.visits.close(sent),
            guests,
            latencies: books.latencies.clone(),
            impaired_latencies: books.impaired_latencies.clone(),
            handshakes: books.handshakes.clone(),
            round_trips: books.round_trips.clone(),
            heartbeats_sent: self.receiver.heartbeats_sent(),
            closed: self.receiver.close_reasons().clone(),
            healthy_closed: self.receiver.healthy_closed(),
        }
    }

    /// Begins as many as may be under way; says whether there could be more.
    fn begin_waiting(&mut self) -> Result<bool> {
        let room = self.in_flight.saturating_sub(self.receiver.opening());
        for _ in 0..room.min(BURST) {
            let Some(number) = self.waiting.pop_front() else { break };
            let index = self.receiver.next_index();
            self.dialer.begin(&mut self.receiver, number, now_ns())?;
            self.members.push(Member { number, index });
            if self.are_visitors {
                self.visit(Member { number, index }, false);
            }
        }
        Ok(!self.waiting.is_empty() && self.receiver.opening() < self.in_flight)
    }

    fn open_books(&mut self, run: u32, size: usize, visitors: bool) {
        self.receiver.start_over(run, size);
        self.guests.sums = Default::default();
        self.are_visitors = visitors;
        if visitors {
            for member in self.members.clone() {
                self.visit(member, self.receiver.is_live(member.index));
            }
        }
    }

    fn visit(&mut self, member: Member, from_the_start: bool) {
        let number = |index: usize| u32::try_from(index).expect("connections are numbered by u32");
        let room = self.dialer.crowd.room_of(member.number);
        let room = room.map(|room| StreamId { kind: kind::ROOM, number: number(room) });
        let own = StreamId { kind: kind::KEY, number: number(member.number) };
        let everybody = StreamId { kind: kind::EVERYBODY, number: 0 };
        for stream in room.into_iter().chain([own, everybody]) {
            self.receiver.visit(member.index, stream, from_the_start);
        }
    }

    fn reconnect(&mut self, share: f64) {
        let count = (self.members.len() as f64 * share.clamp(0.0, 1.0)).round() as usize;
        for member in self.members.drain(..count).collect::<Vec<_>>() {
            self.receiver.leave(member.index);
            self.waiting.push_back(member.number);
        }
    }
}
