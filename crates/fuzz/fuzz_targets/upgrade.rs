//! See `checks/upgrade.rs`.

#![no_main]

#[path = "../checks/upgrade.rs"]
mod upgrade;

libfuzzer_sys::fuzz_target!(|data: &[u8]| upgrade::check(data));
