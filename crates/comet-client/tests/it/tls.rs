//! TLS under both transports, against rustls's server and against servers with the wrong
//! certificate or none.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use comet_client::tokio::Client;
use comet_client::{
    Backoff, Error, Event, Message, Options, SessionError, TlsError, TlsOptions, op,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedKey, IsCa, KeyPair, generate_simple_self_signed,
};
use rustls::crypto::ring;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use tungstenite::{Message as Wire, accept};

use crate::wire::{authenticate, frame, frame_2, read_frame, serve};

type Stream = StreamOwned<ServerConnection, TcpStream>;

/// A self-signed certificate.
struct Identity(CertifiedKey<KeyPair>);

impl Identity {
    fn of(name: &str) -> Self {
        Self(generate_simple_self_signed([name.to_owned()]).unwrap())
    }

    /// A certificate as openssl makes it for `name` by default: that of a certificate authority.
    fn authority(name: &str) -> Self {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signing_key = KeyPair::generate().unwrap();
        Self(CertifiedKey { cert: params.self_signed(&signing_key).unwrap(), signing_key })
    }

    fn pem(&self) -> String {
        self.0.cert.pem()
    }

    /// Starts TLS with this identity on a connection.
    fn server(&self) -> impl Fn(TcpStream) -> Stream + Send + 'static {
        let key = self.0.signing_key.serialize_der().try_into().unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.0.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        move |stream| StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream)
    }

    fn trusted(&self) -> TlsOptions {
        TlsOptions::with_authorities(self.pem().as_bytes()).unwrap()
    }
}

#[test]
fn requests_and_messages_over_tcp() {
    let identity = Identity::of("127.0.0.1");
    let (trusted, tls) = (identity.trusted(), identity.server());
    let (address, server) = serve(1, move |_, stream| {
        let mut stream = tls(stream);
        assert_eq!(authenticate(&mut stream), b"42");
        assert_eq!(stream.conn.alpn_protocol(), None);
        let (operation, sequence, room) = read_frame(&mut stream);
        assert_eq!((operation, &room[..]), (12, &b"live://1000"[..]));
        // Longer than one read of the client and than one TLS record.
        let long = frame(5, 1, &[7; 100_000]);
        stream.write_all(&[long, frame(13, sequence, b"")].concat()).unwrap();
        let (operation, _, body) = read_frame(&mut stream);
        assert_eq!((operation, body), (4, vec![1; 4096]));
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the client sends close_notify");
        assert_eq!(rest, b"");
    });
    let mut client = Options::tcp(address, "42").tls(trusted).connect().unwrap();
    client.join("live://1000").unwrap();
    let message =
        Message { operation: 5, sequence: 1, body: vec![7; 100_000], room: None, position: None };
    assert_eq!(client.receive().unwrap(), Some(message));
    client.send(op::SEND, &[1; 4096]).unwrap();
    client.close().unwrap();
    server.join().unwrap();
}

#[test]
fn requests_and_messages_over_websocket() {
    let identity = Identity::of("push.example.com");
    let (trusted, tls) = (identity.trusted(), identity.server());
    let (address, server) = serve(1, move |_, stream| {
        let mut socket = accept(tls(stream)).unwrap();
        let connection = &socket.get_ref().conn;
        assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(connection.server_name(), Some("push.example.com"));
        assert_eq!(socket.read().unwrap(), Wire::Binary(frame_2(7, 1, b"42").into()));
        socket.send(Wire::Binary(frame(8, 1, b"").into())).unwrap();
        let run = [frame(1000, 1, b"first"), frame(1000, 2, &[7; 70_000])].concat();
        socket.send(Wire::Binary(frame(9, 0, &run).into())).unwrap();
        let Wire::Close(Some(close)) = socket.read().unwrap() else { panic!("no close") };
        assert_eq!(close.code, 1000.into());
    });
    let tls = trusted.server_name("push.example.com");
    let mut client = Options::websocket(address, "/sub", "42").tls(tls).connect().unwrap();
    let mut next = || client.receive().unwrap().unwrap();
    assert_eq!(
        next(),
        Message {
            operation: 1000,
            sequence: 1,
            body: b"first".to_vec(),
            room: None,
            position: None
        }
    );
    assert_eq!(
        next(),
        Message { operation: 1000, sequence: 2, body: vec![7; 70_000], room: None, position: None }
    );
    client.close().unwrap();
    server.join().unwrap();
}

