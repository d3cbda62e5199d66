//! Panics on purpose, in builds with debug assertions: a test sees what a panic of any thread does to the process.

use std::env;

/// Names a text; the thread that logs it panics.
pub const PANIC_WHEN_LOGGED: &str = "PANIC_WHEN_LOGGED";
/// Names a text; the thread that writes the log panics when it is to write it.
pub(crate) const PANIC_WHEN_WRITTEN: &str = "PANIC_WHEN_WRITTEN";

/// Nothing, unless the environment's `variable` names a part of `line`.
///
/// # Panics
/// If it does.
pub fn panic_if_asked(variable: &str, line: &str) {
    if let Ok(text) = env::var(variable) {
        assert!(text.is_empty() || !line.contains(&text), "as asked by {variable}");
    }
}
