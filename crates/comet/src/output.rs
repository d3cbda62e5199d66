//! Output of commands. The print macros panic if a sink fails, as a full disk does; these functions do not.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Whether standard output still has a reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// As far as can be determined.
    Present,
    /// Its end of the pipe is closed, as after `comet --check | head -1`. That is not a failure.
    Left,
}

/// Writes `text` and a newline to standard output.
///
/// # Errors
/// If standard output fails for another reason than a reader that left, as a sentence.
pub fn print(text: impl Display) -> Result<Reader, String> {
    let mut out = io::stdout().lock();
    outcome(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// The same result for output that was written by other code.
pub(crate) fn outcome(written: io::Result<()>) -> Result<Reader, String> {
    match written {
        Ok(()) => Ok(Reader::Present),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Left),
        Err(error) => Err(format!("cannot write to standard output: {error}")),
    }
}

/// Writes `text` and a newline to standard error. If that fails, there is no other place to report it.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
