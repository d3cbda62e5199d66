//! Connections end when their tokens expire, with embedded logic and with `comet logic`.

use std::time::{Duration, SystemTime};

use comet_client::{Client, NotRenewed, Options, Transport};

use crate::logic_rig::Logic;
use crate::logic_tokens::{SECRET, SecretFile, token};
use crate::support::{BOTH, PATIENCE, Server};

/// The tolerance for clocks that differ, in seconds.
const LEEWAY: i64 = 60;

/// In milliseconds. Longer than the rest of a short token, even if a loaded machine delays deadlines; far less than an hour.
const SHORT: u32 = 60_000;

/// A token that expires after `seconds` or up to one second earlier, and the time of its expiry.
fn token_of(seconds: u32) -> (String, SystemTime) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs() + u64::from(seconds));
    (token(SECRET, i64::from(seconds) - LEEWAY), end)
}

fn short_token() -> (String, SystemTime) {
    token_of(10)
}

/// A token that leaves enough time for its renewal on a loaded machine.
fn first_token() -> (String, SystemTime) {
    token_of(20)
}

fn options(server: &Server, transport: Transport, token: String) -> Options {
    let address = server.address(transport).to_string();
    let options = match transport {
        Transport::Tcp => Options::tcp(address, token),
        Transport::WebSocket => Options::websocket(address, "/sub", token),
    };
    options.timeout(PATIENCE)
}

/// Waits for the end of `client`, whose token expires at `end`.
#[track_caller]
fn check_expires(mut client: Client, end: SystemTime) {
    let error = client.receive().expect_err("the token expires");
    // In a turn a core reads the wall clock after its own clock.
    assert!(SystemTime::now() >= end - Duration::from_millis(500), "closed early");
    assert!(error.is_token_expired(), "{error}");
    assert!(error.retry_after().is_some() && error.permanent().is_none(), "{error}");
}

#[test]
fn a_connection_ends_when_its_token_expires() {
    let file = SecretFile::new("expiry", SECRET);
    let sets = file.sets();
    let server = Server::start(&sets.each_ref().map(String::as_str));
    let stays = server.client(Transport::Tcp, &token(SECRET, 3_600));
    let (short, end) = short_token();
    let clients = BOTH.map(|transport| options(&server, transport, short.clone()).connect());
    for client in clients {
        check_expires(client.unwrap(), end);
    }
    server.until("comet_closed_total{reason=\"token_expired\"}", 2);
    server.until("comet_live", 1);
    drop(stays);
    // From then on the token is refused.
    let late = token(SECRET, -2 - LEEWAY);
    let error = options(&server, Transport::Tcp, late).connect().unwrap_err();
    assert!(error.to_string().contains("the token has expired"), "{error}");
}

#[test]
fn connections_can_be_configured_to_outlast_their_tokens() {
    let file = SecretFile::new("ignored", SECRET);
    let sets = file.sets();
    let mut sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    sets.push("token.expiry=\"ignore\"");
    let server = Server::start(&sets);
    let (short, end) = short_token();
    let mut client = options(&server, Transport::Tcp, short).connect().unwrap();
    let more = end.duration_since(SystemTime::now()).unwrap_or_default();
    let received = client.receive_timeout(more + Duration::from_millis(500)).unwrap();
    assert!(received.is_none(), "{received:?}");
}

#[test]
fn comet_logic_reports_when_a_token_expires() {
    let file = SecretFile::new("remote-expiry", SECRET);
    let sets = file.sets();
    let logic = Logic::start(&sets.each_ref().map(String::as_str));
    let addrs = format!("logic.addrs=[\"{}\"]", logic.grpc());
    let server = Server::start(&[&addrs]);
    server.until(&format!("comet_logic_up{{address=\"{}\"}}", logic.grpc()), 1);
    let (first, end) = first_token();
    let client = options(&server, Transport::Tcp, first).connect().unwrap();
    // The tokens name no key, so logic creates one for each.
    check_renewal(client, end);
}

/// Renews the token of `client`, and waits until the first one has expired.
#[track_caller]
fn check_renewal(mut client: Client, first_end: SystemTime) {
    let first = client.auth_reply().expect("comet speaks protocol 2").expires_in_ms.unwrap();
    assert!((1..=SHORT).contains(&first), "{first}");
    let mut renew = |token: String| client.renew(token.as_bytes()).unwrap();

    let strange = renew("no token".to_owned());
    assert_eq!(strange.not_renewed, Some(NotRenewed::Refused));
    assert!(strange.expires_in_ms.unwrap() <= SHORT, "{strange:?}");
    let renewed = renew(token(SECRET, 3_600));
    assert_eq!(renewed.not_renewed, None);
    assert!(renewed.expires_in_ms.unwrap() > 3_000_000, "{renewed:?}");
    // Nothing may happen when the first token expires.
    let more = first_end.duration_since(SystemTime::now()).unwrap_or_default();
    let received = client.receive_timeout(more + Duration::from_millis(500)).unwrap();
    assert!(received.is_none(), "{received:?}");

    let (short, end) = short_token();
    let last = client.renew(short.as_bytes()).unwrap();
    assert!(last.not_renewed.is_none() && last.expires_in_ms.unwrap() <= SHORT, "{last:?}");
    check_expires(client, end);
}

#[test]
fn a_client_renews_its_token_and_stays() {
    let file = SecretFile::new("renewal", SECRET);
    let sets = file.sets();
    let server = Server::start(&sets.each_ref().map(String::as_str));
    let clients = BOTH.map(|transport| {
        let (first, end) = first_token();
        let client = options(&server, transport, first).connect().unwrap();
        std::thread::spawn(move || check_renewal(client, end))
    });
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(server.metric("comet_tokens_renewed_total"), 4);
    assert_eq!(server.metric("comet_tokens_not_renewed_total"), 2);
}
