//! The worst case of memory: the sum of all bounds, computed before anything is bound.
//!
//! [`MemoryBounds::of`] destructures the limits of the shard. So a new limit does not compile until it gets a row here,
//! or is listed as taking no memory.

use std::fmt::Write;
use std::fs;

use comet_config::{Config, NatsRooms, SlowConsumer, WebSocket};
use comet_control::{CALLS_MAX, NOTICES_MAX, STREAM_BYTES_MAX};
use comet_core::limits::{
    ACCEPTS_MAX, CALLED_BYTES_MAX, CALLED_MAX, CALLER_INPUT_MAX, CALLER_OUTPUT_MAX,
    CALLERS_BYTES_MAX, DEFLATE_MAX, GATHERED_BYTES_MAX, GATHERED_MAX, HELD_MAX, HISTORY_CHUNKS_MAX,
    HISTORY_ROOMS_MAX, JOINED_BYTES_MAX, LIVE_TRACES_MAX, NAME_MAX, PACED_MAX,
    PRESENCE_WINDOWS_MAX, RECOVERY_MAX, RETAINED_MAX, TRACE_EVENTS_MAX,
};
use comet_core::{CallerLimits, Limits, Message, Report};
use comet_nats::{CLIENT_MESSAGES_MAX, ROOM_SUBSCRIPTION, WAITING_BYTES_MAX};
use comet_net::{TLS_TRANSMITS_MAX, locked_memory};
use comet_ops::LOG_BYTES_MAX;
use comet_serve::{
    ANSWER_BYTES_MAX, ANSWERS_MAX, CONNECTION_WINDOW, DEBUG_CONNECTIONS, GRPC_CONNECTIONS,
    HEAD_MAX, HTTP_CONNECTIONS, PAGES_BYTES_MAX, STAT_CONNECTIONS, UNAUTHENTICATED_ANSWERS_MAX,
    UNAUTHENTICATED_BYTES_MAX, WATCHES_MAX, connections_max, request_bytes,
};

use crate::options::{limits, memory_ceiling};
use crate::start::REPORTS;

/// User memory of an idle connection, all tables included. The bench measures less than this.
const CONNECTION: u64 = 512;
/// A room with one member and the longest name, on the member's core and at its home.
const ROOM: u64 = 512 + NAME_MAX as u64;
/// Kernel memory of a connection with empty buffers.
const SOCKET: u64 = 4 << 10;
/// Additional memory of an idle TLS session, as measured by a test of comet-net.
const TLS_SESSION: u64 = 4 << 10;
/// Memory of a TLS session for an incomplete record, and for one that the kernel has not taken.
const TLS_RECORDS: u64 = (32 << 10) + (16 << 10);
/// A message in an outbox, without its bytes: an entry of 20 bytes in a log that has doubled, 56 bytes where it is
/// stored, which all logs share, and 8 in the table of a send.
const OUTBOX_ENTRY: u64 = 104;
/// The factor between the memory of short messages in outboxes and their size in [`Limits::outbox_memory`].
const OUTBOX_ALLOCATED: u64 = 2;
/// Memory of a reply beside its entry and its body, which may be the request's body: its header and the allocation.
const REPLY: u64 = 64;
/// With drop-oldest a log may keep as many dropped messages as waiting ones.
const KEPT_BY_DROP_OLDEST: u64 = 2;
/// A retained session number, stored in a queue and in a table that have both doubled.
const RETAINED: u64 = 96;
/// Most bytes of the text form for one byte of a push, as in `\u0001`.
const TEXT_GROWTH: usize = 6;
/// A retained key: its number, and its text twice.
const RETAINED_KEY: u64 = RETAINED + 2 * NAME_MAX as u64;
/// A counted address or subnet, in a table that has doubled.
const SOURCE: u64 = 96;
/// A session that may outlast its connection, at the home of its user: its key of the longest length, and two entries.
const KEPT_SESSION: u64 = 160 + NAME_MAX as u64;
/// A trace event with its key and the numbers of its live traces.
const TRACE_EVENT: u64 = 160 + NAME_MAX as u64 + 8 * LIVE_TRACES_MAX as u64;

