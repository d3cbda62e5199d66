//! Streams of reflection, which some callers keep for later questions.

use axum::body::Bytes;
use comet_serve::Gates;

use crate::caller::{LIST, REFLECTION, Server};

#[tokio::test]
async fn questions_take_no_room_once_they_are_handed_on() {
    // Room for 64 calls.
    let gates = Gates::new(65_536, 64 * (16 << 10));
    let server = Server::start(&gates, &[]);
    let mut caller = server.caller(64 << 10).await;
    let mut stream = caller.call(REFLECTION, &LIST, false).await;
    stream.take().await;
    let (after_one, _) = gates.request_bytes();
    for _ in 0..200 {
        stream.request.send_data(Bytes::from_static(&LIST), false).unwrap();
        stream.take().await;
    }
    assert_eq!(gates.request_bytes().0, after_one);
    assert_eq!(caller.check().await, "0");
}
