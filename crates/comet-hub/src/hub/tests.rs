use comet_core::Tally;

use super::*;
use crate::calls::{CALLER_CALLS_MAX, CALLS_MAX, CallResult};
use crate::fake::FakeInboxes;

const SHARDS: u16 = 2;
const FIRST: ShardId = ShardId(0);
const SECOND: ShardId = ShardId(1);

/// A hub, the inboxes of its shards, and the time.
struct Fixture {
    hub: Hub<&'static str>,
    inboxes: FakeInboxes,
    now: Millis,
}

impl Fixture {
    fn new(capacity: usize) -> Self {
        let hub = Hub::new(SHARDS, Arc::new(Limits::default()));
        Self { hub, inboxes: FakeInboxes::new(usize::from(SHARDS), capacity), now: Millis(1_000) }
    }

    /// Begins a call to `shards`.
    fn begin(&mut self, limit_ms: u64, shards: &[ShardId]) -> Result<CallId, CallError> {
        self.hub.begin((self.now, limit_ms), &mut self.inboxes, (CallerId(0), "caller"), |call| {
            shards.iter().map(move |shard| (*shard, Message::Rooms { call }))
        })
    }

    /// One turn without reports, `after_ms` later.
    fn turn(&mut self, after_ms: u64) -> Vec<Ended<&'static str>> {
        self.now = self.now.after(after_ms);
        self.hub.flush(self.now, &mut self.inboxes);
        self.hub.handle_timeout(self.now);
        std::iter::from_fn(|| self.hub.poll_outcome()).collect()
    }

    fn report(&mut self, call: CallId) {
        let rooms = vec![(Arc::from("room"), 1)];
        assert!(self.hub.handle_report(Report::Rooms { call, rooms }).is_none());
    }

    /// A report to a call that is over.
    fn late_report(&mut self, call: CallId) {
        let rooms = vec![(Arc::from("room"), 1)];
        let freed = self.hub.handle_report(Report::Rooms { call, rooms });
        assert!(matches!(freed, Some(Report::Rooms { .. })), "the driver frees it: {freed:?}");
    }
}

/// The only call that ended, with its outcome.
fn only(mut ended: Vec<Ended<&'static str>>) -> (CallId, Result<CallResult, CallError>) {
    let Ended { call, caller, outcome } = ended.pop().expect("one ended");
    assert!(ended.is_empty(), "{ended:?}");
    assert_eq!(caller, "caller");
    (call, outcome)
}

#[test]
fn a_call_is_posted_at_once_and_wakes_its_shards_with_the_next_flush() {
    let mut fixture = Fixture::new(8);
    let call = fixture.begin(100, &[FIRST, SECOND]).unwrap();
    assert_eq!(fixture.inboxes.take_calls(FIRST), [call.0]);
    assert_eq!(fixture.inboxes.notified(FIRST), 0);
    assert!(fixture.turn(0).is_empty());
    assert_eq!([FIRST, SECOND].map(|shard| fixture.inboxes.notified(shard)), [1, 1]);
    fixture.report(call);
    assert!(fixture.hub.poll_outcome().is_none());
    fixture.report(call);
    let (ended, outcome) = only(fixture.turn(0));
    assert_eq!((ended, outcome.unwrap().rooms.len()), (call, 2));
    assert_eq!(fixture.hub.calls_under_way(), 0);
    assert!(fixture.turn(1_000).is_empty());
}

#[test]
fn a_call_without_a_limit_needs_no_turn_for_its_end() {
    let mut fixture = Fixture::new(8);
    let call = fixture.begin(u64::MAX, &[FIRST]).unwrap();
    assert!(fixture.turn(0).is_empty());
    assert_eq!(fixture.hub.poll_timeout(), None);
    fixture.begin(100, &[FIRST]).unwrap();
    let ended = (0..1_000).step_by(10).flat_map(|now| fixture.turn(now)).count();
    assert_eq!((ended, fixture.hub.poll_timeout()), (1, None));
    fixture.report(call);
    only(fixture.turn(1_000)).1.unwrap();
}

#[test]
fn calls_reach_a_full_inbox_in_the_order_they_begin_in() {
    let mut fixture = Fixture::new(1);
    for _ in 0..3 {
        fixture.begin(100, &[FIRST]).unwrap();
    }
    assert!(fixture.turn(0).is_empty());
    assert_eq!(fixture.hub.waiting(FIRST), 2);
    assert_eq!(fixture.hub.poll_timeout(), Some(fixture.now.after(RETRY_MS)));
    for call in 1..=3 {
        assert_eq!(fixture.inboxes.take_calls(FIRST), [call]);
        fixture.turn(RETRY_MS);
    }
    assert_eq!(fixture.hub.waiting(FIRST), 0);
}

