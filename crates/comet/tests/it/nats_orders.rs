//! Kicks and changes of rooms by a call at one of two hosts. Each host is a process of its own.

use comet_client::Transport;
use serde_json::{Value, json};

use crate::peer::Peer;
use crate::process::run;
use crate::support::until;
use crate::two_hosts::TwoHosts;

fn start() -> Option<TwoHosts> {
    start_with("push.timeout=\"20s\"")
}

fn start_with(timeout: &str) -> Option<TwoHosts> {
    TwoHosts::start(&[timeout, "clients.rooms=4"])
}

fn client(two: &TwoHosts, host: usize, user: i64) -> Peer {
    let token = json!({ "mid": user, "key": format!("k{user}-{host}"), "room_id": "live://r" });
    two.hosts[host].live(Transport::Tcp, &token.to_string())
}

/// Exit code and answer of `comet ctl` at a host.
fn ctl(two: &TwoHosts, host: usize, order: &[&str]) -> (i32, Value) {
    let grpc = two.hosts[host].grpc.to_string();
    let (code, stdout, stderr) = run(&[&["ctl", "--json", "--grpc", &grpc], order].concat());
    assert_eq!(stderr, "", "{order:?}");
    (code, serde_json::from_str(&stdout).unwrap())
}

#[track_caller]
fn expect_kick(peer: &mut Peer, reason: &str) {
    assert_eq!(peer.close_notice().reason, format!("kicked: {reason}"));
}

#[test]
fn a_kick_at_one_host_closes_connections_of_all_hosts() {
    let Some(two) = start() else { return };
    // A user with a session on each host, and one with a session on the other host only.
    let mut sessions = [client(&two, 0, 1), client(&two, 1, 1)];
    let mut there = client(&two, 1, 2);
    let (code, answer) = ctl(&two, 0, &["kick", "key", "k2-1", "nobody", "--reason", "key"]);
    assert_eq!(
        (code, answer),
        (0, json!({ "closed": 1, "absent": 1, "not_closed": {} })),
        "the key is on the other host"
    );
    expect_kick(&mut there, "key");
    let (_, answer) = ctl(&two, 1, &["kick", "user", "1", "--reason", "user"]);
    assert_eq!(answer, json!({ "closed": 2, "absent": 0, "not_closed": {} }));
    sessions.iter_mut().for_each(|peer| expect_kick(peer, "user"));
    let mut members = [client(&two, 0, 3), client(&two, 1, 3), client(&two, 1, 4)];
    let (_, answer) = ctl(&two, 0, &["kick", "room", "live://r", "--reason", "room"]);
    assert_eq!(answer["closed"], 3);
    members.iter_mut().for_each(|peer| expect_kick(peer, "room"));
    let mut by_address = [client(&two, 0, 5), client(&two, 1, 5)];
    let (_, answer) = ctl(&two, 0, &["kick", "address", "127.0.0.0/8", "--reason", "address"]);
    assert_eq!(answer["closed"], 2);
    by_address.iter_mut().for_each(|peer| expect_kick(peer, "address"));
}

#[test]
fn changes_of_rooms_apply_on_all_hosts() {
    let Some(two) = start() else { return };
    let _sessions = [client(&two, 0, 1), client(&two, 1, 1)];
    let _there = client(&two, 1, 2);
    let (_, answer) = ctl(&two, 0, &["join", "x", "y", "--for-user", "1"]);
    assert_eq!((&answer["changed"], &answer["absent"]), (&json!(4), &json!(0)), "{answer}");
    let (_, answer) = ctl(&two, 0, &["join", "x", "--for-key", "k2-1"]);
    assert_eq!((&answer["changed"], &answer["absent"]), (&json!(1), &json!(0)), "{answer}");
    let (_, answer) = ctl(&two, 1, &["kick", "room", "x", "--reason", "none stays"]);
    assert_eq!(answer["closed"], 3, "clients of both hosts");
    let _again = [client(&two, 0, 3), client(&two, 1, 3)];
    ctl(&two, 0, &["join", "x", "--for-user", "3"]);
    let (_, answer) = ctl(&two, 1, &["leave", "x", "--for-user", "3"]);
    assert_eq!(answer["changed"], 2, "{answer}");
    let (code, answer) = ctl(&two, 0, &["leave", "x", "--for-user", "3"]);
    assert_eq!((code, &answer["unchanged"]), (3, &json!(2)), "{answer}");
}

#[test]
fn clients_and_members_of_all_hosts_are_counted() {
    let Some(two) = start() else { return };
    let _clients = [client(&two, 0, 1), client(&two, 1, 1), client(&two, 1, 2)];
    ctl(&two, 0, &["join", "x", "--for-key", "k2-1"]);
    let expected = json!({ "clients": 3, "rooms": { "live://r": 3, "x": 1, "nobody": 0 } });
    for host in 0..2 {
        until("the homes to know all members", || {
            ctl(&two, host, &["counts", "live://r", "x", "nobody"]) == (0, expected.clone())
        });
    }
}

#[test]
fn a_host_that_does_not_answer_a_kick_or_change_is_named() {
    let Some(two) = start_with("push.timeout=\"8s\"") else { return };
    let _clients = [client(&two, 0, 1), client(&two, 1, 1)];
    two.pause(1, true);
    let (_, counted) = ctl(&two, 0, &["counts", "live://r"]);
    let (_, kicked) = ctl(&two, 0, &["kick", "user", "1"]);
    let (_, joined) = ctl(&two, 0, &["join", "x", "--for-user", "2"]);
    two.pause(1, false);
    assert_eq!((&kicked["closed"], &kicked["unanswered"]), (&json!(1), &json!(["b"])));
    assert_eq!((&joined["changed"], &joined["unanswered"]), (&json!(0), &json!(["b"])));
    assert_eq!((&counted["clients"], &counted["unanswered"]), (&json!(1), &json!(["b"])));
    // The stopped host gets the messages once it runs again.
    until("the order to be carried out", || two.metrics(1).closed("kicked") == 1);
}
