//! What the command line, the configuration and the environment say, and exit codes of what cannot be used.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::process::{Server, comet, line_with, run, temporary, with_sets};
use crate::support::two_cores;
use crate::tls::Certificates;

#[test]
fn version_and_help_are_told() {
    let (code, stdout, _) = run(&["--version"]);
    let expected = concat!("comet ", env!("CARGO_PKG_VERSION"), " (commit ");
    assert!(code == 0 && stdout.starts_with(expected) && stdout.ends_with(")\n"), "{stdout}");
    let (_, stdout, _) = run(&["-V"]);
    assert_eq!(stdout.trim(), concat!("comet ", env!("CARGO_PKG_VERSION")));
    let (code, stdout, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for flag in ["--config", "--cores", "--control-cores", "--set", "--check", "listen", "push"] {
        assert!(stdout.contains(flag), "{flag}: {stdout}");
    }
}

#[test]
fn check_prints_a_configuration_that_reads_back_the_same() {
    let cores = two_cores();
    let sets = ["protocol.svr_proto=7", r#"websocket.path="/push""#];
    let arguments = [&["--check", "--cores", &cores][..], &with_sets(&sets)].concat();
    let (code, printed, stderr) = run(&arguments);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for line in ["svr_proto = 7", "path = \"/push\"", "# worst case for "] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    let file = temporary("check.toml", &printed);
    let (code, again, stderr) = run(&["--check", "--config", &file]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(again, printed);
}

#[test]
fn keys_are_read_from_the_environment() {
    let cores = two_cores();
    let check = |environment: &[(&str, &str)], arguments: &[&str]| {
        let mut command = comet(&[&["--check", "--cores", &cores], arguments].concat());
        let Output { status, stdout, stderr } =
            command.envs(environment.iter().copied()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    };
    let secret = temporary("check.secret", "redis://comet:hunter2@store:6379\n");
    let redis = format!("[{{ file = {secret:?} }}]");
    let environment = [
        ("COMET_PROTOCOL_SVR_PROTO", "7"),
        ("COMET_WEBSOCKET_PATH", "/push"),
        ("COMET_SERVER_CORES", "99"),
        ("COMET_LOGIC_SERVER_REDIS", &redis),
        ("COMET_LOGIC_SERVICE_HOST", "10.0.0.1"),
    ];
    let (code, printed, stderr) = check(&environment, &["--set", "protocol.svr_proto=8"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for line in ["svr_proto = 8", "path = \"/push\"", "redis://comet:***@store:6379"] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    assert!(!printed.contains("hunter2"), "{printed}");

    let environment = [("COMET_TPC_BIND", "[]"), ("COMET_PROTOCOL_SVR_PROTO", "0")];
    let (code, printed, stderr) = check(&environment, &[]);
    assert_eq!((code, printed.as_str()), (Some(64), ""));
    let lines = "comet: COMET_PROTOCOL_SVR_PROTO: protocol.svr_proto: 0 is out of range: 1 to 65535\n\
                 COMET_TPC_BIND: sets no key: did you mean COMET_TCP_BIND?\n";
    assert_eq!(stderr, lines);
}

#[test]
fn addresses_that_are_wrong_are_named() {
    let server = Server::start(&[]);
    let http = server.stat.to_string();
    let (code, _, stderr) = run(&["push", "--grpc", &http, "all", "hi"]);
    let begin = format!("comet: the connection to {http} broke: ");
    let is_named =
        stderr.starts_with(&begin) && stderr.ends_with("is that an address of push.grpc?\n");
    assert!(code == 1 && is_named, "{stderr}");
    for address in ["nohost", "host:", ":8080", "host:0", "::1:80"] {
        let (code, _, stderr) = run(&["listen", "--room", "r", "--addr", address]);
        assert!(code == 64 && stderr.contains("write HOST:PORT"), "{stderr}");
    }
}

#[test]
fn a_file_that_is_not_utf_8_is_named_with_the_line() {
    let path = temporary("latin.toml", "");
    fs::write(&path, b"[server]\nid = \"caf\xe9\"\n").unwrap();
    let (code, _, stderr) = run(&["--check", "--config", &path]);
    let line = format!("comet: {path}:2: this line is not UTF-8: save the file as UTF-8\n");
    assert_eq!((code, stderr), (64, line));
}

/// Before anything is opened that would fail for another reason.
#[test]
fn open_files_that_are_too_few_for_a_start_are_a_mistake() {
    let cores = two_cores();
    for (files, arguments) in [(8, "--check"), (256, "--check"), (8, ""), (60, "")] {
        let limited = format!("ulimit -n {files}; exec \"$0\" {arguments} \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_comet"), "--cores", &cores]);
        let output = command.args(with_sets(&[])).env_remove("RUST_LOG").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let sentence = format!(
            "comet: open files are limited to {files}, and comet needs 256 on this many cores (2), and one more for \
             each connection: raise the limit (ulimit -n, or LimitNOFILE= in a systemd unit)\n"
        );
        assert_eq!((output.status.code(), stderr), (Some(1), sentence), "{arguments}");
    }
}

/// More than any limit on open files allows.
#[test]
fn connections_that_the_open_files_do_not_allow_are_said() {
    let (connections, begin) = ("limits.connections=16777216", "limits.connections is ");
    let cores = two_cores();
    let arguments = [&["--check", "--cores", &cores][..], &with_sets(&[connections])].concat();
    let (code, _, stderr) = run(&arguments);
    assert!(code == 0 && stderr.starts_with(&format!("comet: {begin}")), "{stderr}");
    let server = Server::start(&[connections]);
    server.signal(Signal::HUP);
    line_with(&server.log, begin);
}

#[test]
fn check_counts_tls_and_shows_no_password() {
    let check = |sets: &[&str]| {
        let (code, printed, stderr) = run(&[&["--check"][..], &with_sets(sets)].concat());
        assert_eq!((code, stderr.as_str()), (0, ""));
        printed
    };
    let redis = r#"logic_server.redis=["redis://comet:secret@store:6379"]"#;
    let plain = check(&[redis]);
    assert!(plain.contains("redis://comet:***@store:6379"), "{plain}");
    assert!(!plain.contains("secret") && !plain.contains("in TLS"), "{plain}");
    let certificates = Certificates::new(&["a.example"]);
    let [chain, key] = certificates.files("a.example");
    let files = [format!("tls.certificates=[{chain:?}]"), format!("tls.keys=[{key:?}]")];
    let connections = "limits.connections=1000";
    let bind = r#"websocket.tls_bind=["127.0.0.1:0"]"#;
    let cores = format!("server.cores=\"{}\"", comet::machine().unwrap().cpus[0]);
    let tls = check(&[&files[0], &files[1], connections, bind, &cores]);
    let words = tls.split_whitespace().collect::<Vec<_>>().join(" ");
    for row in
        ["in TLS, sessions 3.9 MiB", "while logic is asked 66.4 MiB", "stop amid a record 46.9 MiB"]
    {
        assert!(words.contains(row), "{row}: {tls}");
    }
}

#[test]
fn what_cannot_be_used_ends_with_64_and_every_mistake() {
    let file = temporary("mistakes.toml", "[tcp]\nbidn = []\n\n[protocol]\nsvr_proto = 0\n");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--cores", "99"], &["--cores", "99"]),
        (&["--cores", "x"], &["--cores"]),
        (&["--set", "tcp.bidn=[]"], &["tcp.bidn"]),
        (&["--set", "tpc.bind=[]"], &["tpc"]),
        (&["--set", "protocol.heartbeat=\"1 fortnight\""], &["protocol.heartbeat", "fortnight"]),
        (&["--set", "logic.addrs=[\"logic\"]"], &["logic.addrs"]),
        (&["--config", "/nonexistent/comet.toml"], &["/nonexistent/comet.toml"]),
        (
            &["--config", &file, "--cores", "99"],
            &["mistakes.toml:2", "tcp.bidn", "mistakes.toml:5", "protocol.svr_proto", "--cores"],
        ),
        (&["--no-such-flag"], &["--no-such-flag"]),
        (&["listen"], &["--room"]),
        (&["push", "nobody", "text"], &["nobody"]),
    ];
    for (arguments, expected) in cases {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (64, ""), "{arguments:?}: {stderr}");
        for text in *expected {
            assert!(stderr.contains(text), "{arguments:?}: {text} in {stderr}");
        }
    }
}

#[test]
fn a_taken_port_ends_with_1_and_a_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for setting in ["tcp.bind", "websocket.bind", "push.grpc", "monitor.stat"] {
        let set = format!("{setting}=[\"{address}\"]");
        let (code, stdout, stderr) = run(&with_sets(&[&set]));
        assert_eq!((code, stdout.as_str()), (1, ""), "{setting}: {stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(last.starts_with(&format!("comet: {setting}: ")), "{last}");
        assert!(last.contains(&address.to_string()) && last.contains("in use"), "{last}");
    }
}
