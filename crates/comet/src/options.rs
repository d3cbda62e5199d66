//! The options of each part, from the configuration.

use std::sync::Arc;
use std::time::{Duration, Instant};

use comet_config::{Config, HistoryStore, SlowConsumer, UnknownCode};
use comet_control::{
    AccessControl, ApiTls, BearerToken, ClientEndpoint, DrainPlan, LogicOptions, Options,
    descriptors,
};
use comet_core::limits::{COALESCE_AFTER_MS, RECOVERY_MEMORY, TEXT_PUSH_MAX};
use comet_core::{
    Blocklist, CallerLimits, ClientRates, CoalesceRule, Deflate, HistoryRule, Limits, LiveTraces,
    Logic, Network, PresenceRule, ResumeLimits, SourceLimits, Tokens,
};
use comet_mesh::Pulse;
use comet_ops::CertificatesInUse;
use comet_serve::{AccessLog, connections_max};

use crate::listeners::Addresses;
use crate::log_output;

/// Resources that the server has opened before its threads start.
pub(crate) struct Opened<'a> {
    /// The addresses for clients.
    pub(crate) addresses: &'a Addresses,
    /// The certificates shown to clients.
    pub(crate) certificates: &'a Arc<CertificatesInUse>,
    /// The TLS of callers.
    pub(crate) api_tls: &'a ApiTls,
    /// Files that the process may open.
    pub(crate) open_files: u64,
}

/// Options of the control thread. The shards are started with the same `limits`, open files and `epoch`.
pub(crate) fn control_options(
    config: &Config,
    opened: &Opened<'_>,
    limits: &Arc<Limits>,
    epoch: Instant,
    pulses: Vec<Arc<Pulse>>,
) -> Options {
    let Opened { addresses, certificates, api_tls, open_files } = *opened;
    Options {
        grpc: config.push.grpc.clone(),
        http: config.push.http.clone(),
        stat: config.monitor.stat.clone(),
        debug: config.monitor.pprof.clone(),
        tls: api_tls.clone(),
        logic: (!config.logic.addrs.is_empty()).then(|| LogicOptions {
            addrs: config.logic.addrs.clone(),
            token: BearerToken::new(config.logic.token.as_deref()),
            timeout: config.logic.timeout,
            calls: config.logic.calls,
            ping: config.logic.ping,
            renew: config.logic.renew,
            retry_after: config.logic.retry_after,
            unknown: match config.logic.unknown {
                UnknownCode::Refuse => comet_control::UnknownCode::Refuse,
                UnknownCode::Retry => comet_control::UnknownCode::Retry,
            },
        }),
        push_access: access_control(config, &config.push.tokens),
        access_log: Arc::new(AccessLog::new(config.push.access_log)),
        monitor_access: access_control(config, &config.monitor.tokens),
        node: ClientEndpoint {
            domain: config.server.domain.clone(),
            tcp: addresses.tcp.clone(),
            websocket: addresses.websocket.clone(),
            websocket_tls: addresses.websocket_tls.clone(),
            heartbeat: config.protocol.heartbeat,
        },
        weight: config.server.weight,
        frame_max: config.push.frame_max,
        keys_max: config.push.keys_max,
        call_timeout: config.push.timeout,
        cpus: config.server.control_cores.clone(),
        server_id: config.server.id.clone(),
        version: env!("CARGO_PKG_VERSION"),
        limits: Arc::clone(limits),
        trace_log: config.white_list.file.clone(),
        log_format: log_output::format(config.log.format),
        traced: None,
        inherited: None,
        epoch,
        drain: drain_plan(config),
        memory: memory_ceiling(config),
        open_files,
        pulses,
        certificates: Arc::clone(certificates),
    }
}

/// Access control by `tokens`. HTTP callers may use any name of this server.
pub(crate) fn access_control(config: &Config, tokens: &[String]) -> Arc<AccessControl> {
    let server = &config.server;
    let names = [&server.id, &server.domain].into_iter().chain(&server.hosts);
    Arc::new(AccessControl::new(tokens.to_vec(), names.cloned().collect()))
}

