//! `comet logic` finds its comets in discovery, and keeps them while discovery is away.

use std::net::{SocketAddr, TcpStream};
use std::thread;

use comet_client::Transport;
use serde_json::json;

use crate::discovery::sets;
use crate::discovery_node::Node;
use crate::logic_peers::other_comet;
use crate::logic_process::own_address;
use crate::logic_rig::{get_data, ledger, post};
use crate::process::{Running, Server, comet, line_with};
use crate::support::{Metrics, get, until};

/// `comet logic` that looks for comets at `nodes`: the process, where it pushes and where its metrics are.
fn logic(nodes: &[SocketAddr], more: &[String]) -> (Running, SocketAddr, SocketAddr) {
    let (http, stat) = (own_address(), own_address());
    let nodes: Vec<_> = nodes.iter().map(ToString::to_string).collect();
    let sets = [
        "logic_server.grpc=[]".to_owned(),
        format!("logic_server.http=[\"{http}\"]"),
        format!("logic_server.stat=[\"{stat}\"]"),
        format!("discovery.nodes={nodes:?}"),
        "discovery.env=\"dev\"".to_owned(),
        "server.id=\"logic-1\"".to_owned(),
    ];
    let sets = sets.iter().chain(more).flat_map(|set| ["--set", set]);
    let arguments: Vec<&str> = ["logic"].into_iter().chain(sets).collect();
    let (process, log) = Running::start(comet(&arguments));
    thread::spawn(move || log.into_iter().for_each(drop));
    until("comet logic to listen", || TcpStream::connect(stat).is_ok());
    (process, http, stat)
}

/// Waits until these comets, and no others, are there.
#[track_caller]
fn until_there(stat: SocketAddr, comets: &[&str]) {
    until("these comets to be there", || {
        let up = Metrics::read(stat).by_label("comet_logic_comet_up");
        up.iter().map(|(comet, _)| &**comet).eq(comets.iter().copied())
    });
}

#[test]
fn pushes_go_to_the_comets_of_discovery() {
    let node = Node::start();
    let own = sets(&[node.address]);
    let first = Server::start(&own.iter().map(String::as_str).collect::<Vec<_>>());
    // A node that is away, and one more comet in the configuration.
    let (third, third_at) = other_comet();
    let (_logic, http, stat) = logic(
        &[own_address(), node.address],
        &[format!("logic_server.comets=[\"third={third_at}\"]")],
    );
    until_there(stat, &["comet-1", "third"]);
    let mut client = first.live(Transport::Tcp, "42");
    let mut reaches = |queued| {
        assert_eq!(post(http, "all?operation=5", b"hi"), ledger(queued, 0));
        assert_eq!(client.recv().body, b"hi");
    };
    reaches(1);
    let third_host = third_at.ip().to_string();
    assert_eq!(get_data(http, "nodes/weighted")["nodes"], json!(["push.example", third_host]));

    // Another one comes.
    let (second, second_at) = other_comet();
    node.insert("second", second_at, "second.example");
    until_there(stat, &["comet-1", "second", "third"]);
    let hosts = || get_data(http, "nodes/weighted")["nodes"].as_array().unwrap().len();
    assert_eq!(hosts(), 3);

    // Discovery goes, and comes back as a node that knows nobody.
    node.set_away(true);
    let is_up = || Metrics::read(stat).value("comet_logic_discovery_up");
    until("the loss to be seen", || is_up() == 0);
    node.clear();
    reaches(1);
    assert_eq!(get(stat, "/healthz").0, 200);
    node.set_away(false);
    until("a node to answer", || is_up() == 1);
    assert!(Metrics::read(stat).value("comet_discovery_failures_total") >= 2);
    until_there(stat, &["comet-1", "second", "third"]);

    // It knows one of them again. The other one may have clients as long as it is there, and gets no new ones.
    node.insert("comet-1", first.grpc, "push.example");
    until("clients not to be sent there", || hosts() == 2);
    until_there(stat, &["comet-1", "second", "third"]);
    reaches(1);
    drop(second);
    until_there(stat, &["comet-1", "third"]);
    until("it to be forgotten", || {
        get_data(http, "nodes/instances").as_array().unwrap().len() == 2
    });
    // That of the configuration stays whatever becomes of it.
    drop(third);
    until_there(stat, &["comet-1"]);
    assert_eq!(get_data(http, "nodes/instances").as_array().unwrap().len(), 2);
}

#[test]
fn a_comet_that_drains_is_pushed_to_until_it_is_gone() {
    let node = Node::start();
    let mut own = sets(&[node.address]);
    own.extend(["server.drain_over=\"30s\"", "server.drain_timeout=\"40s\""].map(str::to_owned));
    let server = Server::start(&own.iter().map(String::as_str).collect::<Vec<_>>());
    let (_logic, http, stat) = logic(&[node.address], &[]);
    until_there(stat, &["comet-1"]);
    let mut clients: Vec<_> = (0..8).map(|_| server.live(Transport::Tcp, "42")).collect();
    server.signal(rustix::process::Signal::TERM);
    line_with(&server.log, "discovery: taken out at ");
    until_there(stat, &[]);
    let answers = Metrics::read(stat).by_label("comet_logic_comet_answers");
    assert_eq!(answers, [("comet-1".to_owned(), 1)]);
    // Of those that are left, each takes it.
    let pushed = post(http, "all?operation=5", b"still here");
    assert!(pushed["queued"].as_u64().is_some_and(|queued| queued > 0), "{pushed}");
    clients.retain_mut(|client| client.recv().body == b"still here");
    assert!(!clients.is_empty());
    assert_eq!(get_data(http, "nodes/weighted")["nodes"].as_array().unwrap().len(), 1);
}
