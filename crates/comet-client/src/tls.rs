//! TLS under a client: whom to trust, and the stream.

use std::error;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, InvalidMessage, RootCertStore};

use crate::error::Error;
use crate::session::Transport;
use crate::stream::in_time;

/// How to speak TLS (1.2 or 1.3): whom to trust, and which name the server's certificate must be for.
/// What is made of it is given to [`Options::tls`](crate::Options::tls).
///
/// Connections of the same `TlsOptions` resume each other's TLS sessions.
#[derive(Clone)]
pub struct TlsOptions {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
}

impl TlsOptions {
    /// Trusts the certificate authorities that Mozilla's products trust.
    #[must_use]
    pub fn new() -> Self {
        Self::trusting(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())
    }

    /// Trusts the certificates in `pem` and those they have signed, and nobody else.
    ///
    /// # Errors
    /// [`TlsError::NoAuthority`] and [`TlsError::BadAuthority`], when `pem` holds no certificate or one
    /// that cannot be used.
    pub fn with_authorities(pem: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| match error {
                pem::Error::NoItemsFound => TlsError::NoAuthority,
                error => TlsError::BadAuthority(error.to_string()),
            })?;
            let added = roots.add(certificate);
            added.map_err(|error| TlsError::BadAuthority(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(TlsError::NoAuthority);
        }
        Ok(Self::trusting(roots))
    }

    fn trusting(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { config: Arc::new(config), server_name: None }
    }

    /// The DNS name or IP address that the server's certificate must be for; the host of the server's
    /// address unless set.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Names what will be spoken, where that has a name (RFC 7301; a WebSocket begins as HTTP/1.1).
    pub(crate) fn speaking(mut self, transport: Transport) -> Self {
        let protocols = match transport {
            Transport::Tcp => Vec::new(),
            Transport::WebSocket => vec![b"http/1.1".to_vec()],
        };
        Arc::make_mut(&mut self.config).alpn_protocols = protocols;
        self
    }

    pub(crate) fn stream(&self, socket: TcpStream, address: &str) -> Result<TlsStream, TlsError> {
        let name = self.server_name.as_deref().unwrap_or_else(|| host(address));
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| TlsError::BadServerName(name.to_owned()))?;
        let connection =
            ClientConnection::new(Arc::clone(&self.config), server_name).map_err(TlsError::from)?;
        Ok(TlsStream { socket, connection })
    }
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// The host of `host:port`; of an IPv6 address without its brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Why there is no TLS.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// There is no certificate in what should be the trusted ones.
    NoAuthority,
    /// A certificate that should be trusted cannot be read.
    BadAuthority(String),
    /// Neither a DNS name nor an IP address.
    BadServerName(String),
    /// The server's certificate is signed by nobody who is trusted.
    Untrusted,
    /// The server's certificate is for other names, as this says.
    OtherName(String),
    /// The server's certificate is an authority's own, which no server may use (RFC 5280 section 4.2.1.9).
    AuthoritysOwn,
    /// What the server said is no TLS.
    NotTls,
    /// Anything else between the server and us.
    Failed(rustls::Error),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        use CertificateError as Fault;
        match error {
            // A bad signature is one of somebody who has only the name of whom we trust.
            rustls::Error::InvalidCertificate(Fault::UnknownIssuer | Fault::BadSignature) => {
                Self::Untrusted
            }
            rustls::Error::InvalidCertificate(
                fault @ (Fault::NotValidForName | Fault::NotValidForNameContext { .. }),
            ) => Self::OtherName(fault.to_string()),
            // rustls has no name for it, and it is what openssl makes unless told otherwise.
            rustls::Error::InvalidCertificate(Fault::Other(other))
                if other.to_string() == "CaUsedAsEndEntity" =>
            {
                Self::AuthoritysOwn
            }
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            error => Self::Failed(error),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAuthority => f.write_str("no PEM certificate to trust"),
            Self::BadAuthority(what) => {
                write!(f, "a certificate to trust cannot be read: {what}")
            }
            Self::BadServerName(name) => {
                write!(f, "{name:?} is no name a certificate can be for")
            }
            Self::Untrusted => {
                f.write_str("the server's certificate is signed by nobody who is trusted")
            }
            Self::OtherName(what) => write!(f, "the server has another name: {what}"),
            Self::AuthoritysOwn => {
                f.write_str("the server's certificate is an authority's, not a server's")
            }
            Self::NotTls => f.write_str("the server speaks no TLS here"),
            Self::Failed(error) => write!(f, "TLS failed: {error}"),
        }
    }
}

impl error::Error for TlsError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// TLS over a socket. The handshake is part of the first reads and writes.
#[derive(Debug)]
pub(crate) struct TlsStream {
    socket: TcpStream,
    connection: ClientConnection,
}

impl TlsStream {
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// As [`Stream::read`](crate::stream::Stream::read). The socket is read once at most, so that a
    /// server cannot stretch the caller's deadline by sending byte after byte.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        // What one read of the socket brought may be more than one buffer.
        if let Some(len) = self.take(buffer)? {
            return Ok(Some(len));
        }
        if in_time(self.connection.read_tls(&mut self.socket))?.is_none() {
            return Ok(None);
        }
        let processed = self.connection.process_new_packets();
        // The next step of the handshake, or the alert that says what we do not accept.
        let written = self.transmit();
        processed.map_err(TlsError::from)?;
        written?;
        self.take(buffer)
    }

    /// Takes what is decrypted.
    fn take(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        match self.connection.reader().read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // An end without TLS's own goodbye. Frames say how long they are: none can be cut unseen.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) => Err(error.into()),
        }
    }

    /// Encrypts and writes; before the end of the handshake `bytes` wait for that, up to 64 KiB.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            match self.connection.writer().write(bytes)? {
                0 => return Err(Error::Io(ErrorKind::WriteZero.into())),
                taken => bytes = &bytes[taken..],
            }
            self.transmit()?;
        }
        Ok(())
    }

    /// Says that nothing more is to come (RFC 8446 section 6.1).
    pub(crate) fn say_goodbye(&mut self) -> Result<(), Error> {
        self.connection.send_close_notify();
        self.transmit()
    }

    fn transmit(&mut self) -> Result<(), Error> {
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut self.socket)? == 0 {
                return Err(Error::Io(ErrorKind::WriteZero.into()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_address() {
        for (address, expected) in [
            ("push.example.com:8095", "push.example.com"),
            ("127.0.0.1:8095", "127.0.0.1"),
            ("[::1]:8095", "::1"),
            ("push.example.com", "push.example.com"),
        ] {
            assert_eq!(host(address), expected);
            assert!(ServerName::try_from(expected).is_ok());
        }
    }
}
