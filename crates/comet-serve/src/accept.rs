//! Accepting callers and serving each connection, within the bounds of its gate.

use std::error::Error;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::graceful::GracefulConnection;
use tokio::select;
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep};

use crate::access_log::Quoted;
use crate::active_time::{ActiveTimer, sleep_active, timeout_active};
use crate::caller::Caller;
use crate::certificate_name::certificate_name;
use crate::connection_limit::ConnectionPermit;
use crate::gate::Gate;
use crate::guarded::{Guarded, Protocol};
use crate::handshake::{as_tls, handshake};
use crate::listen::{Accepting, Incoming};
use crate::phase::{Phase, accepting, leaving, stopped};
use crate::socket::Socket;
use crate::stream::{Meter, MeteredStream, WRITE_TIMEOUT};

/// How long a new HTTP/1 connection may take until its first request begins. A TLS handshake has the same time.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// How long the preface of HTTP/2 may take. A blocking caller may send it only with its first call; by then a silent
/// one would have failed its first ping.
const FIRST_PREFACE: Duration = Duration::from_secs(60);

/// How long an HTTP/1 connection may be idle, and how long a later head may take.
const IDLE: Duration = Duration::from_secs(75);

/// Longest head of an HTTP/1 request, bytes.
pub const HEAD_MAX: usize = 128 << 10;

/// How long calls under way may take on a connection whose caller was let in by certificate authorities or tokens that
/// no longer hold.
const OUTDATED: Duration = Duration::from_secs(10);

/// Most calls under way on one HTTP/2 connection; the caller holds the next one back.
const STREAMS_MAX: u32 = 1_024;

/// Most calls of a connection that their caller reset before they were looked at. More of them end the connection. One
/// turn reads fewer than that: a call and its reset take at least 25 bytes.
const RESETS_MAX: usize = 4_096;

/// Most bytes of one call that have arrived and were not looked at. A message takes at least 16 bytes, the smallest
/// push, so this bounds the messages of one stream that the library holds for a connection.
const STREAM_WINDOW: u32 = 64 << 10;

/// The same for all calls of a connection.
pub const CONNECTION_WINDOW: u32 = 2 << 20;

/// How often a silent HTTP/2 connection is pinged, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a caller that was told to leave may stay without a call under way. In that time it ends the connection,
/// unless it is gone; requests it sent before have arrived, and answers have reached it.
const LEAVE: Duration = Duration::from_millis(300);

/// The preface of HTTP/2 and the header of the frame behind it (RFC 9113, section 3.4).
const PREFACE: usize = 24 + 9;

/// The waits after failed accepts.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The service of a listener, with its bounds.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) router: Router,
    pub(crate) protocol: Protocol,
    pub(crate) gate: Arc<Gate>,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// Serves callers of `listener` until [`Phase::Stopped`] and the end of all calls. No caller is accepted in
