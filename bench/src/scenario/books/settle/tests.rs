//! Made-up runs with one fault each, which the books must find.

use std::collections::BTreeMap;

use super::super::record::{Answer, Death, Phase};
use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A push through host a to all three clients, one at each host, which all receive.
fn call(kind: Kind, number: u64) -> Call {
    let answer = Answer { queued: 3, ..Answer::default() };
    let (begin_ns, end_ns) = (number * SECOND_NS, number * SECOND_NS + 1);
    let outcome = Outcome::Answered(answer);
    Call { publisher: 0, host: 0, kind, clients: vec![0, 1, 2], begin_ns, end_ns, outcome }
}

fn push(number: usize, kind: Kind) -> Entry {
    Entry::Push { number, kind, session: 0, is_recovered: false }
}

struct Run {
    calls: Vec<Call>,
    diaries: Vec<Diary>,
    death: Option<Death>,
}

impl Run {
    /// `pushes` pushes without any fault.
    fn new(kind: Kind, pushes: usize) -> Self {
        let diary = |host| Diary {
            sessions: vec![Session { host, begin_ns: 0, ready_ns: 0, end_ns: None }],
            entries: (0..pushes).map(|number| push(number, kind)).collect(),
        };
        let calls = (0..pushes as u64).map(|number| call(kind, number)).collect();
        Self { calls, diaries: (0..3).map(diary).collect(), death: None }
    }

    /// Removes a push from a client.
    fn lose(mut self, number: usize, client: usize) -> Self {
        let is_other =
            |entry: &Entry| !matches!(entry, Entry::Push { number: is, .. } if *is == number);
        self.diaries[client].entries.retain(is_other);
        self
    }

    fn answer(mut self, number: usize, change: impl FnOnce(&mut Answer)) -> Self {
        let Outcome::Answered(answer) = &mut self.calls[number].outcome else { panic!("{number}") };
        change(answer);
        self
    }

    /// Ends the connection of a client, and begins another one at `host`.
    fn reconnect(mut self, client: usize, (end_ns, ready_ns): (u64, u64), host: usize) -> Self {
        let sessions = &mut self.diaries[client].sessions;
        sessions[0].end_ns = Some(end_ns);
        sessions.push(Session { host, begin_ns: end_ns, ready_ns, end_ns: None });
        self
    }

    fn told(mut self, client: usize, place: usize) -> Self {
        self.diaries[client].entries.insert(place, Entry::Told);
        self
    }

    fn settle(&self) -> Books {
        let phases = [Phase { name: "all", begin_ns: 0 }];
        let Self { calls, diaries, death } = self;
        Records { calls, diaries, names: &NAMES, phases: &phases, death: *death }.settle()
    }

    /// Checks that one pair of a push and a client has this class, all others are live, and there is no fault.
    #[track_caller]
    fn check_explained(&self, class: Class) {
        let books = self.settle();
        assert_eq!(books.faults, [""; 0]);
        self.check_row(&books, class);
    }

    /// The same, but with this fault.
    #[track_caller]
    fn check_fault(&self, class: Class, sort: &str) {
        let books = self.settle();
        self.check_row(&books, class);
        assert!(books.faults.iter().any(|fault| fault.ends_with(sort)), "{:?}", books.faults);
    }

    #[track_caller]
    fn check_row(&self, books: &Books, class: Class) {
        let row = books.rows[self.calls[0].kind as usize];
        assert_eq!((row.pushes, row.expected()), (3, 9));
        assert_eq!(row.count(Class::Live), 9 - u64::from(class != Class::Live), "{row:?}");
        assert!(row.count(class) >= 1, "{row:?}");
        assert_eq!(books.phases[0].1, row);
    }
}

const UNTOLD: &str = "pushes that nobody was told of";

#[test]
fn a_run_without_faults_is_live() {
    for kind in Kind::ALL {
        Run::new(kind, 3).check_explained(Class::Live);
    }
}

#[test]
fn a_push_that_is_lost_is_found() {
    for kind in Kind::ALL {
        Run::new(kind, 3).lose(1, 2).check_fault(Class::Unexplained, UNTOLD);
    }
    // A reply that names another host, or the host that was called, does not excuse it either.
    let other = Run::new(Kind::Plain, 3).lose(1, 2);
    other
        .answer(1, |it| it.unanswered = vec!["b".to_owned()])
        .check_fault(Class::Unexplained, UNTOLD);
    let own = Run::new(Kind::Plain, 3).lose(1, 0);
    own.answer(1, |it| it.unanswered = vec!["*".to_owned()])
        .check_fault(Class::Unexplained, UNTOLD);
}

#[test]
fn a_missing_push_is_explained_by_a_host_named_to_the_caller() {
    for name in ["c", "*"] {
        let run = Run::new(Kind::Plain, 3).lose(1, 2);
        let named = run.answer(1, |it| (it.queued, it.unanswered) = (2, vec![name.to_owned()]));
        named.check_explained(Class::Caller);
    }
    let mut failed = Run::new(Kind::History, 3).lose(1, 2);
    failed.calls[1].outcome = Outcome::Failed("too late".to_owned());
    failed.check_explained(Class::Caller);
}

