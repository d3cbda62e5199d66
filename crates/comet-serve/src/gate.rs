//! The gate between the listeners of one setting and their service: bounds, and counts of connections and requests
//! turned away.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::access_log::AccessLog;
use crate::answers::Answers;
use crate::intake::Intake;
use crate::lock::Lock;
use crate::places::Places;
use crate::refusal::Refusal;

/// The gates of a process. They share one bound of bytes. Only the gates of pages have one each, so that health is
/// answered whatever callers of the APIs do.
#[derive(Debug)]
pub struct Gates {
    intake: Arc<Intake>,
    /// For callers who have shown no token where one is required.
    strangers: Arc<Intake>,
    /// One for each gate of pages.
    pages: Mutex<Vec<Arc<Intake>>>,
    answers: Arc<Answers>,
    strangers_answers: Arc<Answers>,
    open_files: u64,
    is_traced: bool,
    gates: Mutex<Vec<Arc<Gate>>>,
}

/// Bounds of one gate.
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// Most connections at once, if the limit on open files allows them; see [`connections_max`].
    pub connections: usize,
    /// Longest request, bytes.
    pub request_max: usize,
    /// How long a request may take from its head to its last byte; for a stream, each message of it.
    pub request_time: Duration,
}

/// Bounds and counts of the listeners of one setting.
#[derive(Debug)]
pub struct Gate {
    setting: &'static str,
    limits: GateLimits,
    places: Arc<Places>,
    intake: Arc<Intake>,
    strangers: Arc<Intake>,
    answers: Arc<Answers>,
    strangers_answers: Arc<Answers>,
    lock: Arc<Lock>,
    access_log: Arc<AccessLog>,
    is_traced: bool,
    /// Places for watches of health.
    watches: Arc<Semaphore>,
    /// Places for reports that are being handled.
    reports: Arc<Semaphore>,
    /// When the log last had a line about a caller who may not call.
    logged: Mutex<Option<Instant>>,
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    /// By reason.
    closed: Mutex<BTreeMap<&'static str, u64>>,
    /// By reason.
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

/// What a gate counted.
#[derive(Debug)]
pub struct GateReading {
    /// Key of the configuration that names the addresses.
    pub setting: &'static str,
    /// Connections now.
    pub connections: usize,
    /// Connections at most.
    pub connections_max: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Accepts that the system refused.
    pub accept_errors: u64,
    /// Connections that a bound ended, by reason.
    pub closed: Vec<(&'static str, u64)>,
    /// Requests that were not taken, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// The reasons for which connections are ended here. Each is counted from 0, so that an alert sees the first one.
const ENDS: [&str; 9] = [
    "authorities_changed",
    "evicted",
    "http2_error",
    "http2_limit",
    "idle",
    "silent",
    TLS_ERROR,
    "token_taken_away",
    "write_timeout",
];

/// The TLS handshake failed: a certificate is missing or unknown, or the caller refused ours.
const TLS_ERROR: &str = "tls_error";

/// Most connections at once, if the open files allow them: for gRPC, for HTTP, for pages of operators, and for pages
/// that change the server.
pub const GRPC_CONNECTIONS: usize = 256;
#[allow(missing_docs, reason = "above")]
pub const HTTP_CONNECTIONS: usize = 512;
#[allow(missing_docs, reason = "above")]
pub const STAT_CONNECTIONS: usize = 64;
#[allow(missing_docs, reason = "above")]
pub const DEBUG_CONNECTIONS: usize = 16;

/// Most watches of health at once: no other bound ends their answers. A caller beyond that may use a check instead.
pub const WATCHES_MAX: usize = 64;

/// Most reports handled at once. A request counts with its length as received; a compressed one may grow to the longest
/// request when it is handled, and this bounds their sum.
const REPORTS_MAX: usize = 4;

/// Bytes of all requests at once, if the longest has `request_max`.
#[must_use]
pub fn request_bytes(request_max: usize) -> usize {
    REQUEST_BYTES.max(4 * request_max)
}

/// Bytes of all requests at once, for the usual longest request.
const REQUEST_BYTES: usize = 256 << 20;

/// The same bound for callers who have shown no token where one is required: checks of health, some hundreds at once.
/// So they take no space from other callers.
pub const STRANGERS_BYTES_MAX: usize = 4 << 20;

/// Most answers over gRPC that have begun and not ended, over all gates; a stream counts as four. When the bound is
/// reached, no further request is taken.
pub const ANSWERS_MAX: usize = 16_384;

/// Bytes of answers encoded and not yet taken. Beyond this no further list is made.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

/// As [`ANSWERS_MAX`], for callers who have shown no token where one is required.
pub const STRANGERS_ANSWERS_MAX: usize = 256;

/// Longest request of a page, bytes, and how long it may take.
const PAGE_REQUEST: usize = 2 << 20;
const PAGE_TIME: Duration = Duration::from_secs(10);

/// Bytes of all requests for the pages of one setting. Requests without a body, one on each connection, take a fraction of it.
pub const PAGES_BYTES_MAX: usize = 4 * PAGE_REQUEST;

/// Most connections of a gate at once, if at most `most` are wanted: a 16th of the open files, so that neither callers
/// nor clients can exhaust the descriptors of the other.
#[must_use]
pub fn connections_max(open_files: u64, most: usize) -> usize {
    usize::try_from(open_files / 16).unwrap_or(usize::MAX).clamp(8, most.max(8))
}

impl Gates {
    /// `open_files` is the limit of the process, `request_bytes` the bound of all requests at once.
    #[must_use]
    pub fn new(open_files: u64, request_bytes: usize) -> Self {
        let intake = Arc::new(Intake::new(request_bytes));
        let strangers = Arc::new(Intake::new(STRANGERS_BYTES_MAX));
        Self {
            intake,
            strangers,
            pages: Mutex::default(),
            answers: Answers::new(ANSWERS_MAX, ANSWER_BYTES_MAX),
            strangers_answers: Answers::new(STRANGERS_ANSWERS_MAX, STRANGERS_BYTES_MAX),
            open_files,
            is_traced: false,
            gates: Mutex::default(),
        }
    }

    /// Whether gates made after this call read the trace of each request
    /// ([`TracedRequest::current`](crate::TracedRequest::current)).
    #[must_use]
    pub fn traced(self, is_traced: bool) -> Self {
        Self { is_traced, ..self }
    }

    /// A gate for the listeners of `setting`, with `lock`.
    pub fn gate(&self, setting: &'static str, limits: GateLimits, lock: &Arc<Lock>) -> Arc<Gate> {
        self.logged_gate(setting, limits, lock, &Arc::default())
    }

    /// The same with an access log.
    pub fn logged_gate(
        &self,
        setting: &'static str,
        limits: GateLimits,
        lock: &Arc<Lock>,
        access_log: &Arc<AccessLog>,
    ) -> Arc<Gate> {
        let bytes = (Arc::clone(&self.intake), Arc::clone(&self.strangers));
        self.new_gate((setting, limits), lock, access_log, bytes)
    }

    /// A gate for the pages of `setting`, for this many connections. Its requests have [`PAGES_BYTES_MAX`] of their
    /// own.
    pub fn pages(&self, setting: &'static str, connections: usize, lock: &Arc<Lock>) -> Arc<Gate> {
        let limits = GateLimits { connections, request_max: PAGE_REQUEST, request_time: PAGE_TIME };
        let intake = Arc::new(Intake::new(PAGES_BYTES_MAX));
        self.pages.lock().expect(NO_PANIC).push(Arc::clone(&intake));
        let bytes = (Arc::clone(&intake), intake);
        self.new_gate((setting, limits), lock, &Arc::default(), bytes)
    }

    fn new_gate(
        &self,
        (setting, limits): (&'static str, GateLimits),
        lock: &Arc<Lock>,
        access_log: &Arc<AccessLog>,
        (intake, strangers): (Arc<Intake>, Arc<Intake>),
    ) -> Arc<Gate> {
        let gate = Arc::new(Gate {
            setting,
            limits,
            places: Places::new(connections_max(self.open_files, limits.connections)),
            intake,
            strangers,
            answers: Arc::clone(&self.answers),
            strangers_answers: Arc::clone(&self.strangers_answers),
            lock: Arc::clone(lock),
            access_log: Arc::clone(access_log),
            is_traced: self.is_traced,
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            reports: Arc::new(Semaphore::new(REPORTS_MAX)),
            logged: Mutex::default(),
            accepted: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            closed: Mutex::new(ENDS.map(|reason| (reason, 0)).into()),
            refused: Mutex::new(Refusal::ALL.map(|refusal| (refusal.label(), 0)).into()),
        });
        self.gates.lock().expect(NO_PANIC).push(Arc::clone(&gate));
        gate
    }

    /// The counts of all gates.
    #[must_use]
    pub fn read(&self) -> Vec<GateReading> {
        self.gates.lock().expect(NO_PANIC).iter().map(|gate| gate.read()).collect()
    }

    /// Bytes of the requests that are coming in or being answered, and their bound.
    #[must_use]
    pub fn request_bytes(&self) -> (usize, usize) {
        let pages = self.pages.lock().expect(NO_PANIC);
        let intakes = || [&self.intake, &self.strangers].into_iter().chain(&*pages);
        let sum = |of: fn(&Intake) -> usize| intakes().map(|intake| of(intake)).sum();
        (sum(Intake::bytes), sum(Intake::bytes_max))
    }
}

impl Gate {
    fn read(&self) -> GateReading {
        let counts = |counts: &Mutex<BTreeMap<&'static str, u64>>| {
            counts.lock().expect(NO_PANIC).iter().map(|(reason, count)| (*reason, *count)).collect()
        };
        GateReading {
            setting: self.setting,
            connections: self.places.taken(),
            connections_max: self.places.most(),
            accepted: self.accepted.load(Relaxed),
            accept_errors: self.accept_errors.load(Relaxed),
            closed: counts(&self.closed),
            refused: counts(&self.refused),
        }
    }

    pub(crate) fn setting(&self) -> &'static str {
        self.setting
    }

    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// The intake in which the bytes of requests count.
    pub(crate) fn intake(&self, is_stranger: bool) -> &Arc<Intake> {
        if is_stranger { &self.strangers } else { &self.intake }
    }

    /// The bound in which answers over gRPC count.
    pub(crate) fn answers(&self, is_stranger: bool) -> &Arc<Answers> {
        if is_stranger { &self.strangers_answers } else { &self.answers }
    }

    pub(crate) fn request_max(&self) -> usize {
        self.limits.request_max
    }

    pub(crate) fn request_time(&self) -> Duration {
        self.limits.request_time
    }

    pub(crate) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Relaxed);
    }

