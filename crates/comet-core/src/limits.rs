//! All limits of a shard. The outcome of a full queue is written beside its limit.

use std::ops::RangeInclusive;

use comet_proto::websocket::OriginPattern;

pub use crate::blocklist::BLOCKS_MAX;
use crate::blocklist::Blocklist;
use crate::callers::CallerLimits;
use crate::coalesce::CoalesceRule;
use crate::deflate::Deflate;
use crate::history::HistoryRule;
pub use crate::live_traces::LIVE_TRACES_MAX;
use crate::live_traces::LiveTraces;
use crate::parking::ResumeLimits;
use crate::presence::PresenceRule;
use crate::source::SourceLimits;
pub use crate::time::TICK_MS;

/// What a full outbox does with a further push.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SlowConsumer {
    /// The new message is dropped, as goim does; counted as `outbox_full`.
    #[default]
    DropNewest,
    /// The oldest message that is not in flight is dropped; counted as `superseded`. If all are in flight, the new
    /// message is queued beyond the limit.
    DropOldest,
    /// The message is dropped and the connection closed with `slow_consumer`.
    Close,
}

/// Limits and durations that the configuration sets; the same for every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of a shard; further ones are refused at accept.
    pub connections: u32,
    /// New connections are closed at accept, because the process has all the memory it may take.
    pub is_out_of_memory: bool,
    /// Pushes of callers that are connected here are refused, because the process has gone beyond that memory.
    pub refuses_pushes: bool,
    /// Whether new connections are accepted. `false`: they are closed at accept, because the server drains by an order
    /// that may be taken back.
    pub takes_clients: bool,
    /// Largest frame body from a client, bytes; a larger one closes the connection.
    pub body_max: usize,
    /// Largest head of a WebSocket upgrade, bytes; a larger one is answered with 431.
    pub head_max: usize,
    /// Path of the WebSocket upgrade; another one is answered with 404.
    pub path: Box<str>,
    /// Whether WebSocket clients may speak the [text form](comet_proto::text). A client does if its token comes in a
    /// text message.
    pub text: bool,
    /// Longest push that is encoded in the text form, bytes of its frame. Clients of the text form do not get a longer
    /// one; it is dropped as `text_too_long`.
    pub text_push_max: usize,
    /// How messages are compressed for WebSocket clients that offer compression in their upgrade; `None`: offers are
    /// declined. A client whose offer was accepted may send compressed messages as long as it is connected.
    pub deflate: Option<Deflate>,
    /// Pushes in an outbox, pending and in flight; beyond it [`Limits::slow_consumer`] decides.
    pub svr_proto: u16,
    /// Bytes in an outbox; beyond it [`Limits::slow_consumer`] decides.
    pub outbox_bytes: u32,
    /// Memory of all outboxes of the shard, bytes, including their entries. A message that several outboxes share
    /// counts once, or a few times if they have little else in common. Beyond it every outbox that holds something is
    /// full. Beyond it by an eighth every outbox is full.
    pub outbox_memory: u64,
    /// Replies in an outbox, counted apart from pushes; one more closes the connection.
    pub cli_proto: u16,
    /// What a full outbox does.
    pub slow_consumer: SlowConsumer,
    /// Whether the accept filter of connections also applies to pushes to a room. In goim it does not.
    pub filter_rooms: bool,
    /// Whether clients of protocol 1 get the close notice (op 6), too. goim sends none.
    pub goodbye: bool,
    /// Pushes that wait for space in the inbox of another shard; further ones are dropped as `mesh_full`. Directory
    /// messages are not counted, because each connection causes a fixed number of them.
    pub mesh_backlog: usize,
    /// Time from accept until authenticated and registered, milliseconds.
    pub handshake_ms: u32,
    /// Longest time without progress of a send, milliseconds.
    pub write_ms: u32,
    /// Heartbeat interval if logic names none, milliseconds.
    pub heartbeat_ms: u32,
    /// Longest time that heartbeats may wait to be answered together while clients send nothing else, milliseconds; 0:
    /// they do not wait.
    pub coalesce_ms: u32,
    /// Heartbeats wait only if nothing but heartbeats has happened for this long, milliseconds. A client whose
    /// heartbeats are closer together than that measures the latency, and then none wait.
    pub coalesce_after_ms: u32,
    /// Which pushes wait for others, so that they are sent together.
    pub coalesce_rules: Box<[CoalesceRule]>,
    /// Which rooms keep their last pushes, so that a client that comes back gets the pushes that it missed.
    pub history_rules: Box<[HistoryRule]>,
    /// Hosts share the histories: pushes to rooms with a history come from one stream, with their offsets.
    pub history_is_shared: bool,
    /// Which rooms tell their members who enters and leaves.
    pub presence_rules: Box<[PresenceRule]>,
    /// Memory of the histories of all rooms whose home is the shard, bytes. Beyond it the rooms that had no push for
    /// the longest time lose theirs first.
    pub history_memory: usize,
    /// Bytes of missed pushes that the shard takes from homes before they are in outboxes. Beyond it further clients
    /// wait.
    pub recovery_memory: usize,
    /// Which sessions outlast their connections, and how much is parked for them.
    pub resume: ResumeLimits,
    /// Longest time for a closing connection to send its outbox and to be closed by its peer, milliseconds.
    pub linger_ms: u32,
    /// Connections that this shard's driver accepts in a second; 0: any number. Further ones wait in the kernel's
    /// backlog.
    pub accept_rate: u32,
    /// Connections of this shard that have not authenticated; a further one closes the oldest of them.
    pub handshakes: u32,
    /// Connections from one address and one subnet, over all shards.
    pub sources: SourceLimits,
    /// Networks whose clients are closed at accept.
    pub blocklist: Blocklist,
    /// How much one client may send.
    pub rates: ClientRates,
    /// Limits of push callers that are connected here.
    pub callers: CallerLimits,
    /// Origins of pages that may open a WebSocket. Others are answered with 403. Empty: all may. A request without the
    /// header always passes, because it is not from a browser.
    pub origins: Box<[OriginPattern]>,
    /// Users whose connections are written to the trace log, sorted.
    pub trace_users: Box<[i64]>,
    /// The subjects whose events operators watch.
    pub traces: LiveTraces,
    /// Rooms that a connection of protocol 2 may be in; a request to enter a further one is refused.
    pub rooms: u16,
    /// Sessions that a user may have; a further one is closed with `too_many_sessions`.
    pub user_sessions: u32,
    /// How long the session number of a user is retained after the last session ended, milliseconds; 0: the next
    /// session has number 1.
    pub user_memory_ms: u32,
    /// How long a home retains a key that it reported to logic as disconnected, milliseconds. With remote logic, a
    /// connection whose registration takes half as long renews its session at once. Must not change while shards run.
    pub key_memory_ms: u32,
    /// Connections that a push is sent to in one turn. If a room has more members here, or a push has more connections,
    /// they are a crowd; see [`Shard::handle_crowds`](crate::Shard::handle_crowds).
    pub crowd_above: usize,
    /// Connections of a crowd that a push is sent to in one turn.
    pub crowd_slice: usize,
    /// Bytes that are sent to a crowd in one turn, if that limits it to fewer connections; one connection always gets
    /// them.
    pub crowd_bytes: usize,
    /// Tables that each map of a home is split into, so that no table grows in one long step. A power of two.
    pub buckets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_000_000,
            is_out_of_memory: false,
            refuses_pushes: false,
            takes_clients: true,
            body_max: 4096,
            head_max: 16 << 10,
            path: "/sub".into(),
            text: false,
            text_push_max: TEXT_PUSH_MAX,
            deflate: None,
            svr_proto: 512,
            outbox_bytes: 8 << 20,
            outbox_memory: 1 << 30,
            cli_proto: 256,
            slow_consumer: SlowConsumer::DropNewest,
            filter_rooms: false,
            goodbye: false,
            mesh_backlog: 65_536,
            handshake_ms: 5_000,
            write_ms: 5_000,
            heartbeat_ms: 300_000,
            coalesce_ms: 25,
            coalesce_after_ms: COALESCE_AFTER_MS,
            coalesce_rules: [].into(),
            history_rules: [].into(),
            history_is_shared: false,
            presence_rules: [].into(),
            history_memory: 64 << 20,
            recovery_memory: RECOVERY_MEMORY,
            resume: ResumeLimits::default(),
            linger_ms: 2_000,
            accept_rate: 0,
            handshakes: 65_536,
            sources: SourceLimits::default(),
            blocklist: Blocklist::default(),
            rates: ClientRates::default(),
            callers: CallerLimits::default(),
            origins: [].into(),
            trace_users: [].into(),
            traces: LiveTraces::default(),
            rooms: 128,
            user_sessions: 10_000,
            user_memory_ms: 0,
            key_memory_ms: 10_000,
            crowd_above: CROWD_ABOVE,
            crowd_slice: CROWD_SLICE,
            crowd_bytes: CROWD_BYTES,
            buckets: 256,
        }
    }
}

