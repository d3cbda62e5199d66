//! What the owner of a core tells its driver in a live upgrade, and the answers.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::{fmt, io};

use crate::settings::Arrived;

/// An order, and where its answer goes.
pub(crate) enum Order {
    /// To accept no more clients.
    StopAccepts(Sender<Answer>),
    /// To read no more requests of clients, which would wait for answers.
    HoldInput(Sender<Answer>),
    /// To count what could be handed over.
    Survey(Sender<Survey>),
    /// To close what cannot be handed over, with times to wait up to so many milliseconds.
    CloseUnmovable(u32, Sender<Answer>),
    Freeze(Sender<Answer>),
    /// One turn without operations.
    Turn(Sender<FrozenTurn>),
    Offer(Taker, Sender<Answer>),
    /// To go on with connections of another process.
    Adopt(Box<Arrived>, Sender<Answer>),
    Thaw(Sender<Answer>),
    Release(Sender<Answer>),
}

/// Done, or why not.
pub(crate) type Answer = Result<(), String>;

/// What takes the state and the sockets of a core, on the core's thread.
pub(crate) type Taker = Box<dyn FnOnce(Offer<'_>) -> io::Result<()> + Send>;

/// What a frozen core offers to another process.
pub struct Offer<'a> {
    /// Its state.
    pub state: comet_handover::Shard,
    /// The sockets of its connections, in their order. They may be sent to the other process, and nothing else.
    pub sockets: Vec<BorrowedFd<'a>>,
}

impl fmt::Debug for Offer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("sockets", &self.sockets.len()).finish_non_exhaustive()
    }
}

/// How many connections of a core another process could go on with, and what keeps the others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// Connections that can be handed over.
    pub movable: usize,
    /// What a reader of the hand-over has to know, as far as it shows before it is made.
    pub required: Vec<&'static str>,
    /// Connections that have not sent a token.
    pub handshakes: usize,
    /// Connections that wait for an answer of logic or a home. They can once they have it.
    pub await_answers: usize,
    /// Connections that are closing.
    pub closing: usize,
    /// Orders to move clients off, which a hand-over waits for.
    pub orders: usize,
}

/// What a frozen core did in a turn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrozenTurn {
    /// No message came and none was sent.
    pub is_still: bool,
    /// What keeps its shard from being handed over, in words; `None`: nothing.
    pub obstacles: Option<String>,
}

/// The queue of orders, at the driver. It waits for them only while it is frozen.
pub(crate) struct OrderQueue {
    orders: Receiver<Order>,
    waiting: Arc<AtomicUsize>,
}

impl OrderQueue {
    /// Whether an order waits. Costs a load.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Waits for the next order.
    ///
    /// # Errors
    /// If the core's owner is gone.
    pub(crate) fn next(&self) -> Result<Order, RecvError> {
        let order = self.orders.recv()?;
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        Ok(order)
    }
}

/// The other end.
pub(crate) struct OrderSender {
    orders: Sender<Order>,
    waiting: Arc<AtomicUsize>,
}

impl OrderSender {
    /// Queues an order. The driver has to be woken after that. If it has ended the order is dropped, and with it the sender of its
    /// answer.
    pub(crate) fn send(&self, order: Order) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _ = self.orders.send(order);
    }
}

pub(crate) fn orders() -> (OrderSender, OrderQueue) {
    let (sender, receiver) = channel();
    let waiting = Arc::<AtomicUsize>::default();
    let sender = OrderSender { orders: sender, waiting: Arc::clone(&waiting) };
    (sender, OrderQueue { orders: receiver, waiting })
}
