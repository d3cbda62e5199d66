//! Bodies of HTTP pushes: as long as they may be, longer, in chunks, unfinished.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::recorder::{BUSY, HASTY, PATIENT, answer, answered, sent, start};

const TARGET: &str = "/goim/push/all?operation=5";

/// The head of a push to everybody with one more header.
fn head(header: &str) -> Vec<u8> {
    format!("POST {TARGET} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{header}\r\n\r\n").into()
}

/// `body` in chunks of at most `size` (RFC 9112, section 7.1).
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(size) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// A push of `body`, whose length is announced.
fn whole(body: &[u8]) -> Vec<u8> {
    [head(&format!("Content-Length: {}", body.len())), body.to_vec()].concat()
}

fn refused(message: &str) -> Value {
    json!({ "code": -400, "message": message })
}

#[tokio::test]
async fn bodies_up_to_the_bound_are_pushed_whole() {
    let mut api = start(PATIENT);
    for length in [0, 1, 255, 256] {
        let body: Vec<u8> = (0..=255).cycle().take(length).collect();
        let answer = sent(api.address, &whole(&body)).await;
        assert_eq!((&answer["code"], &api.pushed().await), (&json!(0), &body));
        let in_chunks = [head("Transfer-Encoding: chunked"), chunked(&body, 100)].concat();
        let answer = sent(api.address, &in_chunks).await;
        assert_eq!((&answer["code"], &api.pushed().await), (&json!(0), &body));
    }
}

#[tokio::test]
async fn longer_bodies_are_refused_with_the_numbers() {
    let mut api = start(PATIENT);
    // The last body does not fit the socket's buffers: the server must let its caller finish.
    for length in [257, 1_000, 32 << 20] {
        let body = vec![7; length];
        let expected = refused(&format!("the body has {length} bytes, more than the 256 allowed"));
        assert_eq!(sent(api.address, &whole(&body)).await, expected);
        let in_chunks = [head("Transfer-Encoding: chunked"), chunked(&body, 100_000)].concat();
        assert_eq!(sent(api.address, &in_chunks).await, expected);
    }
    assert!(api.is_untouched());
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let mut api = start(PATIENT);
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(&head("Transfer-Encoding: chunked")).await.unwrap();
    let mut chunk = chunked(&vec![7; 1 << 20], 1 << 20);
    chunk.truncate(chunk.len() - b"0\r\n\r\n".len());
    let mut written = 0_u64;
    while stream.write_all(&chunk).await.is_ok() {
        written += 1;
        assert!(written < 1_024, "a GiB was taken");
    }
    assert!(api.is_untouched());
}

#[tokio::test]
async fn a_caller_that_expects_100_continue_may_send() {
    let mut api = start(PATIENT);
    let go_ahead = b"HTTP/1.1 100 Continue\r\n\r\n";
    for length in [2, 257] {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let head = head(&format!("Expect: 100-continue\r\nContent-Length: {length}"));
        stream.write_all(&head).await.unwrap();
        let mut read = [0; 25];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, go_ahead);
        stream.write_all(&vec![7; length]).await.unwrap();
        let answer = answer(&mut stream).await;
        if length == 2 {
            assert_eq!((&answer["code"], api.pushed().await), (&json!(0), vec![7; 2]));
        } else {
            assert_eq!(answer, refused("the body has 257 bytes, more than the 256 allowed"));
        }
    }
}

/// Some proxies ask with `Expect`, and send the body without waiting. Unread bytes would end the connection by a reset, and the
/// proxy would answer 502.
#[tokio::test]
async fn a_caller_that_sends_before_100_continue_reads_the_refusal() {
    let api = start(PATIENT);
    let length = 32 << 20;
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let head = head(&format!("Expect: 100-continue\r\nContent-Length: {length}"));
    stream.write_all(&head).await.unwrap();
    stream.write_all(&vec![7; length]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let reason = format!("the body has {length} bytes, more than the 256 allowed");
    assert!(answer.contains(&reason), "{answer}");
}

/// Its body is longer than what is discarded of one.
#[tokio::test]
async fn a_caller_that_waits_for_100_continue_reads_the_refusal_of_a_huge_body() {
    let mut api = start(PATIENT);
    let length = 1_u64 << 30;
    let head = head(&format!("Expect: 100-continue\r\nContent-Length: {length}"));
    let expected = refused(&format!("the body has {length} bytes, more than the 256 allowed"));
    assert_eq!(sent(api.address, &head).await, expected);
    assert!(api.is_untouched());
}

/// A caller that tries again after 408 would be refused again.
#[tokio::test]
async fn a_body_that_is_too_long_and_late_is_refused_as_too_long() {
    let mut api = start(HASTY);
    let request = [head("Content-Length: 1000"), b"half".to_vec()].concat();
    let expected = refused("the body has 1000 bytes, more than the 256 allowed");
    assert_eq!(sent(api.address, &request).await, expected);
    assert!(api.is_untouched());
}

#[tokio::test]
async fn a_push_beyond_the_bound_of_calls_gets_status_429() {
    let mut api = start(PATIENT);
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let target = format!("/goim/push/room?operation=5&type=live&room={BUSY}");
    let head = format!("POST {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    stream.write_all(format!("{head}Content-Length: 1\r\n\r\nx").as_bytes()).await.unwrap();
    let expected = json!({ "code": -429, "message": "2 pushes are under way" });
    assert_eq!(answered(&mut stream).await, (429, expected));
    assert!(api.is_untouched());
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let mut api = start(HASTY);
    let request = [head("Content-Length: 10"), b"half".to_vec()].concat();
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let (status, answer) = answered(&mut stream).await;
    let expected = json!({ "code": -408, "message": "the request did not come in within 500ms" });
    assert_eq!((status, answer), (408, expected));

    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(&request).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(api.is_untouched());
}

/// Callers that stop in the middle of their bodies take no places of others.
#[tokio::test]
async fn unfinished_bodies_delay_no_other_caller() {
    let mut api = start(PATIENT);
    let mut unfinished = Vec::new();
    let request = [head("Content-Length: 10"), b"half".to_vec()].concat();
    for _ in 0..4 * 64 {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(&request).await.unwrap();
        unfinished.push(stream);
        if unfinished.len() % 8 == 0 {
            assert_eq!(sent(api.address, &whole(b"hi")).await["code"], 0);
            assert_eq!(api.pushed().await, b"hi");
        }
    }
    // When there is no memory left for all, the oldest incomplete request is answered.
    let (status, answer) = answered(&mut unfinished[0]).await;
    assert_eq!((status, &answer["code"]), (503, &json!(-503)));
}
