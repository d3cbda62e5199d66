//! `comet logic` inside this process, two comets, and what tests ask of them.

use std::net::SocketAddr;

use comet::{App, logic};
use comet_client::{Client, Options};
use comet_config::{Config, Source};
use comet_logicd::LogicServer;
use comet_wire::goim::logic::logic_client::LogicClient;
use comet_wire::goim::logic::{ConnectReply, ConnectReq};
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::support::{
    FREE_PORTS, Metrics, PATIENCE, PATIENT, Permit, SMALL_RING, http, http_with, ip, until,
};

const LOGIC_PORTS: [&str; 3] = [
    r#"logic_server.grpc=["127.0.0.1:0"]"#,
    r#"logic_server.http=["127.0.0.1:0"]"#,
    r#"logic_server.stat=["127.0.0.1:0"]"#,
];

/// The configuration of a server on the first CPU or the second, with `sets`.
fn config(core: usize, sets: &[&str]) -> Config {
    let machine = comet::machine().unwrap();
    let sets: Vec<String> = FREE_PORTS
        .iter()
        .chain(&LOGIC_PORTS)
        .chain([&SMALL_RING, &PATIENT])
        .chain(sets)
        .map(|set| (*set).to_owned())
        .collect();
    let cores = machine.cpus[core].to_string();
    let source = Source { sets: &sets, cores: Some(&cores), ..Source::default() };
    comet_config::load(&source, &machine).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// `comet logic` inside this process.
pub(crate) struct Logic(Option<LogicServer>);

impl Logic {
    pub(crate) fn start(sets: &[&str]) -> Self {
        let server = logic::start(&config(0, sets)).unwrap_or_else(|error| panic!("{error}"));
        Self(Some(server))
    }

    fn server(&self) -> &LogicServer {
        self.0.as_ref().expect("until it is dropped")
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        ip(&self.server().grpc_addrs()[0])
    }

    pub(crate) fn http(&self) -> SocketAddr {
        ip(&self.server().http_addrs()[0])
    }

    pub(crate) fn stat(&self) -> SocketAddr {
        ip(&self.server().stat_addrs()[0])
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::read(self.stat())
    }

    pub(crate) async fn client(&self) -> LogicClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc())).unwrap();
        LogicClient::new(endpoint.timeout(PATIENCE).connect().await.unwrap())
    }

    #[track_caller]
    pub(crate) fn post(&self, target: &str, body: &[u8]) -> Value {
        post(self.http(), target, body)
    }

    /// With a token.
    #[track_caller]
    pub(crate) fn post_with(&self, target: &str, body: &[u8], token: &str) -> Value {
        let target = format!("/goim/push/{target}");
        let headers = format!("Authorization: Bearer {token}\r\n");
        let (status, answer) = http_with(self.http(), "POST", &target, &headers, body);
        assert_eq!(status, 200, "{}", answer.escape_ascii());
        answered(serde_json::from_slice(&answer).expect("JSON"))
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Value {
        get_data(self.http(), target)
    }
}

impl Drop for Logic {
    fn drop(&mut self) {
        if let Some(server) = self.0.take() {
            server.stop();
        }
    }
}

pub(crate) fn request(address: SocketAddr, method: &str, target: &str, body: &[u8]) -> Value {
    let (status, answer) = http(address, method, target, body);
    assert_eq!(status, 200, "{}", answer.escape_ascii());
    serde_json::from_slice(&answer).expect("JSON")
}

/// The data of the answer to a push.
#[track_caller]
pub(crate) fn post(address: SocketAddr, target: &str, body: &[u8]) -> Value {
    answered(request(address, "POST", &format!("/goim/push/{target}"), body))
}

/// The data of the answer to a question.
#[track_caller]
pub(crate) fn get_data(address: SocketAddr, target: &str) -> Value {
    answered(request(address, "GET", &format!("/goim/{target}"), b""))
}

#[track_caller]
fn answered(mut answer: Value) -> Value {
    assert_eq!((&answer["code"], &answer["message"]), (&json!(0), &json!("")), "{answer}");
    answer["data"].take()
}

pub(crate) fn ledger(queued: u64, absent: u64) -> Value {
    json!({ "matched": queued, "queued": queued, "dropped": {}, "absent": absent, "scheduled": 0 })
}

/// Two comets of one core each, which count as one server of two.
pub(crate) struct Comets {
    apps: Option<[App; 2]>,
    _permit: Permit,
}

impl Comets {
    /// Comets that are their own logic.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Comets called a and b with `sets`.
    pub(crate) fn start_with(sets: &[String]) -> Self {
        let permit = Permit::wait();
        let start = |core: usize| {
            let id = format!("server.id={:?}", ["a", "b"][core]);
            let sets: Vec<&str> = sets.iter().chain([&id]).map(String::as_str).collect();
            App::start(&config(core, &sets)).unwrap_or_else(|error| panic!("{error}"))
        };
        Self { apps: Some([start(0), start(1)]), _permit: permit }
    }

    pub(crate) fn stats(&self) -> [SocketAddr; 2] {
        [0, 1].map(|comet| ip(&self.apps()[comet].stat_addrs()[0]))
    }

    pub(crate) fn tcp(&self, comet: usize) -> SocketAddr {
        self.apps()[comet].tcp_addrs()[0]
    }

    fn apps(&self) -> &[App; 2] {
        self.apps.as_ref().expect("until they are drained")
    }

    /// `logic_server.comets` of these, called a and b, and of `more`.
    pub(crate) fn setting(&self, more: &[String]) -> String {
        let [a, b] = [0, 1].map(|comet| ip(&self.apps()[comet].grpc_addrs()[0]));
        let comets: Vec<String> =
            [format!("a={a}"), format!("b={b}")].into_iter().chain(more.iter().cloned()).collect();
        format!("logic_server.comets={comets:?}")
    }

    /// Waits until `logic` has found both.
    pub(crate) fn until_there(&self, logic: &Logic) {
        for id in ["a", "b"] {
            let is_up = format!("comet_logic_comet_up{{server=\"{id}\"}}");
            until("the comets to be there", || logic.metrics().value(&is_up) == 1);
        }
    }

    pub(crate) fn client(&self, comet: usize, token: &str) -> Client {
        Options::tcp(self.tcp(comet).to_string(), token).timeout(PATIENCE).connect().unwrap()
    }
}

impl Drop for Comets {
    fn drop(&mut self) {
        for app in self.apps.take().into_iter().flatten() {
            let _ = app.drain();
        }
    }
}

pub(crate) fn token(user: i64, key: &str, room: &str) -> String {
    json!({ "mid": user, "key": key, "room_id": room, "accepts": [1000] }).to_string()
}

pub(crate) async fn connect(
    client: &mut LogicClient<Channel>,
    server: &str,
    token: &str,
) -> Result<ConnectReply, Status> {
    let request = ConnectReq {
        server: server.to_owned(),
        cookie: String::new(),
        token: token.as_bytes().to_vec(),
    };
    Ok(client.connect(request).await?.into_inner())
}
