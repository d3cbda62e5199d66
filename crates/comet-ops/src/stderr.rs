//! Standard error for a process that ends. It may be a pipe without a reader.

use std::io::{self, Write};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// How long the end of the process waits for standard error.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Prints `text` to standard error. Waits for at most a second; failures are ignored.
pub fn print_error(text: impl Into<Vec<u8>>) {
    let text = text.into();
    let (done, is_done) = channel();
    let print = move || {
        let _ = io::stderr().write_all(&text);
        let _ = done.send(());
    };
    if thread::Builder::new().name("comet-stderr".to_owned()).spawn(print).is_ok() {
        let _ = is_done.recv_timeout(TIMEOUT);
    }
}
