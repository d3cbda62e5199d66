//! `comet logic`, and the check of tokens, from the configuration.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use comet_config::{Algorithm, Config, SessionStore, Token, TokenExpiry, TokenKind};
use comet_control::BearerToken;
use comet_logic::{AnyAuthenticator, ClaimNames, Jwt, JwtOptions, UnverifiedTokens};
use comet_logicd::{ApiTls, BadAddress, ClientEndpoint, CometOptions, LogicServer, Options};
use comet_router::{Memory, Redis, Store, StoreError};
use comet_serve::{AccessLog, root_cause};
use rustix::process::{Resource, getrlimit};

use crate::options::access_control;
use crate::{api_tls, comet_watch, jwks, token_keys};

/// How long a session store may take to answer. After that the caller of `comet logic` gets an error.
const STORE_DEADLINE: Duration = Duration::from_secs(1);

/// Why logic did not start.
#[derive(Debug)]
pub enum LogicError {
    /// The keys that verify tokens: a sentence that names the file.
    Token(String),
    /// The session store's addresses.
    Store(StoreError),
    /// The file with the authorities of its certificates.
    RedisCa(String),
    /// A file of its TLS, with its key: a sentence.
    ApiTls(String),
    /// The address of a comet.
    Comet(BadAddress),
    /// The process lacks a resource of the system.
    System(std::io::Error),
    /// `comet logic` did not start.
    Start(comet_logicd::StartError),
}

