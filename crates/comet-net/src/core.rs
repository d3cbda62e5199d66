//! A core: the thread, its glommio executor, and how it starts and ends.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender as ReadySender;
use std::time::{Duration, Instant};

use comet_core::{Message, Report, Settings, ShardId, Transport};
use comet_logic::Auther;
use comet_mesh::{EventFd, Inbox, Sender, Wake};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::certificates::Tls;
use crate::driver::Driver;
use crate::layers::ProxyFrom;

/// A listening socket of one core.
#[derive(Debug)]
pub struct Listener {
    /// Bound and listening; see [`crate::bind`].
    pub socket: OwnedFd,
    /// What arrives there speaks this.
    pub transport: Transport,
    /// Inside TLS, with this; `None`: in plain.
    pub tls: Option<Tls>,
    /// Peers that say first whose connection they pass on; `None`: nobody does.
    pub proxy_from: Option<ProxyFrom>,
}

/// What one core is made of.
#[derive(Debug)]
pub struct CoreSettings {
    /// The CPU it runs on; `None` leaves that to the kernel.
    pub cpu: Option<usize>,
    /// Its shard.
    pub shard: Settings,
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// Entries of the submission queue; a power of two.
    pub ring_entries: u32,
    /// Receive buffers; a power of two up to 32,768.
    pub recv_buffers: u16,
    /// Bytes of one receive buffer.
    pub recv_buffer_size: usize,
    /// How long it looks again before it sleeps.
    pub spin: Duration,
    /// When the process started: the zero of the shard's clock, the same for all cores.
    pub epoch: Instant,
}

/// A core's place on the mesh.
#[derive(Debug)]
pub struct Ports {
    /// Its own inbox.
    pub inbox: Inbox<Message>,
    /// What wakes it; the waker of `inbox`.
    pub bell: Arc<EventFd>,
    /// The other shards' inboxes by number; the entry of the shard itself is not used.
    pub peers: Vec<Sender<Message>>,
    /// Control's inbox.
    pub control: Sender<Report>,
}

/// Why a core did not start.
#[derive(Debug)]
pub struct StartError {
    /// Which.
    pub shard: ShardId,
    /// The CPU it was meant for.
    pub cpu: Option<usize>,
    /// What failed.
    pub cause: String,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "core {}", self.shard.0)?;
        if let Some(cpu) = self.cpu {
            write!(f, " on CPU {cpu}")?;
        }
        write!(f, " did not start: {}", self.cause)
    }
}

impl std::error::Error for StartError {}

/// A running core.
pub struct Core {
    stop: Arc<AtomicBool>,
    bell: Arc<EventFd>,
    thread: ExecutorJoinHandle<()>,
}

impl Core {
    /// Starts the thread. Once its listeners accept, or when it cannot, it says so on `ready`. If it
    /// does not even get as far as that, `ready` is dropped, and [`Core::stop`] says why.
    ///
    /// # Errors
    /// If the CPU is not there or the kernel starts no thread.
    pub fn start<A: Auther + Send + 'static>(
        settings: CoreSettings,
        ports: Ports,
        auther: A,
        ready: ReadySender<Result<ShardId, StartError>>,
    ) -> Result<Self, StartError> {
        let (shard, cpu) = (settings.shard.shard, settings.cpu);
        let stop = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&ports.bell);
        let stopped = Arc::clone(&stop);
        let failed = move |cause: String| StartError { shard, cpu, cause };
        let thread = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
            .name(&format!("comet-core-{}", shard.0))
            // glommio's own rings carry no traffic here; this is the least it takes.
            .io_memory(64 << 10)
            .spawn(move || async move {
                match Driver::new(settings, ports, auther, stopped) {
                    Ok(driver) => {
                        // The starter may have given up on another core's failure.
                        let _ = ready.send(Ok(shard));
                        // While one is kept, the starter cannot see that nobody else will speak.
                        drop(ready);
                        driver.run().await;
                    }
                    Err(error) => {
                        let cause = format!("its ring cannot be set up: {}", explain(&error));
                        let _ = ready.send(Err(failed(cause)));
                    }
                }
            })
            .map_err(|error| StartError { shard, cpu, cause: error.to_string() })?;
        Ok(Self { stop, bell, thread })
    }

    /// Ends the thread: sockets that are still open are closed as they are.
    ///
    /// # Errors
    /// If the core had failed.
    pub fn stop(self) -> Result<(), String> {
        self.stop.store(true, Ordering::Release);
        self.bell.wake();
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
