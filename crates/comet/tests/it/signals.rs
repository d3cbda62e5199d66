//! Signals that arrive while the running program drains.

use std::fs;
use std::net::SocketAddr;

use comet_client::Transport;
use rustix::process::Signal;

use crate::logic_process::own_address;
use crate::peer::Peer;
use crate::process::{Running, Server, comet, temporary, with_sets};
use crate::support::{Permit, get, two_cores, until};

/// A client that does not leave delays the end of the drain by this time.
const LONG: [&str; 2] = ["server.drain_timeout=\"1h\"", "protocol.linger=\"1h\""];

fn until_draining(stat: SocketAddr) {
    until("the server to drain", || get(stat, "/healthz") == (503, "draining\n".to_owned()));
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    for (second, expected) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let pid_file = temporary("signals.pid", "");
        let pid_set = format!("server.pid_file={pid_file:?}");
        let server = Server::start(&[LONG[0], LONG[1], &pid_set]);
        let mut stays = server.live(Transport::Tcp, "1");
        server.signal(Signal::INT);
        assert_eq!(stays.close_notice().reason, "draining");
        until_draining(server.stat);
        server.signal(second);
        let (code, logged) = server.end();
        assert_eq!(code, Some(expected), "{logged:?}");
        assert!(logged.last().unwrap().ends_with(" again: ending at once"), "{logged:?}");
        assert!(!fs::exists(&pid_file).unwrap());
    }
}

#[test]
fn sighup_during_a_drain_reopens_the_logs() {
    let _permit = Permit::wait();
    let (tcp, stat, cores) = (own_address(), own_address(), two_cores());
    let (log, trace) = (temporary("signals.log", ""), temporary("signals-trace.log", ""));
    let sets = [
        format!("log.file={log:?}"),
        format!("white_list.file={trace:?}"),
        format!("tcp.bind=[\"{tcp}\"]"),
        format!("monitor.stat=[\"{stat}\"]"),
    ];
    let sets: Vec<_> = sets.iter().map(String::as_str).chain(LONG).collect();
    let arguments = [&["--cores", &cores], &with_sets(&sets)[..]].concat();
    let (process, _) = Running::start(comet(&arguments));
    until("the start", || std::net::TcpStream::connect(stat).is_ok());
    until("the server to be healthy", || get(stat, "/healthz").0 == 200);
    let mut stays = Peer::connect(tcp, Transport::Tcp);
    stays.authenticate("1");
    process.signal(Signal::TERM);
    until_draining(stat);
    for file in [&log, &trace] {
        fs::remove_file(file).unwrap();
    }
    process.signal(Signal::HUP);
    for file in [&log, &trace] {
        until("the file to exist again", || fs::exists(file).unwrap());
    }
    drop(stays);
    assert_eq!(process.end(), Some(0));
    let logged = fs::read_to_string(&log).unwrap();
    assert!(logged.contains("2 of 2 cores drained in time"), "{logged}");
}
