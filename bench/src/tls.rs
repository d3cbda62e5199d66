//! TLS in the bench: a certificate for the server that it starts, and the client's side of each connection.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, ErrorKind, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use comet_client::Session;
use rcgen::generate_simple_self_signed;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde::{Deserialize, Serialize};
use tempfile::{Builder, TempDir};

use crate::Result;

/// A self-signed certificate for loopback addresses. Its files are deleted when it is dropped.
pub(crate) struct Certificate {
    folder: TempDir,
    /// The configuration of clients that trust only this certificate.
    pub trust: Trust,
}

/// The configuration of clients that trust only one certificate.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub(crate) struct Trust {
    certificate: CertificateDer<'static>,
    config: Arc<ClientConfig>,
}

impl TryFrom<Vec<u8>> for Trust {
    type Error = rustls::Error;

    fn try_from(der: Vec<u8>) -> Result<Self, rustls::Error> {
        let certificate = CertificateDer::from(der);
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // The clients of a storm must not have connected before.
        config.resumption = Resumption::disabled();
        Ok(Self { certificate, config: Arc::new(config) })
    }
}

impl From<Trust> for Vec<u8> {
    fn from(trust: Trust) -> Self {
        trust.certificate.to_vec()
    }
}

impl Certificate {
    /// Makes a certificate. Fails if its files cannot be written.
    pub(crate) fn make() -> Result<Self> {
        let own = generate_simple_self_signed(["127.0.0.1".to_owned(), "::1".to_owned()])?;
        let trust = Trust::try_from(own.cert.der().to_vec())?;
        let owner_only = Permissions::from_mode(0o700);
        let folder = Builder::new().prefix("comet-bench-").permissions(owner_only).tempdir()?;
        let made = Self { folder, trust };
        fs::write(made.certificate(), own.cert.pem())?;
        fs::write(made.key(), own.signing_key.serialize_pem())?;
        Ok(made)
    }

    /// The certificate's file.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// The key's file.
    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}

/// The TLS state of one connection, without reading from its socket.
pub(crate) struct Tls(Box<ClientConnection>);

impl Tls {
    /// A new connection to `server`. Fails if rustls does not accept the address as a name.
    pub(crate) fn new(clients: &Trust, server: IpAddr) -> Result<Self> {
        let connection = ClientConnection::new(Arc::clone(&clients.config), server.into())?;
        Ok(Self(Box::new(connection)))
    }

    /// The ClientHello, if nothing was sent yet.
    pub(crate) fn hello(&mut self) -> io::Result<Vec<u8>> {
        self.encrypt(&[])
    }

    /// Makes the handshake on a blocking socket. Fails if the server does not make its part.
    pub(crate) fn handshake(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        while self.0.is_handshaking() {
            self.0.complete_io(&mut socket)?;
        }
        Ok(())
    }

    /// `plain` in records. Fails if the handshake is not made.
    pub(crate) fn encrypt(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        self.0.writer().write_all(plain)?;
        let mut records = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut records)?;
        }
        Ok(records)
    }

    /// Decrypts input from the socket and passes it on in pieces. Fails if it violates TLS, or `take` fails.
    pub(crate) fn receive(
        &mut self,
        mut encrypted: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        while !encrypted.is_empty() {
            self.0.read_tls(&mut encrypted).map_err(|error| error.to_string())?;
            self.0.process_new_packets().map_err(|error| error.to_string())?;
            loop {
                let mut reader = self.0.reader();
                let len = match reader.fill_buf() {
                    Ok([]) => return Err("the server closed TLS".to_owned()),
                    Ok(plain) => {
                        take(plain)?;
                        plain.len()
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.to_string()),
                };
                reader.consume(len);
            }
        }
        Ok(())
    }

    /// Encrypts the output of the session and writes as much as the socket takes; returns whether that was all. Fails
    /// if the socket does.
    pub(crate) fn transmit(
        &mut self,
        session: &mut Session,
        mut socket: &TcpStream,
    ) -> io::Result<bool> {
        // During the handshake, rustls keeps it for later.
        let taken = self.0.writer().write(session.output())?;
        session.consume_output(taken);
        while self.0.wants_write() {
            match self.0.write_tls(&mut socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(session.output().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_there_as_long_as_the_certificate() {
        let made = Certificate::make().unwrap();
        assert!(made.certificate().is_file() && made.key().is_file());
        let folder = made.folder.path().to_owned();
        drop(made);
        assert!(!folder.exists());
    }
}
