//! The TLS configuration of listeners (certificates, versions, tickets) and its reload.

#[cfg(test)]
pub(crate) mod tests;

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use comet_core::Transport;
use comet_handover as handed;
use comet_record::{ImportError, TicketKeys};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, InconsistentKeys, ServerConfig, SupportedProtocolVersion};

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
    /// The index of its pair in [`TlsOptions::pairs`].
    pub pair: usize,
    /// It is the file of the key, not of the certificate.
    pub is_key: bool,
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

/// The TLS configuration, shared by the listeners of all cores and by all clones. It is read once per handshake.
#[derive(Clone)]
pub struct Tls(Arc<SharedConfig>);

struct SharedConfig {
    /// Makes session tickets: any core can resume a session, and the server stores none. The ticket
    /// keys outlive a reload of the certificates.
    ticket_keys: Arc<TicketKeys>,
    current: RwLock<Configs>,
}

struct Configs {
    certificates: Arc<Certificates>,
    tcp: Arc<ServerConfig>,
    websocket: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the files. An expired certificate is used, too.
    ///
    /// # Errors
    /// Every file that cannot be read, has the wrong content, or does not match its pair.
    ///
    /// # Panics
    /// If no pair is named, or the kernel gives no random bytes.
    pub fn load(options: &TlsOptions) -> Result<Self, Vec<TlsError>> {
        let ticket_keys = Arc::new(TicketKeys::new(Instant::now()));
        let current = RwLock::new(configs(options, &ticket_keys)?);
        Ok(Self(Arc::new(SharedConfig { ticket_keys, current })))
    }

    /// Reads the files again. Handshakes that begin afterwards use them; connections are not
    /// affected.
    ///
    /// # Errors
    /// As [`Tls::load`]; the configuration is then unchanged.
    ///
    /// # Panics
    /// If no pair is named.
    pub fn reload(&self, options: &TlsOptions) -> Result<(), Vec<TlsError>> {
        let configs = configs(options, &self.0.ticket_keys)?;
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = configs;
        Ok(())
    }

    /// The server's own certificates in use, as DER, in the order of [`TlsOptions::pairs`].
    #[must_use]
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner);
        let own = current.certificates.0.iter().map(|pair| pair.cert[0].to_vec());
        own.collect()
    }

    /// Replaces the key of session tickets when that is due, every six hours. Call it regularly, and more often than
    /// that.
    pub fn rotate_ticket_keys(&self, now: Instant) {
        self.0.ticket_keys.rotate(now);
    }

    /// The keys of session tickets, for another process.
    pub(crate) fn export_ticket_keys(&self) -> handed::TicketKeys {
        let mut exported = handed::TicketKeys::default();
        // The message also wipes the keys from memory.
        exported.keys = self.0.ticket_keys.export(Instant::now()).to_vec();
        exported
    }

    /// Continues with the ticket keys of another process.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn import_ticket_keys(&self, keys: &handed::TicketKeys) -> Result<(), ImportError> {
        self.0.ticket_keys.import(&keys.keys, Instant::now())
    }

    /// The configuration for a handshake on a listener of `transport`.
    pub(crate) fn config(&self, transport: Transport) -> Arc<ServerConfig> {
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(match transport {
            Transport::Tcp => &current.tcp,
            Transport::WebSocket | Transport::EventStream => &current.websocket,
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn configs(options: &TlsOptions, ticket_keys: &Arc<TicketKeys>) -> Result<Configs, Vec<TlsError>> {
    assert!(!options.pairs.is_empty(), "TLS needs a certificate");
    let provider = Arc::new(default_provider());
    let mut pairs = Vec::with_capacity(options.pairs.len());
    let mut errors = Vec::new();
    for (index, files) in options.pairs.iter().enumerate() {
        match Pair::of(index, files).load(&provider) {
            Ok(pair) => pairs.push(pair),
            Err(faults) => errors.extend(faults),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let certificates = Arc::new(Certificates(pairs));
    let versions: &[&'static SupportedProtocolVersion] = match options.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let mut tcp = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("ring has suites for both versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
    tcp.session_storage = Arc::new(NoServerSessionStorage {});
    tcp.ticketer = Arc::clone(ticket_keys) as Arc<_>;
    // Connections last long, and each resumption brings a new ticket.
    tcp.send_tls13_tickets = 1;
    let mut websocket = tcp.clone();
    websocket.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Configs { certificates, tcp: Arc::new(tcp), websocket: Arc::new(websocket) })
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

/// The files of a pair, and its index.
#[derive(Clone, Copy)]
struct Pair<'a> {
    index: usize,
    chain_file: &'a Path,
    key_file: &'a Path,
}

impl<'a> Pair<'a> {
    fn of(index: usize, (chain_file, key_file): &'a (PathBuf, PathBuf)) -> Self {
        Self { index, chain_file, key_file }
    }

    /// # Errors
    /// The fault of either file, or of both.
    fn load(self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Vec<TlsError>> {
        match (self.chain(), self.key()) {
            (Ok(chain), Ok(key)) => {
                let certified = CertifiedKey::from_der(chain, key, provider);
                certified.map(Arc::new).map_err(|error| vec![self.mismatch(&error)])
            }
            (chain, key) => Err(chain.err().into_iter().chain(key.err()).collect()),
        }
    }

    fn chain(self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(self.chain_file)
            .and_then(Iterator::collect)
            .map_err(|error| self.wrong_chain(explain(&error)))?;
        let Some(own) = chain.first() else {
            return Err(self.wrong_chain("holds no certificate in PEM form".into()));
        };
        let parsed = ParsedCertificate::try_from(own).map(drop);
        parsed
            .map_err(|error| self.wrong_chain(format!("holds no usable certificate: {error}")))?;
        Ok(chain)
    }

    fn key(self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_file(self.key_file).map_err(|error| {
            self.wrong_key(match error {
                PemError::NoItemsFound => "holds no private key in PEM form".into(),
                error => explain(&error),
            })
        })
    }

    fn mismatch(self, error: &Error) -> TlsError {
        self.wrong_key(match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("is not the key of the certificate in {}", self.chain_file.display())
            }
            error => format!("holds no usable private key: {error}"),
        })
    }

    fn wrong_chain(self, what: String) -> TlsError {
        TlsError { pair: self.index, is_key: false, file: self.chain_file.to_owned(), what }
    }

    fn wrong_key(self, what: String) -> TlsError {
        TlsError { pair: self.index, is_key: true, file: self.key_file.to_owned(), what }
    }
}

fn explain(error: &PemError) -> String {
    match error {
        PemError::Io(error) => format!("cannot be read: {error}"),
        error => format!("is not PEM: {error}"),
    }
}
