//! The files of a running program: its configuration, read again at SIGHUP, its log file and its PID file.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use comet::blocking_client::{Ledger, PushClient};
use comet_client::Transport;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use crate::peer::{Peer, UPGRADE};
use crate::process::{Running, Server, comet, line_with, run, temporary, with_sets};
use crate::support::{Metrics, PATIENCE, Permit, To, push, queued, two_cores, until};
use crate::tls::Certificates;

/// A configuration file that can be rewritten.
struct File(String);

impl File {
    fn new(name: &str, text: &str) -> Self {
        Self(temporary(name, text))
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }

    fn server(&self, sets: &[&str]) -> Server {
        Server::start_with(&["--config", &self.0], sets)
    }
}

/// A path in the tests' directory without a file.
fn nothing_at(name: &str) -> String {
    let path = temporary(name, "");
    fs::remove_file(&path).unwrap();
    path
}

/// Waits until every core has handled the earlier messages: it answers them in order.
fn settle(server: &Server) {
    Metrics::read(server.stat);
}

#[test]
fn a_reload_applies_alive_keys_and_names_the_others() {
    let file = File::new("alive.toml", "[tcp]\nbacklog = 100\n");
    // The password in it must not be logged, and is no change.
    let redis = "logic_server.redis=[\"redis://:secret@store:6379\"]";
    let server = file.server(&["push.keys_max=100", redis]);
    let mut before = server.live(Transport::Tcp, "1");
    before.ask(5, 1, &[0; 100]);

    file.write(
        "[tcp]\nbacklog = 200\n\
         [protocol]\nbody_max = 64\nheartbeat = \"1m\"\n\
         [websocket]\npath = \"/push\"\n\
         [limits]\nconnections = 1\n\
         [push]\nkeys_max = 7\n",
    );
    server.signal(Signal::HUP);
    // In the order of the keys. A key that --set overrides has not changed.
    for text in [
        "limits.connections changed from 0 to 1",
        "protocol.body_max changed from \"4KiB\" to 64",
        "protocol.heartbeat changed from \"5m\" to \"1m\"",
        "websocket.path changed from \"/sub\" to \"/push\"",
        "tcp.backlog changed from 100 to 200, at the next start",
    ] {
        let line = line_with(&server.log, "SIGHUP: ");
        assert!(line.ends_with(&format!("SIGHUP: {text}")), "{text}: {line}");
    }
    settle(&server);
    // The new values apply to existing and to new connections.
    before.send(5, 2, &[0; 100]);
    assert_eq!(before.close_notice().reason, "the body has 100 bytes, more than the 64 allowed");
    drop(before);
    until("the connection to be closed", || {
        Metrics::read(server.stat).value("comet_connections") == 0
    });
    let mut peer = Peer::connect(server.websocket, Transport::WebSocket);
    peer.write(UPGRADE.as_bytes());
    assert!(peer.read_head().starts_with("HTTP/1.1 404 "));
    drop(peer);
    until("the connection to be closed", || {
        Metrics::read(server.stat).value("comet_connections") == 0
    });
    let mut peer = Peer::connect(server.websocket, Transport::WebSocket);
    peer.write(UPGRADE.replace("/sub", "/push").as_bytes());
    peer.expect_upgraded();

    // A key that needs a restart is named again; applied changes are not.
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    assert!(line.contains("tcp.backlog changed from 100 to 200"), "{line}");
    file.write(
        "[tcp]\nbacklog = 100\n[protocol]\nbody_max = 64\nheartbeat = \"1m\"\n\
                [websocket]\npath = \"/push\"\n[limits]\nconnections = 1\n",
    );
    server.signal(Signal::HUP);
    line_with(&server.log, "SIGHUP: no key has changed");
}

#[test]
fn an_invalid_file_changes_nothing_and_every_mistake_is_logged() {
    let file = File::new("bad.toml", "");
    let server = file.server(&[]);
    let mut peer = server.live(Transport::Tcp, "1");
    let name = Path::new(&file.0).display();
    file.write("[protocol]\nbody_max = 1\nsvr_proto = 0\n[tcp]\nbidn = []\n");
    server.signal(Signal::HUP);
    for text in ["3:13: protocol.svr_proto: 0 is out of range", "5:1: tcp.bidn: unknown key"] {
        let line = line_with(&server.log, "SIGHUP: ");
        assert!(line.contains(&format!("nothing changes: {name}:{text}")), "{line}");
    }
    // Valid alone, but not with the frame_max that applies until the next start.
    file.write("[protocol]\nbody_max = 1\noutbox_bytes = \"4KiB\"\n[push]\nframe_max = \"2KiB\"\n");
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    assert!(line.contains("nothing changes: ") && line.contains("protocol.outbox_bytes"), "{line}");
    fs::remove_file(&file.0).unwrap();
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    assert!(line.contains(&format!("nothing changes: {name}: No such file")), "{line}");

    settle(&server);
    assert_eq!(peer.ask(2, 7, b"a body of more than one byte").sequence, 7);
}

