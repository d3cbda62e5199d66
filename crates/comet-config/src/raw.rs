//! The configuration as it was written: every key may be missing, nothing is checked beyond its kind.

use serde::Deserialize;
use toml::Spanned;

use crate::config::{
    Algorithm, LogLevel, SessionStore, SlowConsumer, Steering, TlsVersion, TokenKind,
};
use crate::units::{Number, Size, Span};

/// A list of addresses, files or names, with the place of each, so that each may be a mistake of its own.
pub(crate) type List = Vec<Spanned<String>>;

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawConfig {
    pub(crate) server: RawServer,
    pub(crate) tcp: RawTcp,
    pub(crate) websocket: RawWebSocket,
    pub(crate) tls: RawTls,
    pub(crate) push: RawPush,
    pub(crate) monitor: RawMonitor,
    pub(crate) protocol: RawProtocol,
    pub(crate) limits: RawLimits,
    pub(crate) bucket: RawBucket,
    pub(crate) logic: RawLogic,
    pub(crate) token: RawToken,
    pub(crate) white_list: RawWhiteList,
    pub(crate) logic_server: RawLogicServer,
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
    pub(crate) drain_over: Option<Span>,
    pub(crate) retry_after: Option<Span>,
    pub(crate) pid_file: Option<String>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawTcp {
    pub(crate) bind: Option<List>,
    pub(crate) tls_bind: Option<List>,
    pub(crate) sndbuf: Option<Size>,
    pub(crate) rcvbuf: Option<Size>,
    pub(crate) keepalive: Option<bool>,
    pub(crate) keepalive_idle: Option<Span>,
    pub(crate) keepalive_interval: Option<Span>,
    pub(crate) keepalive_count: Option<Number>,
    pub(crate) nodelay: Option<bool>,
    pub(crate) backlog: Option<Number>,
    pub(crate) steering: Option<Steering>,
    pub(crate) proxy_from: Option<List>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawWebSocket {
    pub(crate) bind: Option<List>,
    pub(crate) tls_bind: Option<List>,
    pub(crate) path: Option<String>,
    pub(crate) head_max: Option<Size>,
    pub(crate) origins: Option<List>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawTls {
    pub(crate) certificates: Option<List>,
    pub(crate) keys: Option<List>,
    pub(crate) min_version: Option<TlsVersion>,
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
    pub(crate) pprof: Option<List>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawProtocol {
    pub(crate) handshake_timeout: Option<Span>,
    pub(crate) write_timeout: Option<Span>,
    pub(crate) heartbeat: Option<Span>,
    pub(crate) heartbeat_coalesce: Option<Span>,
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
    pub(crate) user_memory: Option<Span>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawLogic {
    pub(crate) addrs: Option<List>,
    pub(crate) timeout: Option<Span>,
    pub(crate) calls: Option<Number>,
    pub(crate) ping: Option<Span>,
    pub(crate) renew: Option<Span>,
    pub(crate) heartbeat_min: Option<Span>,
    pub(crate) heartbeat_max: Option<Span>,
    pub(crate) retry_after: Option<Span>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawToken {
    pub(crate) kind: Option<TokenKind>,
    pub(crate) jwt_keys: Option<List>,
    pub(crate) jwt_algorithms: Option<Vec<Algorithm>>,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) mid: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) room: Option<String>,
    pub(crate) accepts: Option<String>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawWhiteList {
    pub(crate) users: Option<Vec<Number>>,
    pub(crate) file: Option<String>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawLogicServer {
    pub(crate) grpc: Option<List>,
    pub(crate) http: Option<List>,
    pub(crate) stat: Option<List>,
    pub(crate) comets: Option<List>,
    pub(crate) heartbeat: Option<Span>,
    pub(crate) store: Option<SessionStore>,
    pub(crate) redis: Option<List>,
    pub(crate) expire: Option<Span>,
}

#[derive(Default, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawLog {
    pub(crate) level: Option<LogLevel>,
    pub(crate) file: Option<String>,
}
