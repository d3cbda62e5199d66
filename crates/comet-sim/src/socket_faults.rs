//! Faults of sockets, counted so that a run shows which it has had.

use std::fmt;

use crate::received::ReceivedStream;

/// The stage of a connection when its client hung up.
#[derive(Clone, Copy)]
enum Stage {
    /// Its token was not answered yet.
    Handshake,
    /// Logic or a home was asked about it.
    Asking,
    /// It was receiving the history of a room.
    CatchingUp,
    Live,
    /// The server had closed it.
    Closing,
}

const STAGES: [&str; 5] = ["handshake", "asking", "catching up", "live", "closing"];

/// Counts of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketFaults {
    /// Input that waited for a later turn, because the core had no receive buffers left.
    pub out_of_buffers: u64,
    /// Sends of which the kernel took only a part.
    pub short_sends: u64,
    /// Sends that failed.
    pub failed_sends: u64,
    /// Clients that hung up: in the handshake, while logic or a home was asked, while they received a history, live,
    /// and closing.
    pub hangups: [u64; STAGES.len()],
}

impl SocketFaults {
    pub(crate) fn note_hangup(&mut self, received: &ReceivedStream, is_closed: bool) {
        let stage = if is_closed {
            Stage::Closing
        } else if !received.is_live {
            Stage::Handshake
        } else if received.waits_for_others() {
            Stage::Asking
        } else if received.is_catching_up() {
            Stage::CatchingUp
        } else {
            Stage::Live
        };
        self.hangups[stage as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.out_of_buffers += other.out_of_buffers;
        self.short_sends += other.short_sends;
        self.failed_sends += other.failed_sends;
        self.hangups.iter_mut().zip(other.hangups).for_each(|(sum, more)| *sum += more);
    }
}

impl fmt::Display for SocketFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { out_of_buffers, short_sends, failed_sends, hangups } = self;
        write!(
            f,
            "out of buffers: {out_of_buffers}; short sends: {short_sends}, failed: {failed_sends}; clients hung up"
        )?;
        STAGES.iter().zip(hangups).try_for_each(|(stage, count)| write!(f, ", {stage}: {count}"))
    }
}