/// How much a client may send a second, on average over a window of [`RATE_WINDOW_MS`]. So a burst may be as large as a
/// window allows. 0: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientRates {
    /// Frames, including WebSocket control frames.
    pub frames: u32,
    /// Bytes, as the shard sees them: after TLS.
    pub bytes: u32,
    /// Changes of the room.
    pub room_changes: u32,
}

/// Directory messages that a driver hands to its shard in one turn at most; the others wait in the inbox.
pub const DIRECTORY_MESSAGES_PER_TURN: usize = 1_024;
/// Pushes that a driver hands to its shard in one turn at most; the others wait in the inbox. See
/// [`MessageBudget`](crate::MessageBudget).
pub const MESSAGES_PER_TURN: usize = 256;
/// Time over which a [`ClientRates`] is averaged, milliseconds.
pub const RATE_WINDOW_MS: u64 = 10_000;
/// How long a client that was turned away for a limit on clients is told to wait, milliseconds.
pub const TURNED_AWAY_MS: RangeInclusive<u32> = 5_000..=30_000;
/// Connections of a shard that linger after they were turned away, so that their clients read the notice. At most a
/// sixteenth of the connections that the shard may have.
pub const TURNED_AWAY_LINGER_MAX: usize = 1_024;
/// Longest time between two comments in an event stream, milliseconds. Proxies end connections that are silent for 30 s
/// or longer.
pub const EVENT_COMMENT_MS: u32 = 25_000;
/// How long a client is told to wait if its request for an event stream is refused for a temporary reason and no better
/// time is known, milliseconds.
pub const EVENT_RETRY_MS: u32 = 5_000;
/// How long a client is told to wait if its token has expired, milliseconds. Random, so that clients whose tokens
/// expire together do not come back together.
pub const TOKEN_EXPIRED_MS: RangeInclusive<u32> = 100..=5_000;
/// [`Limits::text_push_max`] of a server, bytes: a push is encoded in one go, in 4 ms at most.
pub const TEXT_PUSH_MAX: usize = 256 << 10;
/// Longest message that is compressed, bytes. It is compressed in one go, in at most 4 ms up to level 6. A longer one
/// is sent uncompressed.
pub const DEFLATE_MAX: usize = 256 << 10;
/// Bytes that inflating compressed messages of clients produces in one turn, in about a millisecond, plus the message
/// that exceeds them. Later messages wait for the next turn.
pub const INFLATED_PER_TURN: usize = 1 << 20;
/// Connections that a push is sent to in one turn, in a few milliseconds. With a smaller number, pushes to rooms of this
/// size would take several turns, and their cost would rise noticeably.
pub const CROWD_ABOVE: usize = 1_024;
/// Connections in a slice of a crowd, which is sent in about a millisecond. A client that connects waits for a slice at
/// each step: after its accept, its upgrade and its token.
pub const CROWD_SLICE: usize = 256;
/// Bytes in a slice of a crowd. The kernel copies them in a few milliseconds.
pub const CROWD_BYTES: usize = 8 << 20;
/// Deliveries in a slice of a crowd, and connections in the lists that wait for their turn. A batch of more than a few
/// pushes is offered to fewer connections in a slice.
pub const CROWD_UNITS: usize = 4 * SLICE_UNITS;
/// Crowds with pushes under way. At this number a shard takes no push until one of them is through.
pub const CROWDS_MAX: usize = 16;
/// Pushes that wait in the windows of [`CoalesceRule`]s on one shard. At this number the window that would end next
/// ends at once.
pub const GATHERED_MAX: usize = 4_096;
/// Bytes of these pushes, plus the push that exceeds them.
pub const GATHERED_BYTES_MAX: usize = 16 << 20;
/// Rooms whose position in their history a home knows. For a further one it forgets a room that had no push for the
/// longest time.
pub const HISTORY_ROOMS_MAX: usize = 1 << 16;
/// Rooms whose members a home will tell who has entered and left. With one more the window that would end next ends at
/// once.
pub const PRESENCE_WINDOWS_MAX: usize = 4_096;
/// Offsets between two messages of the stream that hosts share. A message is a push of at most this many frames, and
/// each frame has an offset.
pub const STREAM_FRAMES_MAX: u64 = 1 << 16;
/// Pushes on a page of a room's history.
pub const HISTORY_PAGE_PUSHES_MAX: u32 = 1_000;
/// Bytes of frames on such a page, plus the frame that exceeds them.
pub const HISTORY_PAGE_MAX: usize = 1 << 20;
/// Most bytes of one answer with missed pushes; the limits of an outbox apply as well.
pub const RECOVERY_MAX: usize = 1 << 20;
/// [`Limits::recovery_memory`] of a server.
pub const RECOVERY_MEMORY: usize = 16 << 20;
/// The latest answers with missed pushes that a home keeps encoded, for clients that ask for the same pushes.
pub const HISTORY_CHUNKS_MAX: usize = 16;
/// Units of work in one slice of a turn; see [`Budget`](crate::Budget).
pub const SLICE_UNITS: usize = 8_192;
/// Deadlines that are handled in one turn.
pub const EXPIRED_MAX: usize = 2_048;
/// Connections in one message of a push by keys or users; more are sent in several.
pub const OWNERS_MAX: usize = 2_048;
/// Step of a paced broadcast, milliseconds.
pub const PACE_MS: u64 = 10;
/// Close notices of a drain, or for clients that are moved off, wait at most this long for the pushes of the windows
/// that the order has ended, milliseconds. If the shard is further behind, they are given without waiting.
pub const GATHERED_FIRST_MS: u64 = 1_000;
/// How often changed room counts travel between a room's home and its shards, milliseconds.
pub const ROOM_COUNT_MS: u64 = 200;
/// [`Limits::coalesce_after_ms`] of a server, milliseconds.
pub const COALESCE_AFTER_MS: u32 = 1_000;
/// Longest room id and key, bytes. A longer one is refused.
pub const NAME_MAX: usize = 256;
/// Most rooms that a token or logic's answer may name in addition to the first one.
pub const FURTHER_ROOMS_MAX: usize = 1_024;
/// Operations one connection may list as accepted; more are refused.
pub const ACCEPTS_MAX: usize = 64;
/// Input held for a connection while it waits for logic or a home, bytes beyond one frame.
pub const HELD_MAX: usize = 64 << 10;
/// Session numbers of users, and keys reported as disconnected, that a home retains; for a further one it forgets the
/// oldest early.
pub const RETAINED_MAX: usize = 1 << 20;
/// Paced broadcasts under way on one shard; one more is refused as busy.
pub const PACED_MAX: usize = 64;
/// Most connections on one list.
pub const LISTED_MAX: usize = 1_000;
/// Lists of connections under way or waiting on a shard; a further one is refused.
pub const LISTINGS_MAX: usize = 8;
/// Bytes of pushes that a driver hands to its shard in one turn at most, plus the push that exceeds them.
pub const PUSH_BYTES_PER_TURN: usize = 192 << 10;
/// One send takes frames up to this size, plus the one that exceeds it. The pushes and the replies of a turn have to
/// fit. So a client that reads what it is sent never has a backlog.
pub const WINDOW: usize = 256 << 10;
/// The frames of one send are joined into one buffer up to this size; otherwise they are sent from where they are
/// stored.
pub const JOIN_MAX: usize = 2 * WINDOW;
/// Bytes of such buffers on one shard; beyond it frames are sent from where they are stored.
pub const JOINED_BYTES_MAX: usize = 64 << 20;
/// Slices of one send that is not joined: as many as the kernel takes (`UIO_MAXIOV`).
pub const SLICES_MAX: usize = 1024;
/// Longest sentence of logic that is passed on to a client, bytes; a longer one is cut.
pub const SENTENCE_MAX: usize = 1024;
/// Events of traced connections that wait for control; more are only counted.
pub const TRACE_EVENTS_MAX: usize = 4096;
/// Closed connections that wait to be logged; more are only counted.
pub const CLOSED_EVENTS_MAX: usize = 1024;
/// Unanswered requests of one push caller. Further ones wait in its socket.
pub const CALLER_CALLS_MAX: usize = 1_024;
/// Longest token of a push caller, bytes. Until a valid token was sent, no request may be longer.
pub const CALLER_TOKEN_MAX: usize = 512;
/// Unread input of one push caller, plus one request; more input waits in its socket.
pub const CALLER_INPUT_MAX: usize = 64 << 10;
/// Replies that one push caller has not taken, bytes. Beyond it none of its requests is read.
pub const CALLER_OUTPUT_MAX: usize = 256 << 10;
/// Bytes of requests of a shard's push callers that are incomplete or not answered, plus the longest one. Beyond it
/// nothing more is received. If all of them are incomplete, the caller with the oldest is ended, because nothing else
/// would free memory.
pub const CALLERS_BYTES_MAX: usize = 64 << 20;
/// Pushes of a shard's push callers that other hosts were told about and have not answered. Beyond it no requests are
/// read.
pub const CALLED_MAX: usize = 16_384;
/// Bytes of the frames of these pushes, plus the longest one.
pub const CALLED_BYTES_MAX: usize = 64 << 20;
/// Longest time until the first request of a push caller, milliseconds.
pub const CALLER_FIRST_MS: u64 = 10_000;
/// Longest time in which a push caller takes no bytes of its replies, milliseconds.
pub const CALLER_WRITE_MS: u64 = 30_000;
/// Longest time in which a push caller may close its side after its connection was ended here, milliseconds.
pub const CALLER_LINGER_MS: u64 = 2_000;
/// Longest pushed body for which the arithmetic of outboxes is valid, bytes.
pub const PUSH_BODY_MAX: usize = 64 << 20;

