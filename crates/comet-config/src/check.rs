//! From [`RawConfig`] to [`Config`]: the range of every key, and what must fit together.

mod fit;
mod identity;
mod kinds;

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::Process;
use crate::config::{
    Bucket, Config, Limits, Log, Monitor, Protocol, Push, Server, Tcp, Tls, WebSocket,
};
use crate::cpus::Machine;
use crate::mistakes::{Mistakes, Report};
use crate::network::Network;
use crate::raw::{
    RawBucket, RawConfig, RawLimits, RawLog, RawMonitor, RawProtocol, RawPush, RawServer, RawTcp,
    RawTls, RawWebSocket,
};

use kinds::{Kinds, NAME, is_name};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// What TCP_KEEPIDLE and TCP_KEEPINTVL take, in hours: the kernel knows up to 32767 seconds.
const KEEPALIVE: RangeInclusive<Duration> = SECOND..=Duration::from_secs(9 * 3600);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(crate) fn check(
    raw: RawConfig,
    report: Report<'_>,
    machine: &Machine,
    process: Process,
) -> Result<Config, Mistakes> {
    let default = Config::defaults(machine);
    let mut kinds = Kinds { report, process, bound: Vec::new() };
    let check = &mut kinds;
    let config = Config {
        server: server(check, raw.server, default.server, machine),
        tcp: tcp(check, raw.tcp, default.tcp),
        websocket: websocket(check, raw.websocket, default.websocket),
        push: push(check, raw.push, default.push),
        tls: tls(check, raw.tls, default.tls),
        monitor: monitor(check, raw.monitor, default.monitor),
        protocol: protocol(check, &raw.protocol, &default.protocol),
        limits: limits(check, &raw.limits, &default.limits),
        bucket: bucket(check, &raw.bucket, &default.bucket),
        logic: identity::logic(check, raw.logic, default.logic),
        token: identity::token(check, raw.token, default.token),
        white_list: identity::white_list(check, raw.white_list, default.white_list),
        logic_server: identity::logic_server(check, raw.logic_server, default.logic_server),
        log: log(check, raw.log, default.log),
    };
    fit::bound_twice(check);
    fit::fits_together(&mut check.report, &config);
    kinds.report.conclude(config)
}

fn server(check: &mut Kinds<'_>, raw: RawServer, default: Server, machine: &Machine) -> Server {
    let control_cores = check.cpus("server.control_cores", raw.control_cores.as_deref(), machine);
    let mut cores = check.cpus("server.cores", raw.cores.as_deref(), machine);
    if cores.is_empty() {
        cores = default.cores;
        let is_free = |cpu: &usize| !control_cores.contains(cpu);
        // Of two CPUs neither can be spared for control alone.
        if cores.len() > 2 && cores.iter().any(is_free) {
            cores.retain(is_free);
        }
    }
    let mut name = |key, raw: Option<String>, default| {
        check.text(key, raw.filter(|name| !name.is_empty()), default, is_name, NAME)
    };
    let id = name("server.id", raw.id, default.id);
    Server {
        domain: name("server.domain", raw.domain, id.clone()),
        id,
        cores,
        control_cores,
        spin: check.duration("server.spin", raw.spin, default.spin, Duration::ZERO..=SECOND),
        drain_timeout: check.duration(
            "server.drain_timeout",
            raw.drain_timeout,
            default.drain_timeout,
            Duration::ZERO..=HOUR,
        ),
        drain_over: check.duration(
            "server.drain_over",
            raw.drain_over,
            default.drain_over,
            Duration::ZERO..=HOUR,
        ),
        retry_after: check.duration(
            "server.retry_after",
            raw.retry_after,
            default.retry_after,
            Duration::ZERO..=HOUR,
        ),
        pid_file: check.file("server.pid_file", raw.pid_file, default.pid_file),
    }
}

fn tcp(check: &mut Kinds<'_>, raw: RawTcp, default: Tcp) -> Tcp {
    Tcp {
        bind: check.addresses("tcp.bind", raw.bind, default.bind),
        tls_bind: check.addresses("tcp.tls_bind", raw.tls_bind, default.tls_bind),
        sndbuf: check.size("tcp.sndbuf", raw.sndbuf, default.sndbuf, 0..=GIB),
        rcvbuf: check.size("tcp.rcvbuf", raw.rcvbuf, default.rcvbuf, 0..=GIB),
        keepalive: raw.keepalive.unwrap_or(default.keepalive),
        keepalive_idle: check.seconds(
            "tcp.keepalive_idle",
            raw.keepalive_idle,
            default.keepalive_idle,
            KEEPALIVE,
        ),
        keepalive_interval: check.seconds(
            "tcp.keepalive_interval",
            raw.keepalive_interval,
            default.keepalive_interval,
            KEEPALIVE,
        ),
        keepalive_count: check.number(
            "tcp.keepalive_count",
            raw.keepalive_count,
            default.keepalive_count,
            1..=127,
        ),
        nodelay: raw.nodelay.unwrap_or(default.nodelay),
        backlog: check.number("tcp.backlog", raw.backlog, default.backlog, 1..=65_535),
        steering: raw.steering.unwrap_or(default.steering),
        proxy_from: check.list(
            "tcp.proxy_from",
            raw.proxy_from,
            default.proxy_from,
            str::parse::<Network>,
        ),
    }
}

