//! A core: the thread, its glommio executor, and how it starts and ends.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender as ReadySender;

use comet_core::ShardId;
use comet_logic::Authenticator;
use comet_mesh::{EventFd, Wake};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::driver::Driver;
use crate::settings::{CoreSettings, MeshEndpoints};

/// Why a core did not start.
#[derive(Debug)]
pub struct CoreStartError {
    /// The core's shard.
    pub shard: ShardId,
    /// The CPU it was meant for.
    pub cpu: Option<usize>,
    /// What failed.
    pub cause: String,
}

impl fmt::Display for CoreStartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "core {}", self.shard.0)?;
        if let Some(cpu) = self.cpu {
            write!(f, " on CPU {cpu}")?;
        }
        write!(f, " did not start: {}", self.cause)
    }
}

impl std::error::Error for CoreStartError {}

/// A running core.
pub struct Core {
    stop: Arc<AtomicBool>,
    wakeup: Arc<EventFd>,
    thread: ExecutorJoinHandle<()>,
}

impl Core {
    /// Starts the thread. `ready` receives `Ok` once the listeners accept, or the error that
    /// prevented it. A thread that does not get as far as that drops `ready`, and [`Core::stop`]
    /// returns the reason.
    ///
    /// # Errors
    /// If the CPU does not exist or the kernel starts no thread.
    pub fn start<A: Authenticator + Send + 'static>(
        settings: CoreSettings,
        endpoints: MeshEndpoints,
        authenticator: A,
        ready: ReadySender<Result<ShardId, CoreStartError>>,
    ) -> Result<Self, CoreStartError> {
        let (shard, cpu) = (settings.shard.shard, settings.cpu);
        let stop = Arc::new(AtomicBool::new(false));
        let wakeup = Arc::clone(&endpoints.wakeup);
        let stopped = Arc::clone(&stop);
        let failed = move |cause: String| CoreStartError { shard, cpu, cause };
        let thread = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
            .name(&format!("comet-core-{}", shard.0))
            // glommio's own rings carry no traffic here; this is the smallest value it accepts.
            .io_memory(64 << 10)
            .spawn(move || async move {
                match Driver::new(settings, endpoints, authenticator, stopped) {
                    Ok(driver) => {
                        // The receiver is gone if the start of another core failed.
                        let _ = ready.send(Ok(shard));
                        // The starter waits until every sender is used or dropped.
                        drop(ready);
                        driver.run().await;
                    }
                    Err(error) => {
                        let cause = format!("its ring cannot be set up: {}", explain(&error));
                        let _ = ready.send(Err(failed(cause)));
                    }
                }
            })
            .map_err(|error| CoreStartError { shard, cpu, cause: error.to_string() })?;
        Ok(Self { stop, wakeup, thread })
    }

    /// Ends the thread. Sockets that are still open are closed without flushing them.
    ///
    /// # Errors
    /// If the core had failed.
    pub fn stop(self) -> Result<(), String> {
        self.stop.store(true, Ordering::Release);
        self.wakeup.wake();
        self.thread.join().map_err(|error| explain(&error.into()))
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

/// Newer kernels (6.18 is one, 6.1 is not) count the rings themselves as locked memory.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::OutOfMemory => "no locked memory is left: raise the limit (ulimit -l, or \
             LimitMEMLOCK= in a systemd unit) to 1 MiB a core and more, or lower \
             limits.ring_entries"
            .to_owned(),
        _ => error.to_string(),
    }
}
