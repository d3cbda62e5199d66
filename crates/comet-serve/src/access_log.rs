//! The access log: one line for each call, under a target of its own, so that it can be filtered.

use std::fmt::{self, Debug, Write};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use axum::http::Response;
use tokio::time::Instant;
use tonic::{Code, Status};

/// The target by which RUST_LOG selects these lines.
const TARGET: &str = "access";

/// Longest text of a caller in a line, bytes. The rest is left out.
const TEXT_MAX: usize = 256;

/// Health and reflection, which load balancers and tools call. They are not logged.
const ABOUT_THE_SERVER: &str = "/grpc.";

tokio::task_local! {
    static ACCESS: AccessLogEntry;
}

/// The switch of an access log.
#[derive(Default, Debug)]
pub struct AccessLog(AtomicBool);

impl AccessLog {
    /// On or off.
    #[must_use]
    pub fn new(is_on: bool) -> Self {
        Self(is_on.into())
    }

    /// Switches it on or off for calls that begin from now on.
    pub fn set(&self, is_on: bool) {
        self.0.store(is_on, Relaxed);
    }

    /// A call of `path` begins.
    pub(crate) fn begin(&self, caller: &Arc<str>, path: &str) -> AccessLogEntry {
        let is_on = self.0.load(Relaxed) && !path.starts_with(ABOUT_THE_SERVER);
        AccessLogEntry(is_on.then(|| {
            Arc::new(Record {
                caller: Arc::clone(caller),
                call: Quoted(path).to_string(),
                begin: Instant::now(),
                state: Mutex::default(),
            })
        }))
    }
}

/// The log line of a call. It is written when the last handle is dropped, so the line of a stream comes at its end.
/// Without an access log a handle is empty and does nothing.
#[derive(Clone, Default, Debug)]
pub struct AccessLogEntry(Option<Arc<Record>>);

#[derive(Debug)]
struct Record {
    caller: Arc<str>,
    call: String,
    begin: Instant,
    state: Mutex<EntryState>,
}

#[derive(Default, Debug)]
struct EntryState {
    /// Each with a space before it.
    fields: String,
    /// `None`: the caller left.
    outcome: Option<(Code, String)>,
}

impl AccessLogEntry {
    /// The entry of the request that is being handled.
    #[must_use]
    pub fn current() -> Self {
        ACCESS.try_with(Clone::clone).unwrap_or_default()
    }

    /// Makes this one the current one while the future is polled.
    pub(crate) fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        ACCESS.scope(self, future)
    }

    /// Adds fields, each `name=value`. Text of a caller has to be [`Quoted`].
    pub fn add(&self, fields: fmt::Arguments<'_>) {
        if let Some(record) = &self.0 {
            let mut state = record.state.lock().expect(NO_PANIC);
            write!(state.fields, " {fields}").expect("a String takes everything");
        }
    }

    /// The call has this answer, unless it has one.
    pub fn answer(&self, answer: Result<(), &Status>) {
        if let Some(record) = &self.0 {
            let outcome = match answer {
                Ok(()) => (Code::Ok, String::new()),
                Err(status) => (status.code(), status.message().to_owned()),
            };
            record.state.lock().expect(NO_PANIC).outcome.get_or_insert(outcome);
        }
    }

    /// The same for a response, which may be that of no handler. A stream's has no answer yet.
    pub(crate) fn respond<B>(&self, response: &Response<B>) {
        if self.0.is_none() {
            return;
        }
        if let Some(status) = Status::from_header_map(response.headers()) {
            self.answer(Err(&status));
        } else if !response.status().is_success() {
            self.answer(Err(&Status::unimplemented(response.status().to_string())));
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Self { caller, call, begin, state } = self;
        let EntryState { fields, outcome } = state.get_mut().expect(NO_PANIC);
        let (code, message) = outcome.take().unwrap_or((Code::Cancelled, String::new()));
        let error = match message.as_str() {
            "" => String::new(),
            message => format!(" error={}", Quoted(message)),
        };
        let ms = begin.elapsed().as_secs_f64() * 1_000.0;
        log::info!(target: TARGET, "call={call} caller={caller}{fields} code={code:?} ms={ms:.3}{error}");
    }
}

/// Text that a caller chose, in quotes, without what is too long for a line.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.floor_char_boundary(TEXT_MAX);
        Debug::fmt(&self.0[..end], f)?;
        if end < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";