const _: () = assert!(ROOM_COUNT_MS.is_multiple_of(TICK_MS) && TICK_MS.is_multiple_of(PACE_MS));
const _: () = assert!(PUSH_BYTES_PER_TURN < WINDOW && JOIN_MAX <= JOINED_BYTES_MAX);

impl Limits {
    /// Whether the driver must tell the address of each client by
    /// [`Shard::handle_source`](crate::Shard::handle_source).
    #[must_use]
    pub fn needs_addresses(&self) -> bool {
        self.sources.is_on() || !self.blocklist.is_empty() || self.traces.has_networks()
    }

    /// The rule for the history of `room`. `None`: it keeps none.
    pub(crate) fn history_rule(&self, room: &str) -> Option<&HistoryRule> {
        if self.history_rules.is_empty() {
            return None;
        }
        self.history_rules.iter().find(|rule| rule.covers(room))
    }

    /// Most bytes of one answer with missed pushes: as much as the outbox of the client may take.
    pub(crate) fn recovery_max(&self) -> usize {
        RECOVERY_MAX.min(self.outbox_bytes as usize)
    }

    /// The rule by which members of `room` are told who enters and leaves, if there is one.
    pub(crate) fn presence_rule(&self, room: &str) -> Option<&PresenceRule> {
        self.presence_rules.iter().find(|rule| rule.covers(room))
    }

