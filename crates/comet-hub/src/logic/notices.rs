//! Notices for logic about sessions: that they continue, or that they ended. While logic is unavailable, they wait
//! here.
//!
//! At most one notice of a key is on its way, and a newer one replaces a waiting older one. So the last notice of a key
//! is the last one that logic receives. A key that logic has just given to a connection is in use. A pending end of its
//! former session is then withdrawn, or corrected by a renewal if logic may have received it.
//!
//! After an upgrade the former process continues to report ends that are unknown here, for some seconds. Keys claimed
//! again in that time are renewed once it has ended.

use std::collections::{BTreeMap, HashMap, VecDeque};

use comet_core::{Canary, Millis};

/// Most waiting notices, including those that wait for a former process to end. Logic learns of a dropped end when the
/// session expires.
pub const WAITING_MAX: usize = 65_536;

/// Most notices on their way, so that calls of clients find permits beside them.
const ON_THEIR_WAY_MAX: usize = 256;

/// How often a notice is sent before it is given up.
const ATTEMPTS: u32 = 3;

/// Most ends remembered after they were sent. They matter as long as a call may take, plus the claim of the key after
/// it.
const ENDED_MAX: usize = 16_384;

/// How long an undelivered notice rests, milliseconds. By then it is known which addresses are available.
const REST_MS: u64 = 500;

/// How long after a commit the former process may report ends, milliseconds: at most 5 s, plus the time for its own
/// end.
const FORMER_MS: u64 = 8_000;

/// The state of a session that a notice reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoticeKind {
    /// It continues.
    Renewed,
    /// It ended.
    Ended,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Notice {
    pub(super) user: i64,
    pub(super) key: Box<str>,
    pub(super) kind: NoticeKind,
    /// How often it was sent without success.
    failures: u32,
}

impl Notice {
    pub(super) fn new(user: i64, key: Box<str>, kind: NoticeKind) -> Self {
        Self { user, key, kind, failures: 0 }
    }
}

/// A place in the order in which notices were taken and sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct SequenceNumber(u64);

#[derive(Default)]
pub(super) struct Notices {
    /// Waiting notices, in the order in which they are to be sent.
    waiting: BTreeMap<SequenceNumber, Notice>,
    /// The position in `waiting` of the notice of each key.
    places: HashMap<Box<str>, SequenceNumber>,
    /// Keys with a notice on its way, and the notice to send after it.
    on_their_way: HashMap<Box<str>, Option<Notice>>,
    /// Undelivered notices, and the end of their rest. Their keys still count as on their way.
    resting: VecDeque<(Millis, Notice)>,
    /// Keys whose latest sent notice is an end, and its number. Logic has given none of them to a connection since.
    ended: HashMap<Box<str>, SequenceNumber>,
    /// The same ends, oldest first; an end that was sent again has more than one entry.
    ended_order: VecDeque<(SequenceNumber, Box<str>)>,
    last: SequenceNumber,
    dropped: u64,
    /// Until then a former process may report ends.
    former_until: Millis,
    /// Renewals of keys that the former process may end, and when they are due, the earliest first. Those of sessions
    /// that have ended are no longer in `postponed_keys`.
    postponed: VecDeque<(Millis, Notice)>,
    postponed_keys: HashMap<Box<str>, Millis>,
}

impl Notices {
    /// This process continues for another one, which may report ends for some time from `now` on.
    pub(super) fn take_over(&mut self, now: Millis) {
        self.former_until = now.after(FORMER_MS);
    }

    /// Takes a notice to be sent when logic is available. If too many wait, the notice is returned and counted as
    /// dropped.
    pub(super) fn add(&mut self, notice: Notice) -> Option<Notice> {
        if notice.kind == NoticeKind::Ended {
            self.postponed_keys.remove(&notice.key);
        }
        if let Some(next) = self.on_their_way.get_mut(&notice.key) {
            *next = Some(notice);
        } else if let Some(place) = self.places.get(&notice.key) {
            self.waiting.insert(*place, notice);
        } else if self.has_room() {
            let place = self.next_number();
            self.places.insert(notice.key.clone(), place);
            self.waiting.insert(place, notice);
        } else {
            self.dropped += 1;
            return Some(notice);
        }
        None
    }

    /// The last number given. An end sent later has a higher one.
    pub(super) fn last_number(&self) -> SequenceNumber {
        self.last
    }

