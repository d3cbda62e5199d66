//! Bounded inboxes between threads, and the wake-up of a thread that sleeps.
//!
//! Every shard and the control thread has one [`Inbox`]; everybody else holds a [`Sender`] to it.
//! Nobody ever waits for room: a full inbox gives the message back, and what to do then is the
//! sender's policy. A sender pays a system call only when the receiver said that it sleeps.
//!
//! **Invariant:** this crate never looks into what it carries, and no send or receive blocks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_channel::{Receiver, Sender as QueueSender, TrySendError};

mod eventfd;

pub use eventfd::EventFd;

/// How a sleeping receiver is woken. Called from the sender's thread; must not block.
pub trait Wake: Send + Sync + 'static {
    /// Makes the receiver look at its inbox again. Calls may be merged, none may be lost.
    fn wake(&self);
}

/// Makes an inbox for `capacity` messages whose receiver is woken by `waker`.
///
/// # Panics
/// If `capacity` is 0: a rendezvous would make senders wait.
#[must_use]
pub fn inbox<T: Send>(capacity: usize, waker: Arc<dyn Wake>) -> (Sender<T>, Inbox<T>) {
    assert!(capacity > 0, "an inbox holds at least one message");
    let (queue, messages) = crossbeam_channel::bounded(capacity);
    let bell = Arc::new(Bell { asleep: AtomicBool::new(false), waker });
    (Sender { queue, bell: Arc::clone(&bell) }, Inbox { messages, bell })
}

struct Bell {
    asleep: AtomicBool,
    waker: Arc<dyn Wake>,
}

/// Why a message came back.
#[derive(Debug, PartialEq, Eq)]
pub enum Returned<T> {
    /// The inbox is full; there may be room later.
    Full(T),
    /// The receiver is gone for good.
    Closed(T),
}

/// The way into somebody's inbox.
pub struct Sender<T> {
    queue: QueueSender<T>,
    bell: Arc<Bell>,
}

impl<T> Sender<T> {
    /// Puts `message` into the inbox and wakes the receiver if it sleeps.
    ///
    /// # Errors
    /// Gives the message back when there is no room or nobody to receive it.
    pub fn try_send(&self, message: T) -> Result<(), Returned<T>> {
        self.post(message)?;
        self.notify();
        Ok(())
    }

    /// Puts `message` into the inbox and leaves a sleeping receiver asleep, until [`Sender::notify`]. Who
    /// has several messages posts them all first: a receiver on the same CPU, woken by the first, may
    /// run at once, and sleep again before the second.
    ///
    /// # Errors
    /// Gives the message back when there is no room or nobody to receive it.
    pub fn post(&self, message: T) -> Result<(), Returned<T>> {
        self.queue.try_send(message).map_err(|refused| match refused {
            TrySendError::Full(message) => Returned::Full(message),
            TrySendError::Disconnected(message) => Returned::Closed(message),
        })
    }

    /// Wakes the receiver if it sleeps, for all that was posted before.
    pub fn notify(&self) {
        // Pairs with the fence in `Inbox::arm_wakeup`: either we see that it dozes, or it sees the message.
        fence(Ordering::SeqCst);
        if self.bell.asleep.load(Ordering::Relaxed)
            && self.bell.asleep.swap(false, Ordering::Relaxed)
        {
            self.bell.waker.wake();
        }
    }

    /// Messages waiting in the inbox now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.queue.len()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

/// The receiving end; one thread owns it.
pub struct Inbox<T> {
    messages: Receiver<T>,
    bell: Arc<Bell>,
}

impl<T> Inbox<T> {
    /// The oldest message, if there is one.
    #[must_use]
    pub fn try_recv(&self) -> Option<T> {
        self.messages.try_recv().ok()
    }

    /// Announces that the owner is about to sleep. `false`: a message is there, so it must not.
    /// After `true`, the next sender calls [`Wake::wake`] once.
    #[must_use]
    pub fn arm_wakeup(&self) -> bool {
        self.bell.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.messages.is_empty() {
            return true;
        }
        self.disarm_wakeup();
        false
    }

    /// Announces that the owner is awake, so that senders need not wake it.
    pub fn disarm_wakeup(&self) {
        self.bell.asleep.store(false, Ordering::Relaxed);
    }

    /// Messages waiting now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.messages.len()
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    #[derive(Default)]
    struct Rings(AtomicUsize);

    impl Wake for Rings {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_full_inbox_gives_the_message_back() {
        let (sender, inbox) = inbox(2, Arc::new(Rings::default()));
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Ok(()));
        assert_eq!(sender.try_send(3), Err(Returned::Full(3)));
        assert_eq!(inbox.try_recv(), Some(1));
        assert_eq!(sender.try_send(3), Ok(()));
        assert_eq!(
            (inbox.try_recv(), inbox.try_recv(), inbox.try_recv()),
            (Some(2), Some(3), None)
        );
        drop(inbox);
        assert_eq!(sender.try_send(4), Err(Returned::Closed(4)));
    }

    #[test]
    fn only_a_dozing_receiver_is_woken_and_only_once() {
        let rings = Arc::new(Rings::default());
        let waker: Arc<dyn Wake> = rings.clone();
        let (sender, inbox) = inbox(8, waker);
        sender.try_send(1).unwrap();
        assert_eq!(rings.0.load(Ordering::SeqCst), 0);
        assert!(!inbox.arm_wakeup(), "a message is there");
        assert_eq!(inbox.try_recv(), Some(1));
        assert!(inbox.arm_wakeup());
        sender.try_send(2).unwrap();
        sender.try_send(3).unwrap();
        assert_eq!(rings.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_is_posted_wakes_nobody_before_the_bell() {
        let rings = Arc::new(Rings::default());
        let waker: Arc<dyn Wake> = rings.clone();
        let (sender, inbox) = inbox(8, waker);
        assert!(inbox.arm_wakeup());
        sender.post(1).unwrap();
        sender.post(2).unwrap();
        assert_eq!(rings.0.load(Ordering::SeqCst), 0);
        sender.notify();
        sender.notify();
        assert_eq!(rings.0.load(Ordering::SeqCst), 1);
        assert_eq!((inbox.try_recv(), inbox.try_recv()), (Some(1), Some(2)));
    }

    /// The receiver sleeps on a real eventfd whenever it sees an empty inbox; a lost wake-up hangs it.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const MESSAGES: u64 = 200_000;
        let bell = Arc::new(EventFd::new().unwrap());
        let waker: Arc<dyn Wake> = bell.clone();
        let (sender, inbox) = inbox::<u64>(64, waker);
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for mut message in 0..MESSAGES {
                        while let Err(Returned::Full(back)) = sender.try_send(message) {
                            message = back;
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut sum = 0;
        let mut count = 0;
        while count < 2 * MESSAGES {
            while let Some(message) = inbox.try_recv() {
                sum += message;
                count += 1;
            }
            if count < 2 * MESSAGES && inbox.arm_wakeup() {
                bell.wait().unwrap();
                inbox.disarm_wakeup();
            }
        }
        assert_eq!(sum, MESSAGES * (MESSAGES - 1));
        for sender in senders {
            sender.join().unwrap();
        }
    }
}
