//! APIs inside TLS, with certificates of callers and without.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use comet::blocking_client::{Ledger, PushClient, PushError, TlsFiles};
use rustix::process::Signal;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::authority::Authority;
use crate::logic_rig::Logic;
use crate::process::{Running, comet, line_with, run, with_sets};
use crate::support::{Metrics, PATIENCE, Permit, Server, config, ip, queued, two_cores, until};

const TLS: [&str; 3] = [
    r#"push.grpc=["127.0.0.1:0", "tls:127.0.0.1:0"]"#,
    r#"push.http=["tls:127.0.0.1:0"]"#,
    r#"monitor.stat=["127.0.0.1:0", "tls:127.0.0.1:0"]"#,
];

fn start(sets: &[String]) -> Server {
    let sets: Vec<&str> = TLS.into_iter().chain(sets.iter().map(String::as_str)).collect();
    Server::start(&sets)
}

/// The files of a caller that shows `pair`.
fn files(server: &Authority, pair: Option<[PathBuf; 2]>) -> TlsFiles {
    let [certificate, key] = pair.map_or([None, None], |pair| pair.map(Some));
    TlsFiles { certificate, key, client_ca: None, server_ca: Some(server.ca()) }
}

/// A push to everybody over gRPC.
fn broadcast(address: &str, files: &TlsFiles) -> Result<Option<Ledger>, PushError> {
    PushClient::connect_with(address, files)?.broadcast(5, b"", None)
}

/// A connection over which HTTP goes.
fn connect(
    address: SocketAddr,
    server: &Authority,
    pair: Option<&[PathBuf; 2]>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.ca()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match pair {
        Some([certificate, key]) => {
            let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = address.ip().to_string().try_into().unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
}

/// The status of `GET /metrics`, with a name that nobody knows here.
fn metrics(
    address: SocketAddr,
    server: &Authority,
    pair: Option<&[PathBuf; 2]>,
) -> std::io::Result<u16> {
    let mut stream = connect(address, server, pair);
    let request = "GET /metrics HTTP/1.1\r\nHost: comet.internal\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Err(error) if answer.is_empty() => return Err(error),
        _ => {}
    }
    Ok(answer["HTTP/1.1 ".len()..][..3].parse().unwrap())
}

fn closed(server: &Server, listener: &str, reason: &str) -> u64 {
    let sample = "comet_api_closed_total";
    server.metric(&format!("{sample}{{listener=\"{listener}\",reason=\"{reason}\"}}"))
}

#[test]
fn callers_are_shown_a_certificate() {
    let authority = Authority::new();
    let server = start(&authority.sets("comet.internal"));
    let tls = server.app().grpc_addrs()[1].to_string();
    assert!(tls.starts_with("tls:127.0.0.1:"), "{tls}");
    assert_eq!(broadcast(&tls, &files(&authority, None)).unwrap(), Some(queued(0)));
    let stat = ip(&server.app().stat_addrs()[1]);
    assert_eq!(metrics(stat, &authority, None).unwrap(), 200);
    // One of another authority is refused by the caller, which the server counts.
    let error = broadcast(&tls, &files(&Authority::new(), None)).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    server.until("comet_api_closed_total{listener=\"push.grpc\",reason=\"tls_error\"}", 1);
    // Who speaks no TLS at all is a caller that makes a mistake.
    let plain = tls.strip_prefix("tls:").unwrap();
    assert!(PushClient::connect(plain).and_then(|caller| caller.broadcast(5, b"", None)).is_err());
    until("it to be counted", || closed(&server, "push.grpc", "tls_error") >= 2);
}

#[test]
fn callers_have_to_show_a_certificate_where_they_are_asked() {
    let [servers, callers, strangers] = [(); 3].map(|()| Authority::new());
    let sets = [&servers.sets("comet.internal")[..], &[callers.trusted("client_ca")]].concat();
    let server = start(&sets);
    let tls = server.app().grpc_addrs()[1].to_string();
    let stat = ip(&server.app().stat_addrs()[1]);
    let [ours, foreign] = [callers.sign("caller"), strangers.sign("caller")];
    let with = |pair: &[PathBuf; 2]| files(&servers, Some(pair.clone()));
    assert_eq!(broadcast(&tls, &with(&ours)).unwrap(), Some(queued(0)));
    assert_eq!(metrics(stat, &servers, Some(&ours)).unwrap(), 200);
    assert!(broadcast(&tls, &with(&foreign)).is_err());
    assert!(broadcast(&tls, &files(&servers, None)).is_err());
    assert!(metrics(stat, &servers, Some(&foreign)).is_err());
    assert!(metrics(stat, &servers, None).is_err());
    for listener in ["push.grpc", "monitor.stat"] {
        until("both to be counted", || closed(&server, listener, "tls_error") >= 2);
    }
}

/// More than there are places for.
#[test]
fn silent_callers_do_not_keep_others_out() {
    let authority = Authority::new();
    let server = start(&authority.sets("comet.internal"));
    let grpc = server.app().grpc_addrs()[1].clone();
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(ip(&grpc)).unwrap());
    }
    assert_eq!(broadcast(&grpc.to_string(), &files(&authority, None)).unwrap(), Some(queued(0)));
    // What did not have to leave for another one is closed when its time is over.
    let last = silent.last_mut().unwrap();
    last.set_read_timeout(Some(PATIENCE)).unwrap();
    let end = last.read(&mut [0]);
    assert!(matches!(end, Ok(0)) || end.is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
    until("it to be counted", || closed(&server, "push.grpc", "silent") > 0);
}

