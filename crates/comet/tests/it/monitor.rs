//! The monitoring pages of a running server, and the log level, which can be changed while it runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use comet_client::{Transport, op};
use serde_json::{Value, json};

use crate::profiles::start_process;
use crate::support::{BOTH, Metrics, PATIENCE, Server, To, get, http, queued, received, until};

/// The figures of both cores. A page leaves out a core that answers late, so it is requested again.
pub(crate) fn stat_of_both_cores(address: SocketAddr, path: &str) -> Value {
    let mut stat = Value::Null;
    until("both cores to answer", || {
        stat = json_at(address, path);
        stat["cores"].as_array().unwrap().len() == 2
    });
    stat
}

fn json_at(address: SocketAddr, path: &str) -> Value {
    let (status, body) = get(address, path);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn stat_counts_connections_rooms_and_pushes() {
    let server = Server::start(&[]);
    let mut clients: Vec<_> = (0..6).map(|index| server.client(BOTH[index % 2], "1")).collect();
    for (client, room) in clients.iter_mut().zip(["a", "a", "a", "b", "b", "c"]) {
        client.join(room).unwrap();
    }
    assert_eq!(server.push(To::Room("a"), 5, b"hello"), queued(3));
    for client in &mut clients[..3] {
        assert_eq!(received(client), b"hello");
    }
    server.until("comet_sent_total", 3);
    // The home of a room learns of members on other cores a moment later.
    let fullest = json!([{ "room": "a", "online": 3 }, { "room": "b", "online": 2 }]);
    let expected = json!({ "count": 3, "fullest": fullest });
    until("rooms to be counted", || json_at(server.stat(), "/stat/rooms?top=2") == expected);
    let stat = stat_of_both_cores(server.stat(), "/stat?top=2");
    assert_eq!(stat["rooms"], expected);
    assert_eq!((&stat["phase"], &stat["calls_under_way"]), (&json!("ready"), &json!(0)));
    let totals = &stat["totals"];
    let check = |name: &str, value: u64| assert_eq!(totals[name], value, "{name}: {totals}");
    check("connections", 6);
    check("live", 6);
    check("accepted_tcp", 3);
    check("accepted_websocket", 3);
    check("users", 1);
    check("keys", 6);
    check("rooms", 3);
    check("pushes", totals["pushes"].as_u64().unwrap().clamp(1, 2));
    check("queued", 3);
    check("sent", 3);
    check("waiting", 0);
    check("waiting_bytes", 0);
    let turns = &totals["turns"];
    assert!(turns["count"].as_u64() > Some(0), "{turns}");
    assert!(turns["micros_max"].as_u64() >= turns["micros_mean"].as_u64(), "{turns}");
    assert_eq!(stat["logic"], Value::Null, "logic is embedded");
    let cores = stat["cores"].as_array().unwrap();
    assert_eq!(cores.len(), 2);
    for name in ["live", "sent", "frames_in", "sends"] {
        let sum: u64 = cores.iter().map(|core| core[name].as_u64().unwrap()).sum();
        assert_eq!(totals[name], sum, "{name}");
    }
}

#[test]
fn metrics_have_process_and_build_information() {
    let server = Server::start(&[]);
    let (status, page) = get(server.stat(), "/metrics");
    assert_eq!(status, 200);
    let samples: BTreeMap<_, f64> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(sample, value)| (sample, value.parse().unwrap()))
        .collect();
    assert!(samples["process_resident_memory_bytes"] > 1e6);
    assert!(samples["process_cpu_seconds_total"] > 0.0);
    assert!(samples["process_open_fds"] > 10.0);
    let [allocated, resident] =
        ["comet_heap_allocated_bytes", "comet_heap_resident_bytes"].map(|name| samples[name]);
    // The inboxes of two cores and of control take megabytes.
    assert!(1e6 < allocated && allocated < resident, "{allocated} {resident}");
    let info = json_at(server.stat(), "/buildinfo");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    let labels = [("version", "version"), ("revision", "commit"), ("rustc", "rustc")]
        .map(|(label, key)| format!("{label}={}", info[key]));
    let build = samples.keys().find(|sample| sample.starts_with("comet_build_info{")).unwrap();
    for label in labels {
        assert!(build.contains(&label), "{label} in {build}");
    }
}

#[test]
fn the_log_level_can_be_changed_over_http() {
    let (server, debug) = start_process(&[], &[]);
    let level = |method: &str, body: &str| {
        let (status, answer) = http(debug, method, "/log/level", body);
        assert_eq!(status, 200);
        serde_json::from_slice::<Value>(&answer).unwrap()
    };
    assert_eq!(level("GET", ""), json!({ "level": "info" }));
    let close = |key: &str| {
        let token = format!(r#"{{"mid":1,"key":"{key}","accepts":[]}}"#);
        let mut peer = server.live(Transport::Tcp, &token);
        peer.ask(op::HEARTBEAT, 1, b"");
        drop(peer);
        until("the connection to be closed", || {
            Metrics::read(server.stat).value("comet_connections") == 0
        });
    };
    close("unheard");
    assert_eq!(level("PUT", "debug"), json!({ "level": "debug", "old": "info" }));
    close("heard");
    loop {
        let line = server.log.recv_timeout(PATIENCE).expect("a line about the closed connection");
        assert!(!line.contains("unheard"), "{line}");
        if line.contains("heard") {
            break;
        }
    }
    assert_eq!(level("PUT", "off"), json!({ "level": "off", "old": "debug" }));
}