#[test]
fn a_receive_timeout_is_no_error() {
    let identity = Identity::of("127.0.0.1");
    let (trusted, tls) = (identity.trusted(), identity.server());
    let (address, server) = serve(1, move |_, stream| {
        let mut stream = tls(stream);
        authenticate(&mut stream);
        read_frame(&mut stream);
        stream.write_all(&frame(5, 0, b"late")).unwrap();
    });
    let mut client = Options::tcp(address, "42").tls(trusted).connect().unwrap();
    assert_eq!(client.receive_timeout(Duration::from_millis(5)).unwrap(), None);
    client.send(op::SEND, b"now").unwrap();
    assert_eq!(client.receive().unwrap().unwrap().body, b"late");
    server.join().unwrap();
}

/// The second connection resumes the TLS session of the first; the certificate is not sent again.
#[test]
fn a_reconnect_resumes_the_tls_session() {
    let identity = Identity::of("127.0.0.1");
    let (trusted, tls) = (identity.trusted(), identity.server());
    let (address, server) = serve(2, move |connection, stream| {
        let mut stream = tls(stream);
        authenticate(&mut stream);
        let expected = [HandshakeKind::Full, HandshakeKind::Resumed][connection];
        assert_eq!(stream.conn.handshake_kind(), Some(expected));
        stream.write_all(&frame(6, 0, b"draining; retry_after_ms=1")).unwrap();
    });
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(2));
    let mut listener = Options::tcp(address, "42").tls(trusted).backoff(backoff).reconnecting();
    for _ in 0..2 {
        assert!(matches!(listener.next(), Some(Event::Connected)));
        let Some(Event::Disconnected { reason, .. }) = listener.next() else { panic!("no end") };
        assert_eq!(reason.retry_after(), Some(Duration::from_millis(1)));
        assert!(matches!(reason, Error::Session(SessionError::Closed { .. })), "{reason}");
    }
    server.join().unwrap();
}

