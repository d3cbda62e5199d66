//! The running programs with `log.format = "json"`: every line they write is an object.

use std::fs;
use std::sync::mpsc::Receiver;

use comet_client::{Transport, op};
use rustix::process::Signal;
use serde_json::Value;

use crate::logic_process::own_address;
use crate::peer::Peer;
use crate::process::{Running, comet, temporary, with_sets};
use crate::support::{PATIENCE, Permit, http, two_cores};

const JSON: &str = "log.format=\"json\"";

/// The message of a line, which has everything else a line has.
#[track_caller]
fn message(line: &str) -> String {
    let object: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let field = |name: &str| object[name].as_str().unwrap_or_else(|| panic!("{name} of {line}"));
    let (time, level) = (field("time"), field("level"));
    assert!(time.len() == 24 && time.ends_with('Z') && &time[10..11] == "T", "{line}");
    assert!(["error", "warn", "info", "debug"].contains(&level), "{line}");
    assert!(field("target").starts_with("comet"), "{line}");
    assert_eq!(object.as_object().unwrap().len(), 4, "{line}");
    field("message").to_owned()
}

/// Lines up to the one with `text`.
#[track_caller]
fn until_line(log: &Receiver<String>, text: &str) -> Vec<String> {
    let mut lines = vec![line_of(log, text)];
    while !lines.last().unwrap().contains(text) {
        lines.push(line_of(log, text));
    }
    lines
}

#[track_caller]
fn line_of(log: &Receiver<String>, text: &str) -> String {
    log.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// From the start to the end, with a key that would drive a terminal, and a configuration with mistakes.
#[test]
fn each_line_of_a_server_is_an_object() {
    let config = temporary("json-log.toml", "");
    let trace = temporary("json-trace.log", "");
    let file = format!("white_list.file={trace:?}");
    let (tcp, cores) = (own_address(), two_cores());
    let bind = format!("tcp.bind=[\"{tcp}\"]");
    let sets = [JSON, &file, "white_list.users=[7]", "log.level=\"debug\"", &bind];
    let arguments = ["--config", &config, "--cores", &cores];
    let _permit = Permit::wait();
    let (process, log) = Running::start(comet(&[&arguments[..], &with_sets(&sets)].concat()));
    let mut lines = until_line(&log, "debug [");
    let token = r#"{"mid":7,"key":"\u001b]0;x\u009b2J\u202e\r\n","room_id":"r://1","accepts":[5]}"#;
    let mut peer = Peer::connect(tcp, Transport::Tcp);
    peer.authenticate(token);
    peer.ask(op::HEARTBEAT, 4, b"");
    peer.write(&[0; 4]);
    peer.close_notice();
    lines.extend(until_line(&log, "reason=bad_frame"));
    fs::write(&config, "[tcp]\nbidn = 1\n\n[protocol]\nsvr_proto = 0\n").unwrap();
    process.signal(Signal::HUP);
    lines.extend(until_line(&log, "protocol.svr_proto"));
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0));
    lines.extend(log);
    let messages: Vec<_> = lines.iter().map(|line| message(line)).collect();
    let foreign = "key=\"\\u{1b}]0;x\\u{9b}2J\\u{202e}\\r\\n\" peer=";
    for text in [foreign, "SIGHUP: nothing changes: ", "2 of 2 cores drained in time"] {
        assert!(messages.iter().any(|message| message.contains(text)), "{text}: {messages:?}");
    }

    let events = fs::read_to_string(&trace).unwrap();
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str| events.iter().find(|line| line["event"] == event).unwrap();
    let authenticated = of("authenticated");
    assert_eq!(authenticated["key"], "\u{1b}]0;x\u{9b}2J\u{202e}\r\n");
    assert_eq!((&authenticated["room"], &authenticated["user"]), (&"r://1".into(), &7.into()));
    assert_eq!((&of("read")["op"], &of("read")["seq"]), (&2.into(), &4.into()));
    assert_eq!(of("closed")["reason"], "bad_frame");
    assert!(events.iter().all(|line| line["time"].as_str().unwrap().ends_with('Z')), "{events:?}");
}

#[test]
fn each_line_of_comet_logic_is_an_object() {
    let [grpc, calls, stat] = [(); 3].map(|()| own_address());
    let sets = [
        format!("logic_server.grpc=[\"{grpc}\"]"),
        format!("logic_server.http=[\"{calls}\"]"),
        format!("logic_server.stat=[\"{stat}\"]"),
        JSON.to_owned(),
    ];
    let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    let (process, log) = Running::start(comet(&[&["logic"], &sets[..]].concat()));
    let mut lines = until_line(&log, "stat [");
    assert_eq!(http(calls, "POST", "/comet/sessions/end?server=%0A%1B%22", "").0, 200);
    process.signal(Signal::HUP);
    lines.extend(until_line(&log, "SIGHUP: no key"));
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0));
    lines.extend(log);
    let messages: Vec<_> = lines.iter().map(|line| message(line)).collect();
    for text in ["comet \"\\n\\u{1b}\\\"\" were ended", "SIGHUP: no key", "SIGTERM: ending"] {
        assert!(messages.iter().any(|message| message.contains(text)), "{text}: {messages:?}");
    }
}
