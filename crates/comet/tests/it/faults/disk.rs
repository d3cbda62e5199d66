//! A disk that is full, and has room again; descriptors that are gone, and back.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use comet::blocking_client::PushClient;
use comet_client::{Transport, op};
use rustix::process::Signal;

use crate::logic_process::own_address;
use crate::peer::Peer;
use crate::process::{Running, Server, comet, with_sets};
use crate::support::{Metrics, Permit, get, two_cores, until};

/// A file system of 128 KiB, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and a line in the log of the test, where nothing may be mounted.
    fn mount() -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("comet-disk-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"]).arg(&folder);
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        eprintln!("SKIPPED: no file system may be mounted, so nothing is tested on a full one");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, as a server of a test that failed may still have a file there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_log_on_a_full_disk_goes_on_when_there_is_room_and_says_what_is_missing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (log, filler) = (disk.0.join("comet.log"), disk.0.join("filler"));
    let set = format!("log.file={log:?}");
    let _permit = Permit::wait();
    let (tcp, stat) = (own_address(), own_address());
    let [tcp_set, stat_set] = [("tcp.bind", tcp), ("monitor.stat", stat)]
        .map(|(key, address)| format!("{key}=[\"{address}\"]"));
    let cores = two_cores();
    let sets = with_sets(&[&set, &tcp_set, &stat_set]);
    let arguments = [&["--cores", &cores], &sets[..]].concat();
    let (process, _) = Running::start(comet(&arguments));
    until("the start", || TcpStream::connect(stat).is_ok());
    until("health", || get(stat, "/healthz").0 == 200);
    let missed = || Metrics::read(stat).value("comet_log_missed_total");
    let log_a_line = || {
        let mut peer = Peer::connect(tcp, Transport::Tcp);
        peer.write(&[0; 16]);
        // Until it is closed.
        let _ = peer.stream.read_to_end(&mut Vec::new());
    };
    let mut live = Peer::connect(tcp, Transport::Tcp);
    live.authenticate("1");

    // It ends with an error, when the disk is full.
    fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
    until("lines to be missing", || {
        log_a_line();
        missed() > 0
    });
    assert_eq!(live.ask(op::HEARTBEAT, 1, b"").sequence, 1);
    assert_eq!(get(stat, "/healthz").0, 200);
    fs::remove_file(&filler).unwrap();
    until("the missing lines to be said", || {
        log_a_line();
        let logged = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
        logged.lines().any(|line| line.contains(" lines of the log are missing: No space left"))
    });
    process.signal(Signal::TERM);
    assert_eq!(live.close_notice().reason, "draining");
    assert_eq!(process.end(), Some(0));
}

#[test]
fn clients_and_callers_come_in_again_when_descriptors_are_back() {
    let server = Server::start_with_files(512, &["protocol.handshake_timeout=\"1m\""]);
    for _ in 0..3 {
        let clients: Vec<_> = (0..512).map(|_| TcpStream::connect(server.tcp).unwrap()).collect();
        let before = Metrics::read(server.stat).value("comet_refused_total");
        until("clients to be turned away", || {
            drop(TcpStream::connect(server.tcp));
            Metrics::read(server.stat).value("comet_refused_total") > before
        });
        drop(clients);
        until("them to be gone", || Metrics::read(server.stat).value("comet_connections") == 0);
        let _client = server.live(Transport::WebSocket, "1");
        PushClient::connect(&server.grpc.to_string()).unwrap();
        assert_eq!(get(server.stat, "/healthz").0, 200);
    }
}
