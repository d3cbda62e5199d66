//! Parked sessions: their limits, and the pushes that are kept for them.

mod frames;

use crate::operation_filter::OperationFilter;

pub use self::frames::{ParkedFrame, ParkedFrames, ParkedPush};

/// Limits of parked sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResumeLimits {
    /// How long a session outlasts a connection that ended without a goodbye, milliseconds; 0: not at all.
    pub window_ms: u32,
    /// The number of pushes that are parked for a session. Further ones are dropped as `parked_full`.
    pub messages: u32,
    /// Bytes of their frames.
    pub bytes: u32,
    /// The memory of all parked sessions of a shard, bytes. Beyond it no session and no push is parked.
    pub memory: usize,
    /// Sessions of clients that did not ask for it are kept as well, if their frames are binary.
    pub for_all: bool,
}

impl Default for ResumeLimits {
    fn default() -> Self {
        Self { window_ms: 0, messages: 128, bytes: 256 << 10, memory: 64 << 20, for_all: false }
    }
}

impl ResumeLimits {
    /// Whether sessions are kept at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.window_ms > 0
    }
}

/// The memory of a parked session without its pushes, and that of a parked push without its frame; bytes.
pub(crate) const SESSION_BYTES: usize = 512;
const PUSH_BYTES: usize = 64;

/// Why a push could not be parked or stay parked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ParkFault {
    /// The session has as many pushes as allowed.
    Session,
    /// The shard has no memory left for parked pushes.
    Memory,
}

/// Pushes of one session, in their order.
#[derive(Default)]
pub(crate) struct ParkedPushes {
    pub(crate) frames: ParkedFrames,
    /// The number of lost pushes, by [`ParkFault`].
    pub(crate) lost: [u32; 2],
}

/// The parked bytes and pushes of a shard.
#[derive(Clone, Copy, Default)]
pub(crate) struct ParkedTotals {
    pub(crate) bytes: usize,
    pub(crate) pushes: usize,
}

impl ParkedPushes {
    /// Parks a push behind the others, or counts it as lost.
    pub(crate) fn add(
        &mut self,
        push: ParkedFrame<'_>,
        limits: &ResumeLimits,
        totals: &mut ParkedTotals,
    ) -> Result<(), ParkFault> {
        let bytes = push.bytes.len();
        let is_full = self.frames.len() >= limits.messages as usize
            || self.frames.bytes() + bytes > limits.bytes as usize;
        let fault = match is_full {
            true => Some(ParkFault::Session),
            false => {
                (totals.bytes + bytes + PUSH_BYTES > limits.memory).then_some(ParkFault::Memory)
            }
        };
        if let Some(fault) = fault {
            let lost = &mut self.lost[fault as usize];
            *lost = lost.saturating_add(1);
            return Err(fault);
        }
        totals.bytes += bytes + PUSH_BYTES;
        totals.pushes += 1;
        self.frames.push(push);
        Ok(())
    }

    /// Puts `pushes` in front of the others. Returns how many pushes at the end are lost for that.
    pub(crate) fn put_in_front<'a>(
        &mut self,
        pushes: impl Iterator<Item = ParkedFrame<'a>>,
        limits: &ResumeLimits,
        totals: &mut ParkedTotals,
    ) -> u64 {
        let since = self.take(totals);
        let mut lost = 0;
        for push in pushes {
            lost += u64::from(self.add(push, limits, totals).is_err());
        }
        for push in since.iter() {
            lost += u64::from(self.add(push, limits, totals).is_err());
        }
        lost
    }

    /// Removes all pushes.
    pub(crate) fn take(&mut self, totals: &mut ParkedTotals) -> ParkedFrames {
        let frames = std::mem::take(&mut self.frames);
        totals.bytes -= frames.bytes() + frames.len() * PUSH_BYTES;
        totals.pushes -= frames.len();
        frames
    }
}

/// The state in which a connection leaves its session.
#[derive(Clone, Debug, Default)]
pub struct Leaving {
    /// The operations that it accepted. `None`: it did not get that far, so the filter of its predecessor applies.
    pub accepts: Option<OperationFilter>,
    /// Milliseconds until its token expires. `None`: never.
    pub expires_in_ms: Option<u32>,
}

/// The rest of a session at the shard of its former connection.
#[derive(Clone, Debug)]
pub struct Rest {
    /// The user. `None`: there is no session, because the client has said goodbye.
    pub user: Option<i64>,
    /// The unsent pushes of the outbox, and those that came since.
    pub pushes: ParkedFrames,
    /// The number of pushes lost by the limit of the session, and by the memory of the shard.
    pub lost: [u32; 2],
    /// The session was kicked.
    pub is_over: bool,
}
