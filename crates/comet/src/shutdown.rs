//! The end of a process after its first signal. Further signals are handled while it drains.

use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};

use comet_ops::{Signal, Signals};

enum Event<T> {
    Signal(Signal),
    Ended(T),
}

/// Runs `end` on a thread of its own, and calls `hangup` for every SIGHUP meanwhile.
///
/// # Errors
/// If another signal to end came first. `end` then keeps running, and ends with the process.
///
/// # Panics
/// If the kernel makes no thread.
pub(crate) fn run<T: Send + 'static>(
    mut signals: Signals,
    hangup: impl Fn(),
    end: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Signal> {
    let (events, next) = channel();
    let ended = events.clone();
    // Fails if the process is ending and no longer listens.
    spawn("comet-end", move || drop(ended.send(Event::Ended(end()))));
    spawn("comet-signals", move || while events.send(Event::Signal(signals.wait())).is_ok() {});
    loop {
        match next.recv().expect("the thread of the signals does not end before") {
            Event::Signal(Signal::Hangup) => hangup(),
            Event::Signal(Signal::Upgrade) => {
                log::warn!("SIGUSR2: this process ends: it hands nothing over");
            }
            Event::Signal(signal) => return Err(signal),
            Event::Ended(ended) => return Ok(ended),
        }
    }
}

fn spawn(name: &str, task: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(task);
    thread.expect("a process that ends has room for a thread")
}
