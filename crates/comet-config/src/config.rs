//! The checked configuration: plain values that fit the machine and each other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{serialize_duration, serialize_size};
use crate::{Machine, cpus};

/// A configuration that can be used as it is; made by [`crate::load`].
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Config {
    /// The process: its name, its cores, its end.
    pub server: Server,
    /// The plain TCP listeners.
    pub tcp: Tcp,
    /// The WebSocket listeners.
    pub websocket: WebSocket,
    /// The services that push callers use.
    pub push: Push,
    /// Health and metrics.
    pub monitor: Monitor,
    /// What every client connection is held to.
    pub protocol: Protocol,
    /// Bounds of a core.
    pub limits: Limits,
    /// The directory of keys.
    pub bucket: Bucket,
    /// Who says who a client is.
    pub logic: Logic,
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
}

/// `[tcp]`: the plain TCP listeners. The socket options hold for WebSocket connections too.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Tcp {
    /// Addresses listened on by every data core; empty: no plain TCP.
    pub bind: Vec<SocketAddr>,
    /// Send buffer of a connection in the kernel, bytes; 0: the kernel's own tuning.
    #[serde(serialize_with = "serialize_size")]
    pub sndbuf: usize,
    /// Receive buffer of a connection in the kernel, bytes; 0: the kernel's own tuning.
    #[serde(serialize_with = "serialize_size")]
    pub rcvbuf: usize,
    /// Whether the kernel probes silent peers (`SO_KEEPALIVE`).
    pub keepalive: bool,
    /// Whether small segments leave at once (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Connections that may wait to be accepted, for each listener.
    pub backlog: i32,
}

/// `[websocket]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WebSocket {
    /// Addresses listened on by every data core; empty: no WebSocket.
    pub bind: Vec<SocketAddr>,
    /// The path clients upgrade at; begins with `/`.
    pub path: String,
    /// Largest head of an upgrade request, bytes.
    #[serde(serialize_with = "serialize_size")]
    pub head_max: usize,
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
    /// Addresses of `/healthz` and `/metrics`; empty: none.
    pub stat: Vec<SocketAddr>,
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
    /// Connections a core holds; 0: its share of what the limit on open files allows.
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
}

/// `[logic]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Logic {
    /// Addresses of the logic service. Always empty: comet is its own logic so far.
    pub addrs: Vec<SocketAddr>,
}

/// `[log]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Log {
    /// The least severe messages that are written.
    pub level: LogLevel,
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
    /// What holds on `machine` when nothing is configured: the values `comet.toml` ships.
    #[must_use]
    pub fn defaults(machine: &Machine) -> Self {
        let everywhere = |port| vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)];
        let here = |port| vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)];
        Self {
            server: Server {
                id: machine.host_name.clone(),
                domain: machine.host_name.clone(),
                cores: machine.cpus.clone(),
                control_cores: Vec::new(),
                spin: Duration::ZERO,
                drain_timeout: Duration::from_secs(10),
            },
            tcp: Tcp {
                bind: everywhere(8080),
                sndbuf: 0,
                rcvbuf: 0,
                keepalive: false,
                nodelay: true,
                backlog: 4096,
            },
            websocket: WebSocket {
                bind: everywhere(8090),
                path: "/sub".to_owned(),
                head_max: 8 << 10,
            },
            push: Push {
                grpc: here(8083),
                http: here(7172),
                frame_max: 1 << 20,
                keys_max: 10_000,
                timeout: Duration::from_secs(5),
            },
            monitor: Monitor { stat: here(6972) },
            protocol: Protocol {
                handshake_timeout: Duration::from_secs(5),
                write_timeout: Duration::from_secs(5),
                heartbeat: Duration::from_secs(300),
                linger: Duration::from_secs(2),
                body_max: 4 << 10,
                svr_proto: 80,
                outbox_bytes: 2 << 20,
                cli_proto: 256,
                slow_consumer: SlowConsumer::DropNewest,
                filter_rooms: false,
            },
            limits: Limits {
                connections: 0,
                mesh_inbox: 4096,
                mesh_backlog: 65_536,
                recv_buffers: 512,
                recv_buffer_size: 2 << 10,
                ring_entries: 4096,
            },
            bucket: Bucket { count: 1024 },
            logic: Logic { addrs: Vec::new() },
            log: Log { level: LogLevel::Info },
        }
    }

    /// The configuration as a file that [`crate::load`] reads back to the same values.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("tables of plain values")
    }
}

fn serialize_cpus<S: serde::Serializer>(cpus: &[usize], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&cpus::format(cpus))
}
