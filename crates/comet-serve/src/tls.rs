//! TLS of the APIs: certificates shown to callers and required of them, and the same towards the servers that are
//! called.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use comet_listen::Address;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig, client, server};
use tokio::sync::{Mutex, watch};

use crate::guarded::Protocol;

/// The files of TLS (`api_tls`), each in PEM form.
#[derive(Clone, Default, Debug)]
pub struct TlsFiles {
    /// The certificate of this process and the chain below its root.
    pub certificate: Option<PathBuf>,
    /// The private key of the certificate. Key and certificate are given together or not at all.
    pub key: Option<PathBuf>,
    /// Authorities for the certificates of callers. `None`: callers need no certificate.
    pub client_ca: Option<PathBuf>,
    /// Authorities for the servers that are called. `None`: those of the system.
    pub server_ca: Option<PathBuf>,
}

/// A file that cannot be used. Its `Display` begins with its path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsError {
    /// The field of [`TlsFiles`].
    pub field: &'static str,
    file: PathBuf,
    what: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.file.as_os_str().is_empty() {
            return f.write_str(&self.what);
        }
        write!(f, "{} {}", self.file.display(), self.what)
    }
}

impl StdError for TlsError {}

/// TLS of all API listeners and of all calls of a process; clones share it. It is read once per handshake.
#[derive(Clone, Default)]
pub struct ApiTls(Arc<Shared>);

/// Files that were read again and are not used yet.
pub struct TlsReload {
    tls: ApiTls,
    configs: Configs,
}

impl TlsReload {
    /// The certificate that callers are shown from then on, in DER form.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.configs.certificate.as_deref().map(<[u8]>::to_vec)
    }

    /// Open connections stay open, unless the authorities for callers have changed: then they end after the calls under
    /// way.
    pub fn apply(self) {
        let shared = &self.tls.0;
        let mut current = shared.current.write().unwrap_or_else(PoisonError::into_inner);
        let former = std::mem::replace(&mut *current, self.configs);
        let has_changed = former.authorities != current.authorities;
        drop(current);
        if has_changed {
            shared.authorities.send_replace(());
        }
    }
}

impl fmt::Debug for TlsReload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsReload").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    current: RwLock<Configs>,
    /// Notified when the authorities for callers have changed.
    authorities: watch::Sender<()>,
    /// Held by the caller whose handshake is being computed.
    turn: Mutex<()>,
}

#[derive(Clone, Default)]
struct Configs {
    /// Authorities for callers. If there are any, callers need a certificate.
    authorities: Vec<CertificateDer<'static>>,
    /// The first certificate of the chain that callers are shown.
    certificate: Option<CertificateDer<'static>>,
    http: Option<Arc<ServerConfig>>,
    grpc: Option<Arc<ServerConfig>>,
    client: Option<Arc<ClientConfig>>,
}

impl ApiTls {
    /// Reads the files. Those for calls are read only if this process `calls` servers over TLS.
    ///
    /// # Errors
    /// The first file that cannot be read, has the wrong content, or does not match its pair.
    pub fn load(files: &TlsFiles, calls: bool) -> Result<Self, TlsError> {
        let current = RwLock::new(configs(files, calls)?);
        let authorities = watch::Sender::new(());
        Ok(Self(Arc::new(Shared { current, authorities, turn: Mutex::default() })))
    }

    /// Reads the files again, for handshakes that begin after [`TlsReload::apply`]. `calls` as for [`ApiTls::load`].
    ///
    /// # Errors
    /// As [`ApiTls::load`].
    pub fn prepare_reload(&self, files: &TlsFiles, calls: bool) -> Result<TlsReload, TlsError> {
        Ok(TlsReload { tls: self.clone(), configs: configs(files, calls)? })
    }

