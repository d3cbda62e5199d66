//! Key files of tokens that change before SIGHUP, on the server and on `comet logic`.

use std::net::SocketAddr;

use comet_client::{Client, Error, Options, Permanent};
use comet_wire::goim::logic::ConnectReq;
use comet_wire::goim::logic::logic_client::LogicClient;
use rustix::process::Signal;
use tonic::transport::Endpoint;

use crate::logic_process::own_address;
use crate::logic_tokens::{SECRET, SecretFile, token};
use crate::process::{Running, Server, comet, line_with};
use crate::support::PATIENCE;

const OTHER: &[u8] = b"another secret of 32 bytes, fine";

fn connect(server: SocketAddr, secret: &[u8]) -> Result<Client, Error> {
    Options::tcp(server.to_string(), token(secret, 3_600)).timeout(PATIENCE).connect()
}

#[test]
fn newer_token_keys_apply_from_sighup_on() {
    let [first, second] = ["keys-a", "keys-b"].map(|name| SecretFile::new(name, SECRET));
    let keys = format!("token.jwt_keys=[{:?}, {:?}]", first.path(), second.path());
    let sets = ["token.kind=\"jwt\"", "token.mid=\"sub\"", &keys];
    let server = Server::start(&sets);
    let mut stays = connect(server.tcp, SECRET).unwrap();
    let refused = connect(server.tcp, OTHER).unwrap_err();
    assert_eq!(refused.permanent(), Some(Permanent::Refused), "{refused}");

    second.write(OTHER);
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    assert!(line.ends_with("token.jwt_keys[1]: 1 key, of which 1 is new"), "{line}");
    connect(server.tcp, OTHER).unwrap();
    connect(server.tcp, SECRET).unwrap();

    // If one file is invalid, the keys of the valid one do not apply either.
    first.write(OTHER);
    second.write(b"short");
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    let mistake = format!("token.jwt_keys: {}: the secret has 5 bytes", second.path());
    assert!(line.contains("nothing changes: ") && line.contains(&mistake), "{line}");
    connect(server.tcp, OTHER).unwrap();
    connect(server.tcp, SECRET).unwrap();

    second.write(OTHER);
    server.signal(Signal::HUP);
    let line = line_with(&server.log, "SIGHUP: ");
    assert!(line.ends_with("token.jwt_keys[0]: 1 key, none of them new"), "{line}");
    connect(server.tcp, SECRET).unwrap_err();
    connect(server.tcp, OTHER).unwrap();
    // A connection stays when the key of its token is removed.
    stays.join("r").unwrap();

    server.signal(Signal::HUP);
    line_with(&server.log, "SIGHUP: no key has changed");
}

#[tokio::test]
async fn comet_logic_applies_newer_token_keys_at_sighup() {
    let file = SecretFile::new("keys-logic", SECRET);
    let grpc = own_address();
    let mut sets = file.sets().to_vec();
    sets.push(format!("logic_server.grpc=[\"{grpc}\"]"));
    sets.extend(["logic_server.http=[]", "logic_server.stat=[]"].map(str::to_owned));
    let arguments: Vec<&str> =
        ["logic"].into_iter().chain(sets.iter().flat_map(|set| ["--set", set])).collect();
    let (process, log) = Running::start(comet(&arguments));
    line_with(&log, "stat [");
    let endpoint = Endpoint::from_shared(format!("http://{grpc}")).unwrap();
    let mut client = LogicClient::new(endpoint.timeout(PATIENCE).connect().await.unwrap());
    let mut is_taken = async |secret: &[u8]| {
        let token = token(secret, 3_600).into_bytes();
        let request = ConnectReq { server: "a".to_owned(), cookie: String::new(), token };
        client.connect(request).await.is_ok()
    };
    assert!(is_taken(SECRET).await && !is_taken(OTHER).await);
    file.write(OTHER);
    process.signal(Signal::HUP);
    line_with(&log, "SIGHUP: token.jwt_keys[0]: 1 key, of which 1 is new");
    assert!(!is_taken(SECRET).await && is_taken(OTHER).await);
    file.write(b"short");
    process.signal(Signal::HUP);
    line_with(&log, "SIGHUP: nothing changes: token.jwt_keys: ");
    assert!(is_taken(OTHER).await);
}
