//! SIGTERM and SIGINT as values, for the thread that waits to end the process.

use std::{fmt, io};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// A request to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGTERM: from a service manager.
    Terminate,
    /// SIGINT: from a terminal.
    Interrupt,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

/// SIGTERM and SIGINT, taken from their default of ending the process at once.
#[derive(Debug)]
pub struct Signals {
    runtime: Runtime,
    terminate: Stream,
    interrupt: Stream,
}

impl Signals {
    /// Takes both signals over for the rest of the process's life. What arrives from here on is
    /// returned by [`Signals::wait`], also if it arrives before that is called.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn listen() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (terminate, interrupt) = {
            let _entered = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        Ok(Self { runtime, terminate, interrupt })
    }

    /// Blocks the calling thread until one of them arrives.
    pub fn wait(&mut self) -> Signal {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.terminate.recv() => Signal::Terminate,
                _ = self.interrupt.recv() => Signal::Interrupt,
            }
        })
    }
}
