//! A core: the thread, its glommio executor, and how it starts and ends.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use comet_core::ShardId;
use comet_logic::Authenticator;
use comet_mesh::{EventFd, Wake};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::driver::Driver;
use crate::orders::{FrozenTurn, Offer, Order, OrderSender, Survey, orders};
use crate::settings::{Arrived, CoreSettings, MeshEndpoints};

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
    shard: ShardId,
    stop: Arc<AtomicBool>,
    wakeup: Arc<EventFd>,
    orders: OrderSender,
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
        ready: Sender<Result<ShardId, CoreStartError>>,
    ) -> Result<Self, CoreStartError> {
        let (shard, cpu) = (settings.shard.shard, settings.cpu);
        let stop = Arc::new(AtomicBool::new(false));
        let wakeup = Arc::clone(&endpoints.wakeup);
        let stopped = Arc::clone(&stop);
        let (orders, order_queue) = orders();
        let failed = move |cause: String| CoreStartError { shard, cpu, cause };
        let thread = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
            .name(&format!("comet-core-{}", shard.0))
            // glommio's own rings carry no traffic here; this is the smallest value it accepts.
            .io_memory(64 << 10)
            .spawn(move || async move {
                match Driver::new(settings, endpoints, authenticator, stopped, order_queue) {
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
        Ok(Self { shard, stop, wakeup, orders, thread })
    }

    /// Has the core count what could be handed over. It goes on.
    pub fn survey(&self) -> Pending<Survey> {
        self.order(Order::Survey)
    }

    /// Has the core accept no more clients: those who connect wait in the kernel.
    pub fn stop_accepts(&self) -> Pending<Result<(), String>> {
        self.order(Order::StopAccepts)
    }

    /// Has it read no more of what clients send, which may ask for answers. [`Core::thaw`] takes it back.
    pub fn hold_input(&self) -> Pending<Result<(), String>> {
        self.order(Order::HoldInput)
    }

    /// Has it close the connections that cannot be handed over, each with a random time to wait up to `retry_after_ms`.
    pub fn close_unmovable(&self, retry_after_ms: u32) -> Pending<Result<(), String>> {
        self.order(|answer| Order::CloseUnmovable(retry_after_ms, answer))
    }

    /// Freezes the core: all operations on its sockets end, and none is begun until [`Core::thaw`]. The error says why it goes
    /// on instead.
    pub fn freeze(&self) -> Pending<Result<(), String>> {
        self.order(Order::Freeze)
    }

    /// Has a frozen core handle messages, so that the mesh becomes empty. It is empty once all cores were still in the same round
    /// of turns.
    pub fn frozen_turn(&self) -> Pending<FrozenTurn> {
        self.order(Order::Turn)
    }

    /// Has `taker` send the state and the sockets of a frozen core to another process, on the core's thread. After that it only
    /// takes [`Core::thaw`] and [`Core::release`].
    pub fn offer(
        &self,
        taker: impl FnOnce(Offer<'_>) -> io::Result<()> + Send + 'static,
    ) -> Pending<Result<(), String>> {
        self.order(|answer| Order::Offer(Box::new(taker), answer))
    }

    /// Has a core that was started frozen go on with connections of another process, once it thaws.
    pub fn adopt(&self, arrived: Arrived) -> Pending<Result<(), String>> {
        self.order(|answer| Order::Adopt(Box::new(arrived), answer))
    }

    /// Has a core go on as if it had not been frozen; it accepts clients again. For one that was never frozen, it takes back
    /// [`Core::stop_accepts`].
    pub fn thaw(&self) -> Pending<Result<(), String>> {
        self.order(Order::Thaw)
    }

    /// Ends the core's work. Its sockets are closed, not shut: another process may have them. [`Core::stop`] joins the thread.
    pub fn release(&self) -> Pending<Result<(), String>> {
        self.order(Order::Release)
    }

    fn order<T>(&self, order: impl FnOnce(Sender<T>) -> Order) -> Pending<T> {
        let (answer, answered) = channel();
        self.orders.send(order(answer));
        self.wakeup.wake();
        Pending { answered, shard: self.shard }
    }

    /// Ends the thread. Sockets that are still open are closed without flushing them.
    ///
    /// # Errors
    /// If the core had failed.
    pub fn stop(self) -> Result<(), String> {
        self.stop.store(true, Ordering::Release);
        // Ends the wait of a frozen core.
        drop(self.orders);
        self.wakeup.wake();
        self.thread.join().map_err(|error| explain(&error.into()))
    }
}

/// An order that a core has been given.
#[derive(Debug)]
#[must_use]
pub struct Pending<T> {
    answered: Receiver<T>,
    shard: ShardId,
}

impl<T> Pending<T> {
    /// Waits for the answer, at most for `time`.
    ///
    /// # Errors
    /// If the core does not answer in time, or has ended.
    pub fn wait(self, time: Duration) -> Result<T, String> {
        let failed = |error| format!("core {} does not answer: {error}", self.shard.0);
        self.answered.recv_timeout(time).map_err(failed)
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
