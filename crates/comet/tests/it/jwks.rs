//! Keys of tokens from URLs, on the running server: fetched, changed, and from servers that fail in every way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use comet_client::{Client, Error, Options, Permanent};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::process::{Server, line_with};
use crate::scratch;
use crate::support::{Metrics, PATIENCE, until};

/// A key of an issuer.
pub(crate) struct Signer {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    pub(crate) fn new(id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { id, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap() }
    }

    pub(crate) fn token(&self) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({ "alg": "EdDSA", "kid": self.id }));
        let message = format!("{header}.{}", part(json!({ "mid": 42, "exp": now + 3_600 })));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// A key set.
pub(crate) fn set(signers: &[&Signer]) -> String {
    let key = |signer: &&Signer| {
        let x = URL_SAFE_NO_PAD.encode(signer.pair.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": signer.id, "x": x })
    };
    json!({ "keys": signers.iter().map(key).collect::<Vec<_>>() }).to_string()
}

pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A web server with an answer for each path. A path that it does not know is never answered. While its answers are
/// locked, nobody gets any.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    answers: Arc<Mutex<BTreeMap<&'static str, String>>>,
    requests: Arc<AtomicUsize>,
}

impl Web {
    pub(crate) fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Self {
            address: listener.local_addr().unwrap(),
            answers: Arc::default(),
            requests: Arc::default(),
        };
        let (answers, requests) = (Arc::clone(&web.answers), Arc::clone(&web.requests));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answers, requests) = (Arc::clone(&answers), Arc::clone(&requests));
                let tls = tls.clone();
                thread::spawn(move || {
                    drop(answers.lock());
                    match tls {
                        None => answer(stream, &answers, &requests),
                        Some(tls) => {
                            let session = ServerConnection::new(tls).unwrap();
                            answer(StreamOwned::new(session, stream), &answers, &requests);
                        }
                    }
                });
            }
        });
        web
    }

    /// The comet on whose log the test depends, which answers nobody before it has started.
    pub(crate) fn serve(&self, environment: &[(&str, &str)], sets: &[&str]) -> Server {
        let _held = self.answers.lock().unwrap();
        Server::start_in(environment, &[], sets)
    }

    pub(crate) fn set(&self, path: &'static str, answer: String) {
        self.answers.lock().unwrap().insert(path, answer);
    }
}

/// Answers one request; whoever does not trust this server sends none.
fn answer(
    stream: impl Read + Write,
    answers: &Mutex<BTreeMap<&'static str, String>>,
    requests: &AtomicUsize,
) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while line != "\r\n" {
        line.clear();
        if !matches!(stream.read_line(&mut line), Ok(1..)) {
            return;
        }
    }
    requests.fetch_add(1, Ordering::Relaxed);
    let found = answers.lock().unwrap().get(path.as_str()).cloned();
    match found {
        // The client may have seen enough.
        Some(answer) => drop(stream.get_mut().write_all(answer.as_bytes())),
        // Until the client gives up.
        None => drop(stream.read(&mut [0])),
    }
    let _ = stream.get_mut().flush();
}

pub(crate) fn sets(urls: &[String]) -> [String; 2] {
    ["token.kind=\"jwt\"".to_owned(), format!("token.jwks_urls={urls:?}")]
}

pub(crate) fn connect(server: &Server, signer: &Signer) -> Result<Client, Error> {
    Options::tcp(server.tcp.to_string(), signer.token()).timeout(PATIENCE).connect()
}

/// Connects again and again, as a client does that is told to come back.
#[track_caller]
fn until_taken(server: &Server, signer: &Signer) {
    let begin = Instant::now();
    while let Err(error) = connect(server, signer) {
        assert!(begin.elapsed() < 3 * PATIENCE, "{error}");
    }
}

