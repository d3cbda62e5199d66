//! Sessions that have taken over from rustls, against rustls's own client.

use std::io::{Read, Write};
use std::sync::Arc;

use comet_record::{
    Fault, FromRustlsError, Opened, Session, TrafficSecrets, Version, from_rustls, record_len,
};
use rustls::crypto::ring::{cipher_suite as suites, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, Error, RootCertStore,
    ServerConfig, SupportedCipherSuite,
};

use crate::peer::records;

const SUITES: [SupportedCipherSuite; 6] = [
    suites::TLS13_AES_128_GCM_SHA256,
    suites::TLS13_AES_256_GCM_SHA384,
    suites::TLS13_CHACHA20_POLY1305_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

struct Handshake {
    client: ClientConnection,
    server: UnbufferedServerConnection,
    secrets: Arc<TrafficSecrets>,
}

/// A handshake that is done.
fn handshake(suite: SupportedCipherSuite, extracts: bool) -> Handshake {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = || {
        let mut provider = default_provider();
        provider.cipher_suites = vec![suite];
        Arc::new(provider)
    };
    let versions = [suite.version()];
    let secrets = Arc::new(TrafficSecrets::default());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    config.enable_secret_extraction = extracts;
    config.key_log = Arc::clone(&secrets) as Arc<_>;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client =
        ClientConnection::new(Arc::new(client), "a.example".try_into().unwrap()).unwrap();
    let mut server = UnbufferedServerConnection::new(Arc::new(config)).unwrap();
    let mut to_server = Vec::new();
    let mut to_client = Vec::new();
    loop {
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        let is_done = drive(&mut server, &mut to_server, &mut to_client);
        read_tls(&mut client, &std::mem::take(&mut to_client)).unwrap();
        if is_done {
            assert!(!client.is_handshaking() && to_server.is_empty());
            return Handshake { client, server, secrets };
        }
    }
}

/// Whether the handshake is done.
fn drive(server: &mut UnbufferedServerConnection, input: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
    loop {
        let UnbufferedStatus { discard, state, .. } = server.process_tls_records(input);
        let is_done = match state.unwrap() {
            ConnectionState::EncodeTlsData(mut data) => {
                let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
                    data.encode(&mut [])
                else {
                    panic!("no room is too little");
                };
                let mut record = vec![0; required_size];
                data.encode(&mut record).unwrap();
                out.append(&mut record);
                None
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                None
            }
            ConnectionState::BlockedHandshake => Some(false),
            ConnectionState::WriteTraffic(_) => Some(true),
            state => panic!("{state:?}"),
        };
        input.drain(..discard);
        if let Some(is_done) = is_done {
            return is_done;
        }
    }
}

fn read_tls(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut data = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets()?;
        let _ = client.reader().read_to_end(&mut data);
    }
    Ok(data)
}

fn flight(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn connected(suite: SupportedCipherSuite) -> (ClientConnection, Session) {
    let Handshake { client, server, secrets } = handshake(suite, true);
    let session = from_rustls(server, &secrets).unwrap();
    let is_tls13 = suite.tls13().is_some();
    assert_eq!(session.suite().version, if is_tls13 { Version::Tls13 } else { Version::Tls12 });
    (client, session)
}

fn open_all(session: &mut Session, mut bytes: &mut [u8]) -> Result<Vec<u8>, Fault> {
    let mut data = Vec::new();
    while let Some(len) = record_len(bytes)? {
        let (record, rest) = bytes.split_at_mut(len);
        if let Opened::Data(content) = session.open(record)? {
            data.extend_from_slice(content);
        }
        bytes = rest;
    }
    assert!(bytes.is_empty());
    Ok(data)
}

#[test]
fn data_sealed_by_either_side_is_opened_by_the_other() {
    for suite in SUITES {
        let (mut client, mut server) = connected(suite);
        for len in [1, 100, 16_384, 16_385, 50_000] {
            let said: Vec<u8> = (0..len).map(|at: u32| at as u8).collect();
            client.writer().write_all(&said).unwrap();
            assert_eq!(open_all(&mut server, &mut flight(&mut client)).unwrap(), said);
            let mut out = Vec::new();
            server.seal(&said, &mut out).unwrap();
            assert!(read_tls(&mut client, &out).unwrap() == said, "{suite:?}: {len}");
        }
    }
}

#[test]
fn keys_are_updated_by_both_sides() {
    for suite in &SUITES[..3] {
        let (mut client, mut server) = connected(*suite);
        for round in 0..40_u8 {
            if round % 2 == 0 {
                client.refresh_traffic_keys().unwrap();
            }
            client.writer().write_all(&[round]).unwrap();
            assert_eq!(open_all(&mut server, &mut flight(&mut client)), Ok(vec![round]));
            let mut out = Vec::new();
            if round % 3 == 0 {
                server.request_key_update(&mut out).unwrap();
            }
            server.seal(&[round], &mut out).unwrap();
            let updates = usize::from(round % 3 == 0 || round % 2 == 0);
            assert_eq!(records(&out).len(), 1 + updates);
            assert_eq!(read_tls(&mut client, &out), Ok(vec![round]));
        }
    }
}

#[test]
fn both_sides_close() {
    for suite in SUITES {
        let (mut client, mut server) = connected(suite);
        let mut out = Vec::new();
        server.seal(b"last", &mut out).unwrap();
        server.close(&mut out);
        assert_eq!(read_tls(&mut client, &out), Ok(b"last".to_vec()));
        let end = client.reader().read(&mut [0; 8]).unwrap();
        assert_eq!(end, 0, "the close_notify came");

        let (mut client, mut server) = connected(suite);
        client.send_close_notify();
        assert_eq!(server.open(&mut flight(&mut client)), Ok(Opened::Closed));
    }
}

#[test]
fn rustls_reads_our_alerts_and_we_read_those_of_rustls() {
    for suite in SUITES {
        let (mut client, mut server) = connected(suite);
        client.writer().write_all(b"data").unwrap();
        let mut bytes = flight(&mut client);
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(server.open(&mut bytes), Err(Fault::BadMac));
        let mut out = Vec::new();
        server.end(Fault::BadMac, &mut out);
        let told = read_tls(&mut client, &out).unwrap_err();
        assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));

        let (mut client, mut server) = connected(suite);
        let mut out = Vec::new();
        server.seal(b"data", &mut out).unwrap();
        *out.last_mut().unwrap() ^= 1;
        read_tls(&mut client, &out).unwrap_err();
        assert_eq!(server.open(&mut flight(&mut client)), Err(Fault::Alert(20)), "{suite:?}");
    }
}

#[test]
fn only_a_connection_whose_secrets_are_there_is_taken_over() {
    let Handshake { server, secrets, .. } = handshake(SUITES[0], false);
    assert!(
        matches!(from_rustls(server, &secrets), Err(FromRustlsError::Rustls(_))),
        "not allowed"
    );
    let Handshake { server, .. } = handshake(SUITES[0], true);
    let none = TrafficSecrets::default();
    assert_eq!(from_rustls(server, &none).err(), Some(FromRustlsError::WrongSecrets));
    let Handshake { server, .. } = handshake(SUITES[0], true);
    let others = handshake(SUITES[0], true).secrets;
    assert_eq!(from_rustls(server, &others).err(), Some(FromRustlsError::WrongSecrets));
    assert!(!format!("{others:?}").contains('['), "secrets are not printed");
    assert_eq!(SUITES[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
}
