//! The checked configuration: plain values that fit the machine and each other.

mod defaults;
mod identity;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cpus;
use crate::network::Network;
use crate::units::{serialize_duration, serialize_optional, serialize_size};

pub use identity::{Algorithm, Logic, LogicServer, SessionStore, Token, TokenKind, WhiteList};

/// A configuration that can be used as it is; made by [`crate::load`].
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Config {
    /// The process: its name, its cores, its end.
    pub server: Server,
    /// The plain TCP listeners.
    pub tcp: Tcp,
    /// The WebSocket listeners.
    pub websocket: WebSocket,
    /// Certificates of the listeners that speak TLS.
    pub tls: Tls,
    /// The services that push callers use.
    pub push: Push,
    /// Health, metrics and profiles.
    pub monitor: Monitor,
    /// What every client connection is held to.
    pub protocol: Protocol,
    /// Bounds of a core.
    pub limits: Limits,
    /// The directory of keys.
    pub bucket: Bucket,
    /// Who says who a client is.
    pub logic: Logic,
    /// What a token has to be where comet is logic itself.
    pub token: Token,
    /// Users whose connections are written down.
    pub white_list: WhiteList,
    /// `comet logic`, a process of its own.
    pub logic_server: LogicServer,
    /// The log.
    pub log: Log,
}

/// `[server]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Server {
    /// The name of this server towards logic and in metrics.
    pub id: String,
    /// The name or address that clients are told to reach this server by.
    pub domain: String,
    /// CPUs of the data cores, one shard each; ascending, not empty.
    #[serde(serialize_with = "serialize_cpus")]
    pub cores: Vec<usize>,
    /// CPUs the control thread is pinned to, ascending; empty: not pinned.
    #[serde(serialize_with = "serialize_cpus")]
    pub control_cores: Vec<usize>,
    /// How long an idle core looks for work again before it sleeps.
    #[serde(serialize_with = "serialize_duration")]
    pub spin: Duration,
    /// How long clients may take to leave once the server was told to end.
    #[serde(serialize_with = "serialize_duration")]
    pub drain_timeout: Duration,
    /// Time over which the goodbyes of a drain are spread; a second less than [`Server::drain_timeout`] at
    /// most.
    #[serde(serialize_with = "serialize_duration")]
    pub drain_over: Duration,
    /// A client said goodbye to in a drain is told to wait a random time up to this; zero: nothing.
    #[serde(serialize_with = "serialize_duration")]
    pub retry_after: Duration,
    /// The file that holds the process's number while it runs.
    #[serde(serialize_with = "serialize_optional")]
    pub pid_file: Option<PathBuf>,
}

/// `[tcp]`: the plain TCP listeners. The socket options hold for WebSocket connections too.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Tcp {
    /// Addresses listened on by every data core; empty: no plain TCP.
    pub bind: Vec<SocketAddr>,
    /// The same for plain TCP inside TLS.
    pub tls_bind: Vec<SocketAddr>,
    /// Send buffer of a connection in the kernel, bytes; 0: the kernel's own tuning.
    #[serde(serialize_with = "serialize_size")]
    pub sndbuf: usize,
    /// Receive buffer of a connection in the kernel, bytes; 0: the kernel's own tuning.
    #[serde(serialize_with = "serialize_size")]
    pub rcvbuf: usize,
    /// Whether the kernel probes silent peers (`SO_KEEPALIVE`).
    pub keepalive: bool,
    /// Silence before the first probe (`TCP_KEEPIDLE`); whole seconds count.
    #[serde(serialize_with = "serialize_duration")]
    pub keepalive_idle: Duration,
    /// Time between probes (`TCP_KEEPINTVL`); whole seconds count.
    #[serde(serialize_with = "serialize_duration")]
    pub keepalive_interval: Duration,
    /// Probes without an answer after which a peer is gone (`TCP_KEEPCNT`).
    pub keepalive_count: u32,
    /// Whether small segments leave at once (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Connections that may wait to be accepted, for each listener.
    pub backlog: i32,
    /// Which data core takes a connection.
    pub steering: Steering,
    /// Whose connections begin with a PROXY protocol header, version 1 or 2; nobody else's do.
    pub proxy_from: Vec<Network>,
}

/// Which of the listeners of one address takes a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Steering {
    /// The kernel's choice: a hash of both addresses.
    Off,
    /// The data core on whose CPU the packets arrive.
    Cpu,
}

/// `[websocket]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WebSocket {
    /// Addresses listened on by every data core; empty: no WebSocket.
    pub bind: Vec<SocketAddr>,
    /// The same for WebSocket inside TLS.
    pub tls_bind: Vec<SocketAddr>,
    /// The path clients upgrade at; begins with `/`.
    pub path: String,
    /// Largest head of an upgrade request, bytes.
    #[serde(serialize_with = "serialize_size")]
    pub head_max: usize,
    /// Values of `Origin` that may upgrade, in lower case, `scheme://host[:port]`; empty: all.
    pub origins: Vec<String>,
}

