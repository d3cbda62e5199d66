//! The spans of traced pushes: the call, the way to each home, and each shard to which a home sent the push. The times
//! are measured on this thread: shards read no clock for it.
//!
//! A trace is open from the beginning of its call to its outcome. Then it enters a bounded queue. Neither step waits.

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Instant, SystemTime};

use comet_core::{CallId, Message, Report, ShardId, Tally};
use comet_hub::CallError;
use comet_ops::{UnsentSpans, count_unsent_spans};
use comet_serve::{TraceParent, TracedRequest};

/// Most calls traced at once. Further calls are counted as left out.
const OPEN_MAX: usize = 1_024;

/// Most spans of one call beside its own. Further spans are counted as left out.
const SPANS_MAX: usize = 128;

/// A push that has ended, or a kick, which is handled the same way.
#[derive(Debug)]
pub struct TracedPush {
    /// The span of the caller.
    pub parent: TraceParent,
    /// The id of the span of the call.
    pub id: u64,
    /// The path of the call.
    pub path: Box<str>,
    /// When the head of the request had arrived.
    pub begin: SystemTime,
    /// When the outcome was there.
    pub end: SystemTime,
    /// The number of names that it is addressed to.
    pub names: PushedNames,
    /// Why the outcome is incomplete.
    pub error: Option<&'static str>,
    /// The spans of the shards.
    pub shards: Vec<ShardSpan>,
    /// Number of spans that are not in `shards`.
    pub left_out: u32,
}

/// How many names a push is addressed to, each counted once; all zero: it goes to all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PushedNames {
    /// Keys.
    pub keys: usize,
    /// Users.
    pub users: usize,
    /// Rooms.
    pub rooms: usize,
}

/// The span of a push on its way to a shard and back.
#[derive(Clone, Debug)]
pub struct ShardSpan {
    /// Its id.
    pub id: u64,
    /// The id of its parent span.
    pub parent: u64,
    /// Which shard.
    pub shard: ShardId,
    /// Whether control sent the push there. Otherwise a home did.
    pub is_home: bool,
    /// When the call began. If a home passed the push on, when the home got it.
    pub begin: SystemTime,
    /// When it was put into the shard's inbox; `None`: unknown, because a home passed it on.
    pub posted: Option<SystemTime>,
    /// When the report had come, or the call ended without it.
    pub end: SystemTime,
    /// What the shard reported; `None`: no report has come.
    pub reported: Option<Reported>,
}

/// The report of a shard about a push.
#[derive(Clone, Copy, Debug)]
pub enum Reported {
    /// It was offered to connections.
    Tally(Tally),
    /// This many connections will get it over time.
    Scheduled(u64),
    /// Too many paced broadcasts are under way on the shard.
    Busy,
}

/// The traces that are open.
pub(crate) struct Traces {
    open: HashMap<CallId, Trace>,
    /// The trace of the call that is beginning, whose id is not known yet.
    beginning: Option<Trace>,
    ended: SyncSender<TracedPush>,
}

struct Trace {
    push: TracedPush,
    /// The same moment on both clocks. Spans have times of day, which this keeps from jumping.
    anchor: (Instant, SystemTime),
}

impl Traces {
    /// Ended pushes go to `ended`, as far as there is space.
    pub(crate) fn new(ended: SyncSender<TracedPush>) -> Self {
        Self { open: HashMap::new(), beginning: None, ended }
    }

    /// Begins a call for the request that is being handled. `false`: the request is not traced.
    pub(crate) fn begin(&mut self) -> bool {
        self.beginning = TracedRequest::current().map(Trace::new);
        self.beginning.is_some()
    }

    /// Notes the id of the call that began, or its refusal, and the names it addresses. `None`: it is not a push, or
    /// was refused before it had messages. Then it has no spans.
    pub(crate) fn begun(&mut self, call: Result<CallId, &CallError>, names: Option<PushedNames>) {
        let (Some(mut trace), Some(names)) = (self.beginning.take(), names) else { return };
        if self.open.len() >= OPEN_MAX {
            return count_unsent_spans(UnsentSpans::QueueFull, 1);
        }
        trace.push.names = names;
        match call {
            Ok(call) => drop(self.open.insert(call, trace)),
            Err(error) => self.end_with(trace, Some(word(error))),
        }
    }

    /// The call of `message`, if it is a traced push.
    pub(crate) fn push_of(&self, message: &Message) -> Option<CallId> {
        if self.open.is_empty() && self.beginning.is_none() {
            return None;
        }
        let (call, _) = push_of(message)?;
        (self.beginning.is_some() || self.open.contains_key(&call)).then_some(call)
    }

    /// Notes that a message of a traced push is in the inbox of `shard`.
    pub(crate) fn posted(&mut self, call: CallId, shard: ShardId) {
        if let Some(trace) = self.open.get_mut(&call).or(self.beginning.as_mut()) {
            trace.posted(shard);
        }
    }