/// The logic by which a shard authenticates clients.
pub(crate) fn logic(logic: &comet_config::Logic) -> Logic {
    if logic.addrs.is_empty() {
        return Logic::Embedded;
    }
    Logic::Remote { renew_ms: (millis(logic.heartbeat_min), millis(logic.heartbeat_max)) }
}

/// A core's share of the connections that the limit on open files allows, after those of callers.
fn share(config: &Config, open_files: u64) -> u32 {
    let for_clients = open_files.saturating_sub(callers_descriptors(config, open_files));
    let share = for_clients / config.server.cores.len() as u64;
    u32::try_from(share).unwrap_or(u32::MAX).clamp(1, CONNECTIONS_MAX)
}

/// Descriptors that callers may take.
fn callers_descriptors(config: &Config, open_files: u64) -> u64 {
    // Counted twice: for a socket that is being closed, and the one that replaces it.
    let frames = 2 * u64::from(frames_connections(config, open_files));
    descriptors(open_files) + frames * config.server.cores.len() as u64
}

/// Connections of callers at `push.frames` that a core takes.
fn frames_connections(config: &Config, open_files: u64) -> u16 {
    if config.push.frames.is_empty() {
        return 0;
    }
    let most = connections_max(open_files, FRAMES_CONNECTIONS);
    let share = most.div_ceil(config.server.cores.len());
    u16::try_from(share).expect("no more than there are at most")
}

/// The warnings of a start or a reload about the limits of the machine. `open_files` is the result of
/// [`comet_net::probe`].
pub(crate) fn warnings(config: &Config, open_files: u64) -> Vec<String> {
    let warnings = [
        too_few_open_files(config, open_files),
        few_connections(config, open_files),
        slow_start(config),
    ];
    warnings.into_iter().flatten().collect()
}

/// The warning that rings have fewer entries than configured.
pub(crate) fn smaller_rings(entries: u32, config: &Config) -> String {
    format!(
        "limits.ring_entries is {entries} and not {}: {} cores would lock more memory than this user may \
         (ulimit -l, or LimitMEMLOCK= in a systemd unit)",
        config.limits.ring_entries,
        config.server.cores.len()
    )
}

/// A warning if a core holds few connections only because of the limit on open files.
fn few_connections(config: &Config, open_files: u64) -> Option<String> {
    let share = share(config, open_files);
    let is_meant = (1..=share).contains(&config.limits.connections);
    (share < FEW_CONNECTIONS && !is_meant).then(|| {
        format!(
            "a core holds {share} connections at most, as the limit on open files leaves room for no more: \
             raise it with ulimit -n, or LimitNOFILE= in a systemd unit"
        )
    })
}

/// A warning if making the receive buffers takes long.
fn slow_start(config: &Config) -> Option<String> {
    let limits = &config.limits;
    let each = u64::from(limits.recv_buffers) * u64::from(limits.recv_buffer_size);
    let bytes = config.server.cores.len() as u64 * each;
    (bytes >= SLOW_BUFFERS).then(|| {
        format!(
            "limits.recv_buffers of limits.recv_buffer_size are {} MiB on all cores: they are filled at the start, \
             which may take a second for each GiB",
            bytes >> 20
        )
    })
}

/// A warning if more connections are configured than the limit on open files allows.
fn too_few_open_files(config: &Config, open_files: u64) -> Option<String> {
    let (connections, share) = (config.limits.connections, share(config, open_files));
    (connections > share).then(|| {
        let cores = config.server.cores.len();
        let open_files = open_files.saturating_sub(callers_descriptors(config, open_files));
        format!(
            "limits.connections is {share} and not {connections}: {cores} cores would hold {}, and the \
             limit on open files leaves room for {open_files} (raise it with ulimit -n, or LimitNOFILE= \
             in a systemd unit)",
            cores as u64 * u64::from(connections)
        )
    })
}

/// Bytes that the process may have in RAM (`limits.memory`). This is not the sum of all bounds: few servers have
/// clients that use up all of them at once.
pub(crate) fn memory_ceiling(config: &Config) -> u64 {
    match config.limits.memory {
        0 => comet_ops::available_bytes().map_or(u64::MAX, |bytes| bytes / 10 * 9),
        bytes => bytes,
    }
}

