//! See `checks/world.rs`.

#![no_main]

#[path = "../checks/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| world::check(data));
