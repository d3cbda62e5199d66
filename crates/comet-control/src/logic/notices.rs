//! What logic has to hear of sessions without having asked: that they go on, that they ended. While it
//! is away, this waits here.
//!
//! Of one key one notice is on its way at a time, and a newer one takes the place of an older one that
//! waits: so the last word on a key is the last that logic hears. A key that logic has just given to a
//! connection is in use: its former session's end is taken back, or mended if it may have been heard.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

/// Notices that wait at most. Of an end beyond it logic learns by the session's expiry.
const WAITING_MAX: usize = 65_536;

/// Notices on their way at most: what clients ask for must find room beside them.
const ON_THEIR_WAY_MAX: usize = 256;

/// How often one is said before it is given up.
const ATTEMPTS: u32 = 3;

/// Ends that are remembered after they were said. They matter for as long as a call may take.
const ENDED_MAX: usize = 16_384;

/// What became of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// It goes on.
    Goes,
    /// It ended.
    Ended,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Notice {
    pub(crate) user: i64,
    pub(crate) key: Box<str>,
    pub(crate) turn: Turn,
    /// How often it was said in vain.
    failures: u32,
}

impl Notice {
    pub(crate) fn new(user: i64, key: Box<str>, turn: Turn) -> Self {
        Self { user, key, turn, failures: 0 }
    }
}

/// A moment in the order in which notices were taken and said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Moment(u64);

#[derive(Default)]
struct State {
    /// In the order in which they are to be said.
    waiting: BTreeMap<Moment, Notice>,
    /// Where each key waits.
    places: HashMap<Box<str>, Moment>,
    /// Keys with a notice on its way, and what is to be said after it.
    on_their_way: HashMap<Box<str>, Option<Notice>>,
    /// Keys whose end was said last, and when.
    ended: HashMap<Box<str>, Moment>,
    /// The same, the oldest first; an end that was said again has more than one entry.
    ended_order: VecDeque<(Moment, Box<str>)>,
    now: Moment,
    dropped: u64,
}

#[derive(Default)]
pub(crate) struct Notices {
    state: Mutex<State>,
    changed: Notify,
}

impl Notices {
    /// To be said when there is somebody to hear it. If too many wait it comes back, and is counted as
    /// dropped.
    pub(crate) fn add(&self, notice: Notice) -> Option<Notice> {
        let given_up = self.lock().add(notice);
        self.changed.notify_waiters();
        given_up
    }

    pub(crate) fn now(&self) -> Moment {
        self.lock().now
    }

    /// Logic has given the key to a connection, asked at `since`: an end said after that may have ended
    /// the new session. What would mend that comes back if too many wait.
    pub(crate) fn key_in_use(&self, user: i64, key: &str, since: Moment) -> Option<Notice> {
        let mut state = self.lock();
        state.take_back(key);
        let is_hit = state.on_their_way.contains_key(key)
            || state.ended.get(key).is_some_and(|ended| *ended > since);
        let given_up =
            if is_hit { state.add(Notice::new(user, key.into(), Turn::Goes)) } else { None };
        drop(state);
        self.changed.notify_waiters();
        given_up
    }

    /// The one to say now.
    pub(crate) fn begin(&self) -> Option<Notice> {
        let mut state = self.lock();
        if !state.may_begin() {
            return None;
        }
        let (_, notice) = state.waiting.pop_first()?;
        state.places.remove(&notice.key);
        state.on_their_way.insert(notice.key.clone(), None);
        Some(notice)
    }

    /// It was heard, or not: then it waits for another time, unless there is newer. One that is given up
    /// comes back, and is counted as dropped.
    pub(crate) fn end(&self, notice: Notice, heard: bool) -> Option<Notice> {
        let mut state = self.lock();
        let next = state.on_their_way.remove(&notice.key).flatten();
        if notice.turn == Turn::Ended {
            // Heard or not: an answer that got lost may have had a deed before it.
            state.remember_end(notice.key.clone());
        }
        let failures = notice.failures + u32::from(!heard);
        let given_up = match next {
            Some(next) => state.add(next),
            None if heard => None,
            None if failures < ATTEMPTS => state.add(Notice { failures, ..notice }),
            None => {
                state.dropped += 1;
                Some(notice)
            }
        };
        drop(state);
        self.changed.notify_waiters();
        given_up
    }

    /// Resolves when one may be said.
    pub(crate) async fn until_one_waits(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().may_begin() {
                return;
            }
            changed.await;
        }
    }

    /// Resolves when none waits and none is on its way.
    pub(crate) async fn until_all_heard(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().is_idle() {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Never held across an await, and only the control thread comes here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics between lock and unlock")
    }
}

impl State {
    fn may_begin(&self) -> bool {
        !self.waiting.is_empty() && self.on_their_way.len() < ON_THEIR_WAY_MAX
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.on_their_way.is_empty()
    }

