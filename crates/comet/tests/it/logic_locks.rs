//! Locks between comets and `comet logic`: Unix sockets, mutual TLS, and tokens.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::Receiver;
use std::thread;

use comet_client::{Transport, op};
use tokio::runtime::Builder;
use tonic::service::{InterceptorLayer, Routes};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};

use crate::authority::Authority;
use crate::logic_process::own_address;
use crate::logic_rig::{Logic, ledger};
use crate::peer::{CloseNotice, Peer};
use crate::process::{Running, comet, with_sets};
use crate::support::{PATIENCE, Permit, Server, received, two_cores};
use crate::unix_sockets::Folder;

const LOGICS: &str = "a-token-that-logic-asks-for";
const COMETS: &str = "a-token-that-comets-ask-for";

/// In the last line of a start.
const LISTENS: &str = "debug [";

/// A comet and its logic at these addresses, with `sets` for both: a client comes in, and a push to it
/// goes the other way.
fn check(logic_at: &str, comet_at: &str, sets: &[String]) {
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let grpc = format!("push.grpc=[\"127.0.0.1:0\", \"{comet_at}\"]");
    let addrs = format!("logic.addrs=[\"{logic_at}\"]");
    let tokens = [
        format!("push.tokens=[\"{COMETS}\"]"),
        format!("logic.token=\"{LOGICS}\""),
        format!("logic_server.tokens=[\"{LOGICS}\"]"),
        format!("logic_server.comet_token=\"{COMETS}\""),
    ];
    let tokens = tokens.each_ref().map(String::as_str);
    let ours = ["server.id=\"a\"", "logic.ping=\"100ms\"", &grpc, &addrs];
    let server = Server::start_locked(&[&sets[..], &tokens, &ours].concat(), COMETS);
    let logic_grpc = format!("logic_server.grpc=[\"{logic_at}\"]");
    let comets = format!("logic_server.comets=[\"a={comet_at}\"]");
    let stat = "logic_server.stat=[]";
    let logic = Logic::start(&[&sets[..], &tokens, &[&logic_grpc, &comets, stat]].concat());
    server.until(&format!("comet_logic_up{{address=\"{logic_at}\"}}"), 1);
    let mut client = server.client(Transport::Tcp, "41");
    let pushed = logic.post_with("mids?operation=5&mids=41", b"through logic", LOGICS);
    assert_eq!(pushed, ledger(1, 0));
    assert_eq!(received(&mut client), b"through logic");
}

#[test]
fn a_comet_and_its_logic_talk_over_unix_sockets() {
    let folder = Folder::new();
    check(&folder.address("logic.sock"), &folder.address("comet.sock"), &[]);
}

#[test]
fn a_comet_and_its_logic_show_each_other_certificates() {
    let authority = Authority::new();
    let [logic, comet] = [(); 2].map(|()| own_address());
    let trusted = ["client_ca", "server_ca"].map(|key| authority.trusted(key));
    let sets = [authority.sets(&logic.ip().to_string()), trusted].concat();
    check(&format!("tls:{logic}"), &format!("tls:{comet}"), &sets);
}

#[test]
fn a_logic_of_another_authority_is_not_asked() {
    let [authority, other] = [(); 2].map(|()| Authority::new());
    let address = own_address();
    let grpc = format!("logic_server.grpc=[\"tls:{address}\"]");
    let pair = other.sets(&address.ip().to_string());
    let _logic = Logic::start(&[&grpc, &pair[0], &pair[1]]);
    let addrs = format!("logic.addrs=[\"tls:{address}\"]");
    let comet = Comet::start(&[&addrs, &authority.trusted("server_ca")]);
    let [line] = comet.lines_with([&format!("logic tls:{address} cannot be reached")]);
    assert!(line.contains("certificate"), "{line}");
}

/// A comet as a process, whose first lines of the log count.
struct Comet {
    _process: Running,
    log: Receiver<String>,
    tcp: SocketAddr,
    _permit: Permit,
}

impl Comet {
    fn start(sets: &[&str]) -> Self {
        let permit = Permit::wait();
        let (cores, tcp) = (two_cores(), own_address());
        let bind = format!("tcp.bind=[\"{tcp}\"]");
        let sets = with_sets(&[&[&*bind], sets].concat());
        let (process, log) = Running::start(comet(&[&["--cores", &cores][..], &sets].concat()));
        Self { _process: process, log, tcp, _permit: permit }
    }

    /// The first lines with each of `texts`, in whatever order they come.
    #[track_caller]
    fn lines_with<const N: usize>(&self, texts: [&str; N]) -> [String; N] {
        let mut found = texts.map(|_| String::new());
        while found.iter().any(String::is_empty) {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("{texts:?}: {error}, {found:?}"));
            for (text, found) in texts.iter().zip(&mut found) {
                if found.is_empty() && line.contains(text) {
                    found.clone_from(&line);
                }
            }
        }
        found
    }

    /// The client is not at fault, and may come again.
    #[track_caller]
    fn asks_a_client_to_come_again(&self) {
        let mut peer = Peer::connect(self.tcp, Transport::Tcp);
        peer.send(op::AUTH, 1, b"41");
        let CloseNotice { reason, .. } = peer.close_notice();
        assert!(reason.contains("; retry_after_ms="), "{reason}");
    }
}