impl fmt::Display for LogicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(sentence) => write!(f, "token.jwt_keys: {sentence}"),
            Self::Store(error) => write!(f, "logic_server.redis: {error}"),
            Self::RedisCa(sentence) => write!(f, "logic_server.redis_ca: {sentence}"),
            Self::ApiTls(sentence) => f.write_str(sentence),
            Self::Comet(BadAddress { address, error }) => {
                let cause = root_cause(error.as_ref());
                write!(f, "logic_server.comets: {address:?} is no address: {cause}")
            }
            Self::System(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LogicError {}

/// The check of tokens that `[token]` describes; reads the key files.
///
/// # Errors
/// [`LogicError::Token`].
pub fn authenticator(token: &Token) -> Result<AnyAuthenticator, LogicError> {
    if token.kind == TokenKind::Open {
        return Ok(AnyAuthenticator::Open(UnverifiedTokens));
    }
    let options = JwtOptions {
        algorithms: token.jwt_algorithms.iter().map(|algorithm| named(*algorithm)).collect(),
        keys: token_keys::read(&token.jwt_keys).map_err(LogicError::Token)?,
        urls: token.jwks_urls.len(),
        issuer: token.issuer.clone(),
        audience: token.audience.clone(),
        claims: ClaimNames {
            mid: token.mid.clone(),
            key: token.key.clone(),
            room: token.room.clone(),
            rooms: token.rooms.clone(),
            accepts: token.accepts.clone(),
        },
        ends_connections: token.expiry == TokenExpiry::Close,
    };
    let jwt = Jwt::new(options).map_err(|error| LogicError::Token(error.to_string()))?;
    Ok(AnyAuthenticator::Jwt(jwt.into()))
}

fn named(algorithm: Algorithm) -> comet_logic::Algorithm {
    match algorithm {
        Algorithm::HS256 => comet_logic::Algorithm::Hs256,
        Algorithm::RS256 => comet_logic::Algorithm::Rs256,
        Algorithm::ES256 => comet_logic::Algorithm::Es256,
        Algorithm::EdDSA => comet_logic::Algorithm::EdDsa,
    }
}

/// Starts `comet logic`. When this returns, every listener accepts.
///
/// # Errors
/// The first failure; nothing is left running.
pub fn start(config: &Config) -> Result<LogicServer, LogicError> {
    let settings = &config.logic_server;
    let authenticator = authenticator(&config.token)?;
    jwks::fetch(&authenticator, &config.token);
    let store = store(settings)?;
    if let Some(warning) = early_expiry(config) {
        log::warn!("{warning}");
    }
    if settings.comets.is_empty() && config.discovery.nodes.is_empty() {
        log::warn!("logic_server.comets is empty: pushes over HTTP are refused");
    }
    let tls = api_tls::load(config, api_tls::CallingProcess::Logic).map_err(LogicError::ApiTls)?;
    let certificate = api_tls::certificate(tls.certificate(), config);
    let comets = comets(settings, &tls).collect::<Result<_, _>>()?;
    let options = options(config, tls.clone(), comets);
    let server = LogicServer::start(options, authenticator, store).map_err(LogicError::Start)?;
    comet_watch::start(config, tls, server.discovered()).map_err(LogicError::System)?;
    server.certificates().replace(certificate.into_iter().collect());
    server.certificates().warn();
    log::info!(
        "comet logic {}: {:?} tokens, sessions in {:?}, {} comets",
        env!("CARGO_PKG_VERSION"),
        config.token.kind,
        settings.store,
        settings.comets.len(),
    );
    log::info!("logic {:?}, http push {:?}", server.grpc_addrs(), server.http_addrs());
    log::info!("stat {:?}", server.stat_addrs());
    Ok(server)
}

/// The store of sessions; it does not connect yet.
///
/// # Errors
/// [`LogicError::Store`] and [`LogicError::RedisCa`].
pub(crate) fn store(settings: &comet_config::LogicServer) -> Result<Store, LogicError> {
    if settings.store == SessionStore::Memory {
        return Ok(Store::Memory(Memory::new(settings.expire)));
    }
    let ca = settings.redis_ca.as_ref().map(|path| {
        let named = |error| LogicError::RedisCa(format!("{}: {error}", path.display()));
        std::fs::read(path).map_err(named)
    });
    let options = comet_router::RedisOptions {
        servers: settings.redis.clone(),
        ca: ca.transpose()?,
        lifetime: settings.expire,
        timeout: STORE_DEADLINE,
    };
    Redis::new(&options).map(Store::Redis).map_err(LogicError::Store)
}

/// Files that the process may open.
pub(crate) fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A warning if sessions of connected clients may expire. It is not an error, because the comets may have another
/// configuration.
pub(crate) fn early_expiry(config: &Config) -> Option<String> {
    let expire = config.logic_server.expire;
    // A comet renews a session at the client's first heartbeat after a random time.
    let renewed = config.logic.heartbeat_max + heartbeat(config);
    (expire <= renewed).then(|| {
        format!(
            "logic_server.expire is {expire:?}, and comets with this configuration may take \
             {renewed:?} to renew a session (logic.heartbeat_max and a heartbeat): pushes to keys and \
             users miss sessions that expired before their renewal"
        )
    })
}

/// Time without a heartbeat that ends a connection.
fn heartbeat(config: &Config) -> Duration {
    match config.logic_server.heartbeat {
        Duration::ZERO => config.protocol.heartbeat,
        heartbeat => heartbeat,
    }
}

/// The comets, with the addresses for their clients.
///
/// # Errors
/// [`LogicError::Comet`] in place of each comet that cannot be called.
pub(crate) fn comets(
    settings: &comet_config::LogicServer,
    tls: &ApiTls,
) -> impl Iterator<Item = Result<CometOptions, LogicError>> {
    settings.comets.iter().map(|(id, address)| {
        let comet = CometOptions::new(id, address, tls).map_err(LogicError::Comet)?;
        let node = settings.nodes.iter().find(|(node, ..)| node == id);
        Ok(match node {
            Some((_, host, weight)) => comet.for_clients(vec![host.clone()], *weight),
            None => comet,
        })
    })
}

fn options(config: &Config, tls: ApiTls, comets: Vec<CometOptions>) -> Options {
    let settings = &config.logic_server;
    Options {
        grpc: settings.grpc.clone(),
        http: settings.http.clone(),
        stat: settings.stat.clone(),
        tls,
        access: access_control(config, &settings.tokens),
        access_log: Arc::new(AccessLog::new(config.push.access_log)),
        comet_token: BearerToken::new(settings.comet_token.as_deref()),
        comets,
        node: ClientEndpoint {
            domain: config.server.domain.clone(),
            tcp: config.tcp.bind.clone(),
            websocket: config.websocket.bind.clone(),
            websocket_tls: config.websocket.tls_bind.clone(),
            heartbeat: heartbeat(config),
        },
        frame_max: config.push.frame_max,
        keys_max: config.push.keys_max,
        call_timeout: config.push.timeout,
        server_id: config.server.id.clone(),
        version: env!("CARGO_PKG_VERSION"),
        open_files: open_files(),
    }
}

#[cfg(test)]
mod tests {
    use comet_config::{Machine, Source, load};

    use super::*;

    #[test]
    fn sessions_that_expire_before_they_are_renewed_are_warned_of() {
        let check = |sets: &[&str], is_early: bool| {
            let machine = Machine { cpus: vec![0], host_name: "host".to_owned() };
            let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
            let config = load(&Source { sets: &sets, ..Source::default() }, &machine).unwrap();
            assert_eq!(early_expiry(&config).is_some(), is_early, "{sets:?}");
        };
        check(&[], false);
        check(&["logic_server.expire=\"35m\""], true);
        check(&["logic_server.expire=\"2101s\""], false);
        check(&["logic_server.expire=\"35m\"", "logic_server.heartbeat=\"1m\""], false);
        check(&["logic.heartbeat_max=\"1h\""], true);
    }
}
