//! Callers and clients that take all the descriptors they can get, on a server with few.

use std::io::Read;
use std::net::TcpStream;

use comet_client::Transport;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::process::{Server, line_with};
use crate::support::{Metrics, PATIENCE, get, until};

/// With what listeners, rings and logs take, some 200 are left for clients and callers.
const FILES: u32 = 512;

#[test]
fn silent_callers_lock_out_neither_clients_nor_operators() {
    let server = Server::start_with_files(FILES, &[]);
    let silent: Vec<_> = (0..300).map(|_| TcpStream::connect(server.stat).unwrap()).collect();
    let _client = server.live(Transport::Tcp, "1");
    assert_eq!(get(server.stat, "/healthz"), (200, "ok\n".to_owned()));
    let metrics = Metrics::read(server.stat);
    let sample = |name: &str| metrics.value(&format!("{name}{{listener=\"monitor.stat\"}}"));
    assert_eq!(sample("comet_api_accept_errors_total"), 0);
    assert!(sample("comet_api_connections") <= sample("comet_api_connections_max"));
    assert!(sample("comet_api_connections_max") < 64);
    drop(silent);
    server.signal(Signal::TERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    assert!(!log.iter().any(|line| line.contains("accept")), "{log:?}");
}

#[test]
fn clients_leave_callers_their_descriptors() {
    let server = Server::start_with_files(FILES, &["protocol.handshake_timeout=\"1m\""]);
    let mut clients: Vec<_> = (0..FILES).map(|_| TcpStream::connect(server.tcp).unwrap()).collect();
    until("clients to be turned away", || {
        Metrics::read(server.stat).value("comet_refused_total") > 0
    });
    assert_eq!(get(server.stat, "/healthz"), (200, "ok\n".to_owned()));
    let turned_away = clients.last_mut().unwrap();
    turned_away.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(turned_away.read(&mut [0]), Ok(0) | Err(_)));
}

/// Sets the limit on open files of a running server.
fn limit_files(server: &Server, files: u64) {
    let pid = Pid::from_raw(server.pid().parse().unwrap());
    let limit = Rlimit { current: Some(files), maximum: Some(FILES.into()) };
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

/// Only a server that bounds its rate of accepts has none under way that still goes by the former limit.
#[test]
fn accepts_that_fail_are_logged_counted_and_tried_again() {
    let server = Server::start_with_files(FILES, &["clients.accepts=1000"]);
    limit_files(&server, 3);
    let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(server.tcp).unwrap()).collect();
    line_with(&server.log, "accept failed: Too many open files");
    limit_files(&server, FILES.into());
    assert!(Metrics::read(server.stat).value("comet_accept_errors_total") > 0);
    drop(clients);
    let _client = server.live(Transport::Tcp, "1");
}

/// Five bytes of a call announce a message of a megabyte.
#[test]
fn announced_messages_take_no_memory() {
    let server = Server::start_with_files(4_096, &[]);
    let before = Metrics::read(server.stat).value("comet_heap_allocated_bytes");
    let mut callers = Vec::new();
    for _ in 0..4 {
        callers.push(crate::h2::calls_that_announce(server.grpc, 500, 1 << 20));
    }
    let begun = 4 * 500;
    until("the calls to have begun", || {
        // 16 KiB each is what a call counts with at least.
        Metrics::read(server.stat).value("comet_api_request_bytes") >= begun * (16 << 10)
    });
    let after = Metrics::read(server.stat).value("comet_heap_allocated_bytes");
    assert!(after.saturating_sub(before) < begun * (64 << 10), "{before} {after}");
}

#[test]
fn a_limit_that_leaves_a_core_few_connections_is_warned_of() {
    let server = Server::start_with_files(FILES, &[]);
    server.signal(Signal::HUP);
    let line = line_with(&server.log, " connections at most, as the limit on open files ");
    assert!(line.contains(" WARN ") && line.contains("ulimit -n"), "{line}");
}
