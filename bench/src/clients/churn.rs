//! Guests: connections that arrive at a given rate, may change their room, and leave after a random time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::accounting::StreamId;
use crate::clock::{now_ns, seconds_to_ns};
use crate::dial::Dialer;
use crate::findings::GuestSums;
use crate::message::OP_CHANGE_ROOM;
use crate::plan::Plan;
use crate::receiver::Receiver;

/// How guests come and go.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ChurnPlan {
    /// Time between two arrivals. Guests arrive on schedule, even if those before them are late.
    pub interval_ns: u64,
    /// How long a guest stays, on average; exponentially distributed.
    pub life_ns: u64,
    /// Share of the guests that change their room halfway.
    pub moves: f64,
    /// Number of the first guest, and the step from one guest's number to the next.
    pub first: usize,
    pub stride: usize,
    /// The most guests that may be present at once.
    pub present_max: u64,
}

impl ChurnPlan {
    /// Guests in addition to `members`; `None` at a rate of 0.
    pub(crate) fn of(arrivals: f64, life_s: f64, moves: f64, members: usize) -> Option<Self> {
        Some(Self {
            interval_ns: Plan::interval_of(arrivals)?,
            life_ns: seconds_to_ns(life_s),
            moves,
            first: members,
            stride: 1,
            present_max: guests_max(arrivals, life_s),
        })
    }

    /// The part of the plan for one of `count` processes.
    pub(crate) fn part(&self, count: usize, index: usize) -> Self {
        Self {
            interval_ns: self.interval_ns.saturating_mul(count as u64),
            first: self.first + index * self.stride,
            stride: self.stride * count,
            present_max: self.present_max.div_ceil(count as u64),
            ..*self
        }
    }
}

/// Room for the guests that are present at once: twice the average, plus some.
pub(crate) fn guests_max(arrivals: f64, life_s: f64) -> u64 {
    (arrivals.max(0.0) * life_s.max(0.0) * 2.0).ceil() as u64 + 100
}

/// The guests that are present, what they will do next, and when others arrive.
#[derive(Default)]
pub(super) struct Guests {
    /// The plan while guests arrive, and a random generator seeded from it, so that the guests of two runs behave
    /// alike.
    arrivals: Option<(ChurnPlan, StdRng)>,
    events: BinaryHeap<Reverse<Event>>,
    present: u64,
    pub sums: GuestSums,
}

/// Ordered by time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    due_ns: u64,
    /// The index of the connection at the receiver; for a guest yet to arrive, its number.
    index: usize,
    step: Step,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Arrive,
    MoveTo(usize),
    Leave,
}

impl Guests {
    /// Guests begin to arrive.
    pub(super) fn start(&mut self, plan: ChurnPlan) {
        self.schedule(now_ns() + plan.interval_ns, plan.first, Step::Arrive);
        self.arrivals = Some((plan, StdRng::seed_from_u64(plan.first as u64)));
    }

    /// No more guests arrive, and those that are present leave at once.
    pub(super) fn stop(&mut self, receiver: &mut Receiver) {
        self.arrivals = None;
        for Reverse(event) in self.events.drain().collect::<Vec<_>>() {
            if event.step == Step::Leave {
                self.leave(event.index, receiver);
            }
        }
    }

    /// Does what is due; returns when the next event is due. Fails if the host refuses a connection.
    pub(super) fn act(&mut self, receiver: &mut Receiver, dialer: &Dialer) -> Result<Option<u64>> {
        let now_ns = now_ns();
        while let Some(Reverse(next)) = self.events.peek() {
            if next.due_ns > now_ns {
                return Ok(Some(next.due_ns));
            }
            let Some(Reverse(Event { due_ns, index, step })) = self.events.pop() else { break };
            match step {
                Step::Arrive => self.arrive(index, due_ns, receiver, dialer)?,
                Step::Leave => self.leave(index, receiver),
                // A guest that is not live yet stays in the room that it asked for.
                Step::MoveTo(room) if receiver.is_live(index) => {
                    receiver.recorder.accounts.subscribe(index, StreamId::room(room), false);
                    receiver.send(index, OP_CHANGE_ROOM, dialer.crowd.room(room).as_bytes());
                }
                Step::MoveTo(_) => {}
            }
        }
        Ok(None)
    }

    /// A guest arrives if there is room for it, and the next arrival is scheduled.
    fn arrive(
        &mut self,
        number: usize,
        due_ns: u64,
        receiver: &mut Receiver,
        dialer: &Dialer,
    ) -> Result<()> {
        let Some((plan, random)) = &mut self.arrivals else { return Ok(()) };
        let plan = *plan;
        if self.present >= plan.present_max {
            self.sums.turned_away += 1;
            self.schedule(due_ns + plan.interval_ns, number, Step::Arrive);
            return Ok(());
        }
        let life_ns = (exponential(random) * plan.life_ns as f64) as u64;
        let (moves, rooms) = (random.random::<f64>() < plan.moves, dialer.crowd.rooms);
        let beyond = (moves && rooms > 1).then(|| random.random_range(1..rooms));

        let index = dialer.begin(receiver, number, due_ns)?;
        let room = dialer.crowd.room_of(number).expect("scenarios with guests have rooms");
        receiver.recorder.accounts.subscribe(index, StreamId::room(room), false);
        receiver.recorder.accounts.subscribe(index, StreamId::broadcast(), false);
        if let Some(beyond) = beyond {
            self.schedule(due_ns + life_ns / 2, index, Step::MoveTo((room + beyond) % rooms));
        }
        self.schedule(due_ns + life_ns, index, Step::Leave);
        self.schedule(due_ns + plan.interval_ns, number + plan.stride, Step::Arrive);
        self.present += 1;
        self.sums.arrived += 1;
        self.sums.present_max = self.sums.present_max.max(self.present);
        Ok(())
    }

    fn schedule(&mut self, due_ns: u64, index: usize, step: Step) {
        self.events.push(Reverse(Event { due_ns, index, step }));
    }

    fn leave(&mut self, index: usize, receiver: &mut Receiver) {
        let was_in = receiver.is_live(index);
        if receiver.close(index) && !was_in {
            self.sums.gave_up += 1;
        }
        self.present -= 1;
    }
}

/// An exponentially distributed number with mean 1.
fn exponential(random: &mut StdRng) -> f64 {
    -(1.0 - random.random::<f64>()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_have_the_mean_asked_for() {
        let mut random = StdRng::seed_from_u64(7);
        let mean = (0..10_000).map(|_| exponential(&mut random)).sum::<f64>() / 1e4;
        assert!((0.95..1.05).contains(&mean), "{mean}");
    }

    #[test]
    fn processes_share_the_arrivals() {
        let whole = ChurnPlan::of(100.0, 2.0, 0.5, 1000).unwrap();
        assert_eq!((whole.interval_ns, whole.first, whole.present_max), (10_000_000, 1000, 500));
        let part = whole.part(3, 1);
        assert_eq!((part.interval_ns, part.first, part.stride), (30_000_000, 1001, 3));
    }

    #[test]
    fn events_come_in_the_order_of_their_time() {
        let mut guests = Guests::default();
        guests.schedule(7, 0, Step::Leave);
        guests.schedule(3, 1, Step::Leave);
        guests.schedule(3, 0, Step::MoveTo(2));
        guests.schedule(5, 9, Step::Arrive);
        let due = std::iter::from_fn(|| guests.events.pop());
        let order: Vec<(u64, usize)> = due.map(|Reverse(is)| (is.due_ns, is.index)).collect();
        assert_eq!(order, [(3, 0), (3, 1), (5, 9), (7, 0)]);
    }
}
