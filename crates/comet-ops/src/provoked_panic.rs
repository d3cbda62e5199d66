//! Intentional panics, in builds with debug assertions: a test checks the effect of a panic of any thread on the
//! process.

use std::env;

/// Names a text. The thread that logs a line with it panics.
pub const PANIC_WHEN_LOGGED: &str = "PANIC_WHEN_LOGGED";
/// Names a text. The thread that writes the log panics when it should write a line with it.
pub(crate) const PANIC_WHEN_WRITTEN: &str = "PANIC_WHEN_WRITTEN";

/// Panics if the environment's `variable` contains a part of `line`.
///
/// # Panics
/// In that case.
pub fn panic_if_asked(variable: &str, line: &str) {
    if let Ok(text) = env::var(variable) {
        assert!(text.is_empty() || !line.contains(&text), "as asked by {variable}");
    }
}
