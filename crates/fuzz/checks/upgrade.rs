//! The head of an HTTP request: the bytes up to its end decide the result, and the response is
//! complete.

use comet_proto::{sse, websocket};

const HEAD_MAX: usize = 1024;

pub(crate) fn check(input: &[u8]) {
    let result = websocket::upgrade(input, "/sub", HEAD_MAX);
    for cut in 0..input.len() {
        let early = websocket::upgrade(&input[..cut], "/sub", HEAD_MAX);
        if early != Ok(None) {
            assert_eq!(early, result, "after {cut} bytes");
            break;
        }
    }
    check_event_stream(input);
    let response = match result {
        Ok(None) => return assert!(input.len() < HEAD_MAX),
        Ok(Some(mut upgrade)) => {
            assert_eq!(upgrade.accept_deflate(), upgrade.deflate.is_some());
            assert!(upgrade.consumed <= input.len().min(HEAD_MAX));
            assert!(input[..upgrade.consumed].ends_with(b"\n"));
            upgrade.response
        }
        Err(fault) => fault.response(),
    };
    let response = String::from_utf8(response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").expect("a blank line");
    assert!(head.starts_with("HTTP/1.1 "));
    assert_eq!(head.starts_with("HTTP/1.1 101 "), body.is_empty());
}

/// The same bytes as a request for an event stream.
fn check_event_stream(input: &[u8]) {
    let sse::Request { token, rooms, .. } = match sse::request(input, HEAD_MAX) {
        Ok(None) => return assert!(input.len() < HEAD_MAX),
        Ok(Some(request)) => request,
        Err(fault) => {
            let response =
                sse::refusal(fault.status(), "bad_upgrade", &fault.to_string(), None, "");
            let response = String::from_utf8(response).unwrap();
            let (head, body) = response.split_once("\r\n\r\n").expect("a blank line");
            return assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
        }
    };
    assert!(token.len() + rooms.iter().map(|room| room.len()).sum::<usize>() <= input.len());
    assert!(rooms.iter().all(|room| !room.is_empty()));
}
