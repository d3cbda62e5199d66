//! A client's message in the text form: the decoded message can be encoded in the text form, and decodes to the same.

use comet_proto::text::{objects, read};
use comet_proto::{Encoded, count_frames, op};

pub(crate) fn check(bytes: &[u8]) {
    if let Ok(message) = str::from_utf8(bytes)
        && let Ok(request) = read(message)
    {
        let frame = request.frame();
        assert!(frame.body.len() <= message.len());
        if frame.operation != op::RAW {
            let encoded = Encoded::frame(&frame).to_text();
            let told = encoded.text().expect("a text message");
            let object = told.strip_prefix('[').and_then(|told| told.strip_suffix("]\n"));
            let again = read(object.expect("an array")).expect("an object");
            let again = again.frame();
            assert_eq!(again.version, frame.version);
            assert_eq!((again.operation, again.sequence), (frame.operation, frame.sequence));
            assert_eq!(objects(told).len(), 1);
        }
    }
    // The same bytes as a batch: one object for each of its frames.
    if let Ok(frames) = count_frames(bytes) {
        let encoded = Encoded::verbatim(bytes).to_text();
        assert_eq!(objects(encoded.text().expect("a text message")).len(), frames);
    }
}
