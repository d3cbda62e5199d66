//! The worst case of memory that the configured bounds add up to, before anything is bound.

use std::fmt::Write;

use comet_config::Config;
use comet_control::Bounds;
use comet_core::limits::{HELD_MAX, JOINED_BYTES_MAX};

use comet_serve::{
    CONNECTION_WINDOW, DEBUG_CONNECTIONS, GRPC_CONNECTIONS, HEAD_MAX, HTTP_CONNECTIONS,
    STAT_CONNECTIONS, connections_max, request_bytes,
};

use crate::options::limits;

/// User memory of an idle connection, all tables included. The bench measures less.
const CONNECTION: u64 = 512;
/// Memory of an idle TLS session beside it, measured by a test of comet-net.
const TLS_SESSION: u64 = 4 << 10;
/// What a TLS session keeps of a record that is not complete, and of one the kernel has not taken.
const TLS_RECORDS: u64 = (32 << 10) + (16 << 10);
/// The entry of a message in an outbox, without the bytes of the message.
const OUTBOX_ENTRY: u64 = 128;

/// A table of the worst case, in lines for a terminal. `open_files` is what [`comet_net::probe`]
/// returns.
#[must_use]
pub fn worst_case(config: &Config, open_files: u64) -> String {
    let limits = limits(config, open_files);
    let cores = config.server.cores.len() as u64;
    let connections = cores * u64::from(limits.connections);
    let buffers = u64::from(config.limits.recv_buffers) * u64::from(config.limits.recv_buffer_size);
    // A frame that is not complete, and a message in fragments beside it.
    let unread = 2 * limits.body_max as u64;
    // Any connection may be in TLS if there is a listener for it.
    let has_tls = !(config.tcp.tls_bind.is_empty() && config.websocket.tls_bind.is_empty());
    let in_tls = if has_tls { connections } else { 0 };
    let callers = |most| connections_max(open_files, most) as u64;
    let calls = callers(GRPC_CONNECTIONS);
    let heads = callers(HTTP_CONNECTIONS) + callers(STAT_CONNECTIONS) + callers(DEBUG_CONNECTIONS);
    let rows = [
        ("connections, idle and authenticated", connections * CONNECTION),
        ("if all of them are in TLS, sessions", in_tls * TLS_SESSION),
        ("receive buffers", cores * buffers),
        ("joined frames on their way", cores * JOINED_BYTES_MAX as u64),
        ("if every client leaves a frame unfinished", connections * unread),
        ("if every client sends on while logic is asked", connections * HELD_MAX as u64),
        ("if all are in TLS and stop amid a record", in_tls * TLS_RECORDS),
        (
            "if every outbox is full, entries",
            connections * u64::from(limits.svr_proto) * OUTBOX_ENTRY,
        ),
        ("requests of push callers", request_bytes(request_max(config)) as u64),
        ("if every caller leaves calls unread", calls * u64::from(CONNECTION_WINDOW)),
        ("if every HTTP caller leaves a head unfinished", heads * HEAD_MAX as u64),
        (
            "if every outbox is full and no message shared",
            connections * u64::from(limits.outbox_bytes),
        ),
    ];
    let mut text = format!("# worst case for {connections} connections on {cores} cores\n");
    for (what, bytes) in rows.into_iter().filter(|(_, bytes)| *bytes > 0) {
        let _ = writeln!(text, "# {what:46} {:>12.1} MiB", bytes as f64 / f64::from(1 << 20));
    }
    text
}

/// Longest request of a push caller, bytes.
fn request_max(config: &Config) -> usize {
    let push = &config.push;
    let bounds =
        Bounds { frame_max: push.frame_max, keys_max: push.keys_max, timeout: push.timeout };
    bounds.request_max()
}
