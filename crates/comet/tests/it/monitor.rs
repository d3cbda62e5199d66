//! What a running server tells about itself, and what is changed while it runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use comet_client::{Transport, op};
use comet_control::caller::PushClient;
use serde_json::{Value, json};

use crate::peer::frame;
use crate::process::{Server as Process, line_with};
use crate::support::{
    BOTH, Metrics, PATIENCE, Server, To, get, http, push, queued, received, until,
};

fn json_at(address: SocketAddr, path: &str) -> Value {
    let (status, body) = get(address, path);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn stat_tells_what_the_server_holds() {
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
    // A home hears of members on other cores a moment later.
    let fullest = json!([{ "room": "a", "online": 3 }, { "room": "b", "online": 2 }]);
    let expected = json!({ "count": 3, "fullest": fullest });
    until("rooms to be counted", || json_at(server.stat(), "/stat/rooms?top=2") == expected);
    let stat = json_at(server.stat(), "/stat?top=2");
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
    assert_eq!(stat["logic"], Value::Null, "it is embedded");
    let cores = stat["cores"].as_array().unwrap();
    assert_eq!(cores.len(), 2);
    for name in ["live", "sent", "frames_in", "sends"] {
        let sum: u64 = cores.iter().map(|core| core[name].as_u64().unwrap()).sum();
        assert_eq!(totals[name], sum, "{name}");
    }
}

#[test]
fn metrics_have_the_process_and_what_it_was_built_from() {
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
    let info = json_at(server.stat(), "/buildinfo");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    let labels = [("version", "version"), ("revision", "commit"), ("rustc", "rustc")]
        .map(|(label, key)| format!("{label}={}", info[key]));
    let build = samples.keys().find(|sample| sample.starts_with("comet_build_info{")).unwrap();
    for label in labels {
        assert!(build.contains(&label), "{label} in {build}");
    }
}

/// The server as a process, and its debug address: a profile and the log's level are the process's.
fn start_process() -> (Process, SocketAddr) {
    let server = Process::start(&[]);
    let line = line_with(&server.log, "debug [");
    let debug = line.split(['[', ']']).find_map(|part| part.parse().ok());
    (server, debug.unwrap_or_else(|| panic!("{line}")))
}

#[test]
fn a_profile_of_a_busy_server_has_its_cores_and_costs_no_client() {
    let (server, debug) = start_process();
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    // Fewer than protocol.cli_proto, so that replies never are too many.
    let burst = frame(op::HEARTBEAT, 1, b"").repeat(100);
    let is_done = AtomicBool::new(false);
    let begin = Instant::now();
    thread::scope(|scope| {
        let peers = [Transport::Tcp; 4].map(|transport| {
            let mut peer = server.live(transport, "1");
            let (burst, is_done) = (&burst, &is_done);
            scope.spawn(move || {
                // Not for ever: a failure below must not hang the test.
                while !is_done.load(Ordering::Relaxed) && begin.elapsed() < 3 * PATIENCE {
                    peer.write(burst);
                    for _ in 0..100 {
                        assert_eq!(peer.recv().operation, op::HEARTBEAT_REPLY);
                    }
                }
                peer
            })
        });
        // A core has its sample once it has had the CPU for 10 ms.
        let core_is_in = || {
            let (status, profile) = http(debug, "GET", "/debug/pprof/profile?seconds=1", "");
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&profile));
            let has = |text: &str| profile.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(has("cpu") && has("nanoseconds"));
            has("comet-core-0-") || has("comet-core-1-")
        };
        until("a sample on a core", core_is_in);
        let (status, svg) = http(debug, "GET", "/debug/pprof/flamegraph?seconds=1", "");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&svg));
        assert!(svg.starts_with(b"<svg ") && svg.ends_with(b"</svg>\n"));
        let metrics = Metrics::read(server.stat);
        assert_eq!(
            (metrics.value("comet_live"), metrics.by_label("comet_closed_total")),
            (4, vec![])
        );
        is_done.store(true, Ordering::Relaxed);
        let mut peers = peers.map(|peer| peer.join().unwrap());
        assert_eq!(push(&caller, To::All, 5, b"end"), queued(4));
        for peer in &mut peers {
            assert_eq!(peer.recv().body, b"end");
        }
    });
}

#[test]
fn one_profile_at_a_time() {
    let (server, debug) = start_process();
    thread::scope(|scope| {
        let long = scope.spawn(|| http(debug, "GET", "/debug/pprof/profile?seconds=2", "").0);
        line_with(&server.log, "taking a CPU profile for 2 s");
        // The first one may still be on its way to the profiler; then this one is taken.
        let second = || http(debug, "GET", "/debug/pprof/flamegraph?seconds=1", "").0;
        let statuses = [second(), long.join().unwrap()];
        assert!(statuses.contains(&200), "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    });
}

#[test]
fn the_log_level_is_changed_alive() {
    let (server, debug) = start_process();
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
        until("the connection to be gone", || {
            Metrics::read(server.stat).value("comet_connections") == 0
        });
    };
    close("unheard");
    assert_eq!(level("PUT", "debug"), json!({ "level": "debug", "old": "info" }));
    close("heard");
    loop {
        let line = server.log.recv_timeout(PATIENCE).expect("a line about the end");
        assert!(!line.contains("unheard"), "{line}");
        if line.contains("heard") {
            break;
        }
    }
    assert_eq!(level("PUT", "off"), json!({ "level": "off", "old": "debug" }));
}
