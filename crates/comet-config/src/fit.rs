//! Values that are valid on their own, but have to fit each other and the machine.

mod discovery;
mod nats;

use std::time::Duration;

use comet_listen::Address;

use crate::choices::{SessionStore, TokenKind};
use crate::cpus::Machine;
use crate::keys::Config;
use crate::mistakes::Report;
use crate::reader::Bound;
use crate::source::Process;
use crate::units::{duration_text, size_text};

/// Most bytes by which a frame exceeds its body: 16 bytes of its own header and up to 10 of WebSocket's (RFC 6455,
/// section 5.2; a server's frames have no mask).
const FRAME_HEADERS: u64 = 26;
/// Least time between the last close notice of a drain and its end. Cores do not begin at the same moment, and clients
/// need some time to leave.
const AFTER_LAST_NOTICE: Duration = Duration::from_secs(1);

/// Fills in the values that depend on the machine or on another key.
pub(crate) fn complete(config: &mut Config, machine: &Machine) {
    let server = &mut config.server;
    if server.cores.is_empty() {
        server.cores.clone_from(&machine.cpus);
        let is_free = |cpu: &usize| !server.control_cores.contains(cpu);
        // With two CPUs neither is reserved for control.
        if server.cores.len() > 2 && server.cores.iter().any(is_free) {
            server.cores.retain(is_free);
        }
    }
    if server.id.is_empty() {
        server.id.clone_from(&machine.host_name);
    }
    if server.domain.is_empty() {
        server.domain.clone_from(&server.id);
    }
}

/// Checks for two listeners on one address. They would take each other's clients, because `SO_REUSEPORT` allows both.
/// `bound` has the listeners of both processes.
pub(crate) fn bound_twice(report: &mut Report<'_>, mut bound: Vec<Bound>, process: Process) {
    if process == Process::Logic {
        // The names that comets listen on cannot be resolved here. The comets check them themselves.
        bound.retain(|bound| process.owns(bound.key));
    }
    for (later, this) in bound.iter().enumerate() {
        // `comet logic` is another process. It may use an address at which comet's own services are not running.
        let is_same = |earlier: &&Bound| {
            earlier.address.is_same_place(&this.address)
                && process.owns(earlier.key) == process.owns(this.key)
        };
        let Some(earlier) = bound[..later].iter().find(is_same) else {
            continue;
        };
        // The error is reported for the key that was set, not for a default.
        let (mine, other) =
            if report.is_default(this.key) { (earlier, this) } else { (this, earlier) };
        let what = format!("{} is bound by {}[{}] too", mine.address, other.key, other.index);
        report.element(mine.key, mine.index, &mine.at, &what);
    }
}

/// Checks keys whose values have to fit each other. Keys with an error of their own are left out.
pub(crate) fn fits_together(report: &mut Report<'_>, config: &Config, process: Process) {
    locks(report, config, process);
    api_certificate(report, config, process);
    frames_without_tls(report, config);
    outbox_takes_a_push(report, config);
    outbox_takes_a_session(report, config);
    listeners(report, config);
    durations(report, config);
    switches(report, config);
    nodes(report, config);
    discovery::fits(report, config, process);
    nats::fits(report, config);
}

/// An address that other hosts can reach may be open to all of them only if the configuration says so explicitly.
fn locks(report: &mut Report<'_>, config: &Config, process: Process) {
    let Config { push, monitor, logic_server, api_tls, .. } = config;
    let what = ["push to all clients", "read what the server holds", "change the running server"];
    let sections = [
        (
            "push",
            &push.tokens,
            push.insecure,
            vec![
                ("push.grpc", &push.grpc, what[0]),
                ("push.http", &push.http, what[0]),
                ("push.frames", &push.frames, what[0]),
            ],
        ),
        (
            "monitor",
            &monitor.tokens,
            monitor.insecure,
            vec![
                ("monitor.stat", &monitor.stat, what[1]),
                ("monitor.pprof", &monitor.pprof, what[2]),
            ],
        ),
        (
            "logic_server",
            &logic_server.tokens,
            logic_server.insecure,
            vec![
                ("logic_server.grpc", &logic_server.grpc, "begin and end sessions"),
                ("logic_server.http", &logic_server.http, what[0]),
                ("logic_server.stat", &logic_server.stat, what[1]),
            ],
        ),
    ];
    for (section, tokens, is_insecure, listeners) in sections {
        let is_locked = is_insecure || !tokens.is_empty();
        for (key, addresses, what) in listeners {
            let asks = |address: &Address| {
                matches!(address, Address::Tls(_)) && api_tls.client_ca.is_some()
            };
            let beyond = addresses.iter().find(|address| address.is_exposed() && !asks(address));
            if let Some(address) = beyond
                && !is_locked
                && process.owns(key)
                && report.is_sound(&[key, &format!("{section}.tokens"), "api_tls.client_ca"])
            {
                let what = format!(
                    "{address} is not loopback, and whoever reaches it may {what}: set {section}.tokens, \
                     ask for certificates (tls:HOST:PORT and api_tls.client_ca), or set {section}.insecure \
                     to true if that is meant"
                );
                report.value(key, &what);
            }
        }
    }
}

