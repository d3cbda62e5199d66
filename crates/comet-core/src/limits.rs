//! Every bound of a shard in one place. What a full queue does is written beside its bound.

use std::ops::RangeInclusive;

use comet_proto::websocket::OriginPattern;

pub use crate::blocks::BLOCKS_MAX;
use crate::blocks::Blocks;
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

/// What a full outbox does with one more push.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SlowConsumer {
    /// The new message is dropped, as goim does; counted as `outbox_full`.
    #[default]
    DropNewest,
    /// The oldest message that is not in flight is dropped; counted as `superseded`. Where all are in
    /// flight, the new message is queued beyond the bound.
    DropOldest,
    /// The message is dropped and the connection closed with `slow_consumer`.
    Close,
}

/// Bounds and durations that the configuration sets; the same for every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections a shard holds; one more is refused at accept.
    pub connections: u32,
    /// New connections are closed at accept: the process has all the memory it may take.
    pub is_out_of_memory: bool,
    /// Pushes of callers that are connected here are refused: the process has more memory than that.
    pub refuses_pushes: bool,
    /// New connections are accepted. `false`: they are closed at accept, because the server drains by an order that may
    /// be taken back.
    pub takes_clients: bool,
    /// Largest frame body from a client, bytes; a larger one closes the connection.
    pub body_max: usize,
    /// Largest head of a WebSocket upgrade, bytes; a larger one is answered with 431.
    pub head_max: usize,
    /// Path of the WebSocket upgrade; another one is answered with 404.
    pub path: Box<str>,
    /// Whether WebSocket clients may speak the [text form](comet_proto::text): those whose token comes in a text message.
    pub text: bool,
    /// Longest push that is encoded in the text form, bytes of its frame. A longer one is dropped for clients that speak it, as
    /// `text_too_long`.
    pub text_push_max: usize,
    /// How messages are compressed for WebSocket clients that offer it with their upgrade; `None`: offers are declined. A client
    /// whose offer was accepted may send compressed messages for as long as it is connected.
    pub deflate: Option<Deflate>,
    /// Pushes an outbox holds, waiting and in flight; then [`Limits::slow_consumer`] decides.
    pub svr_proto: u16,
    /// Bytes an outbox holds; then [`Limits::slow_consumer`] decides.
    pub outbox_bytes: u32,
    /// Bytes that all outboxes of the shard hold, entries included. A message that several outboxes share counts once, or a
    /// few times where they have little else in common. Beyond it every outbox that holds something is full, and
    /// an eighth beyond it every outbox.
    pub outbox_memory: u64,
    /// Replies an outbox holds beside the pushes; one more closes the connection.
    pub cli_proto: u16,
    /// What a full outbox does.
    pub slow_consumer: SlowConsumer,
    /// Whether pushes to a room look at what a connection accepts. goim does not.
    pub filter_rooms: bool,
    /// Whether clients of protocol 1 get the close notice (op 6), too. goim sends none.
    pub goodbye: bool,
    /// Pushes that wait for space in the inbox of one other shard; one more is dropped as `mesh_full`.
    /// Directory messages are not counted, because each connection causes a fixed number of them.
    pub mesh_backlog: usize,
    /// From accept to authenticated and registered, milliseconds.
    pub handshake_ms: u32,
    /// How long a send may make no progress, milliseconds.
    pub write_ms: u32,
    /// Time between heartbeats where logic names none, milliseconds.
    pub heartbeat_ms: u32,
    /// How long heartbeats may wait to be answered together while clients send nothing else, milliseconds;
    /// 0: not at all.
    pub coalesce_ms: u32,
    /// How long nothing but heartbeats must have happened before they wait, milliseconds. A client whose
    /// heartbeats are closer together than that measures the latency, and then none wait.
    pub coalesce_after_ms: u32,
    /// Which pushes wait for others, so that they leave in one send.
    pub coalesce_rules: Box<[CoalesceRule]>,
    /// Which rooms keep their last pushes, so that a client that comes back gets what it missed.
    pub history_rules: Box<[HistoryRule]>,
    /// Hosts share the histories: pushes to such rooms come from one stream, with their offsets.
    pub history_is_shared: bool,
    /// Which rooms tell their members who enters and leaves.
    pub presence_rules: Box<[PresenceRule]>,
    /// Bytes that the histories of all rooms whose home is the shard take. Beyond it rooms that had no push for the longest
    /// time lose theirs first.
    pub history_memory: usize,
    /// Bytes of what clients missed of such rooms that the shard takes from homes and has not given to their outboxes. Beyond it
    /// the next clients wait.
    pub recovery_memory: usize,
    /// Which sessions outlast their connections, and how much is parked for them.
    pub resume: ResumeLimits,
    /// How long a closing connection may take to send what is queued and to be closed by its peer,
    /// milliseconds.
    pub linger_ms: u32,
    /// Connections that this shard's driver accepts in a second; 0: any number. More wait in the kernel's backlog.
    pub accepts: u32,
    /// Connections of this shard that have not authenticated; one more closes the oldest of them.
    pub handshakes: u32,
    /// Connections from one address and one subnet, over all shards.
    pub sources: SourceLimits,
    /// Networks whose clients are closed at accept.
    pub blocks: Blocks,
    /// What one client may send.
    pub rates: ClientRates,
    /// Of push callers that are connected here.
    pub callers: CallerLimits,
    /// Origins of pages that may open a WebSocket. Others are answered with 403. Empty: all may. A request
    /// without the header always passes; it is not from a browser.
    pub origins: Box<[OriginPattern]>,
    /// Users whose connections are written to the trace log, sorted.
    pub trace_users: Box<[i64]>,
    /// Whose events operators watch.
    pub traces: LiveTraces,
    /// Rooms a connection of protocol 2 is in at once; a request to enter one more is refused.
    pub rooms: u16,
    /// Sessions a user may have at once; one more is closed with `too_many_sessions`.
    pub user_sessions: u32,
    /// How long the session number of a user is retained after the last session ended, milliseconds; 0: the
    /// next session is number 1.
    pub user_memory_ms: u32,
    /// How long a home retains a key that it reported to logic as disconnected, milliseconds. A connection with
    /// remote logic that takes half as long to register renews its session at once. Not to be changed while
    /// shards run.
    pub key_memory_ms: u32,
    /// Connections that a push is sent to in one turn. More members of a room here, or more connections, are a crowd; see
    /// [`Shard::handle_crowds`](crate::Shard::handle_crowds).
    pub crowd_above: usize,
    /// Connections of a crowd that one turn sends to.
    pub crowd_slice: usize,
    /// Bytes of the sends of a push in one turn, if that is fewer connections; one connection is always sent to.
    pub crowd_bytes: usize,
    /// Tables that each map of a home is split into, so that none grows in one long step. A power of two.
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
            accepts: 0,
            handshakes: 65_536,
            sources: SourceLimits::default(),
            blocks: Blocks::default(),
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