#[test]
fn a_new_key_is_fetched_when_a_token_names_it() {
    let [first, second, nobodys] = ["first", "second", "nobody's"].map(Signer::new);
    let web = Web::start(None);
    web.set("/keys", ok(&set(&[&first])));
    let begin = Instant::now();
    let sets = sets(&[format!("http://{}/keys", web.address)]);
    let server = web.serve(&[], &sets.each_ref().map(String::as_str));
    line_with(&server.log, "token.jwks_urls[0]: 1 key, of which 1 is new");
    let mut stays = connect(&server, &first).unwrap();
    // The line comes a moment before the keys count as all that there are.
    until("a foreign key to be refused for good", || {
        let refused = connect(&server, &nobodys).unwrap_err();
        refused.permanent() == Some(Permanent::Refused)
    });

    web.set("/keys", ok(&set(&[&second])));
    until_taken(&server, &second);
    line_with(&server.log, "token.jwks_urls[0]: 1 key, of which 1 is new");
    connect(&server, &first).unwrap_err();
    stays.join("r").unwrap();
    // However many tokens name keys that nobody has.
    for _ in 0..200 {
        connect(&server, &nobodys).unwrap_err();
    }
    let most = 2 + begin.elapsed().as_secs() / 10;
    let requests = web.requests.load(Ordering::Relaxed) as u64;
    assert!(requests <= most, "{requests} requests, of {most}");
}

#[test]
fn a_server_that_fails_takes_no_other_key_with_it() {
    let signer = Signer::new("good");
    let web = Web::start(None);
    web.set("/garbage", ok("<html>hello</html>"));
    web.set("/huge", ok(&format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(2 << 20))));
    web.set(
        "/missing?api_key=secret",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
    );
    web.set(
        "/moved",
        format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{}/good\r\nContent-Length: 0\r\n\r\n",
            web.address
        ),
    );
    web.set("/good", ok(&set(&[&signer])));
    let at = |path: &str| format!("http://{}{path}", web.address);
    let urls = [
        at("/silent"),
        at("/garbage"),
        at("/huge"),
        at("/missing?api_key=secret"),
        at("/moved"),
        "http://127.0.0.1:1/nobody".to_owned(),
        at("/good"),
    ];
    let sets = sets(&urls);
    let held = web.answers.lock().unwrap();
    let server = Server::start(&sets.each_ref().map(String::as_str));
    // Without an answer, the server runs without keys.
    let refused = connect(&server, &signer).unwrap_err();
    assert!(refused.permanent().is_none() && refused.retry_after().is_some(), "{refused}");
    drop(held);
    let seen: Vec<String> = std::iter::from_fn(|| server.log.recv_timeout(PATIENCE).ok())
        .filter(|line| {
            line.contains("token.jwks_urls[3]: ") || line.contains("[6]: 1 key, of which 1 is new")
        })
        .take(2)
        .collect();
    // A query may hold a secret.
    let failed = seen.iter().find(|line| line.contains("[3]: ")).unwrap();
    assert!(failed.contains("/missing: ") && !failed.contains("secret"), "{failed}");
    connect(&server, &signer).unwrap();
    let failing = || {
        let metrics = Metrics::read(server.stat);
        let failures = metrics.by_label("comet_token_keys_failures_total");
        failures.into_iter().map(|(url, _)| url).collect::<BTreeSet<_>>()
    };
    let without_query = |url: &String| url.split('?').next().unwrap().to_owned();
    let expected = urls[..6].iter().map(without_query).collect();
    until("all but the last one to fail", || failing() == expected);
    // One of the others may have this one.
    let refused = connect(&server, &Signer::new("other")).unwrap_err();
    assert!(refused.permanent().is_none() && refused.retry_after().is_some(), "{refused}");
}

#[test]
fn a_server_with_tls_has_to_be_trusted() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let web = Web::start(Some(Arc::new(tls)));
    let signer = Signer::new("good");
    web.set("/keys", ok(&set(&[&signer])));
    let sets = sets(&[format!("https://localhost:{}/keys", web.address.port())]);
    let sets = sets.each_ref().map(String::as_str);
    let stranger = web.serve(&[], &sets);
    let line = line_with(&stranger.log, "token.jwks_urls[0]: https://");
    assert!(line.contains("certificate"), "{line}");
    drop(stranger);
    let authorities = scratch::folder().join("jwks-ca.pem");
    fs::write(&authorities, cert.pem()).unwrap();
    let environment = [("SSL_CERT_FILE", authorities.to_str().unwrap())];
    let server = web.serve(&environment, &sets);
    line_with(&server.log, "token.jwks_urls[0]: 1 key, of which 1 is new");
    connect(&server, &signer).unwrap();
}
