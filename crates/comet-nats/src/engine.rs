//! The handle through which the cluster's decisions reach the client.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use comet_hub::cluster::{
    Command, Engine, EngineCounts, Part, ReplyTo, StreamCounts, StreamPosition, keys_bytes,
};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::handover::UpgradeStep;
use crate::{Counts, Shared, StreamReading, WRITER_TASKS_BYTES_MAX, WRITER_TASKS_RESERVED};

/// A task for the writer.
pub(crate) enum WriterTask {
    Command(Command),
    Answer(ReplyTo, Part),
}

impl WriterTask {
    /// Whether it announces this host or its leave. If it is lost, other hosts consider this one dead, and announce all
    /// their rooms to it later.
    fn is_of_presence(&self) -> bool {
        matches!(self, Self::Command(Command::Announce { .. } | Command::Leave))
    }

    /// Bytes that it holds while it waits.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Command(
                Command::Publish { publication, .. } | Command::Store { publication, .. },
            ) => publication.bytes(),
            Self::Command(Command::PublishOrder { order, .. }) => order.bytes(),
            Self::Command(Command::AnnounceKeys { keys, .. }) => keys_bytes(keys),
            Self::Command(Command::AnswerNoMembers { to } | Command::Refuse { to }) => to.0.len(),
            Self::Answer(ReplyTo(to), part) => to.len() + part.bytes(),
            // These names are held by this host in any case.
            Self::Command(_) => 0,
        }
    }
}

/// An engine that uses NATS.
#[derive(Clone, Debug)]
pub struct Nats {
    tasks: mpsc::Sender<WriterTask>,
    steps: mpsc::UnboundedSender<UpgradeStep>,
    shared: Arc<Shared>,
}

impl Nats {
    pub(crate) fn new(
        tasks: mpsc::Sender<WriterTask>,
        steps: mpsc::UnboundedSender<UpgradeStep>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { tasks, steps, shared }
    }

    /// Returns the task if there is no space for it.
    fn enqueue(&self, task: WriterTask) -> Option<WriterTask> {
        let Shared { counts, waiting_bytes, .. } = &*self.shared;
        let bytes = task.bytes();
        let has_room = task.is_of_presence() || self.tasks.capacity() > WRITER_TASKS_RESERVED;
        let bytes_after = waiting_bytes.fetch_add(bytes, Relaxed) + bytes;
        let refused = match has_room && bytes_after <= WRITER_TASKS_BYTES_MAX {
            true => self.tasks.try_send(task).err().map(TrySendError::into_inner),
            false => Some(task),
        };
        if refused.is_some() {
            waiting_bytes.fetch_sub(bytes, Relaxed);
            Counts::add(&counts.untold);
        }
        refused
    }
}

impl Engine for Nats {
    fn submit(&self, command: Command) -> Result<(), Command> {
        match self.enqueue(WriterTask::Command(command)) {
            Some(WriterTask::Command(command)) => Err(command),
            _ => Ok(()),
        }
    }

    fn answer(&self, to: ReplyTo, part: Part) -> bool {
        self.enqueue(WriterTask::Answer(to, part)).is_none()
    }

    fn note_taken(&self, bytes: usize) {
        self.shared.events_bytes.fetch_sub(bytes, Relaxed);
    }

    fn stream_counts(&self) -> Option<StreamCounts> {
        let Some(StreamReading { read, lost, waiting, is_read }) = &self.shared.stream else {
            return None;
        };
        Some(StreamCounts {
            read: read.load(Relaxed),
            lost: lost.load(Relaxed),
            waiting: waiting.load(Relaxed),
            is_read: is_read.load(Relaxed),
        })
    }

    fn hold(&self) {
        // Fails only if the engine has ended.
        let _ = self.steps.send(UpgradeStep::Hold);
    }

    fn release(&self) {
        let _ = self.steps.send(UpgradeStep::Release);
    }

    fn take_over(&self, stream: Option<StreamPosition>) {
        self.shared.takes_over.store(true, Relaxed);
        *self.shared.resumed() = stream;
        self.shared.awaits_former.store(true, Relaxed);
    }

    fn has_taken_over(&self) -> bool {
        self.steps.is_closed() || !self.shared.awaits_former.load(Relaxed)
    }

    fn withdraw(&self) {
        self.shared.is_withdrawn.notify_one();
    }

    fn passed_on(&self) -> Option<u64> {
        let Shared { is_held, passed_on, .. } = &*self.shared;
        // Passed-on events are counted before the reader holds the rest. A reader that has ended passes on no more.
        let is_over = is_held.load(Acquire) || self.steps.is_closed();
        is_over.then(|| passed_on.load(Acquire))
    }

    fn counts(&self) -> EngineCounts {
        let Counts { dropped, dropped_notices, dropped_bytes, dropped_early, .. } =
            &self.shared.counts;
        let Counts { invalid, untold, disconnects, .. } = &self.shared.counts;
        EngineCounts {
            dropped: dropped.load(Relaxed),
            dropped_notices: dropped_notices.load(Relaxed),
            dropped_bytes: dropped_bytes.load(Relaxed),
            dropped_early: dropped_early.load(Relaxed),
            invalid: invalid.load(Relaxed),
            untold: untold.load(Relaxed),
            disconnects: disconnects.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Otherwise the events of other hosts that the engine holds would be lost.
    #[test]
    fn an_engine_withdraws_however_many_tasks_wait() {
        let (tasks, _waiting) = mpsc::channel(1 + WRITER_TASKS_RESERVED);
        let (steps, _new) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let engine = Nats::new(tasks, steps, Arc::clone(&shared));
        let command = || Command::Unsubscribe { room: "r".into() };
        assert!(engine.submit(command()).is_ok() && engine.submit(command()).is_err());
        engine.withdraw();
        assert!(shared.is_withdrawn.notified().now_or_never().is_some());
    }

    #[test]
    fn a_host_announces_itself_however_many_tasks_wait() {
        let (tasks, _waiting) = mpsc::channel(4 + WRITER_TASKS_RESERVED);
        let engine = Nats::new(tasks, mpsc::unbounded_channel().0, Arc::default());
        while engine.submit(Command::Unsubscribe { room: "r".into() }).is_ok() {}
        assert!(engine.submit(Command::Announce { reads_stream: false }).is_ok());
        assert!(engine.submit(Command::Leave).is_ok());
        assert_eq!(engine.counts().untold, 1);
    }
}
