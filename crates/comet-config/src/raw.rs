//! The configuration as it was written: every key may be missing, nothing is checked beyond its kind.

use serde::Deserialize;
use toml::Spanned;

use crate::config::{LogLevel, SlowConsumer};
use crate::units::{Number, Size, Span};

/// A list of addresses, with the place of each, so that each may be a mistake of its own.
pub(crate) type List = Vec<Spanned<String>>;

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawConfig {
    pub(crate) server: RawServer,
    pub(crate) tcp: RawTcp,
    pub(crate) websocket: RawWebSocket,
    pub(crate) push: RawPush,
    pub(crate) monitor: RawMonitor,
    pub(crate) protocol: RawProtocol,
    pub(crate) limits: RawLimits,
    pub(crate) bucket: RawBucket,
    pub(crate) logic: RawLogic,
    pub(crate) log: RawLog,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawServer {
    pub(crate) id: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) cores: Option<String>,
    pub(crate) control_cores: Option<String>,
    pub(crate) spin: Option<Span>,
    pub(crate) drain_timeout: Option<Span>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawTcp {
    pub(crate) bind: Option<List>,
    pub(crate) sndbuf: Option<Size>,
    pub(crate) rcvbuf: Option<Size>,
    pub(crate) keepalive: Option<bool>,
    pub(crate) nodelay: Option<bool>,
    pub(crate) backlog: Option<Number>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawWebSocket {
    pub(crate) bind: Option<List>,
    pub(crate) path: Option<String>,
    pub(crate) head_max: Option<Size>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawPush {
    pub(crate) grpc: Option<List>,
    pub(crate) http: Option<List>,
    pub(crate) frame_max: Option<Size>,
    pub(crate) keys_max: Option<Number>,
    pub(crate) timeout: Option<Span>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawMonitor {
    pub(crate) stat: Option<List>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawProtocol {
    pub(crate) handshake_timeout: Option<Span>,
    pub(crate) write_timeout: Option<Span>,
    pub(crate) heartbeat: Option<Span>,
    pub(crate) linger: Option<Span>,
    pub(crate) body_max: Option<Size>,
    pub(crate) svr_proto: Option<Number>,
    pub(crate) outbox_bytes: Option<Size>,
    pub(crate) cli_proto: Option<Number>,
    pub(crate) slow_consumer: Option<SlowConsumer>,
    pub(crate) filter_rooms: Option<bool>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawLimits {
    pub(crate) connections: Option<Number>,
    pub(crate) mesh_inbox: Option<Number>,
    pub(crate) mesh_backlog: Option<Number>,
    pub(crate) recv_buffers: Option<Number>,
    pub(crate) recv_buffer_size: Option<Size>,
    pub(crate) ring_entries: Option<Number>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawBucket {
    pub(crate) count: Option<Number>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawLogic {
    pub(crate) addrs: Option<List>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawLog {
    pub(crate) level: Option<LogLevel>,
}
