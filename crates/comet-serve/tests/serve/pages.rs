//! Pages for operators while the APIs are at their bounds.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use comet_serve::{AccessControl, ApiTls, Gates, Phase, Servers, listen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::caller::{EXHAUSTED, Server};

#[tokio::test]
async fn health_is_answered_where_requests_have_no_room() {
    let gates = Gates::new(65_536, 0);
    let apis = Server::start(&gates, &[]);
    assert_eq!(apis.caller(64 << 10).await.check().await, EXHAUSTED);

    let bound = listen("test", &["127.0.0.1:0".parse().unwrap()], &ApiTls::default()).unwrap();
    let (_phase, phases) = watch::channel(Phase::Ready);
    let mut servers = Servers::new(phases);
    let gate = gates.pages("test", 1, &Arc::new(AccessControl::default()));
    let pages = Router::new().route("/healthz", get(|| async { "ok" }));
    servers.http(&gate, bound.listeners, &pages).unwrap();
    let mut stream = TcpStream::connect(bound.addresses[0].socket().unwrap()).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer:?}");
}
