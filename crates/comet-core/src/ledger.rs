//! The ledger: what became of each push, and the counters that add it up.
//!
//! `matched = queued + dropped` holds for every [`Tally`] and for the totals. Pushes that were queued and then lost
//! with their connection are counted in [`Counters::lost`] as well, and those that were dropped for a newer message in
//! [`Counters::superseded`].

use std::ops::AddAssign;

use comet_proto::RoomRefusal;

use comet_histogram::Histogram;

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every reason, in the order of its index.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its name in logs, metrics and replies.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

reasons! {
    /// Why a push that matched a connection was not queued for it. The order gives the numbers in replies to push
    /// frames, so new reasons are added at the end.
    DropReason {
        /// The connection's outbox was full and the policy keeps the older messages.
        OutboxFull => "outbox_full",
        /// The connection does not accept the operation.
        Filtered => "filtered",
        /// The connection holds the key, but the reply to its token is not queued yet.
        NotReady => "not_ready",
        /// The connection was closing, or had closed between its home and its shard.
        Closing => "closing",
        /// The queue towards the connection's shard was full.
        MeshFull => "mesh_full",
        /// A newer push with the same [`Push::collapse_id`](crate::Push::collapse_id) came while this one waited.
        Superseded => "superseded",
        /// The connection gets pushes in JSON (the text form, events), and this one is too long for that.
        TextTooLong => "text_too_long",
        /// The session is parked and has as much as allowed, or there is no memory left for parked pushes.
        ParkedFull => "parked_full",
    }
}

reasons! {
    /// Why a connection was closed.
    CloseReason {
        /// The peer closed its side, reset the connection, or cannot be reached any more.
        PeerClosed => "peer_closed",
        /// The socket failed with an error.
        SocketError => "socket_error",
        /// It was not authenticated within the handshake timeout.
        HandshakeTimeout => "handshake_timeout",
        /// No heartbeat within the heartbeat interval.
        HeartbeatTimeout => "heartbeat_timeout",
        /// A send made no progress within the write timeout.
        WriteTimeout => "write_timeout",
        /// A frame with a wrong packLen, headerLen or too large a body, or a body that its operation
        /// cannot take.
        BadFrame => "bad_frame",
        /// Operation 9 from a client.
        RawFromClient => "raw_from_client",
        /// The request for an HTTP upgrade was malformed.
        BadUpgrade => "bad_upgrade",
        /// A WebSocket frame against RFC 6455: not masked, reserved bits, bad fragments, bad close.
        BadWebSocket => "bad_websocket",
        /// A WebSocket message beyond the limit.
        WebSocketTooLarge => "websocket_too_large",
        /// A WebSocket text message; this protocol is binary.
        WebSocketText => "websocket_text",
        /// The token was refused.
        AuthRefused => "auth_refused",
        /// A newer connection claimed the key.
        Replaced => "replaced",
        /// The outbox was full and the policy is to close.
        SlowConsumer => "slow_consumer",
        /// More input than may wait while logic or a home is asked about the connection.
        InputOverflow => "input_overflow",
        /// More replies waited than allowed: the peer does not read, or requests too much at once.
        ReplyOverflow => "reply_overflow",
        /// The server is draining.
        Draining => "draining",
        /// No logic service could identify the client.
        LogicUnavailable => "logic_unavailable",
        /// Too many connections from the client's address.
        AddressLimit => "address_limit",
        /// Too many connections from the client's subnet.
        SubnetLimit => "subnet_limit",
        /// Too many connections had not authenticated, and this one was the oldest of them.
        HandshakeOverflow => "handshake_overflow",
        /// The client sent more frames than allowed.
        FrameRate => "frame_rate",
        /// The client sent more bytes than allowed.
        ByteRate => "byte_rate",
        /// The client changed its room more often than allowed.
        RoomRate => "room_rate",
        /// TLS failed, in its handshake or after it.
        TlsFailed => "tls_failed",
        /// The PROXY protocol header was missing or wrong.
        BadProxyHeader => "bad_proxy_header",
        /// The user has as many sessions as allowed.
        TooManySessions => "too_many_sessions",
        /// The token has expired. The client may come back with a new one.
        TokenExpired => "token_expired",
        /// A caller of the push API ordered it.
        Kicked => "kicked",
        /// An operator has blocked the client's address for a period. The client is told nothing.
        Blocked => "blocked",
    }
}

reasons! {
    /// Why a push was lost that was parked, or could not be parked.
    ParkedLoss {
        /// The key did not come back within the window.
        Expired => "parked_expired",
        /// It waited in the outbox of the former connection, and the session had as much as allowed, or there was no
        /// memory left.
        Full => "parked_full",
        /// The session was ended: its key was kicked, is held by another user or on another host, or its next
        /// connection does not resume it.
        Ended => "parked_ended",
    }
}

