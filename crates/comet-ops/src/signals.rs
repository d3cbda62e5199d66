//! SIGTERM, SIGINT, SIGHUP and SIGUSR2 as values, for the thread that waits to end the process.

use std::time::Duration;
use std::{fmt, io};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::timeout;

/// A request to the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGTERM: to end, from a service manager.
    Terminate,
    /// SIGINT: to end, from a terminal.
    Interrupt,
    /// SIGHUP: to read its configuration again.
    Hangup,
    /// SIGUSR2: to hand its connections over to a new process.
    Upgrade,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Hangup => "SIGHUP",
            Self::Upgrade => "SIGUSR2",
        })
    }
}

/// The signals of [`Signal`], whose default of ending the process at once is replaced.
#[derive(Debug)]
pub struct Signals {
    runtime: Runtime,
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    upgrade: Stream,
    /// Found by [`Signals::find_end`], but not returned by [`Signals::wait`] yet.
    found: Option<Signal>,
}

impl Signals {
    /// Takes over the signals for the rest of the process's life. [`Signals::wait`] returns all that arrive after this
    /// call, even if they arrive before `wait` is called.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn listen() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        let upgrade = signal(SignalKind::user_defined2())?;
        // By default it ends the process where a log reaches the limit on the size of files (RLIMIT_FSIZE). Once it is caught,
        // the write fails instead, and the log counts its lines as missing. The handler stays when the stream is dropped.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        drop(entered);
        Ok(Self { runtime, terminate, interrupt, hangup, upgrade, found: None })
    }

    /// Blocks the calling thread until a signal arrives. Several of one kind that arrive before a wait count as one.
    pub fn wait(&mut self) -> Signal {
        let Self { runtime, terminate, interrupt, hangup, upgrade, found } = self;
        let next = next(terminate, interrupt, hangup, upgrade);
        found.take().unwrap_or_else(|| runtime.block_on(next))
    }

    /// As [`Signals::wait`], but for at most `time`; `None`: no signal came.
    pub fn wait_for(&mut self, time: Duration) -> Option<Signal> {
        let Self { runtime, terminate, interrupt, hangup, upgrade, found } = self;
        let next = next(terminate, interrupt, hangup, upgrade);
        found.take().or_else(|| runtime.block_on(async { timeout(time, next).await.ok() }))
    }

    /// A signal to end that has arrived, without waiting for one. [`Signals::wait`] returns it as well, before all
    /// others.
    pub fn find_end(&mut self) -> Option<Signal> {
        let Self { runtime, terminate, interrupt, found, .. } = self;
        if found.is_none() {
            let end = async {
                tokio::select! {
                    _ = terminate.recv() => Signal::Terminate,
                    _ = interrupt.recv() => Signal::Interrupt,
                }
            };
            *found = runtime.block_on(async { timeout(Duration::ZERO, end).await.ok() });
        }
        *found
    }
}

async fn next(
    terminate: &mut Stream,
    interrupt: &mut Stream,
    hangup: &mut Stream,
    upgrade: &mut Stream,
) -> Signal {
    tokio::select! {
        _ = terminate.recv() => Signal::Terminate,
        _ = interrupt.recv() => Signal::Interrupt,
        _ = hangup.recv() => Signal::Hangup,
        _ = upgrade.recv() => Signal::Upgrade,
    }
}
