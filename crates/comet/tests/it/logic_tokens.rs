//! Signed tokens where comet is its own logic, and where `comet logic` is; key files that cannot serve.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use comet::{App, logic};
use comet_client::Options;
use comet_wire::goim::logic::ConnectReq;
use ring::hmac;
use serde_json::{Value, json};
use tonic::Code;

use crate::logic_rig::Logic;
use crate::support::{BOTH, PATIENCE, Server, To, config, queued, received};

pub(crate) const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";

/// A file with the secret, for as long as the test runs.
pub(crate) struct SecretFile(PathBuf);

impl SecretFile {
    pub(crate) fn new(name: &str, secret: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("comet-{}-{name}", std::process::id()));
        fs::write(&path, secret).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, secret: &[u8]) {
        fs::write(&self.0, secret).unwrap();
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// The settings that take tokens signed with it.
    pub(crate) fn sets(&self) -> [String; 4] {
        [
            "token.kind=\"jwt\"".to_owned(),
            format!("token.jwt_keys=[{:?}]", self.path()),
            "token.mid=\"sub\"".to_owned(),
            "token.room=\"room\"".to_owned(),
        ]
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        // What is left in a temporary directory is somebody else's to clean.
        let _ = fs::remove_file(&self.0);
    }
}

/// A token of user 42 in room `r`, signed with `secret`, that holds for `seconds`.
pub(crate) fn token(secret: &[u8], seconds: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let expires = i64::try_from(now).unwrap() + seconds;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "sub": "42", "room": "r", "exp": expires });
    let message = format!("{}.{}", part(json!({ "alg": "HS256" })), part(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Tokens that are refused, and with what sentence.
fn bad_tokens() -> [(String, &'static str); 3] {
    [
        (token(&SECRET.to_ascii_uppercase(), 60), "the token's signature is wrong"),
        (token(SECRET, -3600), "the token has expired"),
        ("42".to_owned(), "the token is not a JWT"),
    ]
}

#[test]
fn comet_takes_signed_tokens_alone() {
    let file = SecretFile::new("embedded", SECRET);
    let sets = file.sets();
    let server = Server::start(&sets.each_ref().map(String::as_str));
    for transport in BOTH {
        let mut client = server.client(transport, &token(SECRET, 60));
        for to in [To::User(42), To::Room("r")] {
            assert_eq!(server.push(to, 5, b"hi"), queued(1), "{to:?}");
            assert_eq!(received(&mut client), b"hi", "{to:?}");
        }
        drop(client);
        server.until("comet_live", 0);
        for (bad, sentence) in bad_tokens() {
            let address = server.address(transport).to_string();
            let options = match transport {
                comet_client::Transport::Tcp => Options::tcp(address, bad),
                comet_client::Transport::WebSocket => Options::websocket(address, "/sub", bad),
            };
            let error = options.timeout(PATIENCE).connect().expect_err(sentence).to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }
    server.until("comet_closed_total{reason=\"auth_refused\"}", 6);
}

#[tokio::test]
async fn comet_logic_takes_signed_tokens_alone() {
    let file = SecretFile::new("logic", SECRET);
    let sets = file.sets();
    let logic = Logic::start(&sets.each_ref().map(String::as_str));
    let mut client = logic.client().await;
    let mut connect = async |token: String| {
        let (server, cookie) = ("a".to_owned(), String::new());
        client.connect(ConnectReq { server, cookie, token: token.into_bytes() }).await
    };
    let reply = connect(token(SECRET, 60)).await.unwrap().into_inner();
    assert_eq!((reply.mid, reply.key.as_str(), reply.room_id.as_str()), (42, "42_1", "r"));
    for (bad, sentence) in bad_tokens() {
        let status = connect(bad).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, sentence));
    }
}

/// Both say which file it is, before anything runs.
#[test]
fn a_key_file_that_cannot_serve_is_named() {
    let short = SecretFile::new("short", &SECRET[1..]);
    let missing = SecretFile(std::env::temp_dir().join("comet-no-such-key"));
    for (file, sentence) in [
        (&short, "the secret has 31 bytes: HS256 wants at least 32"),
        (&missing, "No such file or directory"),
    ] {
        let sets = file.sets();
        let config = config(&sets.each_ref().map(String::as_str));
        let errors = [
            App::start(&config).unwrap_err().to_string(),
            logic::start(&config).unwrap_err().to_string(),
        ];
        for error in errors {
            let start = format!("token.jwt_keys: {}: {sentence}", file.0.display());
            assert!(error.starts_with(&start), "{error}");
        }
    }
}
