//! See `checks/shard.rs`.

#![no_main]

#[path = "../checks/shard.rs"]
mod shard;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shard::check(data));