#[test]
fn a_renewed_certificate_is_shown_after_sighup() {
    let (old, new) = (Authority::new(), Authority::new());
    let sets = old.sets("comet.internal");
    let all: Vec<&str> = TLS.into_iter().chain(sets.iter().map(String::as_str)).collect();
    let _permit = Permit::wait();
    let cores = two_cores();
    let arguments = [&["--cores", &cores][..], &with_sets(&all)].concat();
    let (process, log) = Running::start(comet(&arguments));
    let line = line_with(&log, "stat [");
    let grpc = line.split("tls:").nth(1).unwrap().split(']').next().unwrap();
    let grpc = format!("tls:{grpc}");
    line_with(&log, "debug [");
    let push = |authority: &Authority| {
        let ca = authority.ca();
        run(&["push", "--grpc", &grpc, "--ca", ca.to_str().unwrap(), "all", "hello"])
    };
    let no_match = |(code, _, error): (i32, String, String)| assert_eq!(code, 3, "{error}");
    no_match(push(&old));
    let [certificate, key] = new.sign("comet.internal");
    let [old_certificate, old_key] = old.sign("comet.internal");
    // A pair that does not fit changes nothing.
    std::fs::copy(certificate, old_certificate).unwrap();
    process.signal(Signal::HUP);
    let line = line_with(&log, "nothing changes");
    assert!(line.contains("api_tls.key: ") && line.contains("is not the key"), "{line}");
    no_match(push(&old));
    std::fs::copy(key, old_key).unwrap();
    process.signal(Signal::HUP);
    line_with(
        &log,
        "api_tls.certificate: new certificate of 127.0.0.1, comet.internal, valid until",
    );
    no_match(push(&new));
    assert_eq!(push(&old).0, 1);
}

#[test]
fn a_connection_ends_when_the_authorities_of_callers_change() {
    let [servers, callers] = [(); 2].map(|()| Authority::new());
    let without = [&TLS.map(str::to_owned)[..], &servers.sets("comet.internal")].concat();
    let with = [&without[..], &[callers.trusted("client_ca")]].concat();
    let [without, with] = [&without, &with].map(|sets| sets.iter().map(String::as_str).collect());
    let with: Vec<&str> = with;
    let mut server = Server::start(&without);
    let stat = ip(&server.app().stat_addrs()[1]);
    let mut former = connect(stat, &servers, None);
    former.write_all(b"GET /healthz HTTP/1.1\r\nHost: comet.internal\r\n\r\n").unwrap();
    assert!(former.read(&mut [0; 1024]).unwrap() > 0);
    // The same authorities again change nothing.
    server.reload(&config(&without)).unwrap();
    former.write_all(b"GET /healthz HTTP/1.1\r\nHost: comet.internal\r\n\r\n").unwrap();
    assert!(former.read(&mut [0; 1024]).unwrap() > 0);
    server.reload(&config(&with)).unwrap();
    let mut rest = Vec::new();
    former.read_to_end(&mut rest).unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "");
    assert_eq!(metrics(stat, &servers, Some(&callers.sign("caller"))).unwrap(), 200);
}

#[test]
fn an_expired_certificate_is_warned_of() {
    let authority = Authority::new();
    let [certificate, key] = authority.sets("comet.internal");
    let [file, _] = authority.sign_until("comet.internal", (2020, 1, 1));
    let ends = |page: &Metrics| page.by_label("comet_tls_certificate_expiry_timestamp_seconds");
    let expected = [(file.to_str().unwrap().to_owned(), 1_577_836_800)];
    assert_eq!(ends(&start(&[certificate.clone(), key.clone()]).metrics()), expected);
    assert_eq!(ends(&Logic::start(&[&certificate, &key]).metrics()), expected);
    let arguments = [&["logic"][..], &with_sets(&[&certificate, &key])].concat();
    let (_process, log) = Running::start(comet(&arguments));
    line_with(&log, "has expired at 2020-01-01T00:00:00Z: peers refuse it");
}

#[test]
fn files_that_cannot_be_used_are_mistakes() {
    let authority = Authority::new();
    let [certificate, key] = authority.sets("comet.internal");
    let missing = "api_tls.client_ca=\"/nonexistent/ca.pem\"";
    let arguments = with_sets(&[&certificate, &key, missing]);
    for arguments in [&[&["--check"][..], &arguments].concat(), &arguments] {
        let (code, _, error) = run(arguments);
        assert_eq!(code, 1);
        let expected = "comet: api_tls.client_ca: /nonexistent/ca.pem cannot be read: ";
        assert!(error.lines().any(|line| line.starts_with(expected)), "{error}");
    }
    let (code, _, error) = run(&["push", "--grpc", "tls:h:1", "--ca", "/nonexistent", "all", "x"]);
    assert_eq!(code, 1);
    assert!(error.contains("--ca: /nonexistent cannot be read"), "{error}");
    // Where a certificate is asked for, no token is needed.
    let set = ["push.grpc=[\"tls:0.0.0.0:0\"]", &certificate, &key];
    let ca = authority.trusted("client_ca");
    assert_eq!(run(&[&["--check"][..], &with_sets(&set)].concat()).0, 64);
    assert_eq!(run(&[&["--check"][..], &with_sets(&set), &["--set", &ca]].concat()).0, 0);
}