/// Addresses with TLS need a certificate.
fn api_certificate(report: &mut Report<'_>, config: &Config, process: Process) {
    let Config { push, monitor, logic_server, api_tls, .. } = config;
    let (certificate, private) = ("api_tls.certificate", "api_tls.key");
    if !report.is_sound(&[certificate, private]) {
        return;
    }
    match (&api_tls.certificate, &api_tls.key) {
        (Some(_), None) => report.value(certificate, &format!("needs {private}")),
        (None, Some(_)) => report.value(private, &format!("needs {certificate}")),
        (Some(_), Some(_)) => return,
        (None, None) => {}
    }
    for (key, addresses) in [
        ("push.grpc", &push.grpc),
        ("push.http", &push.http),
        ("monitor.stat", &monitor.stat),
        ("monitor.pprof", &monitor.pprof),
        ("logic_server.grpc", &logic_server.grpc),
        ("logic_server.http", &logic_server.http),
        ("logic_server.stat", &logic_server.stat),
    ] {
        let in_tls = addresses.iter().find(|address| matches!(address, Address::Tls(_)));
        if let Some(address) = in_tls
            && process.owns(key)
            && report.is_sound(&[key])
        {
            let what =
                format!("{address} needs {certificate} and {private}: what callers are shown");
            report.value(key, &what);
        }
    }
}

/// The data cores show certificates only to clients.
fn frames_without_tls(report: &mut Report<'_>, config: &Config) {
    let key = "push.frames";
    let in_tls = config.push.frames.iter().find(|address| matches!(address, Address::Tls(_)));
    if let Some(address) = in_tls
        && report.is_sound(&[key])
    {
        report.value(key, &format!("{address} cannot be served: frames are not sent inside TLS"));
    }
}

fn outbox_takes_a_push(report: &mut Report<'_>, config: &Config) {
    let frame = "push.frame_max";
    let needed = config.push.frame_max as u64 + FRAME_HEADERS;
    for (outbox, has) in [
        ("protocol.outbox_bytes", u64::from(config.protocol.outbox_bytes)),
        ("limits.outbox_memory", config.limits.outbox_memory),
    ] {
        if !report.is_sound(&[outbox, frame]) || has >= needed {
            continue;
        }
        let what = format!(
            "no outbox would take the largest push: {frame} is {}, and with {FRAME_HEADERS} bytes of \
             headers that is more than {outbox}, {}",
            size_text(config.push.frame_max as u64),
            size_text(has)
        );
        report.value(if report.is_default(outbox) { frame } else { outbox }, &what);
    }
}

/// Parked pushes are sent at once, so they must fit into an outbox.
fn outbox_takes_a_session(report: &mut Report<'_>, config: &Config) {
    let Config { resume, protocol, .. } = config;
    if resume.window.is_zero() {
        return;
    }
    for (parked, has, outbox, takes) in [
        ("resume.messages", resume.messages, "protocol.svr_proto", protocol.svr_proto.into()),
        ("resume.bytes", resume.bytes, "protocol.outbox_bytes", protocol.outbox_bytes),
    ] {
        if report.is_sound(&[parked, outbox]) && has > takes {
            let what = format!("no outbox would take all of it: it is more than {outbox}, {takes}");
            report.value(if report.is_default(parked) { outbox } else { parked }, &what);
        }
    }
}

fn listeners(report: &mut Report<'_>, config: &Config) {
    let (tcp, websocket) = ("tcp.bind", "websocket.bind");
    let (tcp_tls, websocket_tls) = ("tcp.tls_bind", "websocket.tls_bind");
    let plain = config.tcp.bind.is_empty() && config.websocket.bind.is_empty();
    let in_tls = config.tcp.tls_bind.is_empty() && config.websocket.tls_bind.is_empty();
    if report.is_sound(&[tcp, websocket, tcp_tls, websocket_tls]) && plain && in_tls {
        let what = format!(
            "is empty, and so are {tcp}, {tcp_tls} and {websocket_tls}: no client could connect"
        );
        report.value(websocket, &what);
    }
    let (certificates, keys) = ("tls.certificates", "tls.keys");
    let [chains, private] = [&config.tls.certificates, &config.tls.keys].map(Vec::len);
    if report.is_sound(&[certificates, keys]) && chains != private {
        let what = format!(
            "{chains} files in {certificates}, and {private} in {keys}: each certificate needs its own key, in order"
        );
        report.value(if report.is_default(keys) { certificates } else { keys }, &what);
    }
    for (key, addresses) in
        [(tcp_tls, &config.tcp.tls_bind), (websocket_tls, &config.websocket.tls_bind)]
    {
        if report.is_sound(&[key, certificates]) && !addresses.is_empty() && chains == 0 {
            report.value(key, &format!("needs {certificates} and {keys}: what clients are shown"));
        }
    }
}

