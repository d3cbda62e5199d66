//! A bounded queue with one receiver, which senders wake when it sleeps.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_channel::{Receiver, Sender as QueueSender};

use crate::wake::Wake;

/// Makes an inbox for `capacity` messages; `waker` wakes its receiver.
///
/// # Panics
/// If `capacity` is 0: senders would have to wait for the receiver.
#[must_use]
pub fn inbox<T: Send>(capacity: usize, waker: Arc<dyn Wake>) -> (Sender<T>, Inbox<T>) {
    assert!(capacity > 0, "an inbox holds at least one message");
    with_queues(crossbeam_channel::bounded(capacity), None, waker)
}

/// As [`inbox`], with a second queue of the same capacity. Messages in it do not wait for those in the first.
///
/// # Panics
/// If `capacity` is 0.
#[must_use]
pub fn priority_inbox<T: Send>(capacity: usize, waker: Arc<dyn Wake>) -> (Sender<T>, Inbox<T>) {
    assert!(capacity > 0, "an inbox holds at least one message");
    let priority = crossbeam_channel::bounded(capacity);
    with_queues(crossbeam_channel::bounded(capacity), Some(priority), waker)
}

type Queue<T> = (QueueSender<T>, Receiver<T>);

fn with_queues<T>(
    (queue, messages): Queue<T>,
    priority: Option<Queue<T>>,
    waker: Arc<dyn Wake>,
) -> (Sender<T>, Inbox<T>) {
    let wakeup = Arc::new(Wakeup { is_armed: AtomicBool::new(false), waker });
    let (priority_queue, priority) = priority.unzip();
    let sender = Sender { queue, priority: priority_queue, wakeup: Arc::clone(&wakeup) };
    (sender, Inbox { messages, priority, wakeup })
}

/// The wake-up that an inbox shares with its senders.
struct Wakeup {
    /// The receiver sleeps, or is about to: the next notification calls `waker`.
    is_armed: AtomicBool,
    waker: Arc<dyn Wake>,
}

/// Why a message was returned.
#[derive(Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The inbox is full; there may be room later.
    Full(T),
    /// The receiver is dropped.
    Closed(T),
}

/// The sending end of an inbox.
pub struct Sender<T> {
    queue: QueueSender<T>,
    priority: Option<QueueSender<T>>,
    wakeup: Arc<Wakeup>,
}

impl<T> Sender<T> {
    /// Puts `message` into the inbox and wakes the receiver if it sleeps.
    ///
    /// # Errors
    /// Returns the message if the inbox is full or the receiver is dropped.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.post(message)?;
        self.notify();
        Ok(())
    }

    /// Puts `message` into the inbox. A sleeping receiver sleeps on until [`Sender::notify`]. A sender with several
    /// messages posts them all first. Otherwise a receiver on the same CPU, woken by the first, may run at once and
    /// sleep again before the second.
    ///
    /// # Errors
    /// Returns the message if the inbox is full or the receiver is dropped.
    pub fn post(&self, message: T) -> Result<(), TrySendError<T>> {
        put(&self.queue, message)
    }

    /// As [`Sender::post`], into the second queue if the inbox has one.
    ///
    /// # Errors
    /// As [`Sender::post`].
    pub fn post_priority(&self, message: T) -> Result<(), TrySendError<T>> {
        put(self.priority.as_ref().unwrap_or(&self.queue), message)
    }

    /// Wakes the receiver if it sleeps. One call serves all messages posted before.
    pub fn notify(&self) {
        // Pairs with the fence in `Inbox::arm_wakeup`: either the sender sees that the wake-up is
        // armed, or the receiver sees the message.
        fence(Ordering::SeqCst);
        if self.wakeup.is_armed.load(Ordering::Relaxed)
            && self.wakeup.is_armed.swap(false, Ordering::Relaxed)
        {
            self.wakeup.waker.wake();
        }
    }

    /// Messages in the inbox now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.queue.len() + self.priority.as_ref().map_or(0, QueueSender::len)
    }
}

fn put<T>(queue: &QueueSender<T>, message: T) -> Result<(), TrySendError<T>> {
    queue.try_send(message).map_err(|refused| match refused {
        crossbeam_channel::TrySendError::Full(message) => TrySendError::Full(message),
        crossbeam_channel::TrySendError::Disconnected(message) => TrySendError::Closed(message),
    })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            priority: self.priority.clone(),
            wakeup: Arc::clone(&self.wakeup),
        }
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
    priority: Option<Receiver<T>>,
    wakeup: Arc<Wakeup>,
}

