//! Memory of the running program, as the kernel counts it.

use std::fs;

use comet_client::Transport;

use crate::peer::frame;
use crate::process::Server;
use crate::support::until;

/// Clients that each leave a frame unfinished, and bytes of it.
const CLIENTS: u64 = 100;
const BYTES: usize = 1 << 20;

/// Bytes in RAM. Asks the kernel and not the server, which is to be quiet.
fn resident(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
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