    fn add(&mut self, notice: Notice) -> Option<Notice> {
        if let Some(next) = self.on_their_way.get_mut(&notice.key) {
            *next = Some(notice);
        } else if let Some(place) = self.places.get(&notice.key) {
            self.waiting.insert(*place, notice);
        } else if self.waiting.len() < WAITING_MAX {
            let place = self.tick();
            self.places.insert(notice.key.clone(), place);
            self.waiting.insert(place, notice);
        } else {
            self.dropped += 1;
            return Some(notice);
        }
        None
    }

    fn take_back(&mut self, key: &str) {
        if let Some(place) = self.places.get(key)
            && self.waiting[place].turn == Turn::Ended
        {
            self.waiting.remove(place);
            self.places.remove(key);
        }
        if let Some(next) = self.on_their_way.get_mut(key) {
            next.take_if(|next| next.turn == Turn::Ended);
        }
    }

    fn remember_end(&mut self, key: Box<str>) {
        let now = self.tick();
        self.ended.insert(key.clone(), now);
        self.ended_order.push_back((now, key));
        if self.ended_order.len() > ENDED_MAX
            && let Some((oldest, key)) = self.ended_order.pop_front()
            && self.ended.get(&key) == Some(&oldest)
        {
            self.ended.remove(&key);
        }
    }

    fn tick(&mut self) -> Moment {
        self.now = Moment(self.now.0 + 1);
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(key: &str) -> Notice {
        Notice::new(1, key.into(), Turn::Ended)
    }

    fn goes(key: &str) -> Notice {
        Notice::new(1, key.into(), Turn::Goes)
    }

    /// Says everything, and returns it as key and turn.
    fn say_all(notices: &Notices) -> Vec<(String, Turn)> {
        let mut said = Vec::new();
        while let Some(notice) = notices.begin() {
            said.push((notice.key.to_string(), notice.turn));
            notices.end(notice, true);
        }
        assert!(notices.lock().is_idle());
        said
    }

    #[test]
    fn the_last_word_on_a_key_is_said_once_in_order() {
        let notices = Notices::default();
        for notice in [ended("a"), goes("b"), goes("a"), ended("b")] {
            notices.add(notice);
        }
        assert_eq!(say_all(&notices), [("a".into(), Turn::Goes), ("b".into(), Turn::Ended)]);
        assert_eq!(notices.dropped(), 0);
    }

    #[test]
    fn what_is_newer_than_one_on_its_way_waits_for_its_end() {
        let notices = Notices::default();
        for heard in [true, false] {
            notices.add(goes("a"));
            let first = notices.begin().unwrap();
            notices.add(ended("a"));
            assert_eq!(notices.begin(), None);
            notices.end(first, heard);
            assert_eq!(say_all(&notices), [("a".into(), Turn::Ended)]);
        }
    }

    #[test]
    fn an_end_that_may_have_hit_the_new_session_is_mended() {
        let mended = [("a".to_owned(), Turn::Goes)];
        let notices = Notices::default();
        // It waits: it is not said.
        notices.add(ended("a"));
        notices.key_in_use(1, "a", notices.now());
        assert_eq!(say_all(&notices), []);
        // It is on its way.
        notices.add(ended("a"));
        let on_its_way = notices.begin().unwrap();
        notices.key_in_use(1, "a", notices.now());
        notices.end(on_its_way, true);
        assert_eq!(say_all(&notices), mended);
        // It was said while logic was asked.
        let asked = notices.now();
        notices.add(ended("a"));
        assert_eq!(say_all(&notices).len(), 1);
        notices.key_in_use(1, "a", asked);
        assert_eq!(say_all(&notices), mended);
        // It was said before.
        notices.key_in_use(1, "a", notices.now());
        assert_eq!(say_all(&notices), []);
    }

    #[test]
    fn what_nobody_hears_is_given_up_after_a_few_times() {
        let notices = Notices::default();
        notices.add(ended("a"));
        for attempt in 1..=ATTEMPTS {
            let notice = notices.begin().expect("it still waits");
            let given_up = notices.end(notice, false);
            assert_eq!(given_up.is_some(), attempt == ATTEMPTS);
            assert_eq!(notices.dropped(), u64::from(attempt == ATTEMPTS));
        }
        assert!(notices.lock().is_idle());
    }

    #[test]
    fn everything_is_bounded() {
        let notices = Notices::default();
        for key in 0..WAITING_MAX + 5 {
            let given_up = notices.add(ended(&key.to_string()));
            assert_eq!(given_up.is_some(), key >= WAITING_MAX);
        }
        assert_eq!((notices.waiting(), notices.dropped()), (WAITING_MAX, 5));
        let on_their_way: Vec<_> = std::iter::from_fn(|| notices.begin()).collect();
        assert_eq!(on_their_way.len(), ON_THEIR_WAY_MAX);
        for notice in on_their_way {
            notices.end(notice, true);
        }
        say_all(&notices);
        let state = notices.lock();
        assert_eq!((state.ended.len(), state.ended_order.len()), (ENDED_MAX, ENDED_MAX));
    }
}
