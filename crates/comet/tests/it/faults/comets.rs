//! One comet of several behind a wire that is spoilt: pushes to the others go on.

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

/// A comet called other, where it takes pushes, and where clients connect. It needs no permit beside that of another
/// server.
fn other() -> (Running, SocketAddr, SocketAddr) {
    let (grpc, tcp, cores) = (own_address(), own_address(), two_cores());
    let core = cores.split([',', '-']).next().unwrap();
    let own = [("push.grpc", grpc), ("tcp.bind", tcp)]
        .map(|(key, address)| format!("{key}=[\"{address}\"]"));
    let sets = with_sets(&["server.id=\"other\"", &own[0], &own[1]]);
    let (process, log) = Running::start(comet(&[&["--cores", core][..], &sets].concat()));
    line_with(&log, "stat [");
    thread::spawn(move || log.into_iter().for_each(drop));
    until("its clients' port", || TcpStream::connect(tcp).is_ok());
    (process, grpc, tcp)
}

#[test]
fn a_comet_behind_a_bad_wire_holds_up_no_push_to_the_others() {
    let good = Server::start(&["server.id=\"good\""]);
    let (_other, grpc, tcp) = other();
    let wire = Wire::to(grpc);
    let logic = Logic::start(&[format!(
        "logic_server.comets=[\"good={}\",\"other={}\"]",
        good.grpc, wire.address
    )]);
    let is_up = |up: u64| {
        until("the other's health to be known", || {
            let sample = "comet_logic_comet_up{server=\"other\"}";
            Metrics::read(logic.stat).value(sample) == up
        });
    };
    let mut here = good.live(Transport::Tcp, "41");
    let mut there = Peer::connect(tcp, Transport::Tcp);
    there.authenticate("41");
    is_up(1);
    for passage in [Passage::Cut, Passage::Slow, Passage::Garbage] {
        wire.set(passage);
        is_up(0);
        for number in 0..20_u8 {
            let data = post(logic.http, "all?operation=1000", &[number]);
            assert_eq!(data["queued"], 1, "{passage:?}: {data}");
            assert_eq!(data["failed"][0]["server"], "other", "{passage:?}: {data}");
            assert_eq!(here.recv().body, [number], "{passage:?}");
        }
        wire.set(Passage::Open);
        is_up(1);
        until("both to be reached", || {
            let data = post(logic.http, "all?operation=1000", b"both");
            assert_eq!(here.recv().body, b"both", "{passage:?}");
            data["queued"] == 2
        });
        // What a slow wire has kept may come before.
        while there.recv().body != b"both" {}
    }
}
