//! Limits and files of the new process.

use std::{fs, path};

use comet_client::{Transport, op};

use super::{Line, file, script, start_with_file, token};
use crate::peer::Peer;
use crate::process::run;
use crate::support::{To, push, queued, two_cores, until};
use crate::unix_sockets::Folder;

#[test]
fn too_few_files_are_refused_before_the_freeze() {
    let mut line = Line::start(&[], &[]);
    let mut clients: Vec<_> =
        (0..8).map(|user| line.server.live(Transport::Tcp, &token(user))).collect();
    // 256 are for all else.
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

/// The PID file goes with the server to another place, stays where it is while that is taken, and goes away with its setting.
#[test]
fn a_pid_file_moves() {
    let folder = Folder::new();
    let path = |name: &str| path::absolute(folder.file(name)).unwrap();
    let configure = |name: Option<&str>| {
        let section = name.map(|name| format!("pid_file = {:?}\n", path(name)));
        // The last section is the server's.
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
    assert_eq!(number("first"), line.pid);
    // Another process has it.
    let taken = fs::File::create(path("second")).unwrap();
    taken.lock().unwrap();
    configure(Some("second"));
    line.fail(&[], "belongs to a process that is starting or ending");
    assert_eq!(number("first"), line.pid);
    drop(taken);
    line.upgrade();
    until("the file to be at its new place", || number("second") == line.pid);
    until("the former one to be gone", || !path("first").exists());
    configure(None);
    line.upgrade();
    until("the last one to be gone", || !path("second").exists());
    assert_eq!(line.push(To::User(7), b"still here"), queued(1));
    assert_eq!(client.recv().body, b"still here");
}

/// An order to move clients off is refused for, before anybody waits or is closed.
#[test]
fn clients_that_are_moved_off_are_not_handed_over() {
    let mut line = Line::start(&[], &[]);
    let mut clients: Vec<_> =
        (100..160).map(|user| line.server.live(Transport::Tcp, &token(user))).collect();
    let mut silent = Peer::connect(line.server.tcp, Transport::Tcp);
    until("it to be accepted", || line.metrics().value("comet_connections") == 61);
    let caller = line.caller();
    let grpc = line.server.grpc.to_string();
    let (code, ..) = run(&["ctl", "--grpc", &grpc, "move-off", "50", "--per-second", "1"]);
    assert_eq!(code, 0);
    // No process is started.
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
