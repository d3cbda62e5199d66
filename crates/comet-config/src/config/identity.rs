//! Who says who a client is: the logic service, tokens, the white list, and `comet logic`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::units::{serialize_duration, serialize_optional};

/// `[logic]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Logic {
    /// `HOST:PORT` of the logic services, names as they were written: they are resolved anew with
    /// each connection. Empty: comet is its own logic.
    pub addrs: Vec<String>,
    /// How long a call may take.
    #[serde(serialize_with = "serialize_duration")]
    pub timeout: Duration,
    /// Calls under way at most.
    pub calls: usize,
    /// How often each address is pinged.
    #[serde(serialize_with = "serialize_duration")]
    pub ping: Duration,
    /// How often logic is told the rooms of this server.
    #[serde(serialize_with = "serialize_duration")]
    pub renew: Duration,
    /// Shortest time between two heartbeats of a connection towards logic.
    #[serde(serialize_with = "serialize_duration")]
    pub heartbeat_min: Duration,
    /// Longest time between two of them; at least [`Logic::heartbeat_min`].
    #[serde(serialize_with = "serialize_duration")]
    pub heartbeat_max: Duration,
    /// Clients refused because no logic is there are told to wait, from half of this up to it.
    #[serde(serialize_with = "serialize_duration")]
    pub retry_after: Duration,
}

/// `[token]`: what embedded logic and `comet logic` take.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Token {
    /// What a token is.
    pub kind: TokenKind,
    /// Files with keys, at least one where tokens are JWTs: `.jwks` and `.json` are key sets, PEM is a
    /// public key, anything else an HMAC secret.
    pub jwt_keys: Vec<PathBuf>,
    /// Signatures that are taken; not empty where tokens are JWTs.
    pub jwt_algorithms: Vec<Algorithm>,
    /// What `iss` has to be; `None`: anything.
    #[serde(serialize_with = "serialize_text")]
    pub issuer: Option<String>,
    /// What `aud` has to name; `None`: anything.
    #[serde(serialize_with = "serialize_text")]
    pub audience: Option<String>,
    /// The claim that holds the user id.
    pub mid: String,
    /// The claim that holds the connection's key.
    pub key: String,
    /// The claim that holds the room.
    pub room: String,
    /// The claim that holds the list of accepted operations.
    pub accepts: String,
}

/// What a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// goim's forms, unverified: whoever connects says who they are.
    Open,
    /// A JSON Web Token (RFC 7519), verified.
    Jwt,
}

/// A signature of a JWT (RFC 7518, section 3.1; EdDSA: RFC 8037).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    HS256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// `[white_list]`
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WhiteList {
    /// Ids of the users whose connections are written down; ascending, none twice.
    pub users: Vec<i64>,
    /// The trace log; there is one where there are users.
    #[serde(serialize_with = "serialize_optional")]
    pub file: Option<PathBuf>,
}

/// `[logic_server]`: `comet logic`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LogicServer {
    /// Addresses of `goim.logic.Logic`; empty: none.
    pub grpc: Vec<SocketAddr>,
    /// Addresses of the HTTP push API; empty: none.
    pub http: Vec<SocketAddr>,
    /// Addresses of `/healthz` and `/metrics`; empty: none.
    pub stat: Vec<SocketAddr>,
    /// Server id of each comet, none twice, and `HOST:PORT` of its `push.grpc`.
    #[serde(serialize_with = "serialize_comets")]
    pub comets: Vec<(String, String)>,
    /// Silence after which comets close the clients they ask for; zero: that of `[protocol]`.
    #[serde(serialize_with = "serialize_duration")]
    pub heartbeat: Duration,
    /// Where sessions are kept.
    pub store: SessionStore,
    /// `redis://` addresses users are spread over; at least one where sessions are kept there.
    pub redis: Vec<String>,
    /// When sessions that nobody renews are forgotten.
    #[serde(serialize_with = "serialize_duration")]
    pub expire: Duration,
}

/// Where `comet logic` keeps sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionStore {
    /// In the process: gone with it.
    Memory,
    /// In Redis, as goim's logic does.
    Redis,
}

#[allow(clippy::ref_option, reason = "what serde calls it with")]
fn serialize_text<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.as_deref().unwrap_or_default())
}

fn serialize_comets<S: Serializer>(
    comets: &[(String, String)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(comets.iter().map(|(id, address)| format!("{id}={address}")))
}
