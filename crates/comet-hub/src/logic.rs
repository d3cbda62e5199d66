//! The client of remote logic: reports of shards become calls of logic services, and their answers
//! messages to shards.
//!
//! [`LogicClient`] decides which addresses are available, which calls go where, how often and for how long, and what
//! the shards get as answers. Its driver opens connections, carries requests and holds the clock.
//!
//! A call under way holds one of [`LogicConfig::calls`] permits. A client's question that finds no free permit is
//! answered at once; a notice or an update of room counts waits for one.

mod action;
mod addresses;
mod calls;
mod notices;
mod outcome;
mod request;
mod room_counts;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::sync::Arc;

use comet_core::{
    ActiveClock, AuthRequest, Canary, ConnId, Jitter, Message, Millis, Report, ShardId,
};

use self::action::Output;
use self::addresses::Addresses;
use self::notices::{Notice, NoticeKind, Notices, SequenceNumber};
use self::outcome::{Failure, Verdict};
use self::request::Retry;
use self::room_counts::{Progress, RoomCountUpdate};

use crate::failing::Failing;

pub use self::action::{Action, AttemptId, ConnectionId, Event, PingOutcome, Unneeded};
pub use self::notices::WAITING_MAX as NOTICES_MAX;
pub use self::outcome::{AttemptOutcome, StatusCode, UnknownCode};
pub use self::request::{Reply, Request};
pub use self::room_counts::{RoomPieces, RoomsByHome, SentRooms};

/// Longest part of a message that is logged, bytes.
const MESSAGE_MAX: usize = 256;

/// The parameters of calls to logic services.
#[derive(Clone, Debug)]
pub struct LogicConfig {
    /// Names of the addresses, for the log and the metrics; none twice.
    pub addresses: Vec<Box<str>>,
    /// How long a call may take with all its attempts, milliseconds. Connecting and a ping may take as long.
    pub timeout_ms: u64,
    /// Calls under way at most, at least one.
    pub calls: usize,
    /// How often each address is pinged, milliseconds.
    pub ping_ms: u64,
    /// Time between two updates of the room counts, milliseconds.
    pub renew_ms: u64,
    /// The longest retry time that a client is told when no logic answers, milliseconds; the shortest is half of it.
    /// Zero: it is told none.
    pub retry_after_ms: u32,
    /// The meaning of the code UNKNOWN.
    pub unknown: UnknownCode,
    /// Number of shards.
    pub shards: u16,
    /// The seed of the random numbers for backoff and retry times.
    pub seed: u64,
}

/// The purpose of a call.
#[derive(Debug)]
enum Purpose {
    /// `asked`: the number of the latest notice when logic was asked.
    Identify {
        conn: ConnId,
        asked: SequenceNumber,
    },
    Receive {
        conn: ConnId,
    },
    Notice(Notice),
    RoomCounts,
}

impl Purpose {
    /// Whether the call is about a client's token or message.
    fn is_of_client(&self) -> bool {
        matches!(self, Self::Identify { .. } | Self::Receive { .. })
    }
}

struct Call {
    purpose: Purpose,
    request: Arc<Request>,
    /// Attempts so far. The last one is under way, unless the call waits for an address.
    attempts: u32,
    /// The connection in use; `None`: it waits for an address.
    connection: Option<ConnectionId>,
    /// Addresses that were tried and could not answer.
    tried: Vec<usize>,
    /// Why the latest of them could not.
    failure: Failure,
}

