//! The command line of `comet ctl`.

use clap::{Subcommand, value_parser};

use super::api::Api;

/// `comet ctl`
#[derive(Clone, PartialEq, Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0, done; 3, kick closed no connection, join or leave changed none; 1, the call or the output failed; 64, a mistake \
        in the arguments. docs/OPERATIONS.md says what the orders do."
)]
pub struct Ctl {
    /// What to do.
    #[command(subcommand)]
    pub order: Order,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Which server.
    #[command(flatten)]
    pub api: Api,
}

/// What an operator does to a running server.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
pub enum Order {
    /// Print what the server is doing with its clients
    Status,
    /// Take the server out of service, while its process goes on: out of health and discovery, then clients are
    /// refused and closed. Again: the new rate holds
    Drain(Drain),
    /// End a drain: healthy again, back in discovery, and clients are accepted
    Undrain,
    /// Close some clients as a drain does, evenly over the cores, while others still come
    MoveOff {
        /// How many
        #[arg(value_parser = value_parser!(u64).range(1..))]
        count: u64,
        /// Clients a second that are closed
        #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
        per_second: u32,
        /// They are told to wait a random time up to this [default: server.retry_after]
        #[arg(long, value_name = "N")]
        retry_after_ms: Option<u32>,
    },
    /// Close no more of the clients of move-off
    CancelMoveOff,
    /// Close connections, behind the pushes made before
    Kick {
        /// Whose.
        #[command(subcommand)]
        target: KickTarget,
        /// A sentence for the clients
        #[arg(long, global = true, default_value = "", hide_default_value = true)]
        reason: String,
        /// How long they should wait before they connect again; 0: they are told no time
        #[arg(long, global = true, default_value_t = 0, value_name = "N")]
        retry_after_ms: u32,
    },
    /// Have connections enter rooms, beside those they are in
    Join(RoomChange),
    /// Take connections out of rooms
    Leave(RoomChange),
    /// Count clients, and the members of rooms, over all hosts
    Counts {
        /// The rooms
        rooms: Vec<String>,
    },
    /// List the members of a room, over all hosts
    Members {
        /// The room
        room: String,
        /// Behind the page with this `next`
        #[arg(long, default_value = "", hide_default_value = true)]
        cursor: String,
        /// So many at most
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
    /// List rooms with members, by name, over all hosts
    Rooms {
        /// Those whose names begin so
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
        /// Behind this room, the `next` of a page
        #[arg(long, default_value = "", hide_default_value = true)]
        after: String,
        /// So many at most
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Turn clients of an address or a network away for a time, without a word
    Block {
        /// 192.0.2.7, 192.0.2.0/24, 2001:db8::/32
        address: String,
        /// For how long
        #[arg(value_parser = value_parser!(u32).range(1..))]
        seconds: u32,
        /// Close its clients that are connected, too
        #[arg(long)]
        kick: bool,
    },
    /// End a block before its time
    Unblock {
        /// The address or network, as in `blocks`
        address: String,
    },
    /// List the blocks
    Blocks,
    /// Print what happens to some connections as it happens, until the time is over or the command is ended
    Trace {
        /// Whose.
        #[command(subcommand)]
        subject: TraceSubject,
        /// For how long: 30s, 5m; at most 1h
        #[arg(long = "for", global = true, value_name = "TIME", default_value = "60s", value_parser = seconds)]
        seconds: u32,
    },
    /// Print what a room keeps, the latest push first: its position, then a line for each push
    History {
        /// The room
        room: String,
        /// Pushes before this offset, such as the `next` of the page before [default: the latest]
        #[arg(long, value_name = "OFFSET", value_parser = value_parser!(u64).range(1..))]
        before: Option<u64>,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
    /// List the paced broadcasts under way
    Broadcasts,
    /// End a paced broadcast
    Cancel {
        /// Its number, as in `broadcasts`
        id: u64,
    },
}

/// `comet ctl join` and `comet ctl leave`
#[derive(Clone, PartialEq, Eq, Debug, clap::Args)]
pub struct RoomChange {
    /// The rooms
    #[arg(required = true)]
    pub rooms: Vec<String>,
    /// Connections that hold this key; may be repeated
    #[arg(
        long = "for-key",
        value_name = "KEY",
        required_unless_present = "users",
        conflicts_with = "users"
    )]
    pub keys: Vec<String>,
    /// All connections of this user; may be repeated
    #[arg(long = "for-user", value_name = "USER", allow_negative_numbers = true)]
    pub users: Vec<i64>,
}

/// `comet ctl drain`
#[derive(Clone, PartialEq, Eq, Debug, clap::Args)]
pub struct Drain {
    /// How long new clients are still accepted [default: server.drain_delay]
    #[arg(long, value_name = "N")]
    pub delay_ms: Option<u32>,
    /// Clients a second that are closed; 0: all over server.drain_over
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub per_second: u32,
    /// Clients are told to wait a random time up to this [default: server.retry_after]
    #[arg(long, value_name = "N")]
    pub retry_after_ms: Option<u32>,
    /// Refuse and close nobody: out of health and discovery only
    #[arg(long)]
    pub keep_clients: bool,
    /// Print the progress each second until no client is left, or the drain is taken back
    #[arg(long, conflicts_with = "keep_clients")]
    pub wait: bool,
}

/// Whose connections `comet ctl trace` is about: those there are, and those that come meanwhile.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
pub enum TraceSubject {
    /// Those that hold a key
    Key {
        /// The key
        key: String,
    },
    /// All connections of a user
    User {
        /// The user id; 0: anonymous clients
        #[arg(allow_negative_numbers = true)]
        user: i64,
    },
    /// Those in a room, as long as they are in it
    Room {
        /// The room
        room: String,
    },
    /// Those of clients at an address or in a network, also before they authenticate
    Address {
        /// 192.0.2.7, 192.0.2.0/24, 2001:db8::/32
        address: String,
    },
}

/// Whole seconds, minutes or hours, as the server takes them.
fn seconds(text: &str) -> Result<u32, String> {
    let unit = |suffix, seconds: u32| text.strip_suffix(suffix).map(|number| (number, seconds));
    let read = unit('s', 1).or_else(|| unit('m', 60)).or_else(|| unit('h', 3_600));
    let seconds = read.and_then(|(number, unit)| number.parse::<u32>().ok()?.checked_mul(unit));
    let seconds = seconds.filter(|seconds| (1..=3_600).contains(seconds));
    seconds.ok_or_else(|| "a time is 1s to 1h, as 30s or 5m".to_owned())
}

/// Whose connections `comet ctl kick` closes.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
pub enum KickTarget {
    /// Those that hold these keys
    Key {
        /// The keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// All connections of these users
    User {
        /// The user ids
        #[arg(required = true, allow_negative_numbers = true)]
        users: Vec<i64>,
    },
    /// All connections in a room
    Room {
        /// The room
        room: String,
    },
    /// All connections of clients at an address or in a network
    Address {
        /// 192.0.2.7, 192.0.2.0/24, 2001:db8::/32
        address: String,
    },
}
