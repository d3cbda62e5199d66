//! Clients inside TLS: rustls in any suite, and OpenSSL.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use comet_net::{Tls, TlsOptions, TlsVersion};
use comet_proto::op;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedCipherSuite};

use crate::rig::{LIMIT, frame, read};

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

/// All suites that the server has for its certificate: three of each version.
pub(crate) fn suites() -> Vec<SupportedCipherSuite> {
    let is_rsa = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).contains("RSA");
    ring::ALL_CIPHER_SUITES.iter().filter(|suite| !is_rsa(suite)).copied().collect()
}

pub(crate) fn is_tls13(suite: SupportedCipherSuite) -> bool {
    suite.tls13().is_some()
}

/// A certificate of a server, removed on drop.
pub(crate) struct Certificate(PathBuf);

impl Certificate {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("comet-freeze-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        fs::write(folder.join("pem"), cert.pem()).unwrap();
        fs::write(folder.join("key"), signing_key.serialize_pem()).unwrap();
        Self(folder)
    }

    fn chain(&self) -> PathBuf {
        self.0.join("pem")
    }

    /// The TLS settings of a listener; each call stands for another process.
    pub(crate) fn tls(&self) -> Tls {
        let pairs = vec![(self.chain(), self.0.join("key"))];
        Tls::load(&TlsOptions { pairs, min_version: TlsVersion::V1_2 }).unwrap()
    }

    /// The configuration of a client that trusts this certificate and has one suite.
    pub(crate) fn client(&self, suite: SupportedCipherSuite) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.chain()).unwrap()).unwrap();
        let provider =
            CryptoProvider { cipher_suites: vec![suite], ..ring::default_provider() }.into();
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[suite.version()])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.into()
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Client {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let connection = ClientConnection::new(config.clone(), "a.example".try_into().unwrap());
    let mut client = StreamOwned::new(connection.unwrap(), socket);
    authenticate(&mut client);
    client
}

pub(crate) fn authenticate(client: &mut (impl Read + Write)) {
    client.write_all(&frame(op::AUTH, b"")).unwrap();
    client.flush().unwrap();
    assert_eq!(read(&mut *client).unwrap().0, op::AUTH_REPLY);
}

pub(crate) fn beat(client: &mut (impl Read + Write)) {
    client.write_all(&frame(op::HEARTBEAT, b"")).unwrap();
    client.flush().unwrap();
    assert_eq!(read(&mut *client).unwrap().0, op::HEARTBEAT_REPLY);
}

/// The records that contain `plaintext`. They are not sent.
pub(crate) fn records(client: &mut Client, plaintext: &[u8]) -> Vec<u8> {
    client.conn.writer().write_all(plaintext).unwrap();
    let mut bytes = Vec::new();
    while client.conn.wants_write() {
        client.conn.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// A client of OpenSSL that logs its messages. A line that begins with a letter is a command to it.
pub(crate) struct OpenSsl {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
    log: Receiver<String>,
}

impl OpenSsl {
    /// `None` if the program is not installed.
    #[allow(clippy::print_stderr, reason = "who runs the tests learns what was not tested")]
    pub(crate) fn connect(
        address: SocketAddr,
        certificate: &Certificate,
        arguments: &[&str],
    ) -> Option<Self> {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-brief", "-connect", &address.to_string(), "-CAfile"]);
        command.arg(certificate.chain());
        command.args(["-servername", "a.example", "-verify_return_error"]);
        command.args(["-msg", "-msgfile", "/dev/stderr"]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = match command.spawn() {
            Ok(process) => process,
            Err(error) => {
                eprintln!("SKIPPED: no openssl ({error})");
                return None;
            }
        };
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut client = Self { process, input, output, log };
        authenticate(&mut client);
        Some(client)
    }

    pub(crate) fn command(&mut self, command: &str) {
        self.input.write_all(format!("{command}\n").as_bytes()).unwrap();
    }

    /// Waits for a line of its log with `what`.
    pub(crate) fn wait_for(&self, what: &str) {
        let mut seen = Vec::new();
        while let Ok(line) = self.log.recv_timeout(LIMIT) {
            if line.contains(what) {
                return;
            }
            seen.push(line);
        }
        panic!("no {what} among {seen:#?}");
    }
}

impl Read for OpenSsl {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.output.read(buf)
    }
}

impl Write for OpenSsl {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.input.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