/// A table of the worst case, as lines for a terminal. `open_files` is the result of [`comet_net::probe`].
#[must_use]
pub fn worst_case(config: &Config, open_files: u64) -> String {
    let bounds = MemoryBounds::of(config, &limits(config, open_files), open_files);
    let MemoryBounds { cores, connections, rows } = bounds;
    let mut text = format!("# worst case for {connections} connections on {cores} cores\n");
    let all = ("all of it", rows.iter().map(|(_, bytes)| *bytes).sum());
    let ceiling = ("refuses new clients beyond", memory_ceiling(config));
    for (what, bytes) in rows.into_iter().filter(|(_, bytes)| *bytes > 0).chain([all, ceiling]) {
        let _ = writeln!(text, "# {what:46} {:>12.1} MiB", bytes as f64 / f64::from(1 << 20));
    }
    text
}

struct MemoryBounds {
    cores: u64,
    connections: u64,
    rows: Vec<(&'static str, u64)>,
}

impl MemoryBounds {
    fn of(config: &Config, limits: &Limits, open_files: u64) -> Self {
        let Limits {
            connections,
            body_max,
            head_max,
            svr_proto,
            outbox_bytes,
            outbox_memory,
            cli_proto,
            mesh_backlog,
            sources,
            // Its events are bounded together with those of live traces.
            trace_users: _,
            user_memory_ms,
            text,
            text_push_max,
            deflate,
            callers: of_frames,
            rooms,
            // Flags, and texts stored in the configuration.
            is_out_of_memory: _,
            refuses_pushes: _,
            takes_clients: _,
            // At most a thousand, shared by all shards.
            blocklist: _,
            // At most a few, with an entry for each traced connection.
            traces: _,
            slow_consumer: _,
            filter_rooms: _,
            goodbye: _,
            path: _,
            origins: _,
            // Times need no memory.
            key_memory_ms: _,
            handshake_ms: _,
            write_ms: _,
            heartbeat_ms: _,
            coalesce_ms: _,
            coalesce_after_ms: _,
            linger_ms: _,
            coalesce_rules,
            history_rules,
            history_is_shared,
            history_memory,
            recovery_memory,
            resume,
            presence_rules,
            // These limit how many connections may be of a kind, which needs no further memory.
            accept_rate: _,
            handshakes: _,
            rates: _,
            user_sessions: _,
            // A crowd's waiting pushes have left the inbox of the shard, so they are counted there.
            crowd_above: _,
            crowd_slice: _,
            crowd_bytes: _,
            // Empty tables are small.
            buckets: _,
        } = limits;
        // These are used at the start, not by the shard.
        let comet_config::Limits {
            mesh_inbox, recv_buffers, recv_buffer_size, ring_entries, ..
        } = &config.limits;
        let cores = config.server.cores.len() as u64;
        let connections = cores * u64::from(*connections);
        // An incomplete frame, and a fragmented message beside it; or the head of an upgrade.
        let unread = allocated(2 * *body_max as u64).max(allocated(*head_max as u64));
        // Any connection may use TLS if there is a listener for it.
        let has_tls = !(config.tcp.tls_bind.is_empty() && config.websocket.tls_bind.is_empty());
        let in_tls = if has_tls { connections } else { 0 };
        let kept = match config.protocol.slow_consumer {
            SlowConsumer::DropOldest => KEPT_BY_DROP_OLDEST,
            SlowConsumer::DropNewest | SlowConsumer::Close => 1,
        };
        // The latest states wait in addition to the frames in flight, whatever their number.
        let kept = kept + u64::from(coalesce_rules.iter().any(|rule| rule.keep_latest));
        let entries = u64::from(*svr_proto) * OUTBOX_ENTRY;
        let waiting = connections * (entries + allocated(u64::from(*outbox_bytes))) * kept;
        let all_outboxes = (*outbox_memory + *outbox_memory / 8).saturating_mul(OUTBOX_ALLOCATED);
        let callers = |most| connections_max(open_files, most) as u64;
        let heads =
            callers(HTTP_CONNECTIONS) + callers(STAT_CONNECTIONS) + callers(DEBUG_CONNECTIONS);
        let requests = request_bytes(request_max(config)) as u64;
        let is_counted = sources.is_on();
        let has_logic = !config.logic.addrs.is_empty();
        // Event streams use the listeners of WebSocket.
        let WebSocket { bind, tls_bind, .. } = &config.websocket;
        let has_events = !(bind.is_empty() && tls_bind.is_empty());
        let json_forms = u64::from(*text) + u64::from(has_events);
        let Config { nats, push, .. } = config;
        let has_hosts = !nats.servers.is_empty();
        // Pushes and other messages of an inbox, and the messages that each core keeps for each other core.
        let messages = 2 * *mesh_inbox as u64 + (cores - 1) * *mesh_backlog as u64;
        let names = (3 * NAME_MAX + ACCEPTS_MAX * size_of::<i32>()) as u64;
        let when = |is_so: bool, bytes: u64| if is_so { bytes } else { 0 };
        let rows = vec![
            ("connections, idle and authenticated", connections * CONNECTION),
            ("if all their keys and lists are the longest", connections * names),
            (
                "if each of them is in as many rooms of its own",
                connections * (u64::from(*rooms) - 1) * ROOM,
            ),
            ("if all of them are in TLS, sessions", in_tls * TLS_SESSION),
            ("receive buffers", cores * u64::from(*recv_buffers) * u64::from(*recv_buffer_size)),
            ("rings", locked_memory(*ring_entries, config.server.cores.len())),
            ("joined frames on their way", cores * JOINED_BYTES_MAX as u64),
            ("encrypted frames on their way", when(has_tls, cores * TLS_TRANSMITS_MAX as u64)),
            ("if every client leaves a frame unfinished", connections * unread),
            (
                "if every client sends on while logic is asked",
                // A text client's message may be kept for its reply.
                connections * (HELD_MAX + body_max * if *text { 2 } else { 1 }) as u64,
            ),
            ("if all are in TLS and stop amid a record", in_tls * TLS_RECORDS),
            (
                "if every client leaves its replies",
                connections * u64::from(*cli_proto) * (OUTBOX_ENTRY + REPLY + *body_max as u64),
            ),
            ("pushes that clients leave waiting", waiting.min(cores * all_outboxes)),
            (
                "users who left and are remembered",
                when(*user_memory_ms > 0, cores * RETAINED_MAX as u64 * RETAINED),
            ),
            (
                "keys that logic was told of as gone",
                when(has_logic, cores * RETAINED_MAX as u64 * RETAINED_KEY),
            ),
            ("addresses that are counted", when(is_counted, 2 * connections * SOURCE)),
            (
                "pushes that wait to be coalesced",
                when(
                    !coalesce_rules.is_empty(),
                    cores * (GATHERED_MAX * GATHERED + GATHERED_BYTES_MAX) as u64
                        + allocated(config.push.frame_max as u64),
                ),
            ),
            (
                "histories of rooms",
                when(
                    !history_rules.is_empty(),
                    cores
                        * (allocated(*history_memory as u64)
                            + (HISTORY_ROOMS_MAX * HISTORY + HISTORY_CHUNKS_MAX * RECOVERY_MAX)
                                as u64),
                ),
            ),
            (
                "what clients missed, on its way to them",
                when(
                    !history_rules.is_empty(),
                    // Event streams get the pushes in a form of their own.
                    cores
                        * allocated(*recovery_memory as u64)
                        * (1 + u64::from(has_events) * TEXT_GROWTH as u64),
                ),
            ),
            (
                "pushes from and to other hosts",
                when(
                    has_hosts,
                    allocated((WAITING_BYTES_MAX + CLIENT_MESSAGES_MAX * push.frame_max) as u64),
                ),
            ),
            (
                "if each connection is in a room of its own, subscriptions",
                when(
                    has_hosts && nats.rooms == NatsRooms::Subscribed,
                    connections * ROOM_SUBSCRIPTION as u64,
                ),
            ),
            (
                "pushes of the stream that hosts share",
                when(
                    *history_is_shared,
                    allocated((comet_nats::STREAM_BYTES_MAX + STREAM_BYTES_MAX) as u64),
                ),
            ),
            // The sessions whose connections have just ended, and those without a connection.
            ("parked sessions", when(resume.is_on(), 2 * cores * allocated(resume.memory as u64))),
            ("keys of sessions that may be", when(resume.is_on(), connections * KEPT_SESSION)),
            (
                "changes of rooms that members are told",
                presence_rules.iter().map(|rule| rule.names as usize).max().map_or(0, |names| {
                    cores * (PRESENCE_WINDOWS_MAX * (PRESENCE + 2 * names * MEMBER)) as u64
                }),
            ),
            ("messages between cores", cores * messages * size_of::<Message>() as u64),
            ("reports to control", (REPORTS * size_of::<Report>()) as u64),
            ("requests of push callers", allocated(requests)),
            ("the same, encoded for clients", allocated(requests)),
            ("requests of callers without a token", allocated(UNAUTHENTICATED_BYTES_MAX as u64)),
            // At `monitor.stat` and at `monitor.pprof`.
            ("requests for pages", allocated(2 * PAGES_BYTES_MAX as u64)),
            (
                "answers that callers have not taken",
                when(
                    !push.grpc.is_empty(),
                    ((ANSWERS_MAX + UNAUTHENTICATED_ANSWERS_MAX) * ANSWER) as u64
                        + allocated((ANSWER_BYTES_MAX + UNAUTHENTICATED_BYTES_MAX) as u64),
                ),
            ),
            ("watches of health", when(!push.grpc.is_empty(), WATCHES_MAX as u64 * WATCH)),
            ("calls under way", (CALLS_MAX * CALL) as u64),
            ("callers of push.frames", cores * frames(of_frames)),
            ("their pushes for other hosts", when(has_hosts, cores * for_hosts(of_frames))),
            ("paced broadcasts", allocated((PACED_MAX * config.push.frame_max) as u64)),
            (
                "the same in the text form and as events",
                json_forms * cores * allocated((PACED_MAX * text_push_max * TEXT_GROWTH) as u64),
            ),
            (
                "compression of WebSocket messages",
                when(deflate.is_some(), cores * (CODECS + DEFLATE_MAX + body_max) as u64),
            ),
            (
                "paced broadcasts, compressed",
                when(deflate.is_some(), cores * allocated((PACED_MAX * 2 * DEFLATE_MAX) as u64)),
            ),
            (
                "if every caller leaves calls unread",
                callers(GRPC_CONNECTIONS) * u64::from(CONNECTION_WINDOW),
            ),
            ("if every HTTP caller leaves a head unfinished", heads * HEAD_MAX as u64),
            (
                "calls of logic, and notices that wait",
                when(
                    has_logic,
                    (config.logic.calls * (2 * body_max + head_max) + NOTICES_MAX * 2 * NAME_MAX)
                        as u64,
                ),
            ),
            ("lines of logs that wait", 2 * LOG_BYTES_MAX as u64),
            ("trace events that wait", cores * TRACE_EVENTS_MAX as u64 * TRACE_EVENT),
            ("in the kernel beside it, sockets", connections * SOCKET),
            ("in the kernel, if all socket buffers are full", socket_buffers(config, connections)),
        ];
        Self { cores, connections, rows }
    }
}

/// Memory of a compressor and a decompressor.
const CODECS: usize = 400 << 10;

/// Memory of a waiting push beside its frame: its entry, with its id, in a list that has doubled.
const GATHERED: usize = 512 + NAME_MAX;

/// Memory of a room with a known position: its entries, with its name, in two tables that have doubled.
const HISTORY: usize = 512 + NAME_MAX;

/// Memory of a room whose members are announced: its entries, with its name, in two tables.
const PRESENCE: usize = 256 + NAME_MAX;
/// Memory there of a member that entered or left, with its key.
const MEMBER: usize = 64 + NAME_MAX;

/// Memory of a core's callers at `push.frames`: received bytes, requests in two forms, and replies in two buffers.
fn frames(limits: &CallerLimits) -> u64 {
    let each = 2 * CALLER_INPUT_MAX + 2 * CALLER_OUTPUT_MAX;
    let requests = if limits.connections > 0 { CALLERS_BYTES_MAX + limits.frame_max } else { 0 };
    2 * usize::from(limits.connections) as u64 * each as u64 + 2 * allocated(requests as u64)
}

/// Memory of these callers' pushes that are announced to other hosts, with their calls there.
fn for_hosts(limits: &CallerLimits) -> u64 {
    let frames = allocated((CALLED_BYTES_MAX + limits.frame_max) as u64);
    if limits.connections > 0 { frames + (CALLED_MAX * CALL) as u64 } else { 0 }
}

/// Memory of one place for an answer, beside the bytes of the answer. A stream takes four places: for its task, and the
/// buffers of its decoder and its encoder. A call takes one, for what is left of it.
const ANSWER: usize = 5 << 10;

/// Memory of a health watch: its stream, its task and the buffer of its encoder.
const WATCH: u64 = 16 << 10;

/// Memory of a call beside its request: its entry, its tally and its channel.
const CALL: usize = 1 << 10;

/// Bytes that the allocator may use for `bytes`: its size classes are up to a quarter apart.
fn allocated(bytes: u64) -> u64 {
    bytes + bytes / 4
}

/// Kernel memory of full buffers of all connections, limited by `tcp_mem`.
fn socket_buffers(config: &Config, connections: u64) -> u64 {
    let most = |name: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
        text.split_whitespace().last().and_then(|most| most.parse().ok()).unwrap_or(0)
    };
    // The kernel doubles the requested size.
    let buffer = |asked: usize, name| if asked > 0 { 2 * asked as u64 } else { most(name) };
    let each = buffer(config.tcp.sndbuf, "tcp_wmem") + buffer(config.tcp.rcvbuf, "tcp_rmem");
    let all = most("tcp_mem").saturating_mul(rustix::param::page_size() as u64);
    connections.saturating_mul(each).min(all)
}

