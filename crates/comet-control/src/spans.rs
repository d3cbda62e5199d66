//! The spans of pushes whose callers trace them: the call, the way to each home, and each shard that a home sent the
//! push to. The times are those of this thread: shards read no clock for it.
//!
//! A trace is open from the begin of its call to its outcome, and leaves then for a bounded queue. Neither waits.

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::time::{Instant, SystemTime};

use comet_core::{CallId, Message, Report, ShardId, Tally};
use comet_hub::CallError;
use comet_ops::{UnsentSpans, count_unsent_spans};
use comet_serve::{TraceParent, TracedRequest};

/// Calls that may be traced at once. Others are counted as left out.
const OPEN_MAX: usize = 1_024;

/// Spans of one call beside its own. More of them are counted as left out.
const SPANS_MAX: usize = 128;

/// A push that has ended.
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
    /// Names in the request, each once.
    pub names: PushedNames,
    /// Why there is no whole outcome.
    pub error: Option<&'static str>,
    /// What the shards did.
    pub shards: Vec<ShardSpan>,
    /// Spans that are not among them.
    pub left_out: u32,
}

/// What a push is addressed to; all zero: everybody.
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
    /// When the message was made; where a home passed it on, when the home had it.
    pub begin: SystemTime,
    /// When it was put into the shard's inbox; `None`: where a home passed it on, this is not known.
    pub posted: Option<SystemTime>,
    /// When the report had come.
    pub end: SystemTime,
    /// What became of the push there; `None`: no report has come.
    pub tally: Option<Tally>,
}

/// The traces that are open.
pub(crate) struct Traces {
    open: HashMap<CallId, Trace>,
    /// Of the call that begins now, whose number is not known.
    begun: Option<Trace>,
    ended: SyncSender<TracedPush>,
}

struct Trace {
    push: TracedPush,
    /// The same moment on both clocks: spans have the time of day, and it does not jump in them.
    anchor: (Instant, SystemTime),
    /// When the call began.
    begin: Instant,
}

impl Traces {
    /// Ended pushes go to `ended`, as far as it has room.
    pub(crate) fn new(ended: SyncSender<TracedPush>) -> Self {
        Self { open: HashMap::new(), begun: None, ended }
    }

    /// A call begins for the request that is being handled.
    pub(crate) fn begin(&mut self) {
        let Some(request) = TracedRequest::current() else { return };
        if self.open.len() >= OPEN_MAX {
            return count_unsent_spans(UnsentSpans::QueueFull, 1);
        }
        self.begun = Some(Trace::new(request));
    }

    /// The call that began has this number, or was refused.
    pub(crate) fn begun(&mut self, call: Result<CallId, &CallError>) {
        let Some(trace) = self.begun.take() else { return };
        match call {
            Ok(call) => drop(self.open.insert(call, trace)),
            Err(error) => self.end_with(trace, Some(word(error))),
        }
    }

    /// Notes that `message` is in the inbox of `shard`. It is given as what [`Traces::sight`] made of it.
    pub(crate) fn posted(&mut self, shard: ShardId, (call, names): (CallId, PushedNames)) {
        let Some(trace) = self.open.get_mut(&call).or(self.begun.as_mut()) else { return };
        let (now, begin) = (trace.at(Instant::now()), trace.at(trace.begin));
        let push = &mut trace.push;
        push.names.keys += names.keys;
        push.names.users += names.users;
        push.names.rooms += names.rooms;
        let parent = push.id;
        let (is_home, posted, tally) = (true, Some(now), None);
        push.add(ShardSpan {
            id: new_id(),
            parent,
            shard,
            is_home,
            begin,
            posted,
            end: now,
            tally,
        });
    }

    /// What is to be noted of a message once it is posted; `None` if nothing.
    pub(crate) fn sight(&self, message: &Message) -> Option<(CallId, PushedNames)> {
        if self.open.is_empty() && self.begun.is_none() {
            return None;
        }
        let none = PushedNames::default();
        let (call, names) = match message {
            Message::PushKeys { call, keys, .. } => {
                (*call, PushedNames { keys: keys.len(), ..none })
            }
            Message::PushUsers { call, users, .. } => {
                (*call, PushedNames { users: users.len(), ..none })
            }
            Message::PushRoom { call, .. } => (*call, PushedNames { rooms: 1, ..none }),
            Message::Broadcast { call, .. } | Message::KickNetwork { call, .. } => (*call, none),
            _ => return None,
        };
        (self.begun.is_some() || self.open.contains_key(&call)).then_some((call, names))
    }

    /// Notes that a report has come.
    pub(crate) fn handle_report(&mut self, report: &Report) {
        if self.open.is_empty() {
            return;
        }
        let (call, shard, tally, is_home) = match report {
            Report::Tally { call, shard, tally, .. } => (call, shard, *tally, true),
            Report::PartialTally { call, shard, tally } => (call, shard, *tally, false),
            Report::Scheduled { call, shard, .. } | Report::Busy { call, shard } => {
                (call, shard, Tally::default(), true)
            }
            _ => return,
        };
        if let Some(trace) = self.open.get_mut(call) {
            trace.report(*shard, tally, is_home);
        }
    }

    /// A call has its outcome; `None`: its caller has left.
    pub(crate) fn end(&mut self, call: CallId, error: Option<Option<&CallError>>) {
        if let Some(trace) = self.open.remove(&call) {
            self.end_with(trace, error.map_or(Some("cancelled"), |error| error.map(word)));
        }
    }

    fn end_with(&mut self, trace: Trace, error: Option<&'static str>) {
        let end = trace.at(Instant::now());
        let mut push = TracedPush { end, error, ..trace.push };
        // Only pushes go to shards as such, or are refused before.
        if push.shards.is_empty() && error.is_none() {
            return;
        }
        for span in push.shards.iter_mut().filter(|span| span.tally.is_none()) {
            span.end = end;
        }
        count_unsent_spans(UnsentSpans::LeftOut, push.left_out.into());
        if let Err(refused) = self.ended.try_send(push) {
            let (std::sync::mpsc::TrySendError::Full(push)
            | std::sync::mpsc::TrySendError::Disconnected(push)) = refused;
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
        Self { push, anchor, begin: anchor.0 }
    }

    fn at(&self, time: Instant) -> SystemTime {
        self.anchor.1 + time.saturating_duration_since(self.anchor.0)
    }

    fn report(&mut self, shard: ShardId, tally: Tally, is_home: bool) {
        let now = self.at(Instant::now());
        let push = &mut self.push;
        if is_home {
            let way = |span: &&mut ShardSpan| span.is_home && span.shard == shard;
            if let Some(span) = push.shards.iter_mut().find(way) {
                (span.end, span.tally) = (now, Some(tally));
            }
            return;
        }
        // Of several homes it is not known which one sent it.
        let mut homes = push.shards.iter().filter(|span| span.is_home);
        let (parent, begin) = match (homes.next(), homes.next()) {
            (Some(home), None) => (home.id, home.posted.unwrap_or(home.begin)),
            _ => (push.id, push.begin),
        };
        let (posted, tally) = (None, Some(tally));
        let id = new_id();
        push.add(ShardSpan { id, parent, shard, is_home, begin, posted, end: now, tally });
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
