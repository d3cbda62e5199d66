//! Registration in discovery, by the program: at a stand-in that keeps the contract, and at a real one.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::{env, fs, thread};

use comet_client::Transport;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::logic_process::own_address;
use crate::process::{Server, line_with, run, with_sets};
use crate::support::{Metrics, PATIENCE, get, two_cores, until};

pub(crate) type Form = BTreeMap<String, String>;

/// By hostname, the metadata of instances.
pub(crate) type Instances = Arc<Mutex<HashMap<String, serde_json::Map<String, Value>>>>;

/// A node of discovery with the instances of one app.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    instances: Instances,
    /// Path and parameters of each request.
    requests: Receiver<(String, Form)>,
}

impl Node {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let instances = Instances::default();
        let (seen, requests) = channel();
        let of_thread = Arc::clone(&instances);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(stream, &of_thread, &seen);
            }
        });
        Self { address, instances, requests }
    }

    /// The parameters of the next request to `path`, and those of no other before it but `renew`.
    #[track_caller]
    pub(crate) fn next(&self, path: &str) -> Form {
        loop {
            let (asked, form) = self.requests.recv_timeout(PATIENCE).expect(path);
            if asked == format!("/discovery/{path}") {
                return form;
            }
            assert_eq!(asked, "/discovery/renew", "while waiting for {path}");
        }
    }

    /// Waits for the metadata in a request to `path` to have these counts.
    #[track_caller]
    fn until_counts(&self, path: &str, connections: &str, addresses: &str) -> Form {
        loop {
            let form = self.next(path);
            let metadata: Value = serde_json::from_str(&form["metadata"]).unwrap();
            if metadata["conn_count"] == connections && metadata["ip_count"] == addresses {
                return form;
            }
        }
    }
}

/// Answers one request as discovery does.
fn answer(stream: TcpStream, instances: &Instances, seen: &Sender<(String, Form)>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = BufReader::new(stream);
    let (mut line, mut length, mut is_form) = (String::new(), 0, false);
    if stream.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
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
    let form = form(str::from_utf8(&body).unwrap());
    let code = if is_form { carry_out(&path, &form, &mut instances.lock().unwrap()) } else { -400 };
    let body = json!({ "code": code, "message": code.to_string(), "ttl": 1 }).to_string();
    let _ = seen.send((path, form));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
    let length = body.len();
    let _ = write!(stream.get_mut(), "{head}\r\nContent-Length: {length}\r\n\r\n{body}");
}

