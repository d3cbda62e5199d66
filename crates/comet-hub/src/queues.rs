//! The items that wait in front of one inbox, or of one server: a queue for each caller. The queues take turns by the
//! work of their items.

use std::collections::{HashMap, VecDeque};

use comet_core::{CallId, Message};

/// Identifies a caller: pushes of one caller keep their order, those of several callers take turns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CallerId(pub u64);

/// A message that waits.
pub(crate) struct Waiting {
    /// `None`: the message belongs to no call and is never skipped.
    pub(crate) call: Option<CallId>,
    pub(crate) message: Message,
}

/// An item in the queue of a caller.
pub(crate) trait Work {
    /// The work that the item causes; a push to one key or room counts as 1.
    fn cost(&self) -> usize;
}

impl Work for Waiting {
    fn cost(&self) -> usize {
        cost(&self.message)
    }
}

/// Most work of one caller before the next one's turn.
const QUANTUM: usize = 256;

/// The work that a message causes at a home.
pub(crate) fn cost(message: &Message) -> usize {
    match message {
        Message::PushKeys { keys, push, .. } => cost_of_names(keys.len() * push.offers()),
        Message::PushUsers { users, push, .. } => cost_of_names(users.len() * push.offers()),
        Message::Broadcast { .. } | Message::KickNetwork { .. } => COST_OF_BROADCAST,
        _ => 1,
    }
}

/// The work of a push to this many keys or users.
pub(crate) fn cost_of_names(names: usize) -> usize {
    1 + names / 4
}

/// The work of a push to all.
pub(crate) const COST_OF_BROADCAST: usize = QUANTUM;

struct CallerQueue<T> {
    messages: VecDeque<T>,
    /// Work that the caller may still cause in its turn. A message that costs more waits for later turns.
    credit: usize,
}

impl<T> Default for CallerQueue<T> {
    fn default() -> Self {
        Self { messages: VecDeque::new(), credit: 0 }
    }
}

/// Never holds an empty queue.
pub(crate) struct CallerQueues<T = Waiting> {
    queues: HashMap<CallerId, CallerQueue<T>>,
    /// The callers in the order of their turns.
    turns: VecDeque<CallerId>,
    len: usize,
}

impl<T> Default for CallerQueues<T> {
    fn default() -> Self {
        Self { queues: HashMap::new(), turns: VecDeque::new(), len: 0 }
    }
}

impl<T: Work> CallerQueues<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.turns.iter().flat_map(|caller| &self.queues[caller].messages)
    }

    pub(crate) fn push(&mut self, caller: CallerId, waiting: T) {
        let queue = self.queues.entry(caller).or_default();
        if queue.messages.is_empty() {
            self.turns.push_back(caller);
        }
        queue.messages.push_back(waiting);
        self.len += 1;
    }

    /// The next message in turn, and its cost.
    pub(crate) fn pop(&mut self) -> Option<(CallerId, T, usize)> {
        loop {
            let caller = *self.turns.front()?;
            let queue = self.queues.get_mut(&caller).expect("a caller with a turn has a queue");
            let cost = queue.messages.front().expect("no queue is empty").cost();
            if queue.credit < cost {
                queue.credit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            queue.credit -= cost;
            let waiting = queue.messages.pop_front().expect("looked at above");
            if queue.messages.is_empty() {
                self.queues.remove(&caller);
                self.turns.pop_front();
            }
            self.len -= 1;
            return Some((caller, waiting, cost));
        }
    }

    /// Takes back a message from [`CallerQueues::pop`]. It is the next one again.
    pub(crate) fn put_back(&mut self, (caller, waiting, cost): (CallerId, T, usize)) {
        let queue = self.queues.entry(caller).or_default();
        if queue.messages.is_empty() {
            self.turns.push_front(caller);
        }
        queue.messages.push_front(waiting);
        queue.credit += cost;
        self.len += 1;
    }

    /// Drops the messages for which `keeps` is false.
    pub(crate) fn retain(&mut self, keeps: impl Fn(&T) -> bool) {
        for queue in self.queues.values_mut() {
            queue.messages.retain(&keeps);
        }
        self.queues.retain(|_, queue| !queue.messages.is_empty());
        let Self { queues, turns, .. } = self;
        turns.retain(|caller| queues.contains_key(caller));
        self.len = queues.values().map(|queue| queue.messages.len()).sum();
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        let Self { mut queues, turns, .. } = std::mem::take(self);
        turns
            .into_iter()
            .flat_map(move |caller| queues.remove(&caller).unwrap_or_default().messages)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use comet_core::Push;
    use comet_proto::Encoded;

    use super::*;

    fn push(call: u64, keys: usize) -> Waiting {
        let push = Push::new(5, Encoded::verbatim(b"x"));
        let (call, keys) = (CallId(call), vec!["k".into(); keys]);
        Waiting { call: Some(call), message: Message::PushKeys { call, keys, push } }
    }

    #[test]
    fn callers_take_turns_by_what_their_calls_cost() {
        let mut queues = CallerQueues::default();
        let [greedy, modest] = [CallerId(1), CallerId(2)];
        (0..20).for_each(|call| queues.push(greedy, push(call, 10_000)));
        (0..50_000).for_each(|call| queues.push(modest, push(call, 1)));
        let mut last = BTreeMap::new();
        let mut costs = BTreeMap::from([(greedy, 0), (modest, 0)]);
        for _ in 0..20_000 {
            let (caller, waiting, cost) = queues.pop().expect("more wait");
            *costs.get_mut(&caller).expect("one of two") += cost;
            let call = waiting.call.expect("of a call");
            assert!(last.insert(caller, call).is_none_or(|last| last < call), "in order");
        }
        assert!(costs[&modest].abs_diff(costs[&greedy]) <= 2 * 2_501, "{costs:?}");
        assert_eq!(queues.len(), 30_020);
    }

    #[test]
    fn a_message_that_is_put_back_is_the_next_one() {
        let mut queues = CallerQueues::default();
        for call in 0..4 {
            queues.push(CallerId(call % 2), push(call, 1));
        }
        for left in (0..4).rev() {
            let first = queues.pop().expect("more wait");
            let call = first.1.call;
            queues.put_back(first);
            assert_eq!(queues.pop().expect("it is back").1.call, call);
            assert_eq!((queues.len(), queues.iter().count()), (left, left));
        }
        assert!(queues.pop().is_none());
    }
}