/// Longest request of a push caller, bytes.
fn request_max(config: &Config) -> usize {
    let push = &config.push;
    let bounds = comet_control::CallLimits {
        frame_max: push.frame_max,
        keys_max: push.keys_max,
        timeout: push.timeout,
    };
    bounds.request_max()
}

#[cfg(test)]
mod tests {
    use comet_config::{Machine, Source, load};

    use super::*;

    #[test]
    fn every_bound_that_is_raised_raises_the_sum() {
        let sum = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
            let machine = Machine { cpus: vec![0, 1], host_name: "host".to_owned() };
            let config = load(&Source { sets: &sets, ..Source::default() }, &machine).unwrap();
            let bounds = MemoryBounds::of(&config, &limits(&config, 66_128), 66_128);
            bounds.rows.iter().map(|(_, bytes)| *bytes).sum::<u64>()
        };
        let least = [
            "limits.connections=1000",
            "push.frame_max=\"1MiB\"",
            "protocol.outbox_bytes=\"2MiB\"",
            "limits.outbox_memory=\"1024GiB\"",
            "bucket.user_memory=\"0s\"",
        ];
        let of_outboxes = |memory: &str| sum(&[&format!("limits.outbox_memory=\"{memory}\"")]);
        assert!(of_outboxes("1GiB") > of_outboxes("8MiB"));
        let before = sum(&least);
        for raised in [
            "limits.connections=1001",
            "limits.mesh_inbox=5000",
            "limits.mesh_backlog=70000",
            "limits.recv_buffers=1024",
            "limits.recv_buffer_size=4096",
            "limits.ring_entries=2048",
            "protocol.body_max=8192",
            "protocol.svr_proto=513",
            "protocol.cli_proto=257",
            "protocol.outbox_bytes=\"3MiB\"",
            "protocol.slow_consumer=\"drop-oldest\"",
            "push.frame_max=\"1536KiB\"",
            "bucket.user_memory=\"1m\"",
            "clients.per_address=1",
            "logic.addrs=[\"a:1\"]",
            "websocket.head_max=\"64KiB\"",
            "coalesce.rules=[{ rooms = \"\" }]",
            "history.rules=[{ rooms = \"\" }]",
            "presence.rules=[{ rooms = \"\", operation = 25 }]",
            "push.frames=[\"127.0.0.1:0\"]",
            "websocket.deflate=true",
        ] {
            assert!(sum(&[&least[..], &[raised]].concat()) > before, "{raised}");
        }
        // Does not include the memory that the hosts take themselves.
        let nats = "nats.servers=[\"nats://127.0.0.1:4222\"]";
        let beside = |sets: &[&str]| sum(&[sets, &[nats]].concat()) - sum(sets);
        let frames = [&least[..], &["push.frames=[\"127.0.0.1:0\"]"]].concat();
        assert!(beside(&frames) > beside(&least));
        let all = [&least[..], &["nats.rooms=\"all\""]].concat();
        assert!(beside(&least) > beside(&all) && beside(&all) > WAITING_BYTES_MAX as u64);
    }
}