fn carry_out(
    path: &str,
    form: &Form,
    instances: &mut HashMap<String, serde_json::Map<String, Value>>,
) -> i64 {
    let named = ["zone", "env", "appid", "hostname"];
    if named.iter().any(|name| form.get(*name).is_none_or(String::is_empty)) {
        return -400;
    }
    let metadata = form.get("metadata").and_then(|text| serde_json::from_str(text).ok());
    let host = &form["hostname"];
    match path {
        "/discovery/register" if form.get("status").is_none_or(|status| status != "1") => -400,
        "/discovery/register" => {
            instances.insert(host.clone(), metadata.unwrap_or_default());
            0
        }
        "/discovery/set" => match instances.get_mut(host) {
            Some(known) => {
                known.extend(metadata.unwrap_or_default());
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

/// The settings of a comet called "comet-1" that is registered at `nodes`.
pub(crate) fn sets(nodes: &[SocketAddr]) -> Vec<String> {
    let nodes: Vec<String> = nodes.iter().map(|node| format!("{:?}", node.to_string())).collect();
    let sets = [
        &format!("discovery.nodes=[{}]", nodes.join(",")),
        r#"discovery.region="sh""#,
        r#"discovery.zone="sh001""#,
        r#"discovery.env="dev""#,
        r#"server.id="comet-1""#,
        r#"server.domain="push.example""#,
        "server.weight=10",
    ];
    sets.map(str::to_owned).to_vec()
}

fn start(nodes: &[SocketAddr]) -> Server {
    let sets = sets(nodes);
    Server::start(&sets.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_comet_is_registered_as_long_as_it_takes_clients() {
    let node = Node::start();
    // The first node is away.
    let server = start(&[own_address(), node.address]);
    let registered = node.next("register");
    assert_eq!(registered["hostname"], "comet-1");
    assert_eq!(registered["appid"], "goim.comet");
    assert_eq!(registered["addrs"], format!("grpc://{}", server.grpc));
    let metadata: Value = serde_json::from_str(&registered["metadata"]).unwrap();
    let expected = json!({
        "weight": "10",
        "offline": "false",
        "addrs": "push.example",
        "conn_count": "0",
        "ip_count": "0",
    });
    assert_eq!(metadata, expected);
    line_with(&server.log, &format!("discovery: registered at {}", node.address));
    until("the metric", || Metrics::read(server.stat).value("comet_discovery_registered") == 1);
    assert!(Metrics::read(server.stat).value("comet_discovery_failures_total") >= 1);

    // Two clients of one host.
    let _first = server.live(Transport::Tcp, "1");
    let second = server.live(Transport::WebSocket, "2");
    node.until_counts("set", "2", "1");
    // A discovery that was started anew knows nobody.
    node.instances.lock().unwrap().clear();
    drop(second);
    node.until_counts("set", "1", "1");
    node.until_counts("register", "1", "1");

    server.signal(Signal::TERM);
    node.next("cancel");
    let (code, logged) = server.end();
    assert_eq!(code, Some(0), "{logged:?}");
    assert!(node.instances.lock().unwrap().is_empty());
}

#[test]
fn a_discovery_that_is_away_stops_nobody() {
    // One refuses, one is silent.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = start(&[own_address(), silent.local_addr().unwrap()]);
    line_with(&server.log, "and the next node is asked");
    let _client = server.live(Transport::Tcp, "1");
    until("two failures", || {
        Metrics::read(server.stat).value("comet_discovery_failures_total") >= 2
    });
    assert_eq!(Metrics::read(server.stat).value("comet_discovery_registered"), 0);
    assert_eq!(get(server.stat, "/healthz").0, 200);
    server.signal(Signal::TERM);
    let (code, logged) = server.end();
    assert_eq!(code, Some(0), "{logged:?}");
    let warnings = logged.iter().filter(|line| line.contains("the next node is asked"));
    assert_eq!(warnings.count(), 0, "once for each change of state: {logged:?}");
}

#[test]
fn settings_that_nobody_could_use_are_mistakes() {
    let check = |sets: &[&str], sentence: &str| {
        let cores = two_cores();
        let arguments = [&["--check", "--cores", &cores][..], &with_sets(sets)].concat();
        let (code, _, stderr) = run(&arguments);
        assert_eq!(code, 64, "{sets:?}: {stderr}");
        assert!(stderr.contains(sentence), "{stderr}");
    };
    let (here, elsewhere) =
        ("discovery.nodes=[\"127.0.0.1:7171\"]", "discovery.nodes=[\"disco:7171\"]");
    let (zone, env) = ("discovery.zone=\"z\"", "discovery.env=\"e\"");
    check(&[here, zone], "discovery.nodes: needs discovery.env");
    check(&[here, env], "discovery.nodes: needs discovery.zone");
    check(&[elsewhere, zone, env], "is reached from this host only");
    let (everywhere, insecure) = ("push.grpc=[\"0.0.0.0:0\"]", "push.insecure=true");
    check(&[here, zone, env, everywhere, insecure], "stands for all interfaces");
    check(&[here, zone, env, "push.grpc=[\"unix:/tmp/x\"]"], "has no address of another host's");
    check(&["discovery.nodes=[\"disco\"]", zone, env], "use HOST:PORT");
}

/// A real discovery. Ends with the value.
struct Real {
    process: Child,
    address: SocketAddr,
}

impl Real {
    /// `None`, and a line in the log of the test, where there is no program of that name.
    fn start() -> Option<Self> {
        let address = own_address();
        let folder = env::temp_dir().join(format!("comet-discovery-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "nodes = [\"{address}\"]\n[env]\nregion = \"sh\"\nzone = \"sh001\"\nhost = \"d\"\nDeployEnv = \"dev\"\n\
             [httpServer]\naddr = \"{address}\"\ntimeout = \"40s\"\n\
             [httpClient]\ndial = \"1s\"\nkeepAlive = \"120s\"\ntimeout = \"40s\"\n[log]\nstdout = true\n"
        );
        fs::write(folder.join("discovery.toml"), text).unwrap();
        let mut command = Command::new("discovery");
        command.arg("-conf").arg(&folder).stdin(Stdio::null());
        match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(process) => {
                until("discovery to answer", || TcpStream::connect(address).is_ok());
                Some(Self { process, address })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("SKIPPED: there is no discovery, so nothing is tested with one");
                None
            }
            Err(error) => panic!("discovery: {error}"),
        }
    }

    /// The only instance, `None` if there is none.
    fn instance(&self) -> Option<Value> {
        let path = "/discovery/fetch?zone=sh001&env=dev&appid=goim.comet&status=1";
        let answer: Value = serde_json::from_str(&get(self.address, path).1).unwrap();
        answer["data"]["instances"]["sh001"].get(0).cloned()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_discovery_has_the_comet_until_it_drains() {
    let Some(discovery) = Real::start() else { return };
    let server = start(&[discovery.address]);
    let _client = server.live(Transport::Tcp, "1");
    until("the instance", || discovery.instance().is_some());
    let instance = discovery.instance().unwrap();
    assert_eq!(instance["hostname"], "comet-1");
    assert_eq!(instance["addrs"], json!([format!("grpc://{}", server.grpc)]));
    let counts = |instance: &Value| {
        ["conn_count", "ip_count"].map(|name| instance["metadata"][name].as_str() == Some("1"))
    };
    until("the counts", || discovery.instance().is_some_and(|it| counts(&it) == [true, true]));
    // They are merged into what it had.
    assert_eq!(discovery.instance().unwrap()["metadata"]["weight"], "10");
    server.signal(Signal::TERM);
    until("the end of the registration", || discovery.instance().is_none());
    assert_eq!(server.end().0, Some(0));
}