#[test]
fn the_environment_and_secrets_are_read_again() {
    let secret = File::new("redis.secret", "redis://:first@store:6379\n");
    let file = File::new("layers.toml", "");
    let redis = format!("[{{ file = {:?} }}]", secret.0);
    let environment = [("COMET_PROTOCOL_LINGER", "1s"), ("COMET_LOGIC_SERVER_REDIS", &redis)];
    let server = Server::start_in(&environment, &["--config", &file.0], &[]);

    // The variable overrides the file at SIGHUP, too.
    file.write("[protocol]\nlinger = \"3s\"\nbody_max = 64\n");
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    assert!(line.ends_with("SIGHUP: protocol.body_max changed from \"4KiB\" to 64"), "{line}");

    secret.write("second");
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    let of = "COMET_LOGIC_SERVER_REDIS: logic_server.redis[0]:";
    let what = format!("the text of {} is not a Redis address: ", secret.0);
    assert!(line.contains(&format!("nothing changes: {of} {what}")), "{line}");

    fs::remove_file(&secret.0).unwrap();
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    let what = format!("cannot read {}: No such file", secret.0);
    assert!(line.contains(&format!("nothing changes: {of} {what}")), "{line}");

    // A changed key of another process is not named.
    secret.write("redis://:second@store:6379");
    server.signal(Signal::HUP);
    line_with(&server.log, "SIGHUP: no key has changed");
}

#[test]
fn a_reload_changes_the_log_level() {
    let file = File::new("level.toml", "");
    let server = file.server(&[]);
    // A connection that is closed for an invalid request, and its address; logged at "info".
    let bad = || {
        let mut peer = Peer::connect(server.websocket, Transport::WebSocket);
        peer.write(b"PUT / HTTP/1.1\r\n\r\n");
        peer.read_head();
        let from = format!("peer={} ", peer.stream.local_addr().unwrap());
        (peer, from)
    };
    let (_peer, from) = bad();
    line_with(&server.log, &from);

    // The message about a restart is a warning, and the last line at this level.
    file.write("[log]\nlevel = \"warn\"\n[tcp]\nbacklog = 200\n");
    server.signal(Signal::HUP);
    line_with(&server.log, "tcp.backlog changed from 4096 to 200");
    let (_peer, unlogged) = bad();
    until("the connection to be closed", || {
        Metrics::read(server.stat).value("comet_closed_total{reason=\"bad_upgrade\"}") == 2
    });
    settle(&server);

    // A connection that the client closes is logged at "debug".
    file.write("[log]\nlevel = \"debug\"\n[tcp]\nbacklog = 4096\n");
    server.signal(Signal::HUP);
    let line = server.log.recv_timeout(PATIENCE).unwrap();
    assert!(!line.contains(&unlogged), "{line}");
    assert!(line.ends_with("log.level changed from \"warn\" to \"debug\""), "{line}");
    drop(server.live(Transport::Tcp, "1"));
    line_with(&server.log, "reason=peer_closed");
}

