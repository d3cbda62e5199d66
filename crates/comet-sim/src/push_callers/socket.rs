//! The fake socket of a push caller: two byte streams, as the driver and the caller see them.

use std::collections::VecDeque;

use crate::rng::Rng;

/// How a caller ended its side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Eof,
    Reset,
}

/// The result of a receive.
pub(super) enum Received {
    Bytes(Vec<u8>),
    End,
    Failed,
}

#[derive(Default)]
pub(super) struct CallerSocket {
    /// Bytes of the caller that the server has not received.
    written: VecDeque<u8>,
    end: Option<End>,
    is_receiving: bool,
    /// Bytes of the server that the kernel has not taken.
    in_flight: Option<Vec<u8>>,
    /// Bytes that the kernel has taken and the caller has not read.
    arrived: VecDeque<u8>,
    capacity: usize,
    /// The server has shut its side.
    is_shut: bool,
    /// The server wants to release it.
    is_closed: bool,
    /// The server has released it, or refused it at accept.
    pub(super) is_released: bool,
}

impl CallerSocket {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    // ---- the caller's side ---------------------------------------------------------------------

    pub(super) fn write(&mut self, bytes: impl IntoIterator<Item = u8>) {
        if self.end.is_none() {
            self.written.extend(bytes);
        }
    }

    pub(super) fn end(&mut self, how: End) {
        if how == End::Reset {
            self.written.clear();
            self.arrived.clear();
        }
        self.end = Some(how);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn read(&mut self, most: usize) -> impl Iterator<Item = u8> {
        let most = most.min(self.arrived.len());
        self.arrived.drain(..most)
    }

    pub(super) fn is_reset(&self) -> bool {
        self.end == Some(End::Reset)
    }

    /// Whether the server sends nothing more.
    pub(super) fn is_ended_by_server(&self) -> bool {
        self.is_shut || self.is_released
    }

    /// Whether the server has not received everything that was written.
    pub(super) fn has_unreceived(&self) -> bool {
        !self.written.is_empty()
    }

    /// Whether a send of the server waits for the caller.
    pub(super) fn is_sending(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether everything was read and no more will come.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_ended_by_server() && self.in_flight.is_none() && self.arrived.is_empty()
    }

    /// Whether nothing is on its way in either direction.
    pub(super) fn is_idle(&self) -> bool {
        self.written.is_empty() && self.in_flight.is_none() && self.arrived.is_empty()
    }

    // ---- the server's side ---------------------------------------------------------------------

    /// Submits a receive.
    pub(super) fn submit_receive(&mut self) -> Result<(), String> {
        let was_receiving = std::mem::replace(&mut self.is_receiving, true);
        Self::in_order(!was_receiving && !self.is_closed, "a receive")
    }

    /// Submits a send. Its bytes are copied at once, whenever the kernel takes them.
    pub(super) fn submit_send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let is_sending = self.in_flight.replace(bytes.to_vec()).is_some();
        let is_open = !self.is_shut && !self.is_closed;
        Self::in_order(!is_sending && is_open && !bytes.is_empty(), "a send")
    }

    pub(super) fn shut(&mut self) -> Result<(), String> {
        let was_shut = std::mem::replace(&mut self.is_shut, true);
        Self::in_order(!was_shut && !self.is_closed && self.in_flight.is_none(), "a shut")
    }

    pub(super) fn close(&mut self) -> Result<(), String> {
        let was_closed = std::mem::replace(&mut self.is_closed, true);
        Self::in_order(!was_closed, "a close")
    }

    fn in_order(is_in_order: bool, what: &str) -> Result<(), String> {
        is_in_order.then_some(()).ok_or_else(|| format!("{what} out of order"))
    }

    pub(super) fn can_receive(&self) -> bool {
        let has_something = !self.written.is_empty() || self.end.is_some() || self.is_closed;
        self.is_receiving && has_something
    }

    /// The result of a receive, in pieces of random size.
    pub(super) fn receive(&mut self, rng: &mut Rng) -> Option<Received> {
        if !self.can_receive() {
            return None;
        }
        self.is_receiving = false;
        if self.is_reset() {
            return Some(Received::Failed);
        }
        if self.written.is_empty() || self.is_closed {
            return Some(Received::End);
        }
        let most = rng.pick(&[1, 27, 100, 1024, 32 << 10]).min(self.written.len());
        Some(Received::Bytes(self.written.drain(..most).collect()))
    }

    pub(super) fn can_send(&self) -> bool {
        self.in_flight.is_some() && (self.is_broken() || self.free_space() > 0)
    }

    /// The result of a send. `Some(None)`: it fails.
    pub(super) fn send(&mut self, rng: &mut Rng) -> Option<Option<usize>> {
        if !self.can_send() {
            return None;
        }
        let bytes = self.in_flight.take()?;
        if self.is_broken() {
            return Some(None);
        }
        let most = bytes.len().min(self.free_space());
        let taken = if rng.percent(25) { 1 + rng.below(most) } else { most };
        self.arrived.extend(&bytes[..taken]);
        Some(Some(taken))
    }

    /// Whether it is closed and the last operations have completed.
    pub(super) fn can_release(&self) -> bool {
        self.is_closed && !self.is_receiving && self.in_flight.is_none()
    }

    /// The bytes that the server sends when it ends, without an operation.
    pub(super) fn send_last(&mut self, bytes: &[u8]) {
        self.arrived.extend(bytes);
    }

    fn is_broken(&self) -> bool {
        self.is_reset() || self.is_closed
    }

    fn free_space(&self) -> usize {
        self.capacity.saturating_sub(self.arrived.len())
    }
}
