//! The gate between the listeners of one setting and their service: bounds, and counts of connections and requests
//! turned away.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::HOST;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::access_control::AccessControl;
use crate::access_log::{AccessLog, Quoted};
use crate::connection_limit::ConnectionLimit;
use crate::refusal::Refusal;
use crate::request_memory::RequestMemory;
use crate::responses::OpenResponses;

/// The gates of a process. They share one bound of bytes. Only the gates of pages have one each, so that health is
/// answered whatever callers of the APIs do.
#[derive(Debug)]
pub struct Gates {
    request_memory: Arc<RequestMemory>,
    /// For callers who have shown no token where one is required.
    unauthenticated: Arc<RequestMemory>,
    /// One for each gate of pages.
    pages: Mutex<Vec<Arc<RequestMemory>>>,
    responses: Arc<OpenResponses>,
    unauthenticated_responses: Arc<OpenResponses>,
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
    connection_limit: Arc<ConnectionLimit>,
    request_memory: Arc<RequestMemory>,
    unauthenticated: Arc<RequestMemory>,
    responses: Arc<OpenResponses>,
    unauthenticated_responses: Arc<OpenResponses>,
    access_control: Arc<AccessControl>,
    access_log: Arc<AccessLog>,
    is_traced: bool,
    /// Permits for watches of health.
    watches: Arc<Semaphore>,
    /// Permits for reports that are being handled.
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
pub const UNAUTHENTICATED_BYTES_MAX: usize = 4 << 20;

/// Most answers over gRPC that have begun and not ended, over all gates; a stream counts as four. When the bound is
/// reached, no further request is taken.
pub const ANSWERS_MAX: usize = 16_384;

/// Bytes of answers encoded and not yet taken. Beyond this no further list is made.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

/// As [`ANSWERS_MAX`], for callers who have shown no token where one is required.
pub const UNAUTHENTICATED_ANSWERS_MAX: usize = 256;

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
        let request_memory = Arc::new(RequestMemory::new(request_bytes));
        let unauthenticated = Arc::new(RequestMemory::new(UNAUTHENTICATED_BYTES_MAX));
        Self {
            request_memory,
            unauthenticated,
            pages: Mutex::default(),
            responses: OpenResponses::new(ANSWERS_MAX, ANSWER_BYTES_MAX),
            unauthenticated_responses: OpenResponses::new(
                UNAUTHENTICATED_ANSWERS_MAX,
                UNAUTHENTICATED_BYTES_MAX,
            ),
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

    /// A gate for the listeners of `setting`, with `access`.
    pub fn gate(
        &self,
        setting: &'static str,
        limits: GateLimits,
        access: &Arc<AccessControl>,
    ) -> Arc<Gate> {
        self.logged_gate(setting, limits, access, &Arc::default())
    }

    /// The same with an access log.
    pub fn logged_gate(
        &self,
        setting: &'static str,
        limits: GateLimits,
        access: &Arc<AccessControl>,
        access_log: &Arc<AccessLog>,
    ) -> Arc<Gate> {
        let bytes = (Arc::clone(&self.request_memory), Arc::clone(&self.unauthenticated));
        self.new_gate((setting, limits), access, access_log, bytes)
    }

    /// A gate for the pages of `setting`, for this many connections. Its requests have [`PAGES_BYTES_MAX`] of their
    /// own.
    pub fn pages(
        &self,
        setting: &'static str,
        connections: usize,
        access: &Arc<AccessControl>,
    ) -> Arc<Gate> {
        let limits = GateLimits { connections, request_max: PAGE_REQUEST, request_time: PAGE_TIME };
        let request_memory = Arc::new(RequestMemory::new(PAGES_BYTES_MAX));
        self.pages.lock().expect(NO_PANIC).push(Arc::clone(&request_memory));
        let bytes = (Arc::clone(&request_memory), request_memory);
        self.new_gate((setting, limits), access, &Arc::default(), bytes)
    }

    fn new_gate(
        &self,
        (setting, limits): (&'static str, GateLimits),
        access: &Arc<AccessControl>,
        access_log: &Arc<AccessLog>,
        (request_memory, unauthenticated): (Arc<RequestMemory>, Arc<RequestMemory>),
    ) -> Arc<Gate> {
        let gate = Arc::new(Gate {
            setting,
            limits,
            connection_limit: ConnectionLimit::new(connections_max(
                self.open_files,
                limits.connections,
            )),
            request_memory,
            unauthenticated,
            responses: Arc::clone(&self.responses),
            unauthenticated_responses: Arc::clone(&self.unauthenticated_responses),
            access_control: Arc::clone(access),
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
        let memories = || [&self.request_memory, &self.unauthenticated].into_iter().chain(&*pages);
        let sum = |of: fn(&RequestMemory) -> usize| memories().map(|memory| of(memory)).sum();
        (sum(RequestMemory::bytes), sum(RequestMemory::bytes_max))
    }
}

impl Gate {
    fn read(&self) -> GateReading {
        let counts = |counts: &Mutex<BTreeMap<&'static str, u64>>| {
            counts.lock().expect(NO_PANIC).iter().map(|(reason, count)| (*reason, *count)).collect()
        };
        GateReading {
            setting: self.setting,
            connections: self.connection_limit.taken(),
            connections_max: self.connection_limit.most(),
            accepted: self.accepted.load(Relaxed),
            accept_errors: self.accept_errors.load(Relaxed),
            closed: counts(&self.closed),
            refused: counts(&self.refused),
        }
    }

    pub(crate) fn setting(&self) -> &'static str {
        self.setting
    }

    pub(crate) fn connection_limit(&self) -> &Arc<ConnectionLimit> {
        &self.connection_limit
    }

    /// The bound in which the bytes of requests count.
    pub(crate) fn request_memory(&self, is_unauthenticated: bool) -> &Arc<RequestMemory> {
        if is_unauthenticated { &self.unauthenticated } else { &self.request_memory }
    }

    /// The bound in which answers over gRPC count.
    pub(crate) fn responses(&self, is_unauthenticated: bool) -> &Arc<OpenResponses> {
        if is_unauthenticated { &self.unauthenticated_responses } else { &self.responses }
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

    /// A permit for a watch of health, until it is dropped.
    pub(crate) fn watch(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.watches).try_acquire_owned().map_err(|_| Refusal::Watches)
    }

    /// Waits until a report may be handled. Hold the permit until it is.
    pub(crate) async fn report(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.reports).acquire_owned().await;
        permit.expect("nobody closes the semaphore")
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.is_traced
    }

    pub(crate) fn access_control(&self) -> &AccessControl {
        &self.access_control
    }

    /// Counts a request that is not taken. Callers who may not call are logged from time to time.
    pub(crate) fn count_refusal(&self, refusal: Refusal) {
        *self.refused.lock().expect(NO_PANIC).entry(refusal.label()).or_default() += 1;
    }

    /// Warns of a request of `peer` that was refused, if the peer may not call at all.
    pub(crate) fn warn_of_refusal(&self, refusal: Refusal, peer: &str, headers: &HeaderMap) {
        if !refusal.is_locked_out() {
            return;
        }
        let (setting, status) = (self.setting, refusal.status(self.limits.request_time));
        let host = headers.get(HOST).filter(|_| refusal == Refusal::WrongHost);
        let host = host.map_or(String::new(), |host| {
            format!(" for {}", Quoted(&String::from_utf8_lossy(host.as_bytes())))
        });
        let reason = status.message();
        self.warn(format_args!("{setting}: a request of {peer}{host} is refused: {reason}"));
    }

    /// Counts a TLS handshake of `peer` that failed.
    pub(crate) fn count_tls_error(&self, error: &rustls::Error, peer: &str) {
        self.count_closed(TLS_ERROR);
        self.warn(format_args!("{}: a TLS handshake of {peer} failed: {error}", self.setting));
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