/// The drain of the server.
pub(crate) fn drain_plan(config: &Config) -> DrainPlan {
    let server = &config.server;
    DrainPlan {
        delay: server.drain_delay,
        limit: server.drain_timeout,
        over: server.drain_over,
        retry_after: server.retry_after,
    }
}

/// The limits of the shard. The configuration keeps durations small enough.
pub(crate) fn limits(config: &Config, open_files: u64) -> Limits {
    let protocol = &config.protocol;
    // A connection more would take a descriptor that control, logs and accepting need.
    let connections = match (config.limits.connections, share(config, open_files)) {
        (0, share) => share,
        (connections, share) => connections.min(share),
    };
    Limits {
        connections,
        is_out_of_memory: false,
        refuses_pushes: false,
        takes_clients: true,
        blocklist: Blocklist::default(),
        traces: LiveTraces::default(),
        body_max: protocol.body_max,
        head_max: config.websocket.head_max,
        path: config.websocket.path.as_str().into(),
        text: config.websocket.text,
        text_push_max: TEXT_PUSH_MAX,
        deflate: config.websocket.deflate.then_some(Deflate {
            level: config.websocket.deflate_level,
            message_min: config.websocket.deflate_min,
        }),
        svr_proto: protocol.svr_proto,
        outbox_bytes: protocol.outbox_bytes,
        outbox_memory: config.limits.outbox_memory,
        cli_proto: protocol.cli_proto,
        slow_consumer: match protocol.slow_consumer {
            SlowConsumer::DropNewest => comet_core::SlowConsumer::DropNewest,
            SlowConsumer::DropOldest => comet_core::SlowConsumer::DropOldest,
            SlowConsumer::Close => comet_core::SlowConsumer::Close,
        },
        filter_rooms: protocol.filter_rooms,
        goodbye: protocol.goodbye,
        mesh_backlog: config.limits.mesh_backlog,
        handshake_ms: millis(protocol.handshake_timeout),
        write_ms: millis(protocol.write_timeout),
        heartbeat_ms: millis(protocol.heartbeat),
        coalesce_ms: millis(protocol.heartbeat_coalesce),
        coalesce_after_ms: COALESCE_AFTER_MS,
        coalesce_rules: config.coalesce.rules.iter().map(coalesce_rule).collect(),
        history_rules: config.history.rules.iter().map(history_rule).collect(),
        history_is_shared: config.nats.history == HistoryStore::Jetstream,
        presence_rules: config.presence.rules.iter().map(presence_rule).collect(),
        history_memory: config.limits.history_memory,
        recovery_memory: RECOVERY_MEMORY,
        resume: ResumeLimits {
            window_ms: millis(config.resume.window),
            messages: config.resume.messages,
            bytes: config.resume.bytes,
            memory: config.resume.memory,
            for_all: config.resume.all,
        },
        linger_ms: millis(protocol.linger),
        accept_rate: core_share(config, config.clients.accepts),
        handshakes: core_share(config, config.clients.handshakes),
        sources: SourceLimits {
            // goim's logic is told the number of addresses.
            is_census: !config.discovery.nodes.is_empty(),
            per_address: config.clients.per_address,
            per_subnet: config.clients.per_subnet,
            v4_prefix: config.clients.subnet_v4,
            v6_prefix: config.clients.subnet_v6,
            exempt: config.clients.exempt.iter().map(network).collect(),
        },
        rates: ClientRates {
            frames: config.clients.frames,
            bytes: config.clients.bytes,
            room_changes: config.clients.room_changes,
        },
        callers: CallerLimits {
            connections: frames_connections(config, open_files),
            frame_max: config.push.frame_max,
            timeout_ms: millis(config.push.timeout),
            tokens: Tokens::new(config.push.tokens.iter().map(String::as_str)),
        },
        origins: config.websocket.origins.as_slice().into(),
        trace_users: config.white_list.users.as_slice().into(),
        rooms: config.clients.rooms,
        user_sessions: config.clients.user_sessions,
        user_memory_ms: millis(config.bucket.user_memory),
        key_memory_ms: Limits::default().key_memory_ms,
        crowd_above: Limits::default().crowd_above,
        crowd_slice: Limits::default().crowd_slice,
        crowd_bytes: Limits::default().crowd_bytes,
        buckets: (config.bucket.count / config.server.cores.len()).next_power_of_two(),
    }
}

