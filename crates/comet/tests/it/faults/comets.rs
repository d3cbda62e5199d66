//! One comet of several that is killed, or behind a wire that is spoilt: pushes to the others go on.

use std::net::{SocketAddr, TcpStream};
use std::thread;

use comet_client::Transport;

use super::Logic;
use super::wire::{Passage, Wire};
use crate::logic_process::own_address;
use crate::logic_rig::post;
use crate::peer::Peer;
use crate::process::{Running, Server, comet, line_with, with_sets};
use crate::support::{Metrics, two_cores, until};

/// A comet called other, which takes pushes and clients there. It needs no permit beside that of another server.
fn other(grpc: SocketAddr, tcp: SocketAddr) -> Running {
    let cores = two_cores();
    let core = cores.split([',', '-']).next().unwrap();
    let own = [("push.grpc", grpc), ("tcp.bind", tcp)]
        .map(|(key, address)| format!("{key}=[\"{address}\"]"));
    let sets = with_sets(&["server.id=\"other\"", &own[0], &own[1]]);
    let (process, log) = Running::start(comet(&[&["--cores", core][..], &sets].concat()));
    line_with(&log, "stat [");
    thread::spawn(move || log.into_iter().for_each(drop));
    until("its clients' port", || TcpStream::connect(tcp).is_ok());
    process
}

/// Waits until `logic` knows whether the other one takes pushes.
fn until_other_is(logic: &Logic, up: u64) {
    until("the other's health to be known", || {
        let sample = "comet_logic_comet_up{server=\"other\"}";
        Metrics::read(logic.stat).value(sample) == up
    });
}

/// Pushes to all, until both get it: the one `here` each time.
fn until_both_are_reached(logic: &Logic, here: &mut Peer, there: &mut Peer) {
    until("both to be reached", || {
        let data = post(logic.http, "all?operation=1000", b"both");
        assert_eq!(here.recv().body, b"both", "{data}");
        data["queued"] == 2
    });
    // What has been on its way for long may come before.
    while there.recv().body != b"both" {}
}

/// Pushes to all reach the one `here`, and the other comet is named.
fn reach_one_alone(logic: &Logic, here: &mut Peer, why: &str) {
    for number in 0..20_u8 {
        let data = post(logic.http, "all?operation=1000", &[number]);
        assert_eq!(data["queued"], 1, "{why}: {data}");
        assert_eq!(data["failed"][0]["server"], "other", "{why}: {data}");
        assert_eq!(here.recv().body, [number], "{why}");
    }
}

#[test]
fn a_comet_behind_a_bad_wire_holds_up_no_push_to_the_others() {
    let good = Server::start(&["server.id=\"good\""]);
    let (grpc, tcp) = (own_address(), own_address());
    let _other = other(grpc, tcp);
    let wire = Wire::to(grpc);
    let logic = Logic::start(&[format!(
        "logic_server.comets=[\"good={}\",\"other={}\"]",
        good.grpc, wire.address
    )]);
    let mut here = good.live(Transport::Tcp, "41");
    let mut there = Peer::connect(tcp, Transport::Tcp);
    there.authenticate("41");
    until_other_is(&logic, 1);
    for passage in [Passage::Cut, Passage::Slow, Passage::Garbage] {
        wire.set(passage);
        until_other_is(&logic, 0);
        reach_one_alone(&logic, &mut here, &format!("{passage:?}"));
        wire.set(Passage::Open);
        until_other_is(&logic, 1);
        until_both_are_reached(&logic, &mut here, &mut there);
    }
}

/// Pushes fail for the killed one alone, from the first on, and reach its clients once it is there again.
#[test]
fn a_killed_comet_holds_up_no_push_to_the_others() {
    let good = Server::start(&["server.id=\"good\""]);
    let (grpc, tcp) = (own_address(), own_address());
    let killed = other(grpc, tcp);
    let logic =
        Logic::start(&[format!("logic_server.comets=[\"good={}\",\"other={grpc}\"]", good.grpc)]);
    let mut here = good.live(Transport::Tcp, "41");
    let connect = || {
        let mut there = Peer::connect(tcp, Transport::Tcp);
        there.authenticate("41");
        there
    };
    let mut there = connect();
    until_other_is(&logic, 1);
    until_both_are_reached(&logic, &mut here, &mut there);
    drop(killed);
    reach_one_alone(&logic, &mut here, "killed");
    until_other_is(&logic, 0);
    reach_one_alone(&logic, &mut here, "known to be gone");
    let _other = other(grpc, tcp);
    until_other_is(&logic, 1);
    until_both_are_reached(&logic, &mut here, &mut connect());
}