    /// Logic has given `key` to a connection, in answer to a question asked at `since`. An end sent after that may have
    /// ended the new session. Returns the renewal that would correct this if too many notices wait.
    pub(super) fn key_in_use(
        &mut self,
        user: i64,
        key: &str,
        since: SequenceNumber,
    ) -> Option<Notice> {
        if Canary::EndInUse.is_released() {
            return None;
        }
        // An end of the key that is remembered from here on was sent after this answer: see `key_reclaimed`.
        let ended = self.ended.remove(key);
        self.mend(user, key, ended.is_some_and(|ended| ended > since))
    }

    /// A connection holds `key`, which logic has given to it, and whose end was reported lately. If the end was sent
    /// after logic's answer, it has ended the new session. Returns the renewal that would correct this if too many
    /// notices wait.
    pub(super) fn key_reclaimed(&mut self, now: Millis, user: i64, key: &str) -> Option<Notice> {
        if Canary::EndInUse.is_released() {
            return None;
        }
        if now < self.former_until {
            self.postpone(now.after(FORMER_MS), Notice::new(user, key.into(), NoticeKind::Renewed));
        }
        let ended = self.ended.remove(key);
        self.mend(user, key, ended.is_some())
    }

    /// Handles a `key` that is in use. A waiting end of it is not sent; an end that `was_sent`, or is on its way, is
    /// followed by a renewal.
    fn mend(&mut self, user: i64, key: &str, was_sent: bool) -> Option<Notice> {
        self.take_back(key);
        let is_due = was_sent || self.on_their_way.contains_key(key);
        let renewal = is_due.then(|| Notice::new(user, key.into(), NoticeKind::Renewed));
        renewal.and_then(|renewal| self.add(renewal))
    }

    /// Whether another notice may wait.
    fn has_room(&self) -> bool {
        self.waiting.len() + self.postponed.len() < WAITING_MAX
    }

    /// Postpones a renewal. If too many notices wait, it is dropped: the next renewal tells logic that the session
    /// continues.
    fn postpone(&mut self, until: Millis, renewal: Notice) {
        if self.has_room() {
            self.postponed_keys.insert(renewal.key.clone(), until);
            self.postponed.push_back((until, renewal));
        } else {
            self.dropped += 1;
        }
    }

    /// The next notice to send. It is on its way until [`Notices::handle_delivered`], or until the rest after
    /// [`Notices::handle_undelivered`] is over.
    pub(super) fn begin(&mut self) -> Option<Notice> {
        if self.on_their_way.len() >= ON_THEIR_WAY_MAX {
            return None;
        }
        let (_, notice) = self.waiting.pop_first()?;
        self.places.remove(&notice.key);
        self.on_their_way.insert(notice.key.clone(), None);
        Some(notice)
    }

    /// Notes that logic has received the notice. Returns a newer notice of the key if that cannot wait.
    pub(super) fn handle_delivered(&mut self, notice: &Notice) -> Option<Notice> {
        let next = self.arrive(notice);
        next.and_then(|next| self.add(next))
    }

    /// Logic may or may not have received the notice. After a rest it waits to be sent again, unless there is a newer
    /// one.
    pub(super) fn handle_undelivered(&mut self, now: Millis, notice: Notice) {
        self.resting.push_back((now.after(REST_MS), notice));
    }

    /// Ends the rest of one notice, if any is over at `now`. `Some(Some(_))`: a notice is given up, and counted as
    /// dropped.
    pub(super) fn handle_timeout(&mut self, now: Millis) -> Option<Option<Notice>> {
        if let Some((until, renewal)) = self.postponed.pop_front_if(|(until, _)| *until <= now) {
            // The session has ended, or was claimed again since.
            if self.postponed_keys.get(&renewal.key) != Some(&until) {
                return Some(None);
            }
            self.postponed_keys.remove(&renewal.key);
            return Some(self.add(renewal));
        }
        let (_, notice) = self.resting.pop_front_if(|(until, _)| *until <= now)?;
        let failures = notice.failures + 1;
        let given_up = match self.arrive(&notice) {
            Some(next) => self.add(next),
            None if failures < ATTEMPTS => self.add(Notice { failures, ..notice }),
            None => {
                self.dropped += 1;
                Some(notice)
            }
        };
        Some(given_up)
    }

    /// When the next rest is over.
    pub(super) fn poll_timeout(&self) -> Option<Millis> {
        let firsts = [self.resting.front(), self.postponed.front()];
        firsts.into_iter().flatten().map(|(until, _)| *until).min()
    }

