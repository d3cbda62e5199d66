//! A stream of a push caller's requests, and the same bytes as replies: encoding what was decoded gives its bytes, and
//! no byte changes the result for those before it.

use comet_proto::push_frame::{PUSH_HEADER_LEN, PushReply, decode_request};

const LENGTH_MAX: usize = 8192;

pub(crate) fn check(stream: &[u8]) {
    let mut rest = stream;
    loop {
        let result = decode_request(rest, LENGTH_MAX);
        for cut in 0..rest.len().min(48) {
            let early = decode_request(&rest[..cut], LENGTH_MAX);
            assert!(early == Ok(None) || early == result, "{early:?}, then {result:?}");
        }
        let Ok(Some((request, consumed))) = result else { break };
        assert!((PUSH_HEADER_LEN..=LENGTH_MAX.min(rest.len())).contains(&consumed));
        if let Ok(request) = request {
            let mut encoded = Vec::new();
            request.encode(&mut encoded);
            // Version 0 is read as 1.
            assert_eq!(encoded[..6], rest[..6]);
            assert_eq!(encoded[8..], rest[8..consumed]);
        }
        rest = &rest[consumed..];
    }
    let mut rest = stream;
    while let Ok(Some((reply, consumed))) = PushReply::decode(rest, LENGTH_MAX) {
        let mut encoded = Vec::new();
        reply.encode(&mut encoded);
        assert_eq!(encoded[8..], rest[8..consumed]);
        rest = &rest[consumed..];
    }
}