    /// Notes a report.
    pub(crate) fn handle_report(&mut self, report: &Report) {
        if self.open.is_empty() {
            return;
        }
        let (call, shard, reported, is_home) = match *report {
            Report::Tally { call, shard, tally, .. } => (call, shard, Reported::Tally(tally), true),
            Report::PartialTally { call, shard, tally, .. } => {
                (call, shard, Reported::Tally(tally), false)
            }
            Report::Scheduled { call, shard, connections } => {
                (call, shard, Reported::Scheduled(connections), true)
            }
            Report::Busy { call, shard } => (call, shard, Reported::Busy, true),
            _ => return,
        };
        match self.open.get_mut(&call) {
            Some(trace) if is_home => trace.home_reported(shard, reported),
            Some(trace) => trace.shard_reported(shard, reported),
            None => {}
        }
    }

    /// Notes the outcome of a call.
    pub(crate) fn end(&mut self, call: CallId, error: Option<&CallError>) {
        if let Some(trace) = self.open.remove(&call) {
            self.end_with(trace, error.map(word));
        }
    }

    /// Notes that the caller of a call has left.
    pub(crate) fn cancel(&mut self, call: CallId) {
        if let Some(trace) = self.open.remove(&call) {
            self.end_with(trace, Some("cancelled"));
        }
    }

    fn end_with(&mut self, trace: Trace, error: Option<&'static str>) {
        let end = trace.now();
        let mut push = TracedPush { end, error, ..trace.push };
        for span in push.shards.iter_mut().filter(|span| span.reported.is_none()) {
            span.end = end;
        }
        count_unsent_spans(UnsentSpans::LeftOut, push.left_out.into());
        if let Err(TrySendError::Full(push) | TrySendError::Disconnected(push)) =
            self.ended.try_send(push)
        {
            count_unsent_spans(UnsentSpans::QueueFull, push.spans());
        }
    }
}

impl Trace {
    fn new(request: TracedRequest) -> Self {
        let anchor = (Instant::now(), SystemTime::now());
        let TracedRequest { parent, path, begin } = request;
        let begin = anchor.1 - anchor.0.saturating_duration_since(begin);
        let push = TracedPush {
            parent,
            id: new_id(),
            path,
            begin,
            end: begin,
            names: PushedNames::default(),
            error: None,
            shards: Vec::new(),
            left_out: 0,
        };
        Self { push, anchor }
    }

    fn now(&self) -> SystemTime {
        self.anchor.1 + self.anchor.0.elapsed()
    }

    fn posted(&mut self, shard: ShardId) {
        let (begin, now) = (self.anchor.1, self.now());
        let (parent, is_home, posted) = (self.push.id, true, Some(now));
        let (id, end, reported) = (new_id(), now, None);
        self.push.add(ShardSpan { id, parent, shard, is_home, begin, posted, end, reported });
    }

    fn home_reported(&mut self, shard: ShardId, reported: Reported) {
        let now = self.now();
        let is_it = |span: &&mut ShardSpan| span.is_home && span.shard == shard;
        if let Some(span) = self.push.shards.iter_mut().find(is_it) {
            (span.end, span.reported) = (now, Some(reported));
        }
    }

    fn shard_reported(&mut self, shard: ShardId, reported: Reported) {
        let push = &self.push;
        let mut homes = push.shards.iter().filter(|span| span.is_home);
        let (parent, begin) = match (homes.next(), homes.next()) {
            (Some(home), None) => (home.id, home.posted.unwrap_or(home.begin)),
            // With several homes it is unknown which one sent it.
            _ => (push.id, push.begin),
        };
        let (is_home, posted, end) = (false, None, self.now());
        let (id, reported) = (new_id(), Some(reported));
        self.push.add(ShardSpan { id, parent, shard, is_home, begin, posted, end, reported });
    }
}

impl TracedPush {
    /// How many spans it has.
    #[must_use]
    pub fn spans(&self) -> u64 {
        1 + self.shards.len() as u64
    }

    fn add(&mut self, span: ShardSpan) {
        match self.shards.len() < SPANS_MAX {
            true => self.shards.push(span),
            false => self.left_out += 1,
        }
    }
}

impl PushedNames {
    /// Adds the names of `message` to those of the call's other messages.
    pub(crate) fn add(names: &mut Option<Self>, message: &Message) {
        if let Some((_, Self { keys, users, rooms })) = push_of(message) {
            let sum = names.get_or_insert_default();
            sum.keys += keys;
            sum.users += users;
            sum.rooms += rooms;
        }
    }
}

/// The call and the names of a push to a home; `None`: the message is not one.
fn push_of(message: &Message) -> Option<(CallId, PushedNames)> {
    let none = PushedNames::default();
    Some(match message {
        Message::PushKeys { call, keys, .. } => (*call, PushedNames { keys: keys.len(), ..none }),
        Message::PushUsers { call, users, .. } => {
            (*call, PushedNames { users: users.len(), ..none })
        }
        Message::PushRoom { call, .. } | Message::PushFromStream { call, .. } => {
            (*call, PushedNames { rooms: 1, ..none })
        }
        Message::Broadcast { call, .. } | Message::KickNetwork { call, .. } => (*call, none),
        _ => return None,
    })
}

/// Never 0, which is not a valid id.
fn new_id() -> u64 {
    rand::random::<u64>().max(1)
}

fn word(error: &CallError) -> &'static str {
    match error {
        CallError::TooManyCalls | CallError::TooManyOfCaller => "too_many_calls",
        CallError::ShardGone(_) => "shard_gone",
        CallError::InboxFull { .. } => "inbox_full",
        CallError::Late { .. } => "late",
    }
}
