//! The TLS configuration of listeners: certificates, versions, tickets; and its reload.

#[cfg(test)]
pub(crate) mod tests;

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use comet_core::Transport;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, Error, InconsistentKeys, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};

/// The lowest version that a client may use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    V1_2,
    /// TLS 1.3 alone.
    V1_3,
}

/// The certificates and versions of TLS listeners.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// PEM files of certificate chains, the server's own certificate first, each with the file of
    /// its private key. A client gets the first certificate for the name it requests, else the
    /// first of all.
    pub pairs: Vec<(PathBuf, PathBuf)>,
    /// The lowest version.
    pub min_version: TlsVersion,
}

/// A certificate or key file that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it: the rest of a sentence that begins with the file's name.
    pub what: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.file.display(), self.what)
    }
}

impl StdError for TlsError {}

/// The TLS configuration that the listeners of all cores share; so do its clones. It is read once
/// per handshake.
#[derive(Clone)]
pub struct Tls(Arc<SharedConfig>);

struct SharedConfig {
    /// Makes session tickets: any core can resume a session, and the server stores none. The ticket
    /// keys outlive a reload of the certificates.
    ticketer: Arc<dyn ProducesTickets>,
    current: RwLock<Configs>,
}

struct Configs {
    tcp: Arc<ServerConfig>,
    websocket: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the files. An expired certificate is used, with a warning in the log.
    ///
    /// # Errors
    /// The first file that cannot be read, has the wrong content, or does not match its pair.
    ///
    /// # Panics
    /// If no pair is named, or the kernel gives no random bytes.
    pub fn load(options: &TlsOptions) -> Result<Self, TlsError> {
        let ticketer = Ticketer::new().expect("the kernel gives random bytes");
        let current = RwLock::new(configs(options, &ticketer)?);
        Ok(Self(Arc::new(SharedConfig { ticketer, current })))
    }

    /// Reads the files again. Handshakes that begin afterwards use them; connections are not
    /// affected.
    ///
    /// # Errors
    /// As [`Tls::load`]; the configuration is then unchanged.
    ///
    /// # Panics
    /// If no pair is named.
    pub fn reload(&self, options: &TlsOptions) -> Result<(), TlsError> {
        let configs = configs(options, &self.0.ticketer)?;
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = configs;
        Ok(())
    }

    /// The configuration for a handshake on a listener of `transport`.
    pub(crate) fn config(&self, transport: Transport) -> Arc<ServerConfig> {
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(match transport {
            Transport::Tcp => &current.tcp,
            Transport::WebSocket => &current.websocket,
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn configs(options: &TlsOptions, ticketer: &Arc<dyn ProducesTickets>) -> Result<Configs, TlsError> {
    assert!(!options.pairs.is_empty(), "TLS needs a certificate");
    let provider = Arc::new(default_provider());
    let pairs: Result<_, _> =
        options.pairs.iter().map(|(chain, key)| pair(chain, key, &provider)).collect();
    let certificates = Arc::new(Certificates(pairs?));
    let versions: &[&'static SupportedProtocolVersion] = match options.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let mut tcp = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("ring has suites for both versions")
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    tcp.session_storage = Arc::new(NoServerSessionStorage {});
    tcp.ticketer = Arc::clone(ticketer);
    // Connections last long, and each resumption brings a new ticket.
    tcp.send_tls13_tickets = 1;
    let mut websocket = tcp.clone();
    websocket.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Configs { tcp: Arc::new(tcp), websocket: Arc::new(websocket) })
}

/// The certificates of all pairs, in their order.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| self.0.iter().find(|pair| has_name(pair, &name)));
        named.or(self.0.first()).cloned()
    }
}

fn has_name(pair: &CertifiedKey, name: &ServerName<'_>) -> bool {
    pair.end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

fn pair(
    chain_file: &Path,
    key_file: &Path,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let wrong = |file: &Path, what: String| TlsError { file: file.to_owned(), what };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain_file)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(chain_file, explain(&error)))?;
    let Some(own) = chain.first() else {
        return Err(wrong(chain_file, "holds no certificate in PEM form".into()));
    };
    let validity = validity(own, provider)
        .map_err(|error| wrong(chain_file, format!("holds no usable certificate: {error}")))?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
        let what = match error {
            PemError::NoItemsFound => "holds no private key in PEM form".into(),
            error => explain(&error),
        };
        wrong(key_file, what)
    })?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let what = match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("is not the key of the certificate in {}", chain_file.display())
            }
            error => format!("holds no usable private key: {error}"),
        };
        wrong(key_file, what)
    })?;
    if let Some(invalid) = validity {
        log::warn!("{}: {invalid}: clients will refuse it", chain_file.display());
    }
    Ok(Arc::new(certified))
}

fn explain(error: &PemError) -> String {
    match error {
        PemError::Io(error) => format!("cannot be read: {error}"),
        error => format!("is not PEM: {error}"),
    }
}

/// Why clients refuse the certificate at present because of its dates, if they do.
///
/// # Errors
/// If it is not a certificate.
fn validity(
    own: &CertificateDer<'_>,
    provider: &CryptoProvider,
) -> Result<Option<CertificateError>, Error> {
    let parsed = ParsedCertificate::try_from(own)?;
    // With no trust anchors the check always fails, but it checks the dates first.
    let verdict = verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &RootCertStore::empty(),
        &[],
        UnixTime::now(),
        provider.signature_verification_algorithms.all,
    );
    Ok(match verdict {
        Err(Error::InvalidCertificate(
            error @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => Some(error),
        _ => None,
    })
}