    /// Checks the limits against each other.
    ///
    /// # Panics
    /// If a limit is zero, or too small for another.
    pub(crate) fn assert_sound(&self) {
        assert!(self.connections > 0 && self.svr_proto > 0 && self.cli_proto > 0);
        assert!(self.user_sessions > 0, "user_sessions");
        assert!(self.rooms > 0, "a connection may be in one room");
        assert!(self.body_max > 0 && self.body_max <= 1 << 20, "body_max");
        assert!(self.head_max >= 256, "head_max holds an upgrade request");
        assert!(self.outbox_bytes <= 1 << 30, "outbox_bytes");
        assert!(self.crowd_slice > 0 && self.crowd_bytes > 0, "crowd_slice");
        assert!(self.crowd_slice <= self.crowd_above, "a slice of a crowd is none");
        assert!(self.buckets.is_power_of_two(), "buckets is a power of two");
        assert!(self.deflate.is_none_or(|deflate| (1..=9).contains(&deflate.level)), "deflate");
        self.sources.assert_sound();
        assert!(self.handshakes > 0, "a connection begins with a handshake");
        assert!(self.handshake_ms > 0 && self.write_ms > 0 && self.heartbeat_ms > 0);
        assert!(self.trace_users.is_sorted(), "trace_users is sorted");
    }
}
