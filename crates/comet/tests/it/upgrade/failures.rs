//! Limits and files of the new process, and conditions under which a server refuses an upgrade.

use std::os::fd::OwnedFd;
use std::{fs, path, thread};

use comet_client::{Transport, op};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Signal, Uid, geteuid};
use rustix::{net, thread as system};

use super::{Line, file, script, start_with_file, token};
use crate::peer::Peer;
use crate::process::{line_with, run};
use crate::support::{To, push, queued, two_cores, until};
use crate::unix_sockets::Folder;

#[test]
fn a_limit_of_open_files_too_low_is_refused_before_the_freeze() {
    let mut line = Line::start(&[], &[]);
    let mut clients: Vec<_> =
        (0..8).map(|user| line.server.live(Transport::Tcp, &token(user))).collect();
    // With two cores 256 files are reserved for other uses.
    let limited = |files: u32| {
        let comet = env!("CARGO_BIN_EXE_comet");
        script(
            &format!("upgrade-{files}-files"),
            &format!("ulimit -n {files}\nexec {comet} \"$@\""),
        )
    };
    line.fail(
        &["--binary", &limited(256 + 7)],
        "the new process refuses: 8 connections would go on, and the limit on open files of the new process leaves room for 7 (",
    );
    assert_eq!(line.metrics().value("comet_upgrades_total{result=\"refused\"}"), 1);
    assert_eq!(line.push(To::Room("live://1"), b"as before"), queued(8));
    let (code, said, error) = line.ask(&["--binary", &limited(256 + 40)]);
    assert_eq!((code, &*error), (0, ""), "{said}");
    line.moved(&said);
    assert_eq!(line.push(To::Room("live://1"), b"later"), queued(8));
    for client in &mut clients {
        assert_eq!([client.recv().body, client.recv().body], [&b"as before"[..], b"later"]);
    }
}

/// The PID file moves with its setting. If the new place is in use, the upgrade fails. Without the setting the file is removed.
#[test]
fn an_upgrade_moves_or_removes_the_pid_file() {
    let folder = Folder::new();
    let path = |name: &str| path::absolute(folder.file(name)).unwrap();
    let configure = |name: Option<&str>| {
        let section = name.map(|name| format!("pid_file = {:?}\n", path(name)));
        // The section of the server is the last one.
        let config = file("upgrade-pid-file.toml", &two_cores(), "");
        let text = fs::read_to_string(&config).unwrap();
        let text =
            text.replace("[server]\n", &format!("[server]\n{}", section.unwrap_or_default()));
        fs::write(&config, text).unwrap();
        config
    };
    let number = |name| fs::read_to_string(path(name)).unwrap_or_default().trim().to_owned();
    let mut line = start_with_file(&configure(Some("first")));
    let mut client = line.server.live(Transport::WebSocket, &token(7));
    // The server accepts clients before it writes the file.
    until("the file to be written", || number("first") == line.pid);
    // The file at the new place is locked, as by another process.
    let taken = fs::File::create(path("second")).unwrap();
    taken.lock().unwrap();
    configure(Some("second"));
    line.fail(&[], "belongs to a process that is starting or ending");
    assert_eq!(number("first"), line.pid);
    drop(taken);
    line.upgrade();
    until("the file to be at its new place", || number("second") == line.pid);
    until("the file at the old place to be removed", || !path("first").exists());
    configure(None);
    line.upgrade();
    until("the last file to be removed", || !path("second").exists());
    assert_eq!(line.push(To::User(7), b"still here"), queued(1));
    assert_eq!(client.recv().body, b"still here");
}

/// While clients are moved off, an upgrade is refused before it makes any client wait or closes it.
#[test]
fn an_upgrade_during_a_move_off_is_refused() {
    let mut line = Line::start(&[], &["protocol.handshake_timeout=\"1m\""]);
    let mut clients: Vec<_> =
        (100..160).map(|user| line.server.live(Transport::Tcp, &token(user))).collect();
    let mut silent = Peer::connect(line.server.tcp, Transport::Tcp);
    until("the silent client to be accepted", || line.metrics().value("comet_connections") == 61);
    let caller = line.caller();
    let grpc = line.server.grpc.to_string();
    let (code, ..) = run(&["ctl", "--grpc", &grpc, "move-off", "50", "--per-second", "1"]);
    assert_eq!(code, 0);
    // No process is started, so the message is not about this program.
    line.fail(&["--binary", "/bin/false"], "clients are moved off");
    let (code, said, error) = line.ask(&["--check"]);
    assert_eq!(code, 1, "{said}");
    assert!(error.contains("clients are moved off"), "{error}");
    silent.send(op::AUTH, 1, token(7).as_bytes());
    assert_eq!(silent.recv().operation, op::AUTH_REPLY);
    assert_eq!(push(&caller, To::User(7), 5, b"as before"), queued(1));
    assert_eq!(silent.recv().body, b"as before");
    let (code, ..) = run(&["ctl", "--grpc", &grpc, "cancel-move-off"]);
    assert_eq!(code, 0);
    drop(caller);
    line.upgrade();
    clients.clear();
    assert_eq!(line.push(To::User(7), b"later"), queued(1));
    assert_eq!(silent.recv().body, b"later");
}

/// The address at which the server looks for the options of an upgrade, and a socket.
fn address_of(line: &Line) -> (SocketAddrUnix, OwnedFd) {
    let name = format!("comet-upgrade-{}", line.pid);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    (SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap(), socket)
}

/// Any process may listen at that address, even with a full backlog.
#[test]
fn a_listener_with_a_full_backlog_delays_nothing() {
    let line = Line::start(&[], &[]);
    let mut client = line.server.live(Transport::Tcp, &token(7));
    let (address, listener) = address_of(&line);
    net::bind(&listener, &address).unwrap();
    net::listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let (_, socket) = address_of(&line);
        if net::connect(&socket, &address).is_err() {
            break;
        }
        waiting.push(socket);
    }
    line.signal(Signal::USR2);
    line_with(&line.server.log, "takes no connection");
    let (code, _, error) = line.ask(&[]);
    assert_eq!(code, 1);
    assert!(error.contains("another `comet upgrade` asks"), "{error}");
    assert_eq!(line.push(To::User(7), b"as before"), queued(1));
    assert_eq!(client.recv().body, b"as before");
    line.signal(Signal::TERM);
    // A child of the test stays as a zombie until the test waits for it.
    until("the process to end", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", line.pid));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
}

/// The server ignores a listener of another user, and takes the signal for the order to upgrade.
#[test]
fn a_listener_of_another_user_is_ignored() {
    if !geteuid().is_root() {
        return;
    }
    let mut line = Line::start(&[], &[]);
    let mut client = line.server.live(Transport::Tcp, &token(7));
    let (address, listener) = address_of(&line);
    // A listener belongs to the user of the thread that listens.
    let listen = move || {
        let nobody = Uid::from_raw(65_534);
        system::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        net::bind(&listener, &address).unwrap();
        net::listen(&listener, 8).unwrap();
        listener
    };
    let listener = thread::spawn(listen).join().unwrap();
    let (code, _, error) = line.ask(&[]);
    assert_eq!(code, 1);
    assert!(error.contains("user 65534 listens"), "{error}");
    line.signal(Signal::USR2);
    let said = line_with(&line.server.log, " serves: ");
    line.moved(&said[said.find("process ").unwrap()..]);
    assert_eq!(line.push(To::User(7), b"later"), queued(1));
    assert_eq!(client.recv().body, b"later");
    drop(listener);
}
