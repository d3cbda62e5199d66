//! The sans-IO shard, which makes all decisions of comet's data cores.
//!
//! A [`Shard`] owns the connections that one core accepted, and is the home of its share of keys, users and rooms.
//! Bytes, completions, messages and the time come in through `handle_*`. What to send, report and close comes out
//! through `poll_*`. The driver around it holds no policy, so the simulator runs the same decisions with fake sockets
//! and a fake clock.
//!
//! **Invariant:** nothing here reads a clock, opens a socket, takes a lock or spawns a task.

mod active_clock;
mod blocklist;
mod bucket;
mod budget;
mod callers;
mod canary;
mod coalesce;
mod conn;
mod deflate;
mod further_rooms;
mod gaps;
mod growth;
mod hand_over;
mod heavy_hitters;
mod history;
mod home;
mod idle_coalescing;
mod ids;
mod index;
mod jitter;
mod ledger;
pub mod limits;
mod listing;
mod live_conn;
mod live_traces;
mod message;
mod network;
mod operation_filter;
mod outbox;
mod parking;
mod presence;
mod retained;
mod room;
mod settings;
mod shard;
mod slab;
mod socket;
mod source;
mod state;
mod time;
mod transport;
mod wheel;

pub use active_clock::ActiveClock;
pub use blocklist::{BlockedNetwork, Blocklist, BlocklistFull};
pub use budget::{Budget, MessageBudget};
pub use callers::{
    CallerLimits, CallerOperation, CallerSlot, CallerTarget, OtherHostsTally, Tokens,
};
pub use canary::Canary;
pub use coalesce::CoalesceRule;
pub use deflate::Deflate;
pub use hand_over::{LeftBehind, Obstacles, TakeOver, distribute};
pub use history::{HistoryEntry, HistoryPage, HistoryQuery, HistoryRule, StreamState};
pub use ids::{
    CallId, ConnId, Generation, LocalConnId, ShardId, Slot, home_of_key, home_of_room, home_of_user,
};
pub use jitter::Jitter;
pub use ledger::{CallerEnd, CloseReason, Counters, DropReason, ParkedLoss, STATUS_CODES, Tally};
pub use limits::{ClientRates, Limits, SlowConsumer};
pub use listing::{
    ConnFilter, ConnOrder, ConnPage, ConnPlace, ConnQuery, ListedConn, SlowClient, SocketInfo, Top,
};
pub use live_conn::LiveConn;
pub use live_traces::{LiveTrace, LiveTraces, Subject, TooManyTraces, TraceId};
pub use message::{
    AuthRequest, Denied, Identity, KeptKey, Kick, Message, MessageClass, Order, Push, Recovery,
    Report, RoomOrder, TraceEvent, TraceKind,
};
pub use network::Network;
pub use operation_filter::OperationFilter;
pub use outbox::Slices;
pub use parking::{Leaving, ParkedFrame, ParkedFrames, ParkedPush, Rest, ResumeLimits};
pub use presence::PresenceRule;
pub use settings::{Logic, Settings};
pub use shard::{CrowdSlice, Shard};
pub use socket::{ClosedEvent, Hangup, SocketShutdown, Transmit};
pub use source::{Source, SourceLimits};
pub use time::{Millis, TokenTime};
pub use transport::Transport;