#[test]
fn a_drop_of_the_ledger_explains_one_client() {
    let dropped = |it: &mut Answer| {
        (it.queued, it.dropped) = (2, BTreeMap::from([("outbox_full".to_owned(), 1)]));
    };
    let run = Run::new(Kind::Keys, 3).lose(1, 2).answer(1, dropped);
    run.check_explained(Class::Dropped);
    assert_eq!(run.settle().dropped["outbox_full"], 1);
    let books = run.lose(1, 1).settle();
    let row = books.rows[Kind::Keys as usize];
    assert_eq!((row.count(Class::Dropped), row.count(Class::Unexplained)), (1, 1));
    let none_missing = Run::new(Kind::Keys, 3).answer(1, dropped);
    none_missing.check_fault(Class::Live, "replies with more dropped than clients miss");
}

#[test]
fn a_missing_push_is_explained_only_by_a_gap_marker_at_its_place() {
    let lost = || Run::new(Kind::History, 3).lose(1, 2);
    lost().told(2, 1).check_explained(Class::Gap);
    for elsewhere in [0, 2] {
        lost().told(2, elsewhere).check_fault(Class::Unexplained, UNTOLD);
    }
    // A drop must also be reported.
    let dropped = BTreeMap::from([("outbox_full".to_owned(), 1)]);
    let dropped = lost().answer(1, |it| (it.queued, it.dropped) = (2, dropped));
    dropped.check_fault(Class::Unexplained, UNTOLD);
}

#[test]
fn a_client_without_a_connection_gets_nothing() {
    let lost = || Run::new(Kind::Plain, 3).lose(1, 2);
    let away = lost().reconnect(2, (SECOND_NS - 1, SECOND_NS), 1);
    away.answer(1, |it| it.queued = 2).check_explained(Class::NotConnected);
    let was_back = lost().reconnect(2, (SECOND_NS - 2, SECOND_NS - 1), 1);
    was_back.check_fault(Class::Unexplained, UNTOLD);
    // The push was queued, and then the connection ended.
    let last = Run::new(Kind::Plain, 3).lose(2, 2).reconnect(2, (3 * SECOND_NS, 4 * SECOND_NS), 1);
    last.check_explained(Class::NotConnected);
    // A later push arrived on the same connection, or much time had passed.
    let between = lost().reconnect(2, (2 * SECOND_NS + 2, 4 * SECOND_NS), 1);
    between.check_fault(Class::Unexplained, UNTOLD);
    let long_ago = Run::new(Kind::Plain, 3).lose(2, 2);
    long_ago
        .reconnect(2, (9 * SECOND_NS, 9 * SECOND_NS), 1)
        .check_fault(Class::Unexplained, UNTOLD);
}

#[test]
fn doubles_strays_and_orders_are_found() {
    let with = |entry| {
        let mut run = Run::new(Kind::Plain, 3);
        run.diaries[1].entries.push(entry);
        run
    };
    with(push(2, Kind::Plain)).check_fault(Class::Live, "pushes that came twice");
    with(push(3, Kind::Plain)).check_fault(Class::Live, "pushes that nobody made");
    let strays = "pushes at a client that they are not for";
    with(push(2, Kind::Keys)).check_fault(Class::Live, strays);
    let mut swapped = Run::new(Kind::History, 3);
    swapped.diaries[1].entries.swap(0, 1);
    swapped.check_fault(Class::Live, "pushes out of the order of their publisher");
    swapped.check_fault(Class::Live, "pushes in another order than at another client");
    let mut others = Run::new(Kind::Plain, 3);
    others.calls[1].publisher = 1;
    others.diaries[1].entries.swap(0, 1);
    others.check_explained(Class::Live);
}

#[test]
fn replies_that_tell_something_else_are_found() {
    let queued = "replies whose queued is not what clients got";
    for other in [2, 4] {
        Run::new(Kind::Plain, 3).answer(1, |it| it.queued = other).check_fault(Class::Live, queued);
    }
    let mut refused = Run::new(Kind::History, 3);
    refused.calls[1].outcome = Outcome::Refused("nobody gets it".to_owned());
    refused.check_fault(Class::Live, "pushes that were refused, and came");
    let mut silent = Run::new(Kind::Plain, 3);
    silent.calls[1].outcome = Outcome::Silent;
    silent.check_fault(Class::Live, "calls without an answer");
    let mut dead = Run::new(Kind::Plain, 3);
    dead.death = Some(Death { host: 2, from_ns: 1, to_ns: 2 * SECOND_NS });
    dead.check_fault(Class::Live, "replies without the name of the killed host");
    dead.answer(1, |it| it.unanswered = vec!["c".to_owned()]).check_explained(Class::Live);
}