fn durations(report: &mut Report<'_>, config: &Config) {
    let Config { server, protocol, logic, logic_server, .. } = config;
    let [less, more] = ["logic.heartbeat_min", "logic.heartbeat_max"];
    let [least, most] = [logic.heartbeat_min, logic.heartbeat_max];
    if report.is_sound(&[less, more]) && least > most {
        let [least, most] = [least, most].map(duration_text);
        if report.is_default(less) {
            report.value(more, &format!("{most} is less than {less}, {least}"));
        } else {
            report.value(less, &format!("{least} is more than {more}, {most}"));
        }
    }
    let mut leaves_room = |key: &str, other: &str, [part, whole, most]: [Duration; 3]| {
        if report.is_sound(&[key, other]) && part > most {
            let [part, whole, most] = [part, whole, most].map(duration_text);
            report.value(key, &format!("{part} is too much for {other}, {whole}: up to {most}"));
        }
    };
    let (over, timeout) = (server.drain_over, server.drain_timeout);
    let most = timeout.saturating_sub(AFTER_LAST_NOTICE);
    leaves_room("server.drain_over", "server.drain_timeout", [over, timeout, most]);
    // The call of a waiting push is answered when the push has left.
    let window = config.coalesce.rules.iter().map(|rule| rule.window).max().unwrap_or_default();
    let timeout = config.push.timeout;
    leaves_room("coalesce.rules", "push.timeout", [window, timeout, timeout / 2]);
    // A heartbeat that came in time may wait unread for this long. It must not count as late because of that.
    let (key, wait) = ("protocol.heartbeat_coalesce", protocol.heartbeat_coalesce);
    let of_comet = ("protocol.heartbeat", protocol.heartbeat);
    let of_logic = ("logic_server.heartbeat", logic_server.heartbeat);
    // Zero stands for comet's value.
    for (other, silence) in [of_comet, of_logic].into_iter().filter(|(_, time)| !time.is_zero()) {
        leaves_room(key, other, [wait, silence, silence / 4]);
    }
}

/// Each node must be one of the comets.
fn nodes(report: &mut Report<'_>, config: &Config) {
    let (key, other) = ("logic_server.nodes", "logic_server.comets");
    let (nodes, comets) = (&config.logic_server.nodes, &config.logic_server.comets);
    let is_known = |id: &str| comets.iter().any(|(comet, _)| comet == id);
    if let Some((id, ..)) = nodes.iter().find(|(id, ..)| !is_known(id))
        && report.is_sound(&[key, other])
    {
        report.value(key, &format!("{id:?} is not in {other}"));
    }
}

/// Checks values that require another key.
fn switches(report: &mut Report<'_>, config: &Config) {
    let Config { token, white_list, logic_server, .. } = config;
    let mut needs = |key: &str, is_on: bool, needed: &str, is_empty: bool, why: &str| {
        if report.is_sound(&[key, needed]) && is_on && is_empty {
            report.value(key, &format!("needs {needed}: {why}"));
        }
    };
    let is_jwt = token.kind == TokenKind::Jwt;
    let (needed, why) = ("token.jwt_keys", "or token.jwks_urls; without a key no token is valid");
    let has_none = token.jwt_keys.is_empty() && token.jwks_urls.is_empty();
    needs("token.kind", is_jwt, needed, has_none, why);
    let (needed, why) = ("token.jwt_algorithms", "without one no token is valid");
    needs("token.kind", is_jwt, needed, token.jwt_algorithms.is_empty(), why);
    let (is_on, needed) = (!white_list.users.is_empty(), "white_list.file");
    let why = "the log their connections are written to";
    needs("white_list.users", is_on, needed, white_list.file.is_none(), why);
    let (is_on, needed) = (logic_server.store == SessionStore::Redis, "logic_server.redis");
    let why = "where the sessions are kept";
    needs("logic_server.store", is_on, needed, logic_server.redis.is_empty(), why);
}
