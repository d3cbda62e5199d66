//! Redis with users of its own and TLS.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use comet_router::{Redis, RedisOptions, Sessions, StoreError};
use rcgen::{CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair, SanType};

use crate::conformance::LIFETIME;
use crate::server::{PATIENCE, Server, free_port};

/// An authority.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of 127.0.0.1 in the directory, and the arguments of a server with it.
fn tls(directory: &Path, port: u16, authority: &CertifiedIssuer<'_, KeyPair>) -> Vec<String> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    let certificate = params.signed_by(&key, authority).unwrap();
    let file = |name: &str, pem: String| {
        let path = directory.join(name);
        fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", file("cert.pem", certificate.pem())),
        ("--tls-key-file", file("key.pem", key.serialize_pem())),
        ("--tls-ca-cert-file", file("ca.pem", authority.pem())),
        ("--tls-auth-clients", "no".to_owned()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect()
}

#[tokio::test]
async fn a_user_logs_in_over_tls() {
    let (authority, other, port) = (authority(), authority(), free_port());
    let server = Server::start_with(|directory| tls(directory, port, &authority)).await;
    let Some(server) = server else { return };
    server.run_command("ACL SETUSER logic on >secret ~* &* +@all").await;
    let store = |login: &str, ca: &CertifiedIssuer<'_, KeyPair>| {
        let servers = vec![format!("rediss://{login}@127.0.0.1:{port}/3")];
        let (ca, lifetime, timeout) = (Some(ca.pem().into_bytes()), LIFETIME, PATIENCE);
        Redis::new(&RedisOptions { servers, ca, lifetime, timeout }).unwrap()
    };
    let good = store("logic:secret", &authority);
    assert_eq!(good.servers()[0].name, format!("127.0.0.1:{port}/3"));
    good.put(7, "phone", "a").await.unwrap();
    assert_eq!(good.servers_of_keys(&["phone"]).await.unwrap(), [Some("a".to_owned())]);
    for (login, ca, cause) in
        [("logic:wrong", &authority, "authentication"), ("logic:secret", &other, "certificate")]
    {
        let store = store(login, ca);
        let error = store.put(7, "phone", "a").await.unwrap_err();
        assert!(matches!(error, StoreError::Failed { .. }), "{error:?}");
        let sentence = error.to_string();
        assert!(sentence.to_lowercase().contains(cause), "{sentence}");
        assert!(!sentence.contains("wrong") && !sentence.contains("secret"), "{sentence}");
        assert!(!store.servers()[0].is_up);
    }
    // The user's rights end: the server says so on the connection that is open.
    server.run_command("ACL SETUSER logic off").await;
    server.run_command("CLIENT KILL USER logic").await;
    assert!(good.put(7, "phone", "a").await.is_err());
}
