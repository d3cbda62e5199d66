//! The spans of pushes whose callers trace them: the call, the way to each home, and each shard that a home sent the
//! push to. The times are those of this thread: shards read no clock for it.
//!
//! A trace is open from the begin of its call to its outcome, and leaves then for a bounded queue. Neither waits.

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Instant, SystemTime};

use comet_core::{CallId, Message, Report, ShardId, Tally};
use comet_hub::CallError;
use comet_ops::{UnsentSpans, count_unsent_spans};
use comet_serve::{TraceParent, TracedRequest};

/// Calls that may be traced at once. Others are counted as left out.
const OPEN_MAX: usize = 1_024;

/// Spans of one call beside its own. More of them are counted as left out.
const SPANS_MAX: usize = 128;

/// A push that has ended, or a kick, which takes the same way.
#[derive(Debug)]
pub struct TracedPush {
    /// The span of the caller.
    pub parent: TraceParent,
    /// The id of the span of the call.
    pub id: u64,
    /// The path of the call.
    pub path: Box<str>,
    /// When the head of the request had come.
    pub begin: SystemTime,
    /// When the outcome was there.
    pub end: SystemTime,
    /// What it is addressed to.
    pub names: PushedNames,
    /// Why there is no whole outcome.
    pub error: Option<&'static str>,
    /// What the shards did.
    pub shards: Vec<ShardSpan>,
    /// Spans that are not among them.
    pub left_out: u32,
}

/// How many names a push is addressed to, each counted once; all zero: everybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PushedNames {
    /// Keys.
    pub keys: usize,
    /// Users.
    pub users: usize,
    /// Rooms.
    pub rooms: usize,
}

/// The way of a push to a shard, and back.
#[derive(Clone, Debug)]
pub struct ShardSpan {
    /// Its id.
    pub id: u64,
    /// The id of the span that it is in.
    pub parent: u64,
    /// Which shard.
    pub shard: ShardId,
    /// Whether control sent it there. Otherwise a home did.
    pub is_home: bool,
    /// When the call began; where a home passed the push on, when the home had it.
    pub begin: SystemTime,
    /// When it was put into the shard's inbox; `None`: where a home passed it on, this is not known.
    pub posted: Option<SystemTime>,
    /// When the report had come, or the call ended without it.
    pub end: SystemTime,
    /// What the shard reported; `None`: no report has come.
    pub reported: Option<Reported>,
}

/// What became of a push on a shard.
#[derive(Clone, Copy, Debug)]
pub enum Reported {
    /// It was offered to connections.
    Tally(Tally),
    /// So many connections will get it, with the time.
    Scheduled(u64),
    /// Too many paced broadcasts are under way there.
    Busy,
}

/// The traces that are open.
pub(crate) struct Traces {
    open: HashMap<CallId, Trace>,
    /// Of the call that begins now, whose number is not known.
    beginning: Option<Trace>,
    ended: SyncSender<TracedPush>,
}

struct Trace {
    push: TracedPush,
    /// The same moment on both clocks: spans have the time of day, and it does not jump in them.
    anchor: (Instant, SystemTime),
}

impl Traces {
    /// Ended pushes go to `ended`, as far as it has room.
    pub(crate) fn new(ended: SyncSender<TracedPush>) -> Self {
        Self { open: HashMap::new(), beginning: None, ended }
    }

    /// A call begins for the request that is being handled. `false`: that is not traced.
    pub(crate) fn begin(&mut self) -> bool {
        self.beginning = TracedRequest::current().map(Trace::new);
        self.beginning.is_some()
    }

    /// The call that began has this number, or was refused, and addresses these names. `None`: it is no push, or was
    /// refused before it had messages. Then it has no spans.
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

    /// The call of `message`, if that is a push that is traced.
    pub(crate) fn push_of(&self, message: &Message) -> Option<CallId> {
        if self.open.is_empty() && self.beginning.is_none() {
            return None;
        }
        let (call, _) = push_of(message)?;
        (self.beginning.is_some() || self.open.contains_key(&call)).then_some(call)
    }

    /// A message of a traced push is in the inbox of `shard`.
    pub(crate) fn posted(&mut self, call: CallId, shard: ShardId) {
        if let Some(trace) = self.open.get_mut(&call).or(self.beginning.as_mut()) {
            trace.posted(shard);
        }
    }

    /// A report has come.
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

    /// A call has its outcome.
    pub(crate) fn end(&mut self, call: CallId, error: Option<&CallError>) {
        if let Some(trace) = self.open.remove(&call) {
            self.end_with(trace, error.map(word));
        }
    }

    /// The caller of a call has left.
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
            // Of several homes it is not known which one sent it.
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
    /// Adds those of `message` to what the other messages of its call have.
    pub(crate) fn add(names: &mut Option<Self>, message: &Message) {
        if let Some((_, Self { keys, users, rooms })) = push_of(message) {
            let sum = names.get_or_insert_default();
            sum.keys += keys;
            sum.users += users;
            sum.rooms += rooms;
        }
    }
}

/// The call and the names of a push to a home; `None`: the message is none.
fn push_of(message: &Message) -> Option<(CallId, PushedNames)> {
    let none = PushedNames::default();
    Some(match message {
        Message::PushKeys { call, keys, .. } => (*call, PushedNames { keys: keys.len(), ..none }),
        Message::PushUsers { call, users, .. } => {
            (*call, PushedNames { users: users.len(), ..none })
        }
        Message::PushRoom { call, .. } | Message::PushStored { call, .. } => {
            (*call, PushedNames { rooms: 1, ..none })
        }
        Message::Broadcast { call, .. } | Message::KickNetwork { call, .. } => (*call, none),
        _ => return None,
    })
}

/// Never 0, which is no id.
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
