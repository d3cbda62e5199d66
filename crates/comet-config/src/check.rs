//! From [`RawConfig`] to [`Config`]: the range of every key, and what must fit together.

mod kinds;

use std::time::Duration;

use crate::config::{
    Bucket, Config, Limits, Log, Logic, Monitor, Protocol, Push, Server, Tcp, WebSocket,
};
use crate::cpus::Machine;
use crate::mistakes::{Mistakes, Report};
use crate::raw::{
    RawConfig, RawLimits, RawLogic, RawProtocol, RawPush, RawServer, RawTcp, RawWebSocket,
};
use crate::units::size_text;

use kinds::{Bound, Kinds};

/// What a frame can be longer than its body: 16 bytes of its own header and up to 10 of WebSocket's
/// (RFC 6455, section 5.2; a server's frames carry no mask).
const FRAME_HEADERS: u64 = 26;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(crate) fn check(
    raw: RawConfig,
    report: Report<'_>,
    machine: &Machine,
) -> Result<Config, Mistakes> {
    let default = Config::defaults(machine);
    let mut kinds = Kinds { report, bound: Vec::new() };
    let check = &mut kinds;
    let config = Config {
        server: server(check, raw.server, default.server, machine),
        tcp: tcp(check, raw.tcp, default.tcp),
        websocket: websocket(check, raw.websocket, default.websocket),
        push: push(check, raw.push, default.push),
        monitor: Monitor {
            stat: check.addresses("monitor.stat", raw.monitor.stat, default.monitor.stat),
        },
        protocol: protocol(check, &raw.protocol, &default.protocol),
        limits: limits(check, &raw.limits, &default.limits),
        bucket: Bucket {
            count: check.number(
                "bucket.count",
                raw.bucket.count,
                default.bucket.count,
                1..=1 << 20,
            ),
        },
        logic: logic(check, raw.logic),
        log: Log { level: raw.log.level.unwrap_or(default.log.level) },
    };
    bound_twice(check);
    fits_together(check, &config);
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
        check.text(
            key,
            raw.filter(|name| !name.is_empty()),
            default,
            |name| name.len() <= 255 && name.bytes().all(|b| b.is_ascii_graphic()),
            "a name of up to 255 printable characters without spaces",
        )
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
    }
}

fn tcp(check: &mut Kinds<'_>, raw: RawTcp, default: Tcp) -> Tcp {
    Tcp {
        bind: check.addresses("tcp.bind", raw.bind, default.bind),
        sndbuf: check.size("tcp.sndbuf", raw.sndbuf, default.sndbuf, 0..=GIB),
        rcvbuf: check.size("tcp.rcvbuf", raw.rcvbuf, default.rcvbuf, 0..=GIB),
        keepalive: raw.keepalive.unwrap_or(default.keepalive),
        nodelay: raw.nodelay.unwrap_or(default.nodelay),
        backlog: check.number("tcp.backlog", raw.backlog, default.backlog, 1..=65_535),
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
        path: check.text(
            "websocket.path",
            raw.path,
            default.path,
            is_path,
            "a path: / and up to 255 printable characters without space, ? and #",
        ),
        head_max: check.size("websocket.head_max", raw.head_max, default.head_max, KIB..=64 * KIB),
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

fn logic(check: &mut Kinds<'_>, raw: RawLogic) -> Logic {
    if raw.addrs.is_some_and(|addrs| !addrs.is_empty()) {
        check.report.value(
            "logic.addrs",
            "comet cannot call a logic service yet: leave the list empty, and comet is its own logic",
        );
    }
    Logic { addrs: Vec::new() }
}

/// Two listeners on one address would take each other's clients: `SO_REUSEPORT` lets them.
fn bound_twice(check: &mut Kinds<'_>) {
    for (later, bound) in check.bound.iter().enumerate() {
        let is_same = |earlier: &&Bound| earlier.address == bound.address;
        let Some(earlier) = check.bound[..later].iter().find(is_same) else {
            continue;
        };
        if bound.address.port() == 0 {
            continue; // The kernel finds a free one for each.
        }
        // Whoever wrote one of the two reads about that one, not about the default.
        let (mine, other) =
            if check.report.is_default(bound.key) { (earlier, bound) } else { (bound, earlier) };
        let what = format!("{} is bound by {}[{}] too", mine.address, other.key, other.index);
        check.report.element(mine.key, mine.index, &mine.at, &what);
    }
}

fn fits_together(check: &mut Kinds<'_>, config: &Config) {
    let report = &mut check.report;
    let (outbox, frame) = ("protocol.outbox_bytes", "push.frame_max");
    let needed = config.push.frame_max as u64 + FRAME_HEADERS;
    let has = u64::from(config.protocol.outbox_bytes);
    if report.is_sound(&[outbox, frame]) && has < needed {
        let what = format!(
            "no outbox would take the largest push: {frame} is {}, and with {FRAME_HEADERS} bytes of \
             headers that is more than {outbox}, {}",
            size_text(config.push.frame_max as u64),
            size_text(has)
        );
        report.value(if report.is_default(outbox) { frame } else { outbox }, &what);
    }
    let (tcp, websocket) = ("tcp.bind", "websocket.bind");
    let nobody = config.tcp.bind.is_empty() && config.websocket.bind.is_empty();
    if report.is_sound(&[tcp, websocket]) && nobody {
        report.value(websocket, &format!("is empty, and so is {tcp}: no client could connect"));
    }
}
