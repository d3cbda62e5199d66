//! Memory of the running program, as the kernel counts it.

use std::fs;
use std::io::Write;

use comet::blocking_client::PushClient;
use comet_client::{Transport, op};
use rustix::process::Signal;

use crate::peer::{Peer, frame, message};
use crate::process::{Server, line_with, temporary};
use crate::support::{Metrics, To, push, queued, try_push, until};

/// Clients that each leave a frame unfinished, and bytes of it.
const CLIENTS: u64 = 100;
const BYTES: usize = 1 << 20;

/// Bytes in RAM. Asks the kernel and not the server, which is to be quiet.
pub(crate) fn resident(server: &Server) -> u64 {
    bytes(server, "VmRSS:")
}

/// A field of the kernel's account of the process.
pub(crate) fn bytes(server: &Server, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_quiet_server_gives_the_memory_of_a_peak_back() {
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
    until("the peak", || resident(&server) > before + half);
    drop(peers);
    until("the end of the peak", || resident(&server) < before + half / 5);
}

#[test]
fn beyond_its_memory_a_server_keeps_its_clients_and_takes_no_others() {
    let file = temporary("memory.toml", "");
    let server = Server::start_with(&["--config", &file], &[]);
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    let mut client = server.live(Transport::Tcp, "1");
    // What is in RAM changes meanwhile by a few percent.
    let set = |memory: fn(u64) -> u64, refuses: u64| {
        let mut set = None;
        until("the next look", || {
            let memory = memory(resident(&server));
            if set.is_none_or(|set: u64| set.abs_diff(memory) > memory / 100) {
                fs::write(&file, format!("[limits]\nmemory = {memory}\n")).unwrap();
                server.signal(Signal::HUP);
                set = Some(memory);
            }
            Metrics::read(server.stat).value("comet_memory_refuses") == refuses
        });
        // The look may have been in the middle of that page: now every core has answered after it.
        Metrics::read(server.stat);
    };

    // Less than there is, and more with an eighth.
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

/// A client that is let in; `None`: it is turned away without a word.
fn try_live(server: &Server, token: &str) -> Option<Peer> {
    let mut peer = Peer::connect(server.tcp, Transport::Tcp);
    let sent = peer.stream.write_all(&frame(op::AUTH, 1, token.as_bytes()));
    let is_answered = sent.is_ok() && peer.stream.peek(&mut [0]).is_ok_and(|length| length > 0);
    is_answered.then(|| {
        assert_eq!(peer.recv(), message(op::AUTH_REPLY, 1, b""));
        peer
    })
}

/// The load ends where the memory does, so that it does not matter how soon the server looks.
#[test]
fn clients_that_fill_the_memory_keep_others_out_until_they_leave() {
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
        // What others have sent may come to the server only now, and fill the memory before the next look here.
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
    until("new clients to be let in", || refuses() == 0);
    Metrics::read(server.stat);
    server.live(Transport::Tcp, "3");
}
