//! `comet ctl` against the program.

use comet_client::Transport;
use serde_json::{Value, json};

use crate::process::{Server, run};
use crate::support::{get, until};

/// Exit code, standard output and standard error of an order at `server`.
fn ctl(server: &Server, order: &[&str]) -> (i32, String, String) {
    let grpc = server.grpc.to_string();
    run(&[&["ctl", "--grpc", &grpc], order].concat())
}

#[track_caller]
fn said(server: &Server, order: &[&str]) -> String {
    let (code, stdout, stderr) = ctl(server, order);
    assert_eq!((code, &*stderr), (0, ""), "{order:?}");
    stdout
}

fn json_of(server: &Server, order: &[&str]) -> Value {
    serde_json::from_str(&said(server, &[order, &["--json"]].concat())).unwrap()
}

#[test]
fn an_operator_needs_no_other_tool() {
    let server = Server::start(&[]);
    let mut peers: Vec<_> = (1..=4)
        .map(|user| {
            let token = json!({ "mid": user, "key": format!("k{user}"), "room_id": "live://r" });
            server.live(Transport::Tcp, &token.to_string())
        })
        .collect();
    let status = "phase serving connections 4 moving_off 0 per_second 0 delay_left_ms 0 keeps_clients false\n";
    assert_eq!(said(&server, &["status"]), status);
    assert_eq!(
        said(&server, &["kick", "key", "k1", "nobody", "--reason", "out"]),
        "closed 1 absent 1 not_closed {}\n"
    );
    assert_eq!(peers.remove(0).close_notice().reason, "kicked: out");
    let (code, stdout, _) = ctl(&server, &["kick", "user", "-1"]);
    assert_eq!((code, &*stdout), (3, "closed 0 absent 1 not_closed {}\n"));

    assert_eq!(said(&server, &["block", "192.0.2.7/24", "3600"]), "closed 0\n");
    assert_eq!(json_of(&server, &["blocks"])["address"], "192.0.2.0/24");
    assert_eq!(said(&server, &["unblock", "192.0.2.0/24"]), "");
    assert_eq!(said(&server, &["blocks"]), "");
    let (code, _, stderr) = ctl(&server, &["unblock", "192.0.2.0/24"]);
    assert_eq!((code, &*stderr), (1, "comet: 192.0.2.0/24 is not blocked (NotFound)\n"));

    assert_eq!(said(&server, &["broadcasts"]), "");
    let (code, _, stderr) = ctl(&server, &["cancel", "7"]);
    assert_eq!(code, 1, "{stderr}");

    assert_eq!(json_of(&server, &["drain", "--keep-clients"])["phase"], "leaving");
    assert_eq!(get(server.stat, "/healthz").0, 503);
    assert_eq!(json_of(&server, &["undrain"])["phase"], "serving");
    assert_eq!(json_of(&server, &["move-off", "1", "--per-second", "1000"])["phase"], "serving");
    until("one client to be told", || json_of(&server, &["status"])["moving_off"] == 0);
    json_of(&server, &["cancel-move-off"]);

    // The clients close when they are told to.
    let leaving = std::thread::spawn(move || {
        for mut peer in peers {
            assert!(peer.close_notice().reason.starts_with("draining"));
        }
    });
    let progress = said(&server, &["drain", "--per-second", "1000", "--wait"]);
    assert!(
        progress.lines().last().unwrap().starts_with("phase drained connections 0 "),
        "{progress}"
    );
    leaving.join().unwrap();
    assert_eq!(json_of(&server, &["undrain"])["phase"], "serving");
}

#[test]
fn orders_need_the_token_of_pushes() {
    let server = Server::start(&["push.tokens=[\"0123456789abcdef\"]"]);
    let (code, _, stderr) = ctl(&server, &["drain"]);
    assert!(code == 1 && stderr.contains("Unauthenticated"), "{stderr}");
    assert_eq!(get(server.stat, "/healthz").0, 200);
    let mut peer = server.live(Transport::Tcp, "/k//");
    let kicked = said(&server, &["kick", "address", "127.0.0.1", "--token", "0123456789abcdef"]);
    assert_eq!(kicked, "closed 1 absent 0 not_closed {}\n");
    assert_eq!(peer.close_notice().reason, "kicked");
}