#[test]
fn the_log_file_is_appended_to_and_reopened_at_sighup() {
    let _permit = Permit::wait();
    let (path, moved) = (temporary("comet.log", "before\n"), nothing_at("comet.log.1"));
    let set = format!("log.file={path:?}");
    let arguments = ["--cores", &two_cores()];
    let arguments = [&arguments[..], &with_sets(&[&set])].concat();
    let (process, stderr) = Running::start(comet(&arguments));
    let has = |path: &str, text: &str| fs::read_to_string(path).is_ok_and(|log| log.contains(text));
    until("the start to be logged", || has(&path, "comet ") && has(&path, "websocket ["));
    assert!(fs::read_to_string(&path).unwrap().starts_with("before\n"));

    fs::rename(&path, &moved).unwrap();
    process.signal(Signal::HUP);
    until("a new file under the old name", || has(&path, "SIGHUP: no key has changed"));
    assert!(!has(&moved, "SIGHUP"));
    process.signal(Signal::TERM);
    until("the last line", || has(&path, "2 of 2 cores drained in time"));
    assert_eq!(stderr.iter().collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_log_file_that_cannot_be_opened_ends_the_start_with_code_1() {
    let set = "log.file=\"/nonexistent/comet.log\"";
    let (code, stdout, stderr) = run(&with_sets(&[set]));
    assert_eq!((code, stdout.as_str()), (1, ""));
    let expected = "comet: log.file: cannot open /nonexistent/comet.log: No such file";
    assert!(stderr.starts_with(expected) && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn the_pid_file_exists_as_long_as_the_process() {
    // Left behind by a process that has ended; another process has its ID now.
    let path = temporary("comet.pid", "1\n and more than a number\n");
    let set = format!("server.pid_file={path:?}");
    let server = Server::start(&[&set]);
    let pid = format!("{}\n", server.pid());
    until("the number", || fs::read_to_string(&path).unwrap() == pid);

    let (code, stdout, stderr) = run(&with_sets(&[&set]));
    assert_eq!((code, stdout.as_str()), (1, ""));
    let owner = format!("belongs to process {}, which is running", server.pid());
    assert_eq!(stderr.trim(), format!("comet: server.pid_file: {path} {owner}"));
    assert_eq!(fs::read_to_string(&path).unwrap(), pid);

    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
    assert!(!Path::new(&path).exists());

    let (code, _, stderr) = run(&with_sets(&["server.pid_file=\"/nonexistent/comet.pid\""]));
    let expected = "comet: server.pid_file: cannot write /nonexistent/comet.pid: No such file";
    assert!(code == 1 && stderr.starts_with(expected), "{stderr}");
}

#[test]
fn a_reload_changes_the_allowed_origins() {
    let file = File::new("origins.toml", "[websocket]\norigins = [\"https://a.example\"]\n");
    let server = file.server(&[]);
    let upgrade = |origin: Option<&str>| {
        let mut peer = Peer::connect(server.websocket, Transport::WebSocket);
        let header = origin.map_or(String::new(), |origin| format!("Origin: {origin}\r\n"));
        let end = UPGRADE.len() - 2;
        peer.write(format!("{}{header}\r\n", &UPGRADE[..end]).as_bytes());
        let head = peer.read_head();
        head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok())
    };
    assert_eq!(upgrade(Some("https://A.example")), Some(101));
    assert_eq!(upgrade(Some("https://b.example")), Some(403));
    assert_eq!(upgrade(None), Some(101));

    file.write("[websocket]\norigins = [\"https://b.example\"]\n");
    server.signal(Signal::HUP);
    line_with(&server.log, "SIGHUP: websocket.origins changed from ");
    settle(&server);
    assert_eq!(upgrade(Some("https://a.example")), Some(403));
    assert_eq!(upgrade(Some("https://b.example")), Some(101));
}

#[test]
fn session_numbers_of_disconnected_users_are_kept_as_configured() {
    for (memory, second) in [("0s", "42_1"), ("1h", "42_2")] {
        let server = Server::start(&[&format!("bucket.user_memory={memory:?}")]);
        let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
        let first = server.live(Transport::Tcp, "42");
        assert_eq!(push(&caller, To::Keys(&["42_1"]), 5, b"first"), queued(1));
        drop(first);
        let gone = Ledger { absent: 1, ..queued(0) };
        until("the key to be free", || push(&caller, To::Keys(&["42_1"]), 5, b"") == gone);
        until("the session to end", || push(&caller, To::User(42), 5, b"") == gone);
        let _second = server.live(Transport::Tcp, "42");
        assert_eq!(push(&caller, To::Keys(&[second]), 5, b"second"), queued(1), "{memory}");
    }
}

#[test]
fn a_renewed_certificate_is_logged_and_its_expiry_is_exported() {
    let certificates = Certificates::new(&["a.example", "b.example"]);
    let sets = certificates.sets();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let server = Server::start(&sets);
    let file = certificates.files("b.example")[0].clone();
    let sample = format!("comet_tls_certificate_expiry_timestamp_seconds{{file=\"{file}\"}}");
    let end_of = || Metrics::read(server.stat).value(&sample);
    let before = end_of();
    server.signal(Signal::HUP);
    line_with(&server.log, "SIGHUP: no key has changed");

    let day = Duration::from_secs(24 * 3600);
    let end = SystemTime::now() + 20 * day;
    certificates.renew_until("b.example", end);
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    let what = "SIGHUP: tls.certificates[1]: new certificate of b.example, valid until 2";
    assert!(line.contains(what), "{line}");
    let line = server.log.recv_timeout(PATIENCE).unwrap();
    let what = format!("tls.certificates[1]: {file} expires at 2");
    assert!(line.contains(" WARN ") && line.contains(&what), "{line}");
    let seconds = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(seconds < before && end_of() == seconds);

    // An invalid file leaves the old certificate in use.
    fs::write(&file, "no certificate").unwrap();
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    let what = format!("nothing changes: tls.certificates[1]: {file} holds no certificate");
    assert!(line.contains(" ERROR ") && line.contains(&what), "{line}");
    assert_eq!(end_of(), seconds);
}

/// Opening a named pipe blocks until its other end is opened, like a file on a hanging mount.
#[test]
fn a_hanging_file_delays_no_signal() {
    let make_pipe = |path: &str| {
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, path, FileType::Fifo, mode, 0).unwrap();
    };
    let file = File::new("pipe.toml", "");
    let certificates = Certificates::new(&["a.example"]);
    let sets = certificates.sets();
    let server = file.server(&sets.iter().map(String::as_str).collect::<Vec<_>>());
    let [certificate, _] = certificates.files("a.example");
    for (path, why) in [(&certificate, "it is a pipe"), (&file.0, "could not be read within")] {
        let kept = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        make_pipe(path);
        server.signal(Signal::HUP);
        let line = line_with(&server.log, "SIGHUP: nothing changes: ");
        assert!(line.contains(why), "{line}");
        fs::remove_file(path).unwrap();
        fs::write(path, kept).unwrap();
    }
    file.write("[tcp]\nbacklog = 200\n");
    server.signal(Signal::HUP);
    line_with(&server.log, "SIGHUP: tcp.backlog changed from 4096 to 200");
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn check_and_start_warn_of_an_expired_certificate() {
    let certificates = Certificates::new(&["a.example"]);
    certificates
        .renew_until("a.example", SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let sets = certificates.sets();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let file = &certificates.files("a.example")[0];
    let warning = format!("tls.certificates[0]: {file} has expired at 2023-11-14T22:13:20Z: ");
    let (code, _, said) = run(&[&["--check"], &with_sets(&sets)[..]].concat());
    assert!(code == 0 && said.starts_with(&format!("comet: {warning}")), "{said}");
    let server = Server::start(&sets);
    let line = line_with(&server.log, " WARN ");
    assert!(line.contains(&warning), "{line}");
}

/// They are taken at SIGHUP, so a start takes them as well. A listener that needs them makes them a mistake.
#[test]
fn unusable_certificates_that_no_listener_uses_do_not_prevent_a_start() {
    let sets = ["tls.certificates=[\"/nonexistent/chain\"]", "tls.keys=[\"/nonexistent/key\"]"];
    let warning = "no listener uses tls.certificates yet; tls.certificates[0]: /nonexistent/chain cannot be read: ";
    let (code, _, said) = run(&[&["--check"], &with_sets(&sets)[..]].concat());
    assert!(code == 0 && said.starts_with(&format!("comet: {warning}")), "{said}");
    let server = Server::start(&sets);
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
    let bind = "websocket.tls_bind=[\"127.0.0.1:0\"]";
    let (code, _, said) = run(&[&["--check"], &with_sets(&[sets[0], sets[1], bind])[..]].concat());
    assert!(code == 1 && said.starts_with("comet: tls.certificates[0]: "), "{said}");
}

#[test]
fn comet_logic_logs_what_a_reload_changes_and_what_needs_a_restart() {
    let file =
        File::new("logic.toml", "[logic_server]\ntokens = [\"the-first-token-of-callers\"]\n");
    let ports = ["grpc", "http", "stat"].map(|key| format!("logic_server.{key}=[\"127.0.0.1:0\"]"));
    let sets = ports.iter().flat_map(|set| ["--set", set]);
    let line: Vec<&str> = ["logic", "--config", &file.0].into_iter().chain(sets).collect();
    let (logic, log) = Running::start(comet(&line));
    line_with(&log, "stat [");
    logic.signal(Signal::HUP);
    line_with(&log, "SIGHUP: no key has changed");
    file.write(
        "[logic_server]\ntokens = [\"the-other-token-of-callers\"]\nexpire = \"2h\"\n\
         [log]\nlevel = \"debug\"\n[tcp]\nbacklog = 7\n",
    );
    logic.signal(Signal::HUP);
    // In the order of the keys. The backlog is a setting of the server, not of logic.
    for text in [
        "log.level changed from \"info\" to \"debug\"",
        "logic_server.tokens changed from [\"***\"] to [\"***\"]",
        "logic_server.expire changed from \"1h\" to \"2h\", at the next start",
    ] {
        let line = line_with(&log, "SIGHUP: ");
        assert!(line.ends_with(&format!("SIGHUP: {text}")), "{text}: {line}");
    }
    file.write("[logic_server]\nexpire = \"never\"\n");
    logic.signal(Signal::HUP);
    let line = line_with(&log, "SIGHUP: ");
    assert!(line.contains(" ERROR ") && line.contains("nothing changes: "), "{line}");
    logic.signal(Signal::TERM);
    assert_eq!(logic.end(), Some(0));
}