fn coalesce_rule(rule: &comet_config::CoalesceRule) -> CoalesceRule {
    CoalesceRule {
        rooms: rule.rooms.as_deref().map(Into::into),
        operations: rule.operations.as_slice().into(),
        window_ms: millis(rule.window),
        keep_latest: rule.keep_latest,
    }
}

fn history_rule(rule: &comet_config::HistoryRule) -> HistoryRule {
    HistoryRule {
        prefix: rule.rooms.as_str().into(),
        pushes: rule.pushes,
        bytes: rule.bytes,
        age_ms: millis(rule.age),
    }
}

fn presence_rule(rule: &comet_config::PresenceRule) -> PresenceRule {
    PresenceRule {
        prefix: rule.rooms.as_str().into(),
        operation: rule.operation,
        window_ms: millis(rule.window),
        names: rule.names,
    }
}

/// A core's part of a limit for all cores, rounded up.
fn core_share(config: &Config, limit: u32) -> u32 {
    limit.div_ceil(config.server.cores.len() as u32)
}

/// The configuration keeps durations within this range.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Most connections of callers at `push.frames` at once, if the open files allow them.
const FRAMES_CONNECTIONS: usize = 256;
/// Fewer connections per core than this are more likely a forgotten limit than intended.
const FEW_CONNECTIONS: u32 = 1_000;
/// Receive buffers of this size take a considerable part of a second to fill.
const SLOW_BUFFERS: u64 = 512 << 20;
/// Connections of a core if only the open files limit them.
const CONNECTIONS_MAX: u32 = 1 << 24;

fn network(configured: &comet_config::Network) -> Network {
    let prefix = configured.prefix();
    Network::around(prefix.addr(), prefix.prefix_len()).expect("a prefix of its family")
}

#[cfg(test)]
mod tests {
    use comet_config::{Machine, Source, load};

    use super::*;

    #[test]
    fn no_core_holds_more_than_its_share_of_the_open_files() {
        let check = |configured: u32, held: u32, sentence: Option<&str>| {
            let sets = [format!("limits.connections={configured}")];
            let machine = Machine { cpus: vec![0, 1], host_name: "host".to_owned() };
            let config = load(&Source { sets: &sets, ..Source::default() }, &machine).unwrap();
            // 848 of the open files are for callers.
            assert_eq!(limits(&config, 66_128).connections, held);
            assert_eq!(too_few_open_files(&config, 66_128).as_deref(), sentence);
        };
        check(0, 32_640, None);
        check(1, 1, None);
        check(32_640, 32_640, None);
        check(
            1_000_000,
            32_640,
            Some(
                "limits.connections is 32640 and not 1000000: 2 cores would hold 2000000, and the \
                 limit on open files leaves room for 65280 (raise it with ulimit -n, or LimitNOFILE= \
                 in a systemd unit)",
            ),
        );
    }

    #[test]
    fn bounds_of_the_machine_are_warned_of() {
        let check = |sets: &[&str], open_files: u64, sentences: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
            let machine = Machine { cpus: vec![0, 1], host_name: "host".to_owned() };
            let config = load(&Source { sets: &sets, ..Source::default() }, &machine).unwrap();
            let warnings = warnings(&config, open_files);
            assert_eq!(warnings.len(), sentences.len(), "{warnings:?}");
            for (warning, sentence) in warnings.iter().zip(sentences) {
                assert!(warning.starts_with(sentence), "{warning}");
            }
        };
        check(&[], 66_128, &[]);
        check(&[], 64, &["a core holds 16 connections at most"]);
        check(&["limits.connections=16"], 64, &[]);
        check(
            &["limits.connections=17"],
            64,
            &["limits.connections is 16 and not 17", "a core holds 16 connections at most"],
        );
        let buffers = ["limits.recv_buffers=32768", "limits.recv_buffer_size=\"64KiB\""];
        check(&buffers, 66_128, &["limits.recv_buffers of limits.recv_buffer_size are 4096 MiB"]);
    }
}
