//! The commands of a core's owner to its driver in a live upgrade, and the answers.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::{fmt, io};

use crate::settings::Arrived;

/// A command, with the sender for its answer.
pub(crate) enum CoreCommand {
    /// Accept no more clients.
    StopAccepts(Sender<CommandResult>),
    /// Read no more requests of clients, which would wait for answers.
    HoldInput(Sender<CommandResult>),
    /// Take no more requests of push callers, or take them again.
    HoldCallers(bool, Sender<CommandResult>),
    /// Count what could be handed over.
    Survey(Sender<Survey>),
    /// Close what cannot be handed over, with retry times of up to this many milliseconds.
    CloseUnmovable(u32, Sender<CommandResult>),
    Freeze(Sender<CommandResult>),
    /// Run one turn without operations on sockets.
    Turn(Sender<FrozenTurn>),
    Offer(OfferSink, Sender<CommandResult>),
    /// Continue with the connections of another process.
    Adopt(Box<Arrived>, Sender<CommandResult>),
    Thaw(Sender<CommandResult>),
    Release(Sender<CommandResult>),
}

/// `Ok` if the command was carried out, otherwise the reason why not.
pub(crate) type CommandResult = Result<(), String>;

/// Takes the state and the sockets of a core, on the core's thread.
pub(crate) type OfferSink = Box<dyn FnOnce(Offer<'_>) -> io::Result<()> + Send>;

/// The state and the sockets that a frozen core offers to another process.
pub struct Offer<'a> {
    /// Its state.
    pub state: comet_handover::Shard,
    /// The sockets of its connections, in their order. They may be sent to the other process, but not used otherwise.
    pub sockets: Vec<BorrowedFd<'a>>,
}

impl fmt::Debug for Offer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("sockets", &self.sockets.len()).finish_non_exhaustive()
    }
}

/// How many connections of a core could be handed over, and why the others could not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// Connections that can be handed over.
    pub movable: usize,
    /// Features that the reader of the hand-over must know, as far as they show before it is made.
    pub required: Vec<&'static str>,
    /// Connections that have not sent a token.
    pub handshakes: usize,
    /// Connections that wait for an answer of logic or a home. They can be handed over once they have it.
    pub await_answers: usize,
    /// Connections that are closing.
    pub closing: usize,
    /// Orders to move clients off that are still running; a hand-over waits for them.
    pub orders: usize,
    /// Pushes of callers at `push.frames` that are not answered.
    pub calls: usize,
}

/// The result of one turn of a frozen core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrozenTurn {
    /// No message came and none was sent.
    pub is_still: bool,
    /// Why the shard cannot be handed over yet, in words; `None`: it can.
    pub obstacles: Option<String>,
}

/// The driver's end of the queue of commands. The driver waits at it only while it is frozen.
pub(crate) struct CommandQueue {
    commands: Receiver<CoreCommand>,
    waiting: Arc<AtomicUsize>,
}

impl CommandQueue {
    /// Whether a command waits. Costs one atomic load.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Waits for the next command.
    ///
    /// # Errors
    /// If the core's owner is gone.
    pub(crate) fn next(&self) -> Result<CoreCommand, RecvError> {
        let command = self.commands.recv()?;
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        Ok(command)
    }
}

/// The owner's end of the queue.
pub(crate) struct CommandSender {
    commands: Sender<CoreCommand>,
    waiting: Arc<AtomicUsize>,
}

impl CommandSender {
    /// Queues a command. The caller must wake the driver afterwards. If the driver has ended, the command is dropped
    /// together with the sender of its answer.
    pub(crate) fn send(&self, command: CoreCommand) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _ = self.commands.send(command);
    }
}

pub(crate) fn commands() -> (CommandSender, CommandQueue) {
    let (sender, receiver) = channel();
    let waiting = Arc::<AtomicUsize>::default();
    let sender = CommandSender { commands: sender, waiting: Arc::clone(&waiting) };
    (sender, CommandQueue { commands: receiver, waiting })
}
