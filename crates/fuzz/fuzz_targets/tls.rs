//! See `comet-net/src/tls/fuzzing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| comet_net::check_tls(data));
