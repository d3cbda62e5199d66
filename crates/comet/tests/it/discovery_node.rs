//! A stand-in for a node of discovery, which keeps its contract.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::PATIENCE;

pub(crate) type Form = BTreeMap<String, String>;

/// How long a poll waits for a change. Discovery's own 30 s are more than a test has.
const POLL: Duration = Duration::from_millis(500);

/// A node of discovery with the instances of one app.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    /// Path and parameters of each request but polls.
    requests: Receiver<(String, Form)>,
}

#[derive(Default)]
struct Shared {
    registry: Mutex<Registry>,
    changed: Condvar,
}

#[derive(Default)]
struct Registry {
    /// By hostname.
    instances: BTreeMap<String, Value>,
    /// Of the latest change.
    timestamp: i64,
    /// No request is answered.
    is_away: bool,
}

impl Node {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let (seen, requests) = channel();
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, seen) = (Arc::clone(&of_thread), seen.clone());
                thread::spawn(move || answer(stream, &shared, &seen));
            }
        });
        Self { address, shared, requests }
    }

    /// The parameters of the next request to `path`, and those of no other before it but `renew` and `set`, which come from time
    /// to time.
    #[track_caller]
    pub(crate) fn next(&self, path: &str) -> Form {
        self.next_within(PATIENCE, path)
    }

    /// The same, with another patience.
    #[track_caller]
    pub(crate) fn next_within(&self, patience: Duration, path: &str) -> Form {
        loop {
            let (asked, form) = self.requests.recv_timeout(patience).expect(path);
            if asked == format!("/discovery/{path}") {
                return form;
            }
            let comes_by_itself = ["/discovery/renew", "/discovery/set"].contains(&&*asked);
            assert!(comes_by_itself, "{asked} while waiting for {path}");
        }
    }

    /// Waits for the metadata in a request to `path` to have these counts.
    #[track_caller]
    pub(crate) fn until_counts(&self, path: &str, connections: &str, addresses: &str) -> Form {
        loop {
            let form = self.next(path);
            let metadata: Value = serde_json::from_str(&form["metadata"]).unwrap();
            if metadata["conn_count"] == connections && metadata["ip_count"] == addresses {
                return form;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.registry().instances.is_empty()
    }

    /// As if started anew: nobody is registered.
    pub(crate) fn clear(&self) {
        self.change(|registry| registry.instances.clear());
    }

    /// Registers `hostname` at `grpc`, with `host` for its clients.
    pub(crate) fn insert(&self, hostname: &str, grpc: SocketAddr, host: &str) {
        let instance = json!({
            "hostname": hostname,
            "zone": "sh001",
            "status": 1,
            "addrs": [format!("grpc://{grpc}")],
            "metadata": { "weight": "10", "offline": "false", "addrs": host },
        });
        self.change(|registry| drop(registry.instances.insert(hostname.to_owned(), instance)));
    }

    /// No request is answered from now on, or each is again.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.change(|registry| registry.is_away = is_away);
    }

    fn change(&self, change: impl FnOnce(&mut Registry)) {
        let mut registry = self.registry();
        change(&mut registry);
        registry.timestamp += 1;
        self.shared.changed.notify_all();
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.shared.registry.lock().unwrap()
    }
}

/// Answers one request as discovery does.
fn answer(stream: TcpStream, shared: &Shared, seen: &Sender<(String, Form)>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = BufReader::new(stream);
    let (mut line, mut length, mut is_form) = (String::new(), 0, false);
    if stream.read_line(&mut line).is_err() {
        return;
    }
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while line != "\r\n" {
        line.clear();
        if !stream.read_line(&mut line).is_ok_and(|read| read > 0) {
            return;
        }
        let header = line.to_ascii_lowercase();
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        is_form |= header.trim() == "content-type: application/x-www-form-urlencoded";
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let body = match target.split_once('?') {
        Some(("/discovery/polls", query)) => polled(&form(query), shared),
        _ => {
            let form = form(str::from_utf8(&body).unwrap());
            let mut registry = shared.registry.lock().unwrap();
            let code = if is_form { carry_out(&target, &form, &mut registry) } else { -400 };
            shared.changed.notify_all();
            let is_away = registry.is_away;
            drop(registry);
            let _ = seen.send((target, form));
            (!is_away).then(|| json!({ "code": code, "message": code.to_string(), "ttl": 1 }))
        }
    };
    let Some(body) = body.map(|body| body.to_string()) else { return };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
    let length = body.len();
    let _ = write!(stream.get_mut(), "{head}\r\nContent-Length: {length}\r\n\r\n{body}");
}

/// The answer to a poll, which waits for a change. `None`: there is none.
fn polled(query: &Form, shared: &Shared) -> Option<Value> {
    let named = ["env", "hostname", "appid", "latest_timestamp"];
    if named.iter().any(|name| query.get(*name).is_none_or(String::is_empty)) {
        return Some(json!({ "code": -400, "message": "-400" }));
    }
    let known: i64 = query["latest_timestamp"].parse().unwrap();
    let waits = |registry: &mut Registry| {
        !registry.is_away && (registry.instances.is_empty() || registry.timestamp <= known)
    };
    let registry = shared.registry.lock().unwrap();
    let (registry, _) = shared.changed.wait_timeout_while(registry, POLL, waits).unwrap();
    if registry.is_away {
        return None;
    }
    if registry.instances.is_empty() || registry.timestamp <= known {
        return Some(json!({ "code": -304, "message": "-304", "ttl": 1 }));
    }
    let instances: Vec<_> = registry.instances.values().collect();
    let app =
        json!({ "instances": { "sh001": instances }, "latest_timestamp": registry.timestamp });
    Some(json!({ "code": 0, "message": "0", "ttl": 1, "data": { "goim.comet": app } }))
}

fn carry_out(path: &str, form: &Form, registry: &mut Registry) -> i64 {
    let named = ["zone", "env", "appid", "hostname"];
    if named.iter().any(|name| form.get(*name).is_none_or(String::is_empty)) {
        return -400;
    }
    registry.timestamp += 1;
    let instances = &mut registry.instances;
    let metadata = form.get("metadata").and_then(|text| serde_json::from_str::<Value>(text).ok());
    let host = &form["hostname"];
    match path {
        "/discovery/register" if form.get("status").is_none_or(|status| status != "1") => -400,
        "/discovery/register" => {
            let instance = json!({
                "hostname": host,
                "zone": form["zone"],
                "status": 1,
                "addrs": [form.get("addrs")],
                "metadata": metadata,
            });
            instances.insert(host.clone(), instance);
            0
        }
        "/discovery/set" => match instances.get_mut(host) {
            Some(known) => {
                let changes = metadata.as_ref().and_then(Value::as_object);
                for (name, value) in changes.into_iter().flatten() {
                    known["metadata"][name] = value.clone();
                }
                0
            }
            None => -400,
        },
        "/discovery/renew" if instances.contains_key(host) => 0,
        "/discovery/cancel" if instances.remove(host).is_some() => 0,
        _ => -404,
    }
}

fn form(body: &str) -> Form {
    let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().replace('+', " ").into_bytes();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(part[2..].replace('+', " ").bytes());
    }
    String::from_utf8(bytes).unwrap()
}
