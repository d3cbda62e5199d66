//! Calls to one comet take turns by caller, because to the comet all callers of a logic service look like one.

use std::collections::BTreeMap;

use super::push::Target;
use crate::CallerId;
use crate::queues::{COST_OF_BROADCAST, CallerQueues, Work, cost_of_names};

/// Most work under way at one comet; its own inboxes have the same window.
const WINDOW: usize = 2_048;

/// One call's turn, from [`Turns::ask`] to [`Turns::end`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TurnId(u64);

struct Waiting {
    turn: TurnId,
    cost: usize,
}

impl Work for Waiting {
    fn cost(&self) -> usize {
        self.cost
    }
}

/// The calls to one comet. Those of one caller keep their order.
///
/// After each [`ask`](Self::ask) and [`end`](Self::end): [`poll_turn`](Self::poll_turn) until `None`.
#[derive(Default)]
pub struct Turns {
    waiting: CallerQueues<Waiting>,
    /// The work of each call under way, and of all of them.
    under_way: BTreeMap<TurnId, usize>,
    work: usize,
    next: u64,
}

impl Turns {
    /// Queues a call of `caller` to `target`.
    pub fn ask(&mut self, caller: CallerId, target: &Target) -> TurnId {
        let cost = match target {
            Target::Keys(keys) => cost_of_names(keys.len()),
            Target::Room => 1,
            Target::All { .. } => COST_OF_BROADCAST,
        };
        let turn = TurnId(self.next);
        self.next += 1;
        self.waiting.push(caller, Waiting { turn, cost });
        turn
    }

    /// The next call whose turn has come.
    pub fn poll_turn(&mut self) -> Option<TurnId> {
        let next = self.waiting.pop()?;
        let (_, Waiting { turn, .. }, cost) = &next;
        // A call that exceeds the window by itself waits until it is alone.
        if self.work > 0 && self.work + cost > WINDOW {
            self.waiting.put_back(next);
            return None;
        }
        self.under_way.insert(*turn, *cost);
        self.work += cost;
        Some(*turn)
    }

    /// Ends a call that is over or given up. Its turn may not have come yet.
    pub fn end(&mut self, turn: TurnId) {
        match self.under_way.remove(&turn) {
            Some(cost) => self.work -= cost,
            None => self.waiting.retain(|waiting| waiting.turn != turn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: CallerId = CallerId(1);
    const MODEST: CallerId = CallerId(2);

    fn keys(keys: usize) -> Target {
        Target::Keys(vec![String::new(); keys])
    }

    fn begun(turns: &mut Turns) -> Vec<TurnId> {
        std::iter::from_fn(|| turns.poll_turn()).collect()
    }

    #[test]
    fn a_greedy_caller_keeps_others_waiting_for_a_window_at_most() {
        let mut turns = Turns::default();
        let large: Vec<_> = (0..100).map(|_| turns.ask(GREEDY, &keys(4_000))).collect();
        assert_eq!(begun(&mut turns), large[..2]);
        let small: Vec<_> = (0..5).map(|_| turns.ask(MODEST, &Target::Room)).collect();
        // The next call of the greedy caller waits for space. After it the small ones follow, in their order, before
        // the 97 others of that caller.
        assert_eq!(begun(&mut turns), []);
        turns.end(large[0]);
        assert_eq!(begun(&mut turns), [&large[2..3], &small].concat());
        small.into_iter().for_each(|turn| turns.end(turn));
        assert_eq!(begun(&mut turns), []);
        turns.end(large[1]);
        assert_eq!(begun(&mut turns), large[3..4]);
    }

    #[test]
    fn a_call_larger_than_the_window_is_alone() {
        let mut turns = Turns::default();
        let first = turns.ask(MODEST, &Target::All { speed: None });
        let large = turns.ask(GREEDY, &keys(10_000));
        assert_eq!(begun(&mut turns), [first]);
        turns.end(first);
        assert_eq!(begun(&mut turns), [large]);
        let last = turns.ask(MODEST, &Target::Room);
        assert_eq!(begun(&mut turns), []);
        turns.end(large);
        assert_eq!(begun(&mut turns), [last]);
    }

    #[test]
    fn a_call_that_is_given_up_takes_no_turn() {
        let mut turns = Turns::default();
        let asked: Vec<_> =
            (0..9).map(|_| turns.ask(GREEDY, &Target::All { speed: None })).collect();
        assert_eq!(begun(&mut turns), asked[..8]);
        turns.end(asked[8]);
        asked[..8].iter().for_each(|turn| turns.end(*turn));
        assert_eq!(begun(&mut turns), []);
        assert_eq!(turns.work, 0);
    }
}