reasons! {
    /// Why the connection of a push caller was ended here.
    CallerEnd {
        /// It had no call under way, and a new connection needed its place.
        Evicted => "evicted",
        /// It made no request in time.
        Silent => "silent",
        /// A length in a request was wrong, or the request too long.
        BadFrame => "bad_frame",
        /// A request was not complete in time.
        Late => "late",
        /// It sent no valid token, or its token was removed.
        NoToken => "no_token",
        /// It did not take its replies in time.
        WriteTimeout => "write_timeout",
    }
}

/// The number of gRPC status codes, which begin at 0 without gaps.
pub const STATUS_CODES: usize = 17;

impl CloseReason {
    /// Whether the client is told nothing, because its socket cannot send any more or it is blocked.
    pub(crate) fn is_silent(self) -> bool {
        matches!(self, Self::SocketError | Self::TlsFailed | Self::BadProxyHeader | Self::Blocked)
    }
}

/// What became of one push, or of a part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Connections the push was meant for: `queued` plus all of `dropped`.
    pub matched: u64,
    /// Connections whose outbox took it.
    pub queued: u64,
    /// Connections that did not get it, by [`DropReason`].
    pub dropped: [u64; DropReason::COUNT],
    /// Keys or users without a connection.
    pub absent: u64,
    /// Sessions without a connection that the push is parked for; for a kick, those that it ended.
    pub parked: u64,
    /// For an order about rooms: pairs that did not have to change. They are not part of `matched`.
    pub unchanged: u64,
    /// For an order about rooms: pairs that were refused. They are not part of `matched`.
    pub refused: u64,
}

impl Tally {
    /// Counts one connection whose outbox took the push.
    pub fn queue(&mut self) {
        self.matched += 1;
        self.queued += 1;
    }

    /// Counts `connections` that did not get it, and why.
    pub fn drop_as(&mut self, reason: DropReason, connections: u64) {
        self.matched += connections;
        self.dropped[reason as usize] += connections;
    }

    /// The sum of all reasons.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.matched += other.matched;
        self.queued += other.queued;
        self.absent += other.absent;
        self.parked += other.parked;
        self.unchanged += other.unchanged;
        self.refused += other.refused;
        for (mine, theirs) in self.dropped.iter_mut().zip(other.dropped) {
            *mine += theirs;
        }
    }
}

