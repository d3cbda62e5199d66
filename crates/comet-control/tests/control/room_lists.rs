//! Lists of many rooms, and pushes meanwhile.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Bytes;
use comet_core::{Counters, Message, Report};
use comet_wire::goim::comet::BroadcastRoomReq;
use comet_wire::goim::comet::comet_client::CometClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::codegen::http::Request;
use tonic::codegen::{Body as _, Service};
use tonic::transport::Endpoint;

use crate::fake::{Fake, PATIENT, ROOMY, start};
use crate::push::proto;

/// A list of this many rooms takes far longer than a push.
const ROOMS: u32 = 1_000_000;

/// Most lists asked for: with threads that are scheduled badly no push comes between the start of a list and its first byte.
const ROUNDS: u32 = 5;

/// Checks that several pushes are answered before the first byte of `answer`, which is a list of [`ROOMS`].
async fn check<F: Future<Output = ()> + Send + 'static>(name: &str, answer: impl Fn(&Fake) -> F) {
    for _ in 0..ROUNDS {
        let fake = start(PATIENT, &[ROOMY]);
        if pushes_before(&fake, answer(&fake)).await >= 3 {
            return;
        }
    }
    panic!("{name} holds up pushes");
}

/// Pushes that are answered before the first byte of `answer`, which is a list of [`ROOMS`].
async fn pushes_before(fake: &Fake, answer: impl Future<Output = ()> + Send + 'static) -> u32 {
    let mut client = CometClient::new(fake.channel().await);
    let rooms: Vec<(Arc<str>, u32)> =
        (0..ROOMS).map(|at| (format!("live://{at}").into(), at)).collect();
    let mut answer = tokio::spawn(answer);
    let call = loop {
        match fake.shards[0].next().await {
            Message::Rooms { call } => break call,
            counters => fake.answer(0, counters, &Counters::default(), &[]),
        }
    };
    fake.report(Report::Rooms { call, rooms });
    let mut answered = 0;
    loop {
        let request = BroadcastRoomReq { room_id: "r".to_owned(), proto: proto(5, 1, b"x") };
        let take = async {
            let Message::PushRoom { call, .. } = fake.shards[0].next().await else { panic!() };
            fake.queued(call);
        };
        tokio::select! {
            biased;
            listed = &mut answer => {
                listed.unwrap();
                return answered;
            }
            (pushed, ()) = async { tokio::join!(client.broadcast_room(request), take) } => {
                pushed.unwrap();
                answered += 1;
            }
        }
    }
}

#[tokio::test]
async fn pushes_are_answered_while_rooms_are_listed_over_grpc() {
    let list = |fake: &Fake| {
        let address = fake.control.grpc_addrs()[0].socket().unwrap();
        async move {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            let mut channel = endpoint.connect().await.unwrap();
            let empty = axum::body::Body::from(Bytes::from_static(&[0; 5]));
            let request = Request::post("/goim.comet.Comet/Rooms")
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let request = request.body(tonic::body::Body::new(empty)).unwrap();
            poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
            let mut body = channel.call(request).await.unwrap().into_body();
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            assert!(!frame.unwrap().unwrap().into_data().unwrap().is_empty());
        }
    };
    check("gRPC", list).await;
}

#[tokio::test]
async fn pushes_are_answered_while_rooms_are_listed_over_http() {
    let target = "/goim/online/top?type=live&limit=10";
    let list = |fake: &Fake| {
        let address = fake.control.http_addrs()[0].socket().unwrap();
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_u8().await.unwrap();
        }
    };
    check(target, list).await;
}
