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

use crate::commands::{CommandSender, CoreCommand, FrozenTurn, Offer, Survey, commands};
use crate::driver::Driver;
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
    commands: CommandSender,
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
        let (commands, command_queue) = commands();
        let failed = move |cause: String| CoreStartError { shard, cpu, cause };
        let thread = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
            .name(&format!("comet-core-{}", shard.0))
            // glommio's own rings carry no traffic here; this is the smallest value it accepts.
            .io_memory(64 << 10)
            .spawn(move || async move {
                match Driver::new(settings, endpoints, authenticator, stopped, command_queue) {
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
        Ok(Self { shard, stop, wakeup, commands, thread })
    }

    /// Asks the core to count what could be handed over. The core keeps running.
    pub fn survey(&self) -> Pending<Survey> {
        self.command(CoreCommand::Survey)
    }

    /// Tells the core to accept no more clients. New connections wait in the kernel.
    pub fn stop_accepts(&self) -> Pending<Result<(), String>> {
        self.command(CoreCommand::StopAccepts)
    }

    /// Tells the core to read no more input of clients, because it may ask for answers. [`Core::thaw`] undoes this.
    pub fn hold_input(&self) -> Pending<Result<(), String>> {
        self.command(CoreCommand::HoldInput)
    }

    /// Tells the core to take no more requests of push callers, or to take them again. Earlier requests are still
    /// answered.
    pub fn hold_callers(&self, is_held: bool) -> Pending<Result<(), String>> {
        self.command(|answer| CoreCommand::HoldCallers(is_held, answer))
    }

    /// Tells the core to close the connections that cannot be handed over, each with a random retry time of up to
    /// `retry_after_ms`.
    pub fn close_unmovable(&self, retry_after_ms: u32) -> Pending<Result<(), String>> {
        self.command(|answer| CoreCommand::CloseUnmovable(retry_after_ms, answer))
    }

    /// Freezes the core: all operations on its sockets end, and none begins until [`Core::thaw`]. The error says why
    /// the core keeps running instead.
    pub fn freeze(&self) -> Pending<Result<(), String>> {
        self.command(CoreCommand::Freeze)
    }

    /// Tells a frozen core to handle messages, so that the mesh becomes empty. The mesh is empty once all cores were
    /// still in the same round of turns.
    pub fn frozen_turn(&self) -> Pending<FrozenTurn> {
        self.command(CoreCommand::Turn)
    }

    /// Tells a frozen core to run `sink` on its thread, which sends the core's state and sockets to another process.
    /// After that the core takes only [`Core::thaw`] and [`Core::release`].
    pub fn offer(
        &self,
        sink: impl FnOnce(Offer<'_>) -> io::Result<()> + Send + 'static,
    ) -> Pending<Result<(), String>> {
        self.command(|answer| CoreCommand::Offer(Box::new(sink), answer))
    }

    /// Gives connections of another process to a core that was started frozen. The core serves them once it thaws.
    pub fn adopt(&self, arrived: Arrived) -> Pending<Result<(), String>> {
        self.command(|answer| CoreCommand::Adopt(Box::new(arrived), answer))
    }

    /// Thaws the core: it continues as if it had not been frozen, and accepts clients again. On a core that was never
    /// frozen this undoes [`Core::stop_accepts`].
    pub fn thaw(&self) -> Pending<Result<(), String>> {
        self.command(CoreCommand::Thaw)
    }

    /// Ends the core's work. Its sockets are closed, not shut: another process may have them. [`Core::stop`] joins the thread.
    pub fn release(&self) -> Pending<Result<(), String>> {
        self.command(CoreCommand::Release)
    }

    fn command<T>(&self, command: impl FnOnce(Sender<T>) -> CoreCommand) -> Pending<T> {
        let (answer, answered) = channel();
        self.commands.send(command(answer));
        self.wakeup.wake();
        Pending { answered, shard: self.shard }
    }

    /// Ends the thread. Sockets that are still open are closed without flushing them.
    ///
    /// # Errors
    /// If the core had failed.
    pub fn stop(self) -> Result<(), String> {
        self.stop.store(true, Ordering::Release);
        // Closing the channel ends the wait of a frozen core.
        drop(self.commands);
        self.wakeup.wake();
        self.thread.join().map_err(|error| explain(&error.into()))
    }
}

/// The pending answer to a command.
#[derive(Debug)]
#[must_use]
pub struct Pending<T> {
    answered: Receiver<T>,
    shard: ShardId,
}

impl<T> Pending<T> {
    /// Waits for the answer, for at most `time`.
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
