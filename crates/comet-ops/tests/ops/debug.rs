//! Profiles and the level of the log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use comet_ops::{log_level, profiles};
use comet_serve::{AccessControl, ApiTls, GateLimits, Gates, Phase, Servers, listen};
use log::LevelFilter;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The pages, served.
struct Running {
    address: SocketAddr,
    _servers: Servers,
    _phase: watch::Sender<Phase>,
}

fn start() -> Running {
    let router = Router::new().merge(profiles()).merge(log_level());
    let bound = listen("test", &["127.0.0.1:0".parse().unwrap()], &ApiTls::default()).unwrap();
    let (phase, phases) = watch::channel(Phase::Ready);
    let mut servers = Servers::new(phases);
    let limits =
        GateLimits { connections: 64, request_max: 4 << 10, request_time: Duration::from_secs(20) };
    let gate = Gates::new(65_536, 64 << 10).gate(
        "test",
        limits,
        &Arc::new(AccessControl::new(Vec::new(), vec!["test".to_owned()])),
    );
    servers.http(&gate, bound.listeners, &router).unwrap();
    Running { address: bound.addresses[0].socket().unwrap(), _servers: servers, _phase: phase }
}

impl Running {
    /// Status and body of a call.
    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

#[tokio::test]
async fn seconds_are_bounded() {
    let api = start();
    for (path, seconds) in [
        ("profile", "0"),
        ("profile", "61"),
        ("flamegraph", "x"),
        ("heap", "61"),
        ("heap/flamegraph", "-1"),
    ] {
        let path = format!("/debug/pprof/{path}?seconds={seconds}");
        let sentence = format!("seconds: {seconds:?} is not a whole number from 1 to 60\n");
        assert_eq!(api.call("GET", &path, "").await, (400, sentence));
    }
}

#[tokio::test]
async fn a_flame_graph_of_the_heap_shows_one_of_four_counts() {
    let api = start();
    let (status, sentence) = api.call("GET", "/debug/pprof/heap/flamegraph?sample=cpu", "").await;
    let expected = "sample: \"cpu\" is none of alloc_objects, alloc_space, inuse_objects, \
                    inuse_space\n";
    assert_eq!((status, sentence.as_str()), (400, expected));
}

/// The only test of this program that changes the level: it belongs to the process.
#[tokio::test]
async fn the_log_level_is_changed_alive() {
    let api = start();
    let level = async |method: &str, body: &str| {
        let (status, answer) = api.call(method, "/log/level", body).await;
        (status, serde_json::from_str::<Value>(&answer).unwrap())
    };
    log::set_max_level(LevelFilter::Info);
    assert_eq!(level("GET", "").await, (200, json!({ "level": "info" })));
    assert_eq!(level("PUT", "Debug\n").await, (200, json!({ "level": "debug", "old": "info" })));
    assert_eq!(log::max_level(), LevelFilter::Debug);
    assert_eq!(level("GET", "").await, (200, json!({ "level": "debug" })));
    let (status, sentence) = api.call("PUT", "/log/level", "loud").await;
    let expected =
        "\"loud\" is no level: send off, error, warn, info, debug or trace as the body\n";
    assert_eq!((status, sentence.as_str()), (400, expected));
    assert_eq!(log::max_level(), LevelFilter::Debug);
}
