//! What holds when nothing is configured; `comet.toml` ships the same, and a test holds the two equal.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{
    Algorithm, Bucket, Config, Limits, Log, LogLevel, Logic, LogicServer, Monitor, Protocol, Push,
    Server, SessionStore, SlowConsumer, Steering, Tcp, Tls, TlsVersion, Token, TokenKind,
    WebSocket, WhiteList,
};
use crate::Machine;

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
                drain_over: Duration::ZERO,
                retry_after: Duration::ZERO,
                pid_file: None,
            },
            tcp: Tcp {
                bind: everywhere(8080),
                tls_bind: Vec::new(),
                sndbuf: 0,
                rcvbuf: 0,
                keepalive: false,
                keepalive_idle: Duration::from_secs(2 * 3600),
                keepalive_interval: Duration::from_secs(75),
                keepalive_count: 9,
                nodelay: true,
                backlog: 4096,
                steering: Steering::Off,
                proxy_from: Vec::new(),
            },
            websocket: WebSocket {
                bind: everywhere(8090),
                tls_bind: Vec::new(),
                path: "/sub".to_owned(),
                head_max: 8 << 10,
                origins: Vec::new(),
            },
            tls: Tls { certificates: Vec::new(), keys: Vec::new(), min_version: TlsVersion::V1_2 },
            push: Push {
                grpc: here(8083),
                http: here(7172),
                frame_max: 1 << 20,
                keys_max: 10_000,
                timeout: Duration::from_secs(5),
            },
            monitor: Monitor { stat: here(6972), pprof: here(6971) },
            protocol: Protocol {
                handshake_timeout: Duration::from_secs(5),
                write_timeout: Duration::from_secs(5),
                heartbeat: Duration::from_secs(300),
                heartbeat_coalesce: Duration::from_millis(25),
                linger: Duration::from_secs(2),
                body_max: 4 << 10,
                svr_proto: 512,
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
                ring_entries: 1024,
            },
            bucket: Bucket { count: 1024, user_memory: Duration::ZERO },
            logic: Logic {
                addrs: Vec::new(),
                timeout: Duration::from_secs(2),
                calls: 4096,
                ping: Duration::from_secs(1),
                renew: Duration::from_secs(10),
                heartbeat_min: Duration::from_secs(600),
                heartbeat_max: Duration::from_secs(1800),
                retry_after: Duration::from_secs(5),
            },
            token: Token {
                kind: TokenKind::Open,
                jwt_keys: Vec::new(),
                jwt_algorithms: vec![
                    Algorithm::HS256,
                    Algorithm::RS256,
                    Algorithm::ES256,
                    Algorithm::EdDSA,
                ],
                issuer: None,
                audience: None,
                mid: "mid".to_owned(),
                key: "key".to_owned(),
                room: "room_id".to_owned(),
                accepts: "accepts".to_owned(),
            },
            white_list: WhiteList { users: Vec::new(), file: None },
            logic_server: LogicServer {
                grpc: here(7170),
                http: here(7172),
                stat: here(6973),
                comets: Vec::new(),
                heartbeat: Duration::ZERO,
                store: SessionStore::Memory,
                redis: vec!["redis://127.0.0.1:6379".to_owned()],
                expire: Duration::from_secs(3600),
            },
            log: Log { level: LogLevel::Info, file: None },
        }
    }
}