    /// Whether no notice waits or is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.on_their_way.is_empty()
    }

    /// Whether a notice of `key` waits, rests or is on its way.
    pub(super) fn has_notice_of(&self, key: &str) -> bool {
        let is_postponed = self.postponed_keys.contains_key(key);
        is_postponed || self.places.contains_key(key) || self.on_their_way.contains_key(key)
    }

    /// Whether an end waits, rests, or is to be sent after the notice on its way.
    pub(super) fn has_ends(&self) -> bool {
        let waiting = self.waiting.values().chain(self.on_their_way.values().flatten());
        let mut pending = waiting.chain(self.resting.iter().map(|(_, notice)| notice));
        pending.any(|notice| notice.kind == NoticeKind::Ended)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Notes that the notice is no longer on its way. Returns the next notice of its key.
    fn arrive(&mut self, notice: &Notice) -> Option<Notice> {
        let next = self.on_their_way.remove(&notice.key).flatten();
        if notice.kind == NoticeKind::Ended {
            // This holds even if it is not known to be received: logic may have acted on it, and only the answer was
            // lost.
            self.remember_end(notice.key.clone());
        }
        next
    }

    fn take_back(&mut self, key: &str) {
        if let Some(place) = self.places.get(key)
            && self.waiting[place].kind == NoticeKind::Ended
        {
            self.waiting.remove(place);
            self.places.remove(key);
        }
        if let Some(next) = self.on_their_way.get_mut(key) {
            next.take_if(|next| next.kind == NoticeKind::Ended);
        }
    }

    fn remember_end(&mut self, key: Box<str>) {
        let number = self.next_number();
        self.ended.insert(key.clone(), number);
        self.ended_order.push_back((number, key));
        if self.ended_order.len() > ENDED_MAX
            && let Some((oldest, key)) = self.ended_order.pop_front()
            && self.ended.get(&key) == Some(&oldest)
        {
            self.ended.remove(&key);
        }
    }

    fn next_number(&mut self) -> SequenceNumber {
        self.last = SequenceNumber(self.last.0 + 1);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(7);
    const RESTED: Millis = Millis(7 + REST_MS);

    fn ended(key: &str) -> Notice {
        Notice::new(1, key.into(), NoticeKind::Ended)
    }

    fn renewed(key: &str) -> Notice {
        Notice::new(1, key.into(), NoticeKind::Renewed)
    }

    /// Sends everything, and returns it as key and kind.
    fn send_all(notices: &mut Notices) -> Vec<(String, NoticeKind)> {
        let mut sent = Vec::new();
        while let Some(notice) = notices.begin() {
            sent.push((notice.key.to_string(), notice.kind));
            notices.handle_delivered(&notice);
        }
        assert!(notices.is_idle());
        sent
    }

    #[test]
    fn the_last_notice_of_a_key_is_sent_once_in_order() {
        let mut notices = Notices::default();
        for notice in [ended("a"), renewed("b"), renewed("a"), ended("b")] {
            notices.add(notice);
        }
        let expected = [("a".into(), NoticeKind::Renewed), ("b".into(), NoticeKind::Ended)];
        assert_eq!(send_all(&mut notices), expected);
        assert_eq!(notices.dropped(), 0);
    }

    #[test]
    fn a_notice_newer_than_one_on_its_way_waits_for_its_end() {
        let mut notices = Notices::default();
        for is_delivered in [true, false] {
            notices.add(renewed("a"));
            let first = notices.begin().unwrap();
            notices.add(ended("a"));
            assert_eq!(notices.begin(), None);
            if is_delivered {
                notices.handle_delivered(&first);
            } else {
                notices.handle_undelivered(NOW, first);
                assert_eq!(notices.poll_timeout(), Some(RESTED));
                assert_eq!(notices.handle_timeout(Millis(RESTED.0 - 1)), None);
                assert_eq!(notices.begin(), None);
                assert_eq!(notices.handle_timeout(RESTED), Some(None));
            }
            assert_eq!(send_all(&mut notices), [("a".into(), NoticeKind::Ended)]);
        }
    }

    #[test]
    fn an_end_that_may_have_hit_the_new_session_is_mended() {
        let mended = [("a".to_owned(), NoticeKind::Renewed)];
        let mut notices = Notices::default();
        // The end waits, so it is not sent.
        notices.add(ended("a"));
        notices.key_in_use(1, "a", notices.last_number());
        assert_eq!(send_all(&mut notices), []);
        // The end is on its way.
        notices.add(ended("a"));
        let on_its_way = notices.begin().unwrap();
        notices.key_in_use(1, "a", notices.last_number());
        notices.handle_delivered(&on_its_way);
        assert_eq!(send_all(&mut notices), mended);
        // The end was sent while logic was asked.
        let asked = notices.last_number();
        notices.add(ended("a"));
        assert_eq!(send_all(&mut notices).len(), 1);
        notices.key_in_use(1, "a", asked);
        assert_eq!(send_all(&mut notices), mended);
        // The end was sent before logic was asked.
        notices.key_in_use(1, "a", notices.last_number());
        assert_eq!(send_all(&mut notices), []);
    }

    /// The home reports the claim of a key whose end it has reported.
    #[test]
    fn a_key_that_is_claimed_again_is_renewed_if_its_end_came_behind_the_answer() {
        let sent_for_claim = |end_is_sent_before_answer: bool, end_is_sent_before_claim: bool| {
            let mut notices = Notices::default();
            if end_is_sent_before_answer {
                notices.add(ended("a"));
                assert_eq!(send_all(&mut notices).len(), 1);
            }
            notices.key_in_use(1, "a", notices.last_number());
            if !end_is_sent_before_answer {
                notices.add(ended("a"));
            }
            if !end_is_sent_before_answer && end_is_sent_before_claim {
                assert_eq!(send_all(&mut notices).len(), 1);
            }
            notices.key_reclaimed(NOW, 1, "a");
            send_all(&mut notices)
        };
        // Logic received the end before the question: its answer began a session that was not ended.
        assert_eq!(sent_for_claim(true, true), []);
        assert_eq!(sent_for_claim(false, true), [("a".to_owned(), NoticeKind::Renewed)]);
        // An end that still waits is not sent.
        assert_eq!(sent_for_claim(false, false), []);
    }

    /// The former process of an upgrade may still report the end of a key, which its home has reported.
    #[test]
    fn a_key_that_is_claimed_again_after_an_upgrade_is_renewed_once_the_former_process_has_ended() {
        let over = Millis(NOW.0 + FORMER_MS);
        let claimed = |at: Millis| {
            let mut notices = Notices::default();
            notices.take_over(NOW);
            notices.key_reclaimed(at, 1, "a");
            notices
        };
        let mut notices = claimed(NOW);
        assert_eq!(
            (notices.handle_timeout(Millis(over.0 - 1)), notices.poll_timeout()),
            (None, Some(over))
        );
        assert!(notices.is_idle() && notices.has_notice_of("a"));
        assert_eq!(notices.handle_timeout(over), Some(None));
        assert_eq!(send_all(&mut notices), [("a".to_owned(), NoticeKind::Renewed)]);
        assert_eq!(notices.handle_timeout(over), None);
        // The session has ended again by then: a renewal would bring it back.
        let mut notices = claimed(NOW);
        notices.add(ended("a"));
        assert_eq!(notices.handle_timeout(over), Some(None));
        assert_eq!(send_all(&mut notices), [("a".to_owned(), NoticeKind::Ended)]);
        // The key is claimed once more.
        let mut notices = claimed(NOW);
        notices.add(ended("a"));
        let later = Millis(NOW.0 + 1);
        notices.key_reclaimed(later, 1, "a");
        assert_eq!(notices.handle_timeout(over), Some(None));
        assert_eq!(send_all(&mut notices), []);
        assert_eq!(notices.handle_timeout(later.after(FORMER_MS)), Some(None));
        assert_eq!(send_all(&mut notices), [("a".to_owned(), NoticeKind::Renewed)]);
        // Later no other process ends sessions.
        assert_eq!(claimed(over).poll_timeout(), None);
    }

    #[test]
    fn an_undelivered_notice_is_given_up_after_a_few_times() {
        let mut notices = Notices::default();
        notices.add(ended("a"));
        for attempt in 1..=ATTEMPTS {
            let notice = notices.begin().expect("it still waits");
            notices.handle_undelivered(NOW, notice);
            let given_up = notices.handle_timeout(RESTED).expect("the rest is over");
            assert_eq!(given_up.is_some(), attempt == ATTEMPTS);
            assert_eq!(notices.dropped(), u64::from(attempt == ATTEMPTS));
        }
        assert!(notices.is_idle());
    }

    #[test]
    fn everything_is_bounded() {
        let mut notices = Notices::default();
        for key in 0..WAITING_MAX + 5 {
            let given_up = notices.add(ended(&key.to_string()));
            assert_eq!(given_up.is_some(), key >= WAITING_MAX);
        }
        assert_eq!((notices.waiting(), notices.dropped()), (WAITING_MAX, 5));
        let on_their_way: Vec<_> = std::iter::from_fn(|| notices.begin()).collect();
        assert_eq!(on_their_way.len(), ON_THEIR_WAY_MAX);
        for notice in on_their_way {
            notices.handle_delivered(&notice);
        }
        send_all(&mut notices);
        assert_eq!((notices.ended.len(), notices.ended_order.len()), (ENDED_MAX, ENDED_MAX));
    }
}
