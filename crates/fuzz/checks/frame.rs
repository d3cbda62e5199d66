//! A stream of frames: encoding a decoded frame gives its bytes, and no byte changes the result for
//! those before it.

use comet_proto::{Encoded, count_frames, decode, op};

const BODY_MAX: usize = 4096;

pub(crate) fn check(stream: &[u8]) {
    let mut rest = stream;
    loop {
        let result = decode(rest, BODY_MAX);
        for cut in 0..rest.len().min(24) {
            let early = decode(&rest[..cut], BODY_MAX);
            assert!(early == Ok(None) || early == result, "{early:?}, then {result:?}");
        }
        let Ok(Some((frame, consumed))) = result else {
            break;
        };
        let encoded = Encoded::frame(&frame);
        assert!(encoded.for_websocket().ends_with(&rest[..consumed]));
        if frame.operation == op::RAW {
            assert_eq!(encoded.for_tcp(), frame.body);
        } else {
            assert_eq!(encoded.for_tcp(), &rest[..consumed]);
        }
        rest = &rest[consumed..];
    }

    if let Ok(frames) = count_frames(stream) {
        let mut rest = stream;
        for _ in 0..frames {
            let (_, consumed) =
                decode(rest, usize::MAX).unwrap().expect("a frame that was counted");
            rest = &rest[consumed..];
        }
        assert!(rest.is_empty());
    }
}