fn websocket(check: &mut Kinds<'_>, raw: RawWebSocket, default: WebSocket) -> WebSocket {
    let is_path = |path: &str| {
        path.starts_with('/')
            && path.len() <= 256
            && path.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b))
    };
    WebSocket {
        bind: check.addresses("websocket.bind", raw.bind, default.bind),
        tls_bind: check.addresses("websocket.tls_bind", raw.tls_bind, default.tls_bind),
        path: check.text(
            "websocket.path",
            raw.path,
            default.path,
            is_path,
            "a path: / and up to 255 printable characters without space, ? and #",
        ),
        head_max: check.size("websocket.head_max", raw.head_max, default.head_max, KIB..=64 * KIB),
        origins: check.list("websocket.origins", raw.origins, default.origins, origin),
    }
}

/// An origin as browsers send it (RFC 6454, section 6.2), in lower case.
fn origin(text: &str) -> Result<String, String> {
    let is_good = text.split_once("://").is_some_and(|(scheme, host)| {
        let is_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        let is_host = |b: u8| b.is_ascii_graphic() && !b"/?#@,".contains(&b);
        text.len() <= 255
            && !(scheme.is_empty() || host.is_empty())
            && scheme.bytes().all(is_scheme)
            && host.bytes().all(is_host)
    });
    if is_good {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("{text:?} is not an origin: write SCHEME://HOST or SCHEME://HOST:PORT"))
    }
}

fn tls(check: &mut Kinds<'_>, raw: RawTls, default: Tls) -> Tls {
    let certificates = raw.certificates;
    Tls {
        certificates: check.files("tls.certificates", certificates, default.certificates),
        keys: check.files("tls.keys", raw.keys, default.keys),
        min_version: raw.min_version.unwrap_or(default.min_version),
    }
}

fn monitor(check: &mut Kinds<'_>, raw: RawMonitor, default: Monitor) -> Monitor {
    Monitor {
        stat: check.addresses("monitor.stat", raw.stat, default.stat),
        pprof: check.addresses("monitor.pprof", raw.pprof, default.pprof),
    }
}

fn log(check: &mut Kinds<'_>, raw: RawLog, default: Log) -> Log {
    Log {
        level: raw.level.unwrap_or(default.level),
        file: check.file("log.file", raw.file, default.file),
    }
}

fn bucket(check: &mut Kinds<'_>, raw: &RawBucket, default: &Bucket) -> Bucket {
    Bucket {
        count: check.number("bucket.count", raw.count, default.count, 1..=1 << 20),
        user_memory: check.duration(
            "bucket.user_memory",
            raw.user_memory,
            default.user_memory,
            Duration::ZERO..=24 * HOUR,
        ),
    }
}

fn push(check: &mut Kinds<'_>, raw: RawPush, default: Push) -> Push {
    Push {
        grpc: check.addresses("push.grpc", raw.grpc, default.grpc),
        http: check.addresses("push.http", raw.http, default.http),
        frame_max: check.size("push.frame_max", raw.frame_max, default.frame_max, KIB..=64 * MIB),
        keys_max: check.number("push.keys_max", raw.keys_max, default.keys_max, 1..=1_000_000),
        timeout: check.duration(
            "push.timeout",
            raw.timeout,
            default.timeout,
            100 * MILLISECOND..=HOUR,
        ),
    }
}

fn protocol(check: &mut Kinds<'_>, raw: &RawProtocol, default: &Protocol) -> Protocol {
    let waits = 100 * MILLISECOND..=HOUR;
    Protocol {
        handshake_timeout: check.duration(
            "protocol.handshake_timeout",
            raw.handshake_timeout,
            default.handshake_timeout,
            waits.clone(),
        ),
        write_timeout: check.duration(
            "protocol.write_timeout",
            raw.write_timeout,
            default.write_timeout,
            waits.clone(),
        ),
        heartbeat: check.duration(
            "protocol.heartbeat",
            raw.heartbeat,
            default.heartbeat,
            SECOND..=24 * HOUR,
        ),
        heartbeat_coalesce: check.duration(
            "protocol.heartbeat_coalesce",
            raw.heartbeat_coalesce,
            default.heartbeat_coalesce,
            Duration::ZERO..=10 * SECOND,
        ),
        linger: check.duration("protocol.linger", raw.linger, default.linger, waits),
        body_max: check.size("protocol.body_max", raw.body_max, default.body_max, 1..=MIB),
        svr_proto: check.number("protocol.svr_proto", raw.svr_proto, default.svr_proto, 1..=65_535),
        outbox_bytes: check.size(
            "protocol.outbox_bytes",
            raw.outbox_bytes,
            default.outbox_bytes,
            2 * KIB..=GIB,
        ),
        cli_proto: check.number("protocol.cli_proto", raw.cli_proto, default.cli_proto, 1..=65_535),
        slow_consumer: raw.slow_consumer.unwrap_or(default.slow_consumer),
        filter_rooms: raw.filter_rooms.unwrap_or(default.filter_rooms),
    }
}

fn limits(check: &mut Kinds<'_>, raw: &RawLimits, default: &Limits) -> Limits {
    Limits {
        connections: check.number(
            "limits.connections",
            raw.connections,
            default.connections,
            0..=16 << 20,
        ),
        mesh_inbox: check.number(
            "limits.mesh_inbox",
            raw.mesh_inbox,
            default.mesh_inbox,
            16..=1 << 20,
        ),
        mesh_backlog: check.number(
            "limits.mesh_backlog",
            raw.mesh_backlog,
            default.mesh_backlog,
            16..=16 << 20,
        ),
        recv_buffers: check.ring_size(
            "limits.recv_buffers",
            raw.recv_buffers,
            default.recv_buffers,
        ),
        recv_buffer_size: check.size(
            "limits.recv_buffer_size",
            raw.recv_buffer_size,
            default.recv_buffer_size,
            256..=64 * KIB,
        ),
        ring_entries: check.ring_size(
            "limits.ring_entries",
            raw.ring_entries,
            default.ring_entries,
        ),
    }
}