/// `[tls]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Tls {
    /// PEM files with a chain each; the first one serves clients that name no server.
    pub certificates: Vec<PathBuf>,
    /// PEM files with the keys of [`Tls::certificates`], as many and in the same order.
    pub keys: Vec<PathBuf>,
    /// The oldest version spoken.
    pub min_version: TlsVersion,
}

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

/// `[push]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Push {
    /// Addresses of the gRPC service; empty: none.
    pub grpc: Vec<SocketAddr>,
    /// Addresses of goim's HTTP push API; empty: none.
    pub http: Vec<SocketAddr>,
    /// Largest body a caller may push, bytes.
    #[serde(serialize_with = "serialize_size")]
    pub frame_max: usize,
    /// Keys, users, or rooms asked about, that a caller may name in one call.
    pub keys_max: usize,
    /// How long a call may take.
    #[serde(serialize_with = "serialize_duration")]
    pub timeout: Duration,
}

/// `[monitor]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Monitor {
    /// Addresses of `/healthz`, `/metrics` and `/stat`; empty: none.
    pub stat: Vec<SocketAddr>,
    /// Addresses of `/debug/pprof/`; empty: none.
    pub pprof: Vec<SocketAddr>,
}

/// `[protocol]`: what a client connection is held to.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Protocol {
    /// From accept to authenticated.
    #[serde(serialize_with = "serialize_duration")]
    pub handshake_timeout: Duration,
    /// How long a client may take nothing while bytes wait for it.
    #[serde(serialize_with = "serialize_duration")]
    pub write_timeout: Duration,
    /// Time without a heartbeat after which a client is closed, where logic names none.
    #[serde(serialize_with = "serialize_duration")]
    pub heartbeat: Duration,
    /// How long heartbeats may wait to be answered together, while clients send nothing else; a quarter
    /// of [`Protocol::heartbeat`] at most.
    #[serde(serialize_with = "serialize_duration")]
    pub heartbeat_coalesce: Duration,
    /// How long a goodbye may take.
    #[serde(serialize_with = "serialize_duration")]
    pub linger: Duration,
    /// Largest frame body from a client, bytes.
    #[serde(serialize_with = "serialize_size")]
    pub body_max: usize,
    /// Pushes an outbox holds.
    pub svr_proto: u16,
    /// Bytes an outbox holds; at least one frame of [`Push::frame_max`] fits.
    #[serde(serialize_with = "serialize_size")]
    pub outbox_bytes: u32,
    /// Replies that may wait for one client.
    pub cli_proto: u16,
    /// What a full outbox does with one more push.
    pub slow_consumer: SlowConsumer,
    /// Whether pushes to a room look at the operations a client accepts. goim does not.
    pub filter_rooms: bool,
}

/// What a full outbox does with one more push. Each outcome is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlowConsumer {
    /// The new push is dropped, as goim does.
    DropNewest,
    /// The oldest push that is not on its way yet makes room.
    DropOldest,
    /// The client is closed.
    Close,
}

/// `[limits]`: bounds of one data core.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Limits {
    /// Connections a core holds, at most its share of what the limit on open files allows; 0: that
    /// share.
    pub connections: u32,
    /// Messages in a core's inbox.
    pub mesh_inbox: usize,
    /// Messages a core keeps for a peer whose inbox is full.
    pub mesh_backlog: usize,
    /// Receive buffers all connections of a core share; a power of two.
    pub recv_buffers: u16,
    /// Size of one of them, bytes.
    #[serde(serialize_with = "serialize_size")]
    pub recv_buffer_size: u32,
    /// Submission entries of a core's ring; a power of two.
    pub ring_entries: u32,
}

/// `[bucket]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Bucket {
    /// Key maps of the process, shared out over the data cores.
    pub count: usize,
    /// How long a user's session numbers count on after the last session left; zero: not at all.
    #[serde(serialize_with = "serialize_duration")]
    pub user_memory: Duration,
}

/// `[log]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Log {
    /// The least severe messages that are written.
    pub level: LogLevel,
    /// Where they are appended; `None`: standard error.
    #[serde(serialize_with = "serialize_optional")]
    pub file: Option<PathBuf>,
}

/// Severity of log messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// What an operator should look at.
    Warn,
    /// What the server does as a whole.
    Info,
    /// What single connections do.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word in the configuration; also what the `log` crate parses.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Config {
    /// The configuration as a file that [`crate::load`] reads back to the same values; but passwords in
    /// addresses are `***`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.without_passwords()).expect("tables of plain values")
    }
}

fn serialize_cpus<S: serde::Serializer>(cpus: &[usize], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&cpus::format(cpus))
}
