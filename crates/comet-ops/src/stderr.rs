//! Standard error for a process that ends. It may be a pipe without a reader.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// How long the end of the process waits for standard error.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Prints `text` to standard error. Waits for at most a second, or, where no thread is to be had, until it is written; failures are
/// ignored.
pub fn print_error(text: impl Into<Vec<u8>>) {
    let text: Arc<[u8]> = text.into().into();
    let (done, is_done) = channel();
    let of_thread = Arc::clone(&text);
    let print = move || {
        let _ = io::stderr().write_all(&of_thread);
        let _ = done.send(());
    };
    match thread::Builder::new().name("comet-stderr".to_owned()).spawn(print) {
        Ok(_) => _ = is_done.recv_timeout(TIMEOUT),
        // The limit of threads may be what the text is about.
        Err(_) => _ = io::stderr().write_all(&text),
    }
}