#[test]
fn the_stream_may_end_with_or_without_close_notify() {
    let identity = Identity::of("127.0.0.1");
    let (trusted, tls) = (identity.trusted(), identity.server());
    let (address, server) = serve(2, move |connection, stream| {
        let mut stream = tls(stream);
        authenticate(&mut stream);
        stream.write_all(&frame(5, 0, b"last")).unwrap();
        if connection == 0 {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
    });
    for _ in 0..2 {
        let options = Options::tcp(&*address, "42").tls(trusted.clone());
        let mut client = options.connect().unwrap();
        assert_eq!(client.receive().unwrap().unwrap().body, b"last");
        assert_eq!(client.receive().unwrap(), None);
    }
    server.join().unwrap();
}

#[test]
fn a_server_with_a_wrong_certificate_gets_no_token() {
    let identity = Identity::of("push.example.com");
    let (trusted, tls) = (identity.trusted(), identity.server());
    let other = Identity::of("other.example.com").trusted();
    // Trusted certificates, the expected name (none: that of the address), and the error.
    let cases = [
        (TlsOptions::new(), Some("push.example.com"), "is not signed by a trusted authority"),
        (other, Some("push.example.com"), "is not signed by a trusted authority"),
        (trusted.clone(), Some("other.example.com"), "the server has another name"),
        (trusted, None, "the server has another name"),
    ];
    let (address, server) = serve(cases.len(), move |_, stream| {
        let refused = tls(stream).read(&mut [0]).expect_err("the client disconnects");
        // The client sends an alert. A reset may replace it if the client has unread input.
        let kinds = [ErrorKind::InvalidData, ErrorKind::ConnectionReset];
        assert!(kinds.contains(&refused.kind()), "{refused}");
    });
    for (tls, name, sentence) in cases {
        let tls = name.map_or(tls.clone(), |name| tls.server_name(name));
        match Options::tcp(&*address, "42").tls(tls).connect() {
            Err(Error::Tls(error)) => assert!(error.to_string().contains(sentence), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    server.join().unwrap();
}

#[test]
fn the_certificate_of_an_authority_is_refused() {
    let identity = Identity::authority("127.0.0.1");
    let (trusted, tls) = (identity.trusted(), identity.server());
    let (address, server) = serve(1, move |_, stream| {
        tls(stream).read(&mut [0]).expect_err("the client disconnects");
    });
    let refused = Options::tcp(address, "42").tls(trusted).connect();
    assert!(matches!(refused, Err(Error::Tls(TlsError::CaCertificate))), "{refused:?}");
    server.join().unwrap();
}

#[test]
fn a_server_without_tls_is_an_error_of_its_own() {
    let (address, server) = serve(2, |connection, mut stream| {
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(hello[..2], [22, 3], "a TLS handshake record");
        if connection == 0 {
            stream.write_all(&frame(6, 0, b"bad_frame")).unwrap();
            let mut rest = Vec::new();
            // The alert; or a reset, since the server has unread input.
            let _ = stream.read_to_end(&mut rest);
        }
    });
    let options = Options::tcp(address, "42").tls(TlsOptions::new());
    let refused = options.connect();
    assert!(matches!(refused, Err(Error::Tls(TlsError::NotTls))), "{refused:?}");
    let ended = options.connect();
    let is_end = match &ended {
        Err(Error::Ended) => true,
        // The server's unread input may cause a reset.
        Err(Error::Io(error)) => error.kind() == ErrorKind::ConnectionReset,
        _ => false,
    };
    assert!(is_end, "{ended:?}");
    server.join().unwrap();
}

#[test]
fn an_unanswered_handshake_is_an_error() {
    let (address, server) = serve(1, |_, mut stream| {
        let mut hello = Vec::new();
        stream.read_to_end(&mut hello).unwrap();
        assert!(hello.starts_with(&[22, 3]), "{}", hello.escape_ascii());
    });
    let options = Options::tcp(address, "42").tls(TlsOptions::new());
    let unanswered = options.timeout(Duration::from_secs(1)).connect();
    assert!(matches!(unanswered, Err(Error::Unanswered(_))), "{unanswered:?}");
    server.join().unwrap();
}

#[test]
fn bad_authorities_and_server_names_are_refused() {
    let key = Identity::of("a.example.com").0.signing_key.serialize_pem();
    for pem in ["", "no PEM", &key] {
        let refused = TlsOptions::with_authorities(pem.as_bytes()).unwrap_err();
        assert_eq!(refused, TlsError::NoAuthority, "{pem:?}");
    }
    let begin = "-----BEGIN CERTIFICATE-----\n";
    for body in ["AAAA\n-----END CERTIFICATE-----\n", "AAAA\n", "!\n-----END CERTIFICATE-----\n"] {
        let refused = TlsOptions::with_authorities(format!("{begin}{body}").as_bytes());
        assert!(matches!(refused, Err(TlsError::BadAuthority(_))), "{body:?}: {refused:?}");
    }
    let (address, server) = serve(1, |_, mut stream| {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "nothing is sent");
    });
    let options = Options::tcp(address, "42");
    let refused = options.tls(TlsOptions::new().server_name("no name")).connect();
    assert!(matches!(refused, Err(Error::Tls(TlsError::BadServerName(_)))), "{refused:?}");
    server.join().unwrap();
}

#[tokio::test]
async fn the_asynchronous_client_speaks_tls_to_a_trusted_server_alone() {
    let (identity, stranger) = (Identity::of("127.0.0.1"), Identity::of("127.0.0.1"));
    let (trusted, tls) = (identity.trusted(), identity.server());
    let (address, server) = serve(2, move |connection, stream| {
        let mut stream = tls(stream);
        if connection == 0 {
            assert!(stream.read(&mut [0]).is_err(), "no token");
            return;
        }
        assert_eq!(authenticate(&mut stream), b"42");
        stream.write_all(&frame(5, 1, &[7; 100_000])).unwrap();
        let (operation, _, body) = read_frame(&mut stream);
        assert_eq!((operation, body), (4, vec![1; 4096]));
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the client sends close_notify");
        assert_eq!(rest, b"");
    });
    let refused = Client::connect(&Options::tcp(&*address, "42").tls(stranger.trusted())).await;
    assert!(matches!(refused, Err(Error::Tls(TlsError::Untrusted))), "{refused:?}");
    let mut client = Client::connect(&Options::tcp(address, "42").tls(trusted)).await.unwrap();
    assert_eq!(client.receive().await.unwrap().unwrap().body, [7; 100_000]);
    client.send(op::SEND, &[1; 4096]).await.unwrap();
    client.close().await.unwrap();
    server.join().unwrap();
}
