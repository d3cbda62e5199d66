//! The head of an HTTP request: the bytes up to its end decide the result, and the response is
//! complete.

use comet_proto::websocket;

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
    let response = match result {
        Ok(None) => return assert!(input.len() < HEAD_MAX),
        Ok(Some(upgrade)) => {
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
