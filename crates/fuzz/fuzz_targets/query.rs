//! See `checks/query.rs`.

#![no_main]

#[path = "../checks/query.rs"]
mod query;

libfuzzer_sys::fuzz_target!(|data: &[u8]| query::check(data));