/// What a shard has counted since it started. A field is a gauge if its text says "now".
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Connections accepted over TCP.
    pub accepted_tcp: u64,
    /// Connections accepted over WebSocket.
    pub accepted_websocket: u64,
    /// Those of them that became event streams: their response has begun.
    pub event_streams: u64,
    /// Connections that negotiated permessage-deflate (RFC 7692).
    pub deflated_connections: u64,
    /// Pushes that were compressed for such connections; each counts once for every form in which it was compressed.
    pub deflated_messages: u64,
    /// Bytes that compression saved for these connections, over all deliveries.
    pub deflate_saved_bytes: u64,
    /// Connections turned away at accept, before they had a slot: the shard was full or took no clients.
    pub refused: u64,
    /// The same, because the process was out of memory.
    pub refused_for_memory: u64,
    /// Times that accepts paused for [`Limits::accept_rate`](crate::Limits::accept_rate).
    pub accept_pauses: u64,
    /// Accepts of clients and push callers that the kernel failed, for example because the process is out of descriptors.
    pub accept_errors: u64,
    /// Connections authenticated and registered.
    pub authenticated: u64,
    /// Tokens renewed on a connection that stays.
    pub tokens_renewed: u64,
    /// Tokens that were sent to replace the last one, but were not accepted: refused, of another user or key, or not
    /// checked because logic was unavailable.
    pub tokens_not_renewed: u64,
    /// Connections closed, by [`CloseReason`].
    pub closed: [u64; CloseReason::COUNT],
    /// Pushes that reached this shard. A push counts once on each shard that it reaches, a paced broadcast
    /// when it is scheduled.
    pub pushes: u64,
    /// Deliveries: the sum of the tallies of this shard's pushes.
    pub deliveries: Tally,
    /// Deliveries whose every byte the kernel took.
    pub sent: u64,
    /// Deliveries queued and then lost with their connection: `queued = sent + lost + superseded + unsent + waiting`.
    pub lost: u64,
    /// Deliveries queued and then removed for a newer one (policy drop-oldest, or a newer state).
    pub superseded: u64,
    /// Of the superseded deliveries, those that no newer state replaces: only their place in a full outbox was needed.
    pub displaced: u64,
    /// Deliveries queued and then removed unsent because their connection ended, in order to be parked.
    pub unsent: u64,
    /// Parked pushes that were given to a connection that resumed the session. They are deliveries once more.
    pub resumed: u64,
    /// Parked pushes that were lost, and unsent ones that could not be parked, by [`ParkedLoss`].
    pub parked_lost: [u64; ParkedLoss::COUNT],
    /// Sessions that lost their connection and were parked; those that another connection took over; and those whose
    /// window ended.
    pub sessions_parked: u64,
    /// See [`Counters::sessions_parked`].
    pub sessions_resumed: u64,
    /// See [`Counters::sessions_parked`].
    pub sessions_expired: u64,
    /// Pushes that are parked, now: `deliveries.parked + unsent = resumed + parked_lost + parked`, over all shards.
    pub parked: u64,
    /// The memory of parked sessions in bytes, now.
    pub parked_bytes: u64,
    /// Parked sessions, now.
    pub parked_sessions: u64,
    /// Deliveries in an outbox or on their way into the kernel, now.
    pub waiting: u64,
    /// Coalescing windows that have ended, and pushes that began then.
    pub coalesce_windows: u64,
    /// See [`Counters::coalesce_windows`].
    pub coalesced: u64,
    /// Pushes that wait in such windows, now.
    pub gathered: u64,
    /// Bytes of their frames, now.
    pub gathered_bytes: u64,
    /// Bytes of pushes and replies in outboxes that the kernel has not taken, now. Counted for each connection
    /// separately, although equal frames are stored once.
    pub waiting_bytes: u64,
    /// Bytes that outboxes hold, now. Bytes that are shared by several outboxes count once.
    pub held_bytes: u64,
    /// Frames read from clients.
    pub frames_in: u64,
    /// Those of them that were ignored because the client was not authenticated yet.
    pub frames_ignored: u64,
    /// Heartbeats answered.
    pub heartbeats: u64,
    /// Rooms that connections were not allowed to enter or leave, by [`RoomRefusal`]: at the request of a client of
    /// protocol 2, by its token, or by order of a push caller.
    pub rooms_refused: [u64; RoomRefusal::ALL.len()],
    /// Requests to enter a room that named a position in its history: those that did not get the missed pushes, and
    /// those that did.
    pub recoveries: [u64; 2],
    /// Pushes that told members of rooms who entered and left, counted at their homes.
    pub presence_pushes: u64,
    /// Entries and departures in these pushes.
    pub presence_changes: u64,
    /// Lost pushes of rooms with a history that a connection got later on its request. Each push of a batch counts.
    /// They remain counted as dropped or superseded.
    pub repaired: u64,
    /// Event streams whose request named an unknown event.
    pub unknown_event_ids: u64,
    /// Pushes that were dropped early for want of memory from the histories of rooms whose home the shard is.
    pub history_evicted: u64,
    /// The memory of these histories in bytes, now.
    pub history_bytes: u64,
    /// Requests for missed pushes of such rooms that waited until others were answered. One client may make several.
    pub recoveries_delayed: u64,
    /// Bytes of missed pushes that have arrived at this shard but are in no outbox yet, now.
    pub recovery_bytes: u64,
    /// Client messages answered: operation 4 and every operation without a meaning here.
    pub received: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes the kernel took for clients.
    pub bytes_out: u64,
    /// Sends the kernel was asked for.
    pub sends: u64,
    /// Times that a message to another shard found its inbox full.
    pub mesh_waits: u64,
    /// Users and keys that were forgotten early, because more than [`RETAINED_MAX`](crate::limits::RETAINED_MAX) were
    /// retained.
    pub forgotten: u64,
    /// Events of traced connections that were dropped, because too many waited.
    pub trace_missed: u64,
    /// Times from accept to the end of authentication and registration, with the resolution of turns.
    pub handshake_times: Histogram,
    /// Times from the begin of the turn that took a push to the end of the turn in which its last possible send was
    /// queued for the kernel. A client whose former send is still under way is not waited for.
    pub push_times: Histogram,
    /// Times of the driver's turns.
    pub turn_times: Histogram,
    /// Duration of the longest turn, microseconds.
    pub turn_micros_max: u64,
    /// Time in which the driver was held up (stopped, starved, or in a long turn), milliseconds.
    pub stalled_millis: u64,
    /// Connections of push callers accepted.
    pub callers_accepted: u64,
    /// Those that were ended here, by [`CallerEnd`].
    pub callers_ended: [u64; CallerEnd::COUNT],
    /// Answered requests of push callers, by gRPC status code.
    pub calls: [u64; STATUS_CODES],
    /// Connections of push callers, now.
    pub callers: u64,
    /// Connections that hold a slot, now.
    pub connections: u64,
    /// Connections that are authenticated, now.
    pub live: u64,
    /// Connections that are not authenticated and not closing, now.
    pub handshakes: u64,
    /// Close notices that a drain, or an order to move clients off, has still to give, now.
    pub moving_off: u64,
    /// Addresses and subnets that are counted here, now.
    pub sources: u64,
    /// Addresses that are counted here, now.
    pub addresses: u64,
    /// Rooms with members whose home is this shard, now.
    pub rooms: u64,
    /// Pairs of a connection and a further room, now.
    pub further_rooms: u64,
    /// Users whose home is this shard, now.
    pub users: u64,
    /// Keys whose home is this shard, now.
    pub keys: u64,
}
