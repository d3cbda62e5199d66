//! Registration in discovery, by the program: at a stand-in that keeps the contract, and at a real one.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use comet_client::Transport;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::discovery_node::Node;
use crate::logic_process::own_address;
use crate::process::{Server, line_with, run, with_sets};
use crate::support::{Metrics, get, two_cores, until};

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
    node.clear();
    drop(second);
    node.until_counts("set", "1", "1");
    node.until_counts("register", "1", "1");

    server.signal(Signal::TERM);
    node.next("cancel");
    let (code, logged) = server.end();
    assert_eq!(code, Some(0), "{logged:?}");
    assert!(node.is_empty());
}

/// Nothing but the renewal, every half minute, says that the node has forgotten it.
#[test]
fn a_comet_that_a_renewal_does_not_find_is_registered_again() {
    let node = Node::start();
    let server = start(&[node.address]);
    let registered = node.next("register");
    node.clear();
    assert_eq!(node.next_within(Duration::from_secs(60), "register"), registered);
    line_with(&server.log, "does not know this server any more: registering again");
    assert!(!node.is_empty());
}

#[test]
fn a_comet_with_ipv6_is_registered() {
    let node = Node::start();
    let mut sets = sets(&[node.address]);
    sets.push("discovery.addrs=[\"2001:db8::7\", \"push.example\"]".to_owned());
    sets.push("discovery.grpc=[\"[2001:db8::9]:8083\"]".to_owned());
    let _server = Server::start(&sets.iter().map(String::as_str).collect::<Vec<_>>());
    let registered = node.next("register");
    assert_eq!(registered["addrs"], "grpc://[2001:db8::9]:8083");
    let metadata: Value = serde_json::from_str(&registered["metadata"]).unwrap();
    assert_eq!(metadata["addrs"], "2001:db8::7,push.example");
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

/// Answers each request with these bytes.
fn always(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The other side may have left.
            let _ = stream.read(&mut [0; 4_096]).and_then(|_| stream.write_all(answer.as_bytes()));
        }
    });
    address
}

/// What a load balancer answers for it.
#[test]
fn a_page_in_the_place_of_discovery_is_named() {
    for (answer, sentence) in [
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "http status: 502; "),
        (
            "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
            "http status: 302; ",
        ),
        ("220 mail.example ESMTP\r\n", "no HTTP/1.1: "),
    ] {
        let node = always(answer);
        let server = start(&[node]);
        let line = line_with(&server.log, "and the next node is asked");
        assert!(line.contains(&format!("discovery: {node}: {sentence}")), "{line}");
        assert_eq!(Metrics::read(server.stat).value("comet_discovery_registered"), 0);
    }
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