/// [`Phase::Upgrading`].
pub(crate) async fn serve(listener: Accepting, served: Served) {
    let has_host = listener.has_host();
    let mut connections = JoinSet::new();
    let mut stopping = pin!(stopped(served.phase.clone()));
    let mut backoff = AcceptBackoff::default();
    loop {
        let accepted = select! {
            biased;
            () = &mut stopping => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &served.phase) => accepted,
        };
        let Some(accepted) = accepted else { continue };
        match accepted {
            Ok(incoming) => {
                backoff.end(&served.gate);
                served.gate.count_accepted();
                let entered = select! {
                    biased;
                    () = &mut stopping => break,
                    permit = served.gate.connection_limit().enter() => permit,
                };
                let permit = Arc::new(entered);
                connections.spawn(serve_one(incoming, permit, has_host, served.clone()));
                // The new connection is read before the next one is accepted.
                yield_now().await;
            }
            Err(error) => {
                served.gate.count_accept_error();
                if !concerns_one_caller(&error) {
                    select! {
                        () = &mut stopping => break,
                        () = sleep(backoff.lengthen(&served.gate, &error)) => {}
                    }
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The next caller; `None`: another process accepts the callers.
async fn accept(
    listener: &Accepting,
    phase: &watch::Receiver<Phase>,
) -> Option<io::Result<Incoming>> {
    accepting(phase.clone()).await;
    select! {
        biased;
        () = leaving(phase.clone()) => None,
        accepted = listener.accept() => Some(accepted),
    }
}

/// The pause between failed accepts, and the log line about it.
#[derive(Default)]
struct AcceptBackoff(Option<Duration>);

impl AcceptBackoff {
    fn lengthen(&mut self, gate: &Gate, error: &io::Error) -> Duration {
        if self.0.is_none() {
            log::warn!("{}: no connection can be accepted: {error}; they wait", gate.setting());
        }
        let backoff = self.0.map_or(BACKOFF_MIN, |backoff| (backoff * 2).min(BACKOFF_MAX));
        self.0 = Some(backoff);
        backoff
    }

    fn end(&mut self, gate: &Gate) {
        if self.0.take().is_some() {
            log::info!("{}: connections are accepted again", gate.setting());
        }
    }
}

/// Whether the caller left before it was accepted. Other accept errors concern the whole process.
fn concerns_one_caller(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve_one(
    incoming: Incoming,
    permit: Arc<ConnectionPermit>,
    has_host: bool,
    served: Served,
) {
    let authorities = authorities_change(&incoming);
    let tokens = tokens_change(Arc::clone(&served.gate), Arc::clone(&permit));
    let outdated = async move {
        select! {
            () = authorities => "authorities_changed",
            () = tokens => "token_taken_away",
        }
    };
    let mut peer = incoming.peer();
    let Some(socket) = open(incoming, &peer, &permit, &served).await else { return };
    if let Some(certificate) = socket.peer_certificate() {
        peer += &format!(" certificate={}", Quoted(&certificate_name(certificate)));
    }
    let peer = Arc::from(peer);
    let end = End { phase: served.phase.clone(), outdated };
    let Served { router, protocol, gate, .. } = served;
    let meter = Arc::new(Meter::default());
    let io = TokioIo::new(MeteredStream::new(socket, Arc::clone(&meter)));
    let guarded = |protocol| {
        let (gate, permit) = (Arc::clone(&gate), Arc::clone(&permit));
        Guarded { router, protocol, gate, permit, caller: Caller::next(), peer, has_host }
    };
    let ended = match protocol {
        Protocol::Http => {
            let mut builder = http1::Builder::new();
            builder.timer(ActiveTimer).header_read_timeout(IDLE).max_buf_size(HEAD_MAX);
            let connection = builder.serve_connection(io, guarded(protocol));
            let first = (FIRST_REQUEST, usize::MAX);
            drive(connection, &permit, &meter, first, end).await
        }
        Protocol::Grpc { .. } => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(ActiveTimer)
                .max_concurrent_streams(STREAMS_MAX)
                .max_pending_accept_reset_streams(RESETS_MAX)
                // The library counts these over the life of a connection, and connections here have no fixed end.
                .max_local_error_reset_streams(None)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT);
            let connection = builder.serve_connection(io, guarded(protocol));
            let first = (FIRST_PREFACE, PREFACE);
            drive(connection, &permit, &meter, first, end).await
        }
    };
    if let Some(reason) = ended {
        gate.count_closed(reason);
    }
}

/// The connection after its TLS handshake, if it has one. `None` if the handshake failed.
async fn open(
    incoming: Incoming,
    peer: &str,
    permit: &ConnectionPermit,
    served: &Served,
) -> Option<Socket> {
    let (stream, tls) = match incoming {
        Incoming::Open(socket) => return Some(socket),
        Incoming::Tls(stream, tls) => (stream, tls),
    };
    let Served { protocol, gate, phase, .. } = served;
    select! {
        biased;
        () = permit.evicted() => gate.count_closed("evicted"),
        () = leaving(phase.clone()) => {}
        opened = timeout_active(FIRST_REQUEST, handshake(stream, &tls, protocol)) => match opened {
            Some(Ok(socket)) => return Some(socket),
            Some(Err(error)) => {
                if let Some(error) = as_tls(&error) {
                    gate.count_tls_error(error, peer);
                }
            }
            None => gate.count_closed("silent"),
        },
    }
    None
}

/// The events that end a connection after the calls under way: the end of the server, or credentials that no longer
/// hold.
struct End<F> {
    phase: watch::Receiver<Phase>,
    outdated: F,
}

/// Resolves when the authorities that checked the caller's certificate are replaced.
fn authorities_change(incoming: &Incoming) -> impl Future<Output = ()> + use<> {
    let change = match incoming {
        Incoming::Open(_) => None,
        Incoming::Tls(_, tls) => Some(tls.authorities_change()),
    };
    async move {
        match change {
            Some(change) => change.await,
            None => pending().await,
        }
    }
}

/// Resolves when a call of the connection would no longer be let in.
fn tokens_change(gate: Arc<Gate>, permit: Arc<ConnectionPermit>) -> impl Future<Output = ()> {
    // Only changes from here on count.
    let mut changes = gate.access_control().changes();
    async move {
        while changes.changed().await.is_ok() {
            if !gate.access_control().lets_in(&permit.shown()) {
                return;
            }
        }
        pending::<()>().await;
    }
}

/// Runs a connection to its end. Returns the reason if the caller did not end it. A new connection has the time in
/// `first` until a request begins, or until that many bytes have arrived.
async fn drive<C, F>(
    connection: C,
    permit: &ConnectionPermit,
    meter: &Meter,
    (first_time, first_bytes): (Duration, usize),
    end: End<F>,
) -> Option<&'static str>
where
    C: GracefulConnection,
    C::Error: Error + 'static,
    F: Future<Output = &'static str>,
{
    let mut connection = pin!(connection);
    let mut stopping = pin!(leaving(end.phase));
    let mut outdated = pin!(end.outdated);
    // The grace begins when it is first awaited.
    let mut grace = pin!(sleep_active(OUTDATED));
    let mut first_request = pin!(sleep_active(first_time));
    let mut patience = pin!(sleep(LEAVE));
    let mut overdue = pin!(permit.unsent().overdue(WRITE_TIMEOUT));
    let (mut is_stopping, mut outdated_by, mut has_begun) = (false, None, false);
    loop {
        select! {
            biased;
            ended = poll_fn(|cx| {
                meter.begin_turn();
                connection.as_mut().poll(cx)
            }) => return ended.err().and_then(|error| reason(&error)),
            () = permit.evicted() => return Some("evicted"),
            // The calls of a connection share its bytes: no call behind the stuck one could be served.
            () = &mut overdue => return Some("write_timeout"),
            () = &mut first_request, if !has_begun => {
                has_begun = permit.has_begun() || meter.read() >= first_bytes;
                if !has_begun {
                    return Some("silent");
                }
            }
            () = &mut stopping, if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
                patience.as_mut().reset(Instant::now() + LEAVE);
            }
            () = &mut patience, if is_stopping => {
                // A call under way may take as long as it needs.
                let left = permit.idle().map_or(LEAVE, |idle| LEAVE.saturating_sub(idle));
                if left.is_zero() {
                    return None;
                }
                patience.as_mut().reset(Instant::now() + left);
            }
            by = &mut outdated, if outdated_by.is_none() => {
                outdated_by = Some(by);
                connection.as_mut().graceful_shutdown();
            }
            () = &mut grace, if outdated_by.is_some() => return outdated_by,
        }
    }
}

/// The bound that ended a connection; `None` if its caller or the network did.
fn reason(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>()
            && error.is_library()
            && error.is_go_away()
        {
            let calm = error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
            return Some(if calm { "http2_limit" } else { "http2_error" });
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && error.is_timeout()
        {
            return Some("idle");
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::TimedOut
        {
            return Some("write_timeout");
        }
        cause = error.source();
    }
    None
}
