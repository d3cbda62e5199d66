//! Memory of the running program, as the kernel counts it.

use std::fs;
use std::io::Write;

use comet::blocking_client::PushClient;
use comet_client::{Transport, op};
use rustix::process::Signal;

use crate::peer::{Peer, frame, message};
use crate::process::{Server, line_with, temporary};
use crate::support::{Metrics, To, push, queued, try_push, until};

/// The number of clients that each send an unfinished frame, and the bytes of it that each sends.
const CLIENTS: u64 = 100;
const BYTES: usize = 1 << 20;

/// Resident memory in bytes, read from the kernel: a request to the server would end its idleness.
pub(crate) fn resident(server: &Server) -> u64 {
    bytes(server, "VmRSS:")
}

/// A field of `/proc/PID/status`, in bytes.
pub(crate) fn bytes(server: &Server, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn an_idle_server_releases_the_memory_of_a_peak() {
    let server = Server::start(&["protocol.body_max=\"1MiB\""]);
    let before = resident(&server);
    let half = CLIENTS * BYTES as u64 / 2;
    let unfinished = frame(4, 1, &vec![0; BYTES]);
    let mut peers = Vec::new();
    for _ in 0..CLIENTS {
        let mut peer = server.live(Transport::Tcp, "1");
        peer.write(&unfinished[..BYTES]);
        peers.push(peer);
    }
    until("the memory to grow", || resident(&server) > before + half);
    drop(peers);
    until("the memory to be released", || resident(&server) < before + half / 5);
}

#[test]
fn a_server_over_its_memory_limit_refuses_new_clients_and_pushes() {
    let file = temporary("memory.toml", "");
    let server = Server::start_with(&["--config", &file], &[]);
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    let mut client = server.live(Transport::Tcp, "1");
    // The resident memory changes by a few percent meanwhile, so the limit follows it.
    let set = |memory: fn(u64) -> u64, refuses: u64| {
        let mut set = None;
        until("the server to measure its memory", || {
            let memory = memory(resident(&server));
            if set.is_none_or(|set: u64| set.abs_diff(memory) > memory / 100) {
                fs::write(&file, format!("[limits]\nmemory = {memory}\n")).unwrap();
                server.signal(Signal::HUP);
                set = Some(memory);
            }
            Metrics::read(server.stat).value("comet_memory_refuses") == refuses
        });
        // That page may have been made while the cores were being informed. After one more page every core knows.
        Metrics::read(server.stat);
    };

    // A limit just below the memory in use refuses clients; one that the memory exceeds by more than an eighth, pushes as well.
    set(|resident| resident / 20 * 19, 1);
    line_with(&server.log, "beyond limits.memory: new clients are refused");
    Peer::connect(server.tcp, Transport::Tcp).expect_end();
    assert_eq!(Metrics::read(server.stat).value("comet_refused_for_memory_total"), 1);
    client.ask(op::HEARTBEAT, 1, b"");
    assert_eq!(push(&caller, To::User(1), 5, b"taken"), queued(1));

    set(|resident| resident / 2, 2);
    line_with(&server.log, "beyond limits.memory: new clients and pushes are refused");
    let refusal = try_push(&caller, To::User(1), 5, b"refused").unwrap_err().to_string();
    assert!(refusal.contains("limits.memory"), "{refusal}");

    set(|_| 0, 0);
    line_with(&server.log, "nothing is refused for it");
    server.live(Transport::Tcp, "2");
    assert_eq!(push(&caller, To::User(1), 5, b"taken"), queued(1));
}

/// An authenticated client. `None`: the server closed the connection without a reply.
fn try_live(server: &Server, token: &str) -> Option<Peer> {
    let mut peer = Peer::connect(server.tcp, Transport::Tcp);
    let sent = peer.stream.write_all(&frame(op::AUTH, 1, token.as_bytes()));
    let is_answered = sent.is_ok() && peer.stream.peek(&mut [0]).is_ok_and(|length| length > 0);
    is_answered.then(|| {
        assert_eq!(peer.recv(), message(op::AUTH_REPLY, 1, b""));
        peer
    })
}

/// The load grows until the memory is full, so it does not matter how soon the server measures it.
#[test]
fn full_memory_refuses_new_clients_until_others_leave() {
    const CLIENT: usize = 1 << 20;
    let file = temporary("full_memory.toml", "");
    let server = Server::start_with(&["--config", &file], &["protocol.body_max=\"1MiB\""]);
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    let mut client = server.live(Transport::Tcp, "1");
    let ceiling = resident(&server) + (48 << 20);
    fs::write(&file, format!("[limits]\nmemory = {ceiling}\n")).unwrap();
    server.signal(Signal::HUP);
    let ceiling_of = || Metrics::read(server.stat).value("comet_memory_ceiling_bytes") == ceiling;
    until("the reload", ceiling_of);

    let unfinished = frame(4, 1, &vec![0; CLIENT]);
    let mut peers = Vec::new();
    while resident(&server) <= ceiling {
        // The server may read earlier frames only now, and so fill the memory before the next measurement of this loop.
        let Some(mut peer) = try_live(&server, "2") else { break };
        peer.write(&unfinished[..CLIENT]);
        peers.push(peer);
    }
    let refuses = || Metrics::read(server.stat).value("comet_memory_refuses");
    until("new clients to be refused", || refuses() == 1);
    Metrics::read(server.stat);
    for _ in 0..200 {
        Peer::connect(server.tcp, Transport::Tcp).expect_end();
    }
    let most = ceiling + 8 * CLIENT as u64;
    assert!(resident(&server) < most, "{} of {ceiling}", resident(&server));
    client.ask(op::HEARTBEAT, 1, b"");
    assert_eq!(push(&caller, To::User(1), 5, b"taken"), queued(1));

    drop(peers);
    until("new clients to be accepted", || refuses() == 0);
    Metrics::read(server.stat);
    server.live(Transport::Tcp, "3");
}
