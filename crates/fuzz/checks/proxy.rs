//! A PROXY header: the bytes up to its end decide the result, within the bound.

use comet_proto::proxy;

pub(crate) fn check(input: &[u8]) {
    let result = proxy::read(input);
    for cut in 0..input.len().min(proxy::HEADER_MAX) {
        let early = proxy::read(&input[..cut]);
        if early != Ok(None) {
            assert_eq!(early, result, "after {cut} bytes");
            break;
        }
    }
    match result {
        Ok(None) => assert!(input.len() < proxy::HEADER_MAX),
        Ok(Some(header)) => assert!(header.consumed <= input.len().min(proxy::HEADER_MAX)),
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
}
