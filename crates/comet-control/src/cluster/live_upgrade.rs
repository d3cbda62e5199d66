//! A live upgrade: another process of this host continues among the other hosts.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use comet_hub::cluster::ClusterHandOver;

use super::{ClusterDriver, unix_ms};

impl ClusterDriver {
    /// Holds pushes of other hosts and the stream, because the shards are about to stop. Callers of this host have left
    /// before: their pushes to rooms with a history begin when they come from the stream.
    pub(crate) fn hold(&self) {
        self.engine.hold();
        self.gate.close();
    }

    /// Ends the hold.
    pub(crate) fn release(&self) {
        self.engine.release();
        self.gate.open();
    }

    /// Whether all pushes that the former process of this host held have arrived, if there was one.
    pub(crate) fn has_taken_over(&self) -> bool {
        self.engine.has_taken_over()
    }

    /// Number of pushes of other hosts that may still come to the shards. `None`: they are not held, or the stream is
    /// not.
    pub(crate) fn pushes(&self) -> Option<usize> {
        let passed_on = self.engine.passed_on().filter(|_| self.gate.is_closed())?;
        let left = passed_on.saturating_sub(self.begun.load(SeqCst));
        Some(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// Lets another process continue for this host. The engine's work ends once that process has the waiting pushes.
    pub(crate) fn withdraw(&self) {
        self.is_withdrawn.store(true, SeqCst);
        self.engine.withdraw();
    }

    /// Whether another process continues for this host.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.is_withdrawn.load(SeqCst)
    }

    /// Makes this process this host, and has it connect.
    pub(crate) fn connect(&self) {
        self.commit.notify_one();
    }

    /// Resolves after [`ClusterDriver::connect`].
    pub(crate) async fn committed(&self) {
        self.commit.notified().await;
    }

    /// The state that the continuing process needs.
    pub(crate) fn hand_over(&self) -> ClusterHandOver {
        let stream = *self.position();
        self.lock().hand_over(self.now(), unix_ms(Instant::now()), stream)
    }

    /// Continues for another process; `rooms` are those with members here.
    pub(crate) fn take_over(&self, handed: ClusterHandOver, rooms: Vec<Arc<str>>) {
        self.engine.take_over(handed.stream);
        // Set here as well, because the next upgrade may come before the stream is read.
        *self.position() = handed.stream;
        self.lock().take_over(self.now(), handed, rooms);
    }
}
