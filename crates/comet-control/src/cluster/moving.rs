//! A live upgrade: another process of this host goes on among the others.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use comet_hub::cluster::ClusterHandOver;

use super::{ClusterDriver, unix_ms};

impl ClusterDriver {
    /// What other hosts push waits from now on, and the stream with it, because the shards are about to stop. Callers of this host
    /// have left before: what they push to rooms with a history begins when it comes from the stream.
    pub(crate) fn hold(&self) {
        self.engine.hold();
        self.gate.close();
    }

    /// It does not wait any more.
    pub(crate) fn release(&self) {
        self.engine.release();
        self.gate.open();
    }

    /// Whether what the former process of this host held has come, if there was one.
    pub(crate) fn has_taken_over(&self) -> bool {
        self.engine.has_taken_over()
    }

    /// Pushes of other hosts that may come to the shards. `None`: they are not held, or the stream is not.
    pub(crate) fn pushes(&self) -> Option<usize> {
        let passed_on = self.engine.passed_on().filter(|_| self.gate.is_closed())?;
        let left = passed_on.saturating_sub(self.begun.load(SeqCst));
        Some(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// Another process goes on for this host. The engine's work ends once that one has what waits.
    pub(crate) fn withdraw(&self) {
        self.is_withdrawn.store(true, SeqCst);
        self.engine.withdraw();
    }

    /// Whether another process goes on for this host.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.is_withdrawn.load(SeqCst)
    }

    /// This process is this host from now on, and connects.
    pub(crate) fn connect(&self) {
        self.commit.notify_one();
    }

    /// Resolves with [`ClusterDriver::connect`].
    pub(crate) async fn committed(&self) {
        self.commit.notified().await;
    }

    /// What the process that goes on has to know.
    pub(crate) fn hand_over(&self) -> ClusterHandOver {
        let stream = *self.place();
        self.lock().hand_over(self.now(), unix_ms(Instant::now()), stream)
    }

    /// Goes on for another process, with these rooms.
    pub(crate) fn take_over(&self, handed: ClusterHandOver, rooms: Vec<Arc<str>>) {
        self.engine.take_over(handed.stream);
        // The next upgrade may come before the stream is read.
        *self.place() = handed.stream;
        self.lock().take_over(self.now(), handed, rooms);
    }
}