#[test]
fn a_late_call_ends_with_the_reports_that_arrived() {
    let mut fixture = Fixture::new(8);
    let call = fixture.begin(100, &[FIRST, SECOND]).unwrap();
    fixture.report(call);
    assert!(fixture.turn(99).is_empty());
    assert_eq!(fixture.hub.poll_timeout(), Some(fixture.now.after(1)));
    let (ended, outcome) = only(fixture.turn(1));
    let Err(CallError::Late { missing: 1, waited_ms: 100, known }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((ended, known.rooms.len()), (call, 1));
    assert_eq!(fixture.hub.poll_timeout(), None);
    fixture.late_report(call);
    assert!(fixture.turn(0).is_empty(), "what comes after the end is dropped");
}

/// The thread and the shards were held up: their reports come in the turns after the stall.
#[test]
fn a_stall_is_no_delay_of_the_shards() {
    let mut fixture = Fixture::new(8);
    for _ in 0..2 {
        fixture.begin(100, &[FIRST]).unwrap();
    }
    assert!(fixture.turn(5_000).is_empty());
    fixture.report(CallId(1));
    let (ended, outcome) = only(fixture.turn(10));
    assert!(ended == CallId(1) && outcome.is_ok(), "{ended:?} {outcome:?}");
    assert!(fixture.turn(240).is_empty());
    assert_eq!(only(fixture.turn(100)).0, CallId(2));
}

#[test]
fn late_calls_are_looked_for_no_more_often_than_stated() {
    let mut fixture = Fixture::new(8);
    fixture.begin(10, &[FIRST]).unwrap();
    fixture.begin(11, &[FIRST]).unwrap();
    assert_eq!(only(fixture.turn(10)).0, CallId(1));
    assert_eq!(fixture.hub.poll_timeout(), Some(fixture.now.after(LATE_LOOK_MS)));
    assert!(fixture.turn(LATE_LOOK_MS - 1).is_empty());
    assert_eq!(only(fixture.turn(1)).0, CallId(2));
}

#[test]
fn a_call_before_a_full_inbox_ends_and_its_message_is_skipped() {
    let mut fixture = Fixture::new(1);
    fixture.begin(1_000, &[SECOND]).unwrap();
    let call = fixture.begin(100, &[FIRST, SECOND]).unwrap();
    let last = fixture.begin(1_000, &[SECOND]).unwrap();
    fixture.report(call);
    let (ended, outcome) = only(fixture.turn(100));
    let Err(CallError::InboxFull { shard: SECOND, waited_ms: 100, known }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((ended, known.rooms.len()), (call, 1));
    assert_eq!(fixture.inboxes.take_calls(SECOND), [1]);
    fixture.turn(RETRY_MS);
    assert_eq!(fixture.inboxes.take_calls(SECOND), [last.0]);
}

#[test]
fn a_forgotten_call_has_no_outcome_and_its_messages_are_skipped() {
    let mut fixture = Fixture::new(1);
    let posted = fixture.begin(100, &[FIRST]).unwrap();
    let waiting = fixture.begin(100, &[FIRST]).unwrap();
    fixture.hub.forget(posted);
    fixture.hub.forget(waiting);
    fixture.late_report(posted);
    assert_eq!(fixture.inboxes.take_calls(FIRST), [posted.0]);
    assert!(fixture.turn(1_000).is_empty());
    assert!(fixture.inboxes.take(FIRST).is_none());
    assert_eq!((fixture.hub.calls_under_way(), fixture.hub.waiting(FIRST)), (0, 0));
    assert_eq!(fixture.begin(100, &[FIRST]).unwrap(), CallId(3), "ids are not used again");
}

#[test]
fn a_call_that_ended_is_not_forgotten() {
    let mut fixture = Fixture::new(1);
    let call = fixture.begin(100, &[FIRST]).unwrap();
    fixture.report(call);
    fixture.hub.forget(call);
    assert!(only(fixture.turn(0)).1.is_ok());
}

#[test]
fn a_shard_that_ended_ends_its_calls() {
    let mut fixture = Fixture::new(1);
    let posted = fixture.begin(100, &[FIRST]).unwrap();
    let waiting = fixture.begin(100, &[FIRST, SECOND]).unwrap();
    fixture.inboxes.close(FIRST);
    let (ended, outcome) = only(fixture.turn(1));
    assert_eq!(ended, waiting);
    assert!(matches!(outcome, Err(CallError::ShardGone(FIRST))), "{outcome:?}");
    let refused = fixture.begin(100, &[SECOND, FIRST]);
    assert!(matches!(refused, Err(CallError::ShardGone(FIRST))), "{refused:?}");
    assert!(!fixture.hub.tell(&mut fixture.inboxes, FIRST, Message::Rooms { call: posted }));
    // Its message was in the inbox. It is unknown whether the shard reported before it ended.
    let (ended, outcome) = only(fixture.turn(99));
    assert_eq!(ended, posted);
    assert!(matches!(outcome, Err(CallError::Late { missing: 1, .. })), "{outcome:?}");
}

#[test]
fn too_many_calls_are_refused() {
    let mut fixture = Fixture::new(CALLS_MAX + 1);
    for _ in 0..CALLS_MAX {
        fixture.begin(100, &[FIRST]).unwrap();
    }
    let refused = fixture.begin(100, &[FIRST]);
    assert!(matches!(refused, Err(CallError::TooManyCalls)), "{refused:?}");
    fixture.hub.forget(CallId(1));
    fixture.begin(100, &[FIRST]).unwrap();
}

/// A caller that begins more calls than it lets end takes no places from others.
#[test]
fn too_many_calls_of_a_caller_are_refused() {
    let mut fixture = Fixture::new(CALLS_MAX);
    let begin = |fixture: &mut Fixture, caller| {
        let Fixture { hub, inboxes, now } = fixture;
        hub.begin((*now, 100), inboxes, (CallerId(caller), "caller"), |call| {
            [(FIRST, Message::Rooms { call })]
        })
    };
    for _ in 0..CALLER_CALLS_MAX {
        begin(&mut fixture, 1).unwrap();
    }
    let refused = begin(&mut fixture, 1);
    assert!(matches!(refused, Err(CallError::TooManyOfCaller)), "{refused:?}");
    begin(&mut fixture, 2).unwrap();
    // However a call ends, another one may begin.
    fixture.hub.forget(CallId(1));
    begin(&mut fixture, 1).unwrap();
    assert!(matches!(begin(&mut fixture, 1), Err(CallError::TooManyOfCaller)));
    fixture.hub.handle_report(Report::Rooms { call: CallId(2), rooms: Vec::new() });
    begin(&mut fixture, 1).unwrap();
    assert!(matches!(begin(&mut fixture, 1), Err(CallError::TooManyOfCaller)));
    fixture.turn(150);
    begin(&mut fixture, 1).unwrap();
}

#[test]
fn a_drain_is_done_when_every_shard_has_reported_or_ended() {
    let mut fixture = Fixture::new(1);
    fixture.inboxes.close(SECOND);
    fixture.hub.drain(&mut fixture.inboxes, 10, 20);
    assert_eq!(fixture.hub.drained(), 1);
    let message = fixture.inboxes.take(FIRST);
    let drain = Some(Message::Drain { over_ms: 10, retry_after_ms: 20 });
    assert_eq!(format!("{message:?}"), format!("{drain:?}"));
    assert!(fixture.hub.handle_report(Report::Drained { shard: FIRST }).is_none());
    assert_eq!(fixture.hub.drained(), 2);
}

#[test]
fn a_shard_that_ends_before_it_was_drained_counts() {
    let mut fixture = Fixture::new(1);
    fixture.begin(100, &[FIRST]).unwrap();
    fixture.hub.drain(&mut fixture.inboxes, 0, 0);
    assert_eq!(fixture.hub.drained(), 0);
    fixture.inboxes.close(FIRST);
    fixture.turn(0);
    assert_eq!(fixture.hub.drained(), 1);
}

#[test]
fn changed_limits_reach_every_shard() {
    let mut fixture = Fixture::new(1);
    let change = |limits| Limits { body_max: 7, ..limits };
    let before = fixture.hub.configure(&mut fixture.inboxes, change);
    assert_eq!(before.body_max, Limits::default().body_max);
    assert_eq!(fixture.hub.limits().body_max, 7);
    for shard in [FIRST, SECOND] {
        let message = fixture.inboxes.take(shard);
        let Some(Message::Configure { limits }) = message else { panic!("{message:?}") };
        assert_eq!(limits.body_max, 7);
    }
}

#[test]
fn reports_of_no_call_come_back() {
    let mut fixture = Fixture::new(1);
    let report = Report::Heartbeat { user: 1, key: "key".into() };
    assert!(matches!(fixture.hub.handle_report(report), Some(Report::Heartbeat { .. })));
    let tally =
        Report::Tally { call: CallId(9), shard: FIRST, tally: Tally::default(), partials: 0 };
    assert!(fixture.hub.handle_report(tally).is_none(), "its call has ended");
}