    /// The certificate that callers are shown, in DER form.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.current().certificate.as_deref().map(<[u8]>::to_vec)
    }

    /// The addresses that other hosts may call without a certificate.
    pub fn open_to_all<'a>(&self, addresses: &'a [Address]) -> impl Iterator<Item = &'a Address> {
        let asks = !self.current().authorities.is_empty();
        let is_locked = move |address: &Address| asks && matches!(address, Address::Tls(_));
        addresses.iter().filter(move |address| address.is_exposed() && !is_locked(address))
    }

    /// The configuration for new callers of `protocol`. `None`: there is no certificate.
    pub(crate) fn server(&self, protocol: &Protocol) -> Option<Arc<ServerConfig>> {
        let Configs { http, grpc, .. } = self.current();
        match protocol {
            Protocol::Http => http,
            Protocol::Grpc { .. } => grpc,
        }
    }

    /// The configuration for calls over HTTP/2. `None`: this process makes none over TLS.
    pub(crate) fn client(&self) -> Option<Arc<ClientConfig>> {
        self.current().client
    }

    /// Resolves when the authorities of callers have changed since this call.
    pub(crate) fn authorities_change(&self) -> impl Future<Output = ()> + use<> {
        let mut changes = self.0.authorities.subscribe();
        async move {
            // Without a sender nothing changes any more.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(crate) fn turn(&self) -> &Mutex<()> {
        &self.0.turn
    }

    fn current(&self) -> Configs {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for ApiTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiTls").finish_non_exhaustive()
    }
}

fn configs(files: &TlsFiles, calls: bool) -> Result<Configs, TlsError> {
    let provider = Arc::new(default_provider());
    let pair = match (&files.certificate, &files.key) {
        (Some(chain), Some(key)) => Some(pair(chain, key, &provider)?),
        _ => None,
    };
    let certificate = pair.as_ref().map(|pair| pair.cert[0].clone());
    let pair = pair.map(|pair| Arc::new(SingleCertAndKey::from(pair)));
    let mut authorities = Vec::new();
    let verifier = match &files.client_ca {
        Some(file) => {
            authorities = certificates("client_ca", file)?;
            let roots = Arc::new(roots("client_ca", file, authorities.clone())?);
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
            verifier.build().expect("there are authorities, and no revocations")
        }
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let server = pair.clone().map(|pair| {
        ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has suites for both versions")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(pair)
    });
    let speaking = |protocol: &[u8]| {
        let mut server = server.clone()?;
        server.alpn_protocols = vec![protocol.to_vec()];
        Some(Arc::new(server))
    };
    let client = match calls {
        true => Some(Arc::new(client_config(files, pair, provider)?)),
        false => None,
    };
    let (http, grpc) = (speaking(b"http/1.1"), speaking(b"h2"));
    Ok(Configs { authorities, certificate, http, grpc, client })
}

fn client_config(
    files: &TlsFiles,
    pair: Option<Arc<SingleCertAndKey>>,
    provider: Arc<CryptoProvider>,
) -> Result<ClientConfig, TlsError> {
    let roots = match &files.server_ca {
        Some(file) => roots("server_ca", file, certificates("server_ca", file)?)?,
        None => system_authorities()?,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has suites for both versions")
        .with_root_certificates(roots);
    let mut client = match pair {
        Some(pair) => {
            let pair: Arc<dyn client::ResolvesClientCert> = pair;
            builder.with_client_cert_resolver(pair)
        }
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(client)
}

fn system_authorities() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let what = "is needed: this system has no list of authorities (ca-certificates)".into();
        return Err(TlsError { field: "server_ca", file: PathBuf::new(), what });
    }
    Ok(roots)
}

fn roots(
    field: &'static str,
    file: &Path,
    authorities: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots.add(certificate).map_err(|error| {
            wrong(field, file, format!("holds a certificate that is no authority's: {error}"))
        })?;
    }
    Ok(roots)
}

fn certificates(
    field: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(field, file, explain(&error)))?;
    match found.is_empty() {
        true => Err(wrong(field, file, "holds no certificate in PEM form".into())),
        false => Ok(found),
    }
}

fn pair(
    chain_file: &Path,
    key_file: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = certificates("certificate", chain_file)?;
    if let Err(error) = server::ParsedCertificate::try_from(&chain[0]) {
        let what = format!("holds no usable certificate: {error}");
        return Err(wrong("certificate", chain_file, what));
    }
    let bad_key = |what| wrong("key", key_file, what);
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
        bad_key(match error {
            PemError::NoItemsFound => "holds no private key in PEM form".into(),
            error => explain(&error),
        })
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        bad_key(match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("is not the key of the certificate in {}", chain_file.display())
            }
            error => format!("holds no usable private key: {error}"),
        })
    })
}

fn wrong(field: &'static str, file: &Path, what: String) -> TlsError {
    TlsError { field, file: file.to_owned(), what }
}

fn explain(error: &PemError) -> String {
    match error {
        PemError::Io(error) => format!("cannot be read: {error}"),
        error => format!("is not PEM: {error}"),
    }
}
