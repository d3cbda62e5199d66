//! See `checks/push_frame.rs`.

#![no_main]

#[path = "../checks/push_frame.rs"]
mod push_frame;

libfuzzer_sys::fuzz_target!(|data: &[u8]| push_frame::check(data));
