//! TLS under a client: the trusted certificates, and the stream.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::error::{Error, TlsError};
use crate::session::Transport;
use crate::socket::or_timeout;

/// The settings of TLS (1.2 or 1.3): the trusted certificates, and the name that the server's
/// certificate must be for. They are given to [`Options::tls`](crate::Options::tls).
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
        Self::with_roots(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())
    }

    /// Trusts only the certificates in `pem` and those signed by them.
    ///
    /// # Errors
    /// [`TlsError::NoAuthority`] if `pem` contains no certificate, [`TlsError::BadAuthority`] if it
    /// contains one that cannot be used.
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
        Ok(Self::with_roots(roots))
    }

    fn with_roots(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { config: Arc::new(config), server_name: None }
    }

    /// The DNS name or IP address that the server's certificate must be for; the host of the
    /// server's address unless set.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Offers the application protocol by ALPN (RFC 7301) if the transport has one: a WebSocket begins as HTTP/1.1.
    pub(crate) fn for_transport(mut self, transport: Transport) -> Self {
        let protocols = match transport {
            Transport::Tcp => Vec::new(),
            Transport::WebSocket => vec![b"http/1.1".to_vec()],
        };
        Arc::make_mut(&mut self.config).alpn_protocols = protocols;
        self
    }

    pub(crate) fn stream(&self, socket: TcpStream, address: &str) -> Result<TlsStream, TlsError> {
        let (config, server_name) = self.for_address(address)?;
        let connection = ClientConnection::new(config, server_name).map_err(TlsError::from)?;
        Ok(TlsStream { socket, connection })
    }

    /// The parameters of a handshake with the server at `address`.
    pub(crate) fn for_address(
        &self,
        address: &str,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), TlsError> {
        let name = self.server_name.as_deref().unwrap_or_else(|| host(address));
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| TlsError::BadServerName(name.to_owned()))?;
        Ok((Arc::clone(&self.config), server_name))
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

/// The host of `host:port`; an IPv6 address without its brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
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

    /// As [`Stream::read`](crate::stream::Stream::read). Reads the socket at most once, so that a
    /// server cannot extend the caller's deadline by sending byte after byte.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        // An earlier read of the socket may have filled more than one buffer.
        if let Some(len) = self.take_plaintext(buffer)? {
            return Ok(Some(len));
        }
        if or_timeout(self.connection.read_tls(&mut self.socket))?.is_none() {
            return Ok(None);
        }
        let processed = self.connection.process_new_packets();
        // Sends the next records of the handshake, or the alert of an error.
        let written = self.transmit();
        processed.map_err(TlsError::from)?;
        written?;
        self.take_plaintext(buffer)
    }

    /// Takes decrypted bytes.
    fn take_plaintext(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        match self.connection.reader().read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // The stream ended without close_notify. Frames have a length, so a truncated one is detected.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) => Err(error.into()),
        }
    }

    /// Encrypts and writes. Before the handshake is done, up to 64 KiB are buffered instead.
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

    /// Sends close_notify (RFC 8446 section 6.1).
    pub(crate) fn close(&mut self) -> Result<(), Error> {
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