/// What a client may send a second, on average over a window of [`RATE_WINDOW_MS`]. So a burst may be as
/// large as a window allows. 0: any amount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientRates {
    /// Frames, WebSocket control frames among them.
    pub frames: u32,
    /// Bytes, as the shard sees them: after TLS.
    pub bytes: u32,
    /// Changes of the room.
    pub room_changes: u32,
}

/// Directory messages that a driver hands to its shard in one turn at most; the rest waits in the inbox.
pub const DIRECTORY_MESSAGES_PER_TURN: usize = 1_024;
/// Pushes that a driver hands to its shard in one turn at most; the rest waits in the inbox. See
/// [`MessageBudget`](crate::MessageBudget).
pub const MESSAGES_PER_TURN: usize = 256;
/// Time over which a [`ClientRates`] is averaged, milliseconds.
pub const RATE_WINDOW_MS: u64 = 10_000;
/// How long a client is told to wait that was turned away for a limit on clients, milliseconds.
pub const TURNED_AWAY_MS: RangeInclusive<u32> = 5_000..=30_000;
/// Connections that linger on a shard after they were turned away, so that their clients read the notice. Where a shard
/// takes few connections it is a sixteenth of these.
pub const TURNED_AWAY_LINGER_MAX: usize = 1_024;
/// Longest time between two comments in an event stream, milliseconds. Proxies end connections that are silent for 30 s
/// and more.
pub const EVENT_COMMENT_MS: u32 = 25_000;
/// How long a client is told to wait whose request for an event stream is refused for something that passes, and for which
/// nothing else is known, milliseconds.
pub const EVENT_RETRY_MS: u32 = 5_000;
/// How long a client is told to wait whose token has expired, milliseconds: clients whose tokens expire together do not
/// come back together.
pub const TOKEN_EXPIRED_MS: RangeInclusive<u32> = 100..=5_000;
/// [`Limits::text_push_max`] of a server, bytes: the encoding is made in one go, in 4 ms at most.
pub const TEXT_PUSH_MAX: usize = 256 << 10;
/// Longest message that is compressed, bytes: that is done in one go, in 4 ms at most up to level 6. A longer one is sent as it is.
pub const DEFLATE_MAX: usize = 256 << 10;
/// Bytes that compressed messages of clients are inflated to in one turn, in about a millisecond, beside the message that
/// exceeds them. What is behind it waits for the next turn.
pub const INFLATED_PER_TURN: usize = 1 << 20;
/// Connections that a push is sent to in one turn, in a few milliseconds. Several turns for each push would show in the cost of rooms
/// of this size.
pub const CROWD_ABOVE: usize = 1_024;
/// Connections in a slice of a crowd, which is sent in about a millisecond. A client that connects waits for a slice at each step:
/// after its accept, its upgrade and its token.
pub const CROWD_SLICE: usize = 256;
/// Bytes in a slice of a crowd. The kernel copies so many in a few milliseconds.
pub const CROWD_BYTES: usize = 8 << 20;
/// Deliveries in a slice of a crowd, and connections in the lists that wait for their turn. A batch of more than a few pushes is offered to fewer connections at once.
pub const CROWD_UNITS: usize = 4 * SLICE_UNITS;
/// Crowds with pushes under way. Beside so many a shard takes no push until one of them has its last.
pub const CROWDS_MAX: usize = 16;
/// Pushes that wait in the windows of [`CoalesceRule`]s on one shard. With more, the window that is the next one to end
/// ends at once.
pub const GATHERED_MAX: usize = 4_096;
/// Bytes of these pushes, beside the push that exceeds them.
pub const GATHERED_BYTES_MAX: usize = 16 << 20;
/// Rooms whose position in their history a home knows; with one more it forgets one that had no push for the longest time.
pub const HISTORY_ROOMS_MAX: usize = 1 << 16;
/// Rooms whose members a home is about to tell who has entered and left. With one more the window that is the next one to end
/// ends at once.
pub const PRESENCE_WINDOWS_MAX: usize = 4_096;
/// Offsets between two messages of the stream that hosts share. A message is a push of so many frames at most, and each has an
/// offset.
pub const STREAM_FRAMES_MAX: u64 = 1 << 16;
/// Pushes on a page of a room's history.
pub const HISTORY_PAGE_PUSHES_MAX: u32 = 1_000;
/// Bytes of frames on such a page, beside the frame that exceeds them.
pub const HISTORY_PAGE_MAX: usize = 1 << 20;
/// Most bytes of one recovery, beside the bounds of an outbox.
pub const RECOVERY_MAX: usize = 1 << 20;
/// [`Limits::recovery_memory`] of a server.
pub const RECOVERY_MEMORY: usize = 16 << 20;
/// Recoveries that a home has encoded last, for clients that ask for the same.
pub const HISTORY_CHUNKS_MAX: usize = 16;
/// Units of work in one slice of a turn; see [`Budget`](crate::Budget).
pub const SLICE_UNITS: usize = 8_192;
/// Deadlines that are looked at in one turn.
pub const EXPIRED_MAX: usize = 2_048;
/// Connections in one message of a push by keys or users; more are sent in several.
pub const OWNERS_MAX: usize = 2_048;
/// Step of a paced broadcast, milliseconds.
pub const PACE_MS: u64 = 10;
/// Close notices of a drain, or of clients that are moved off, wait so long at most for the pushes of the windows that it has ended,
/// milliseconds. Where a shard is further behind, they do not.
pub const GATHERED_FIRST_MS: u64 = 1_000;
/// How often changed room counts travel between a room's home and its shards, milliseconds.
pub const ROOM_COUNT_MS: u64 = 200;
/// [`Limits::coalesce_after_ms`] of a server, milliseconds.
pub const COALESCE_AFTER_MS: u32 = 1_000;
/// Longest room id and key, bytes. A longer one is refused.
pub const NAME_MAX: usize = 256;
/// Most rooms that a token or logic's answer may name beside the first one.
pub const FURTHER_ROOMS_MAX: usize = 1_024;
/// Operations one connection may list as accepted; more are refused.
pub const ACCEPTS_MAX: usize = 64;
/// Input held for a connection while it waits for logic or a home, bytes beyond one frame.
pub const HELD_MAX: usize = 64 << 10;
/// Session numbers of users, and keys reported as disconnected, that a home retains; one more makes it forget the
/// oldest before its time.
pub const RETAINED_MAX: usize = 1 << 20;
/// Paced broadcasts under way on one shard; one more is refused as busy.
pub const PACED_MAX: usize = 64;
/// Connections that one list has at most.
pub const LISTED_MAX: usize = 1_000;
/// Lists of connections that a shard makes or has waiting; one more is refused.
pub const LISTINGS_MAX: usize = 8;
/// Bytes of pushes that a driver hands to its shard in one turn at most, beside the push that exceeds them.
pub const PUSH_BYTES_PER_TURN: usize = 192 << 10;
/// One send takes frames up to this size, and the one that exceeds it. The pushes of a turn have to fit, with
/// the replies of a turn: so a client that takes what it is sent never has a backlog.
pub const WINDOW: usize = 256 << 10;
/// The frames of one send are joined into one buffer up to this size; more are sent from where they are.
pub const JOIN_MAX: usize = 2 * WINDOW;
/// Bytes of such buffers on one shard; beyond it frames are sent from where they are.
pub const JOINED_BYTES_MAX: usize = 64 << 20;
/// Slices of one send that are not joined: as many as the kernel takes (`UIO_MAXIOV`).
pub const SLICES_MAX: usize = 1024;
/// Longest sentence of logic that is passed on to a client, bytes; a longer one is cut.
pub const SENTENCE_MAX: usize = 1024;
/// Events of traced connections that wait for control; more are only counted.
pub const TRACE_EVENTS_MAX: usize = 4096;
/// Closed connections that wait to be logged; more are only counted.
pub const CLOSED_EVENTS_MAX: usize = 1024;
/// Requests of one push caller that are not answered. More wait in its socket.
pub const CALLER_CALLS_MAX: usize = 1_024;
/// Longest token of a push caller, bytes. Before a token opened, no request may be longer.
pub const CALLER_TOKEN_MAX: usize = 512;
/// Input of one push caller that is not looked at, beside one request; more waits in its socket.
pub const CALLER_INPUT_MAX: usize = 64 << 10;
/// Replies that one push caller has not taken, bytes. Beyond it none of its requests is looked at.
pub const CALLER_OUTPUT_MAX: usize = 256 << 10;
/// Bytes of requests of a shard's push callers that are coming in or not answered, beside the longest one. Beyond it no more is
/// received. Where all of them are coming in, the oldest of these ends its caller, as nothing else would free any.
pub const CALLERS_BYTES_MAX: usize = 64 << 20;
/// Pushes of a shard's push callers that are told to other hosts and not answered. Beyond it none of their requests is looked at.
pub const CALLED_MAX: usize = 16_384;
/// Bytes of the frames of these pushes, beside the longest one.
pub const CALLED_BYTES_MAX: usize = 64 << 20;
/// How long a push caller may take to its first request, milliseconds.
pub const CALLER_FIRST_MS: u64 = 10_000;
/// How long a push caller may take nothing of its replies, milliseconds.
pub const CALLER_WRITE_MS: u64 = 30_000;
/// How long a push caller may take to close its side of a connection that was ended here, milliseconds.
pub const CALLER_LINGER_MS: u64 = 2_000;
/// Longest pushed body the outbox arithmetic is made for, bytes.
pub const PUSH_BODY_MAX: usize = 64 << 20;