#[test]
fn a_comet_whose_token_logic_refuses_asks_another_logic() {
    let logic = |token: &str| Logic::start(&[&format!("logic_server.tokens=[\"{token}\"]")]);
    let [other, ours] = [logic("a-token-of-somebody-else"), logic(LOGICS)];
    let refused = "logic.token is refused";
    let token = format!("logic.token=\"{LOGICS}\"");
    let ping = "logic.ping=\"100ms\"";

    // A wrong token is known before a client comes.
    let addrs = format!("logic.addrs=[\"{}\"]", other.grpc());
    let comet = Comet::start(&[&addrs, &token, ping]);
    comet.lines_with([refused, LISTENS]);
    comet.asks_a_client_to_come_again();
    drop(comet);

    let addrs = format!("logic.addrs=[\"{}\", \"{}\"]", other.grpc(), ours.grpc());
    let server = Server::start(&[&addrs, &token, ping]);
    server.until(&format!("comet_logic_up{{address=\"{}\"}}", ours.grpc()), 1);
    for _ in 0..4 {
        server.client(Transport::Tcp, "41");
    }
    drop(server);

    // One that is missing, too.
    let addrs = format!("logic.addrs=[\"{}\"]", ours.grpc());
    let comet = Comet::start(&[&addrs, ping]);
    let [line, _] = comet.lines_with(["it asks for a token: set logic.token", LISTENS]);
    assert!(line.contains(&format!("logic {} cannot be reached", ours.grpc())), "{line}");
    comet.asks_a_client_to_come_again();
}

/// A service of somebody else's that answers no call without [`LOGICS`], the health service's neither, and names no scheme;
/// it ends with the process.
fn foreign_logic() -> SocketAddr {
    let check = |request: Request<()>| match request.metadata().get("authorization") {
        Some(token) if token == format!("Bearer {LOGICS}").as_str() => Ok(request),
        _ => Err(Status::unauthenticated("log in\nfirst")),
    };
    let listener = TcpListener::bind(own_address()).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut server = tonic::transport::Server::builder().layer(InterceptorLayer::new(check));
        runtime.block_on(async {
            let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
            server.add_routes(Routes::default()).serve_with_incoming(incoming).await.unwrap();
        });
    });
    address
}

#[test]
fn a_foreign_logic_that_refuses_a_comet_is_not_available() {
    let address = foreign_logic();
    let addrs = format!("logic.addrs=[\"{address}\"]");
    let ping = "logic.ping=\"100ms\"";
    let ours = format!("logic.token=\"{LOGICS}\"");
    let wrong = "logic.token=\"a-token-of-somebody-else\"";
    let [missing, refused] = ["it asks for a token: set logic.token", "logic.token is refused"];
    for (sets, expected) in [(vec![], missing), (vec![wrong], refused)] {
        let comet = Comet::start(&[&[&*addrs, ping], &*sets].concat());
        let [line, _] = comet.lines_with([expected, LISTENS]);
        assert!(line.contains(&format!("logic {address} cannot be reached: ")), "{line}");
        assert!(line.ends_with("; it says \"log in\\nfirst\""), "{line}");
        comet.asks_a_client_to_come_again();
    }
    let sample = |name: &str| format!("{name}{{address=\"{address}\"}}");
    let (up, refused) = (sample("comet_logic_up"), sample("comet_logic_pings_refused_total"));
    let server = Server::start(&[&addrs, ping]);
    server.until_some(&refused);
    assert_eq!(server.metric(&up), 0);
    drop(server);
    let server = Server::start(&[&addrs, ping, &ours]);
    server.until(&up, 1);
    assert_eq!(server.metric(&refused), 0);
}

/// What a load balancer says to the preface of HTTP/2.
#[test]
fn a_gateway_in_the_place_of_logic_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        // Open, as a connection that is reset may lose the answer.
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let page = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            // The other side may have left.
            let _ = stream.write_all(page);
            open.push(stream);
        }
    });
    let comet = Comet::start(&[&format!("logic.addrs=[\"{address}\"]")]);
    let [line] = comet.lines_with([&format!("logic {address} cannot be reached: ")]);
    assert!(line.ends_with(": no HTTP/2, but \"HTTP/1.1 400 Bad Request\""), "{line}");
}

#[test]
fn a_comet_that_asks_logic_for_a_token_is_gone_without() {
    let address = own_address();
    let sets = [format!("push.grpc=[\"{address}\"]"), format!("push.tokens=[\"{COMETS}\"]")];
    let _server = Server::start_locked(&sets.each_ref().map(String::as_str), COMETS);
    let comets = format!("logic_server.comets=[\"a={address}\"]");
    let ours =
        ["logic_server.grpc=[\"127.0.0.1:0\"]", "logic_server.http=[]", "logic_server.stat=[]"];
    let sets = with_sets(&[&ours[..], &[&comets]].concat());
    let (_logic, log) = Running::start(comet(&[&["logic"][..], &sets].concat()));
    let is_said = |line: &String| {
        line.contains(&format!("comet \"a\" at {address} is gone"))
            && line.contains("set logic_server.comet_token")
    };
    let lines = std::iter::from_fn(|| log.recv_timeout(PATIENCE).ok());
    assert!(lines.into_iter().any(|line| is_said(&line)));
}
