//! See `checks::proxy`.

#![no_main]

#[allow(dead_code)] // each target uses its own check
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::proxy(data));