const _: () = assert!(ROOM_COUNT_MS.is_multiple_of(TICK_MS) && TICK_MS.is_multiple_of(PACE_MS));
const _: () = assert!(PUSH_BYTES_PER_TURN < WINDOW && JOIN_MAX <= JOINED_BYTES_MAX);

impl Limits {
    /// Whether the addresses of clients matter: the driver tells each by
    /// [`Shard::handle_source`](crate::Shard::handle_source).
    #[must_use]
    pub fn needs_addresses(&self) -> bool {
        self.sources.is_on() || !self.blocks.is_empty() || self.traces.has_networks()
    }

    /// What holds for the history of `room`. `None`: it keeps none.
    pub(crate) fn history_rule(&self, room: &str) -> Option<&HistoryRule> {
        if self.history_rules.is_empty() {
            return None;
        }
        self.history_rules.iter().find(|rule| rule.covers(room))
    }

    /// Most bytes of one answer about what a client missed: as much as its outbox takes.
    pub(crate) fn recovery_max(&self) -> usize {
        RECOVERY_MAX.min(self.outbox_bytes as usize)
    }

    /// Whether members of `room` are told who enters and leaves, and how.
    pub(crate) fn presence_rule(&self, room: &str) -> Option<&PresenceRule> {
        self.presence_rules.iter().find(|rule| rule.covers(room))
    }

    /// Checks the bounds against each other.
    ///
    /// # Panics
    /// If a bound is zero, or one is too small for another.
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