    /// Counts a connection that a bound ended.
    pub(crate) fn count_closed(&self, reason: &'static str) {
        *self.closed.lock().expect(NO_PANIC).entry(reason).or_default() += 1;
    }

    pub(crate) fn access_log(&self) -> &AccessLog {
        &self.access_log
    }

    /// A place for a watch of health, until it is dropped.
    pub(crate) fn watch(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.watches).try_acquire_owned().map_err(|_| Refusal::Watches)
    }

    /// Waits until a report may be handled. Hold the permit until it is.
    pub(crate) async fn report(&self) -> OwnedSemaphorePermit {
        let place = Arc::clone(&self.reports).acquire_owned().await;
        place.expect("nobody closes the semaphore")
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.is_traced
    }

    pub(crate) fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Counts a request that is not taken. Callers who may not call are logged from time to time.
    pub(crate) fn count_refusal(&self, refusal: Refusal) {
        *self.refused.lock().expect(NO_PANIC).entry(refusal.label()).or_default() += 1;
        if !refusal.is_locked_out() {
            return;
        }
        let (setting, reason) = (self.setting, refusal.status(self.limits.request_time));
        self.warn(format_args!("{setting}: a request is refused: {}", reason.message()));
    }

    /// Counts a TLS handshake that failed.
    pub(crate) fn count_tls_error(&self, error: &rustls::Error) {
        self.count_closed(TLS_ERROR);
        self.warn(format_args!("{}: a TLS handshake failed: {error}", self.setting));
    }

    /// Writes a line to the log, at most one per [`LOG_PAUSE`].
    fn warn(&self, line: fmt::Arguments<'_>) {
        let mut logged = self.logged.lock().expect(NO_PANIC);
        if logged.is_none_or(|at| at.elapsed() >= LOG_PAUSE) {
            *logged = Some(Instant::now());
            log::warn!("{line}");
        }
    }
}

/// Time between two log lines about requests of callers who may not call; all are counted.
const LOG_PAUSE: Duration = Duration::from_secs(60);

const NO_PANIC: &str = "nothing panics between lock and unlock";