impl<T> Inbox<T> {
    /// Takes the oldest message, if there is one.
    #[must_use]
    pub fn try_recv(&self) -> Option<T> {
        self.messages.try_recv().ok()
    }

    /// Takes the oldest message of the second queue, if the inbox has one.
    #[must_use]
    pub fn try_recv_priority(&self) -> Option<T> {
        self.priority.as_ref()?.try_recv().ok()
    }

    /// Announces that the owner is about to sleep. Returns false if there is a message: then the owner must not sleep.
    /// After true, the next notification calls [`Wake::wake`] once.
    #[must_use]
    pub fn arm_wakeup(&self) -> bool {
        self.wakeup.is_armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.depth() == 0 {
            return true;
        }
        self.disarm_wakeup();
        false
    }

    /// Announces that the owner is awake, so that senders need not wake it.
    pub fn disarm_wakeup(&self) {
        self.wakeup.is_armed.store(false, Ordering::Relaxed);
    }

    /// Messages in the inbox now.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.messages.len() + self.priority.as_ref().map_or(0, Receiver::len)
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
    use crate::eventfd::EventFd;

    #[derive(Default)]
    struct CountingWaker(AtomicUsize);

    impl Wake for CountingWaker {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_full_inbox_gives_the_message_back() {
        let (sender, inbox) = inbox(2, Arc::new(CountingWaker::default()));
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Ok(()));
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(inbox.try_recv(), Some(1));
        assert_eq!(sender.try_send(3), Ok(()));
        assert_eq!(
            (inbox.try_recv(), inbox.try_recv(), inbox.try_recv()),
            (Some(2), Some(3), None)
        );
        drop(inbox);
        assert_eq!(sender.try_send(4), Err(TrySendError::Closed(4)));
    }

    #[test]
    fn priority_messages_wait_for_no_others() {
        let waker = Arc::new(CountingWaker::default());
        let (sender, inbox) = priority_inbox(1, waker.clone());
        assert!(inbox.arm_wakeup());
        assert_eq!(sender.post(1), Ok(()));
        assert_eq!(sender.post(2), Err(TrySendError::Full(2)));
        assert_eq!(sender.post_priority(3), Ok(()));
        assert_eq!(sender.post_priority(4), Err(TrySendError::Full(4)));
        sender.notify();
        assert_eq!((inbox.depth(), sender.depth(), waker.0.load(Ordering::SeqCst)), (2, 2, 1));
        assert_eq!(inbox.try_recv(), Some(1));
        assert!(!inbox.arm_wakeup(), "a priority message is there");
        assert_eq!((inbox.try_recv(), inbox.try_recv_priority()), (None, Some(3)));
        assert!(inbox.arm_wakeup());
    }

    #[test]
    fn only_an_armed_wakeup_calls_the_waker_and_only_once() {
        let waker = Arc::new(CountingWaker::default());
        let (sender, inbox) = inbox(8, waker.clone());
        sender.try_send(1).unwrap();
        assert_eq!(waker.0.load(Ordering::SeqCst), 0);
        assert!(!inbox.arm_wakeup(), "a message is there");
        assert_eq!(inbox.try_recv(), Some(1));
        assert!(inbox.arm_wakeup());
        sender.try_send(2).unwrap();
        sender.try_send(3).unwrap();
        assert_eq!(waker.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn post_calls_no_waker_before_notify() {
        let waker = Arc::new(CountingWaker::default());
        let (sender, inbox) = inbox(8, waker.clone());
        assert!(inbox.arm_wakeup());
        sender.post(1).unwrap();
        sender.post(2).unwrap();
        assert_eq!(waker.0.load(Ordering::SeqCst), 0);
        sender.notify();
        sender.notify();
        assert_eq!(waker.0.load(Ordering::SeqCst), 1);
        assert_eq!((inbox.try_recv(), inbox.try_recv()), (Some(1), Some(2)));
    }

    /// The receiver sleeps on a real eventfd whenever it sees an empty inbox. A lost wake-up hangs
    /// the test.
    #[test]
    fn no_wakeup_is_lost_between_threads() {
        const MESSAGES: u64 = 200_000;
        let eventfd = Arc::new(EventFd::new().unwrap());
        let waker: Arc<dyn Wake> = eventfd.clone();
        let (sender, inbox) = inbox::<u64>(64, waker);
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for mut message in 0..MESSAGES {
                        while let Err(TrySendError::Full(back)) = sender.try_send(message) {
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
                eventfd.wait().unwrap();
                inbox.disarm_wakeup();
            }
        }
        assert_eq!(sum, MESSAGES * (MESSAGES - 1));
        for sender in senders {
            sender.join().unwrap();
        }
    }
}