/// The client of remote logic.
///
/// After each `handle_*`, call [`poll_message`](Self::poll_message), [`poll_action`](Self::poll_action) and
/// [`poll_event`](Self::poll_event), each until `None`, in any order. Then [`poll_timeout`](Self::poll_timeout) says
/// when [`handle_timeout`](Self::handle_timeout) is due. Times never go back. Deadlines count active time: see
/// [`ActiveClock`].
pub struct LogicClient {
    config: LogicConfig,
    clock: ActiveClock,
    addresses: Addresses,
    notices: Notices,
    calls: HashMap<u64, Call>,
    /// Calls that wait for an address, in the order in which they began; some may be over.
    without_address: Vec<u64>,
    /// Number of the last call.
    last_call: u64,
    /// The deadlines of calls, in the order in which they began; some may be over.
    deadlines: VecDeque<(Millis, u64)>,
    room_count_update: RoomCountUpdate,
    /// The rooms of the latest update. `None`: no update is complete yet.
    sent_rooms: Option<SentRooms>,
    /// The log already says that the rooms do not fit a request.
    are_rooms_beyond: bool,
    /// Calls that are over, by name and code.
    counts: BTreeMap<(&'static str, StatusCode), u64>,
    /// By procedure and code.
    failing: Failing<(&'static str, StatusCode)>,
    jitter: Jitter,
    out: Output,
}

impl LogicClient {
    /// A client that begins to connect at `now`.
    ///
    /// # Panics
    /// If there are no permits.
    #[must_use]
    pub fn new(mut config: LogicConfig, now: Millis) -> Self {
        assert!(config.calls > 0, "a call needs a permit");
        let names = mem::take(&mut config.addresses);
        let mut out = Output::default();
        let addresses = Addresses::new(names, (config.ping_ms, config.timeout_ms), now, &mut out);
        Self {
            addresses,
            notices: Notices::default(),
            calls: HashMap::new(),
            without_address: Vec::new(),
            last_call: 0,
            deadlines: VecDeque::new(),
            room_count_update: RoomCountUpdate::Due,
            sent_rooms: None,
            are_rooms_beyond: false,
            counts: BTreeMap::new(),
            failing: Failing::default(),
            jitter: Jitter::new(config.seed),
            clock: ActiveClock::new(now),
            config,
            out,
        }
    }

    /// How many addresses are available.
    #[must_use]
    pub fn available(&self) -> usize {
        self.addresses.available()
    }

    /// Each address and whether it is available.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, bool)> {
        self.addresses.all()
    }

    /// Each address and how many pings it answered with [`PingOutcome::CallerRefused`].
    pub fn refused_pings(&self) -> impl Iterator<Item = (&str, u64)> {
        self.addresses.refused_pings()
    }

    /// The name of the address that `connection` leads to.
    #[must_use]
    pub fn address_of(&self, connection: ConnectionId) -> &str {
        self.addresses.name(connection)
    }

    /// Sets the addresses to those of `names`, without duplicates. A removed address gets no new call. Its connection
    /// is closed; the driver keeps it only for the calls under way on it.
    pub fn set_addresses(&mut self, now: Millis, names: Vec<Box<str>>) {
        let now = self.advance(now);
        self.addresses.replace(names, now, &mut self.out);
        self.retry_waiting(now);
        self.proceed(now);
    }

    /// Calls that hold a permit.
    #[must_use]
    pub fn calls_under_way(&self) -> usize {
        self.calls.len()
    }

    /// Name, code and number of all calls that are over.
    pub fn call_counts(&self) -> impl Iterator<Item = (&'static str, StatusCode, u64)> {
        self.counts.iter().map(|((rpc, code), count)| (*rpc, *code, *count))
    }

    /// Time that did not count, because the driver was held up, milliseconds.
    #[must_use]
    pub fn stalled_ms(&self) -> u64 {
        self.clock.stalled_ms()
    }

    /// Notices of sessions that wait to be sent.
    #[must_use]
    pub fn notices_waiting(&self) -> usize {
        self.notices.waiting()
    }

    /// Notices that were given up.
    #[must_use]
    pub fn notices_dropped(&self) -> u64 {
        self.notices.dropped()
    }

    /// Whether no notice waits, rests or is on its way.
    #[must_use]
    pub fn has_delivered_notices(&self) -> bool {
        self.notices.is_idle()
    }

    /// Whether a notice of `key` waits, rests or is on its way.
    #[must_use]
    pub fn has_notice_of(&self, key: &str) -> bool {
        self.notices.has_notice_of(key)
    }

    /// Whether no call is under way and no notice waits. Renewals are ignored: they continue as long as there are
    /// clients.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let goes_on = |call: &Call| {
            matches!(*call.request, Request::Heartbeat { .. } | Request::RenewOnline { .. })
        };
        !self.notices.has_ends() && self.calls.values().all(goes_on)
    }

    /// This process continues for another one, which is ending and may still report ends of sessions for some seconds.
    pub fn take_over(&mut self, now: Millis) {
        let now = self.advance(now);
        self.notices.take_over(now);
    }

    /// Takes a report of a shard that is for logic.
    ///
    /// # Panics
    /// If the report is not for logic.
    pub fn handle_report(&mut self, now: Millis, report: Report) {
        let now = self.advance(now);
        match report {
            Report::Identify(AuthRequest { conn, token, cookie }) => {
                let purpose = Purpose::Identify { conn, asked: self.notices.last_number() };
                self.ask(now, purpose, Request::Connect { token, cookie });
            }
            Report::Receive { conn, user, operation, sequence, body, .. } => {
                let request = Request::Receive { user, operation, sequence, body };
                self.ask(now, Purpose::Receive { conn }, request);
            }
            Report::Heartbeat { user, key } => {
                let notice = Notice::new(user, key, NoticeKind::Renewed);
                let given_up = self.notices.add(notice);
                self.give_up(given_up);
            }
            Report::Disconnected { user, key } => {
                let notice = Notice::new(user, key, NoticeKind::Ended);
                let given_up = self.notices.add(notice);
                self.give_up(given_up);
            }
            Report::Reclaimed { user, key } => {
                let given_up = self.notices.key_reclaimed(now, user, &key);
                self.give_up(given_up);
            }
            other => unreachable!("{other:?} is not for logic"),
        }
        self.proceed(now);
    }

    /// Notes that the connection is open.
    pub fn handle_connected(&mut self, now: Millis, connection: ConnectionId) {
        let now = self.advance(now);
        self.addresses.handle_connected(now, connection, &mut self.out);
        self.proceed(now);
    }

    /// Notes that the connection cannot be opened.
    pub fn handle_connect_failed(&mut self, now: Millis, connection: ConnectionId, cause: &str) {
        let now = self.advance(now);
        let tools = (&mut self.jitter, &mut self.out);
        self.addresses.handle_connect_failed(now, connection, cause, tools);
        self.retry_waiting(now);
        self.proceed(now);
    }

    /// Takes the outcome of a ping over the connection.
    pub fn handle_ping(&mut self, now: Millis, connection: ConnectionId, outcome: PingOutcome) {
        let now = self.advance(now);
        let tools = (&mut self.jitter, &mut self.out);
        self.addresses.handle_ping(now, connection, outcome, tools);
        self.retry_waiting(now);
        self.proceed(now);
    }

    /// Takes the outcome of an attempt. That of an abandoned attempt is ignored.
    ///
    /// # Panics
    /// If the reply does not belong to the request.
    pub fn handle_reply(&mut self, now: Millis, attempt: AttemptId, outcome: AttemptOutcome) {
        let now = self.advance(now);
        let Some(call) = self.calls.get_mut(&attempt.call) else { return };
        // While the call waits for an address, its last attempt is over.
        if call.attempts != attempt.attempt + 1 || call.connection.is_none() {
            return;
        }
        if let AttemptOutcome::Refused { code, sentence } = &outcome
            && !(call.purpose.is_of_client() && code.is_about_client())
        {
            let way = (call.request.rpc(), *code);
            log_failure((&mut self.failing, &mut self.out), now, way, sentence);
        }
        match outcome.judge(self.config.unknown) {
            Verdict::Final(result) => self.end(now, attempt.call, result),
            Verdict::TryNext { was_sent, failure } => {
                let connection = call.connection.expect("an attempt goes over a connection");
                call.tried.push(connection.address);
                let retry = call.request.retry();
                self.addresses.suspect(connection, now, &mut self.out);
                let was_sent = was_sent && !Canary::RepeatedReceive.is_released();
                if retry == Retry::IfNotSent && was_sent {
                    self.end(now, attempt.call, Err(failure));
                } else {
                    call.failure = failure;
                    self.try_next(now, attempt.call);
                }
            }
        }
        self.proceed(now);
    }

    /// Takes the number of online members of each room whose home is here, each room once; `None` if they could not be
    /// counted.
    pub fn handle_rooms(&mut self, now: Millis, rooms: Option<RoomPieces>) {
        let now = self.advance(now);
        if let RoomCountUpdate::Counting = self.room_count_update {
            self.room_count_update = match rooms {
                None => RoomCountUpdate::Resting { until: now.after(self.config.renew_ms) },
                Some(pieces) => {
                    let beyond = pieces.beyond();
                    let was_beyond = mem::replace(&mut self.are_rooms_beyond, beyond.is_some());
                    if let Some(bytes) = beyond.filter(|_| !was_beyond) {
                        self.out.events.push_back(Event::RoomsBeyond { bytes });
                    }
                    let pieces = Arc::new(pieces);
                    RoomCountUpdate::Counted(Progress {
                        pieces,
                        piece: 0,
                        answer: None,
                        is_told: true,
                    })
                }
            };
        }
        self.proceed(now);
    }

    /// Does what is due at `now`. Pass outcomes that came before first: this ends calls as late.
    pub fn handle_timeout(&mut self, now: Millis) {
        let now = self.advance(now);
        while let Some((_, call)) = self.deadlines.pop_front_if(|(at, _)| *at <= now) {
            let Some(Call { attempts, connection, .. }) = self.calls.get(&call) else { continue };
            if connection.is_some() {
                let attempt = AttemptId { call, attempt: attempts - 1 };
                self.out.actions.push_back(Action::Abandon(attempt));
            }
            self.end(now, call, Err(Failure::Late));
        }
        self.addresses.handle_timeout(now, &mut self.jitter, &mut self.out);
        self.retry_waiting(now);
        while let Some(given_up) = self.notices.handle_timeout(now) {
            self.give_up(given_up);
        }
        if let RoomCountUpdate::Resting { until } = self.room_count_update
            && until <= now
        {
            self.room_count_update = RoomCountUpdate::Due;
        }
        self.proceed(now);
    }

    /// The next message to a shard. Those to one shard are in order.
    pub fn poll_message(&mut self) -> Option<(ShardId, Message)> {
        self.out.messages.pop_front()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.actions.pop_front()
    }

    /// The next change for the log.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// When [`LogicClient::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let update = match self.room_count_update {
            RoomCountUpdate::Resting { until } => Some(until),
            _ => None,
        };
        let call = self.deadlines.front().map(|(at, _)| *at);
        [call, self.addresses.poll_timeout(), self.notices.poll_timeout(), update]
            .into_iter()
            .flatten()
            .min()
            .map(|due| self.clock.time_of(due).min(self.clock.awake_until()))
    }

    /// The active time at `now`.
    fn advance(&mut self, now: Millis) -> Millis {
        let mut clock = self.clock;
        clock.advance(now, || self.poll_timeout());
        self.clock = clock;
        clock.active()
    }

    /// Begins the work that waited for an address or a permit.
    fn proceed(&mut self, now: Millis) {
        if let RoomCountUpdate::Due = self.room_count_update
            && self.addresses.available() > 0
        {
            self.room_count_update = RoomCountUpdate::Counting;
            let sent_rooms = self.sent_rooms.clone();
            self.out.actions.push_back(Action::CountRooms { sent_rooms });
        }
        while self.calls.len() < self.config.calls
            && let RoomCountUpdate::Counted(progress) = &self.room_count_update
        {
            let (pieces, piece) = (Arc::clone(&progress.pieces), progress.piece);
            self.room_count_update =
                mem::replace(&mut self.room_count_update, RoomCountUpdate::Due).sent();
            self.begin(now, Purpose::RoomCounts, Request::RenewOnline { pieces, piece });
        }
        while self.calls.len() < self.config.calls
            && self.addresses.available() > 0
            && let Some(notice) = self.notices.begin()
        {
            let (user, key) = (notice.user, notice.key.clone());
            let request = match notice.kind {
                NoticeKind::Renewed => Request::Heartbeat { user, key },
                NoticeKind::Ended => Request::Disconnect { user, key },
            };
            self.begin(now, Purpose::Notice(notice), request);
        }
        // Calls that are over need no deadline.
        while self.deadlines.pop_front_if(|(_, call)| !self.calls.contains_key(call)).is_some() {}
    }
}

/// `message` may be a text from another machine.
fn log_failure(
    (failing, out): (&mut Failing<(&'static str, StatusCode)>, &mut Output),
    now: Millis,
    (rpc, code): (&'static str, StatusCode),
    message: &str,
) {
    if failing.begins(now, (rpc, code)) {
        let message = message[..message.floor_char_boundary(MESSAGE_MAX)].into();
        out.events.push_back(Event::CallsFail { rpc, code, message });
    }
}

impl fmt::Debug for LogicClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogicClient")
            .field("available", &self.available())
            .field("calls_under_way", &self.calls_under_way())
            .field("notices_waiting", &self.notices_waiting())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
