//! Heartbeats of all connections of a receiver, spread evenly over their interval.

use rustix::event::epoll::EventFlags;

use super::{Receiver, Stage};
use crate::clock::{SECOND_NS, now_ns};
use crate::message::OP_HEARTBEAT;

/// Below goim's five minutes by half.
const INTERVAL_NS: u64 = 120 * SECOND_NS;
/// Short runs have none.
const FIRST_NS: u64 = 60 * SECOND_NS;

/// Whose turn it is, and when.
#[derive(Clone, Copy)]
pub(super) struct Heartbeats {
    /// 0 for none.
    interval_ns: u64,
    due_ns: u64,
    next: usize,
    pub(super) sent: u64,
}

impl Heartbeats {
    /// Those that keep a connection open, for a receiver that starts at `now_ns`.
    pub(super) fn default_from(now_ns: u64) -> Self {
        Self { interval_ns: INTERVAL_NS, due_ns: now_ns + FIRST_NS, next: 0, sent: 0 }
    }
}

impl Receiver {
    /// From now on each connection sends a heartbeat every so many ns; 0 for none.
    pub(crate) fn set_heartbeat(&mut self, interval_ns: u64) {
        self.heartbeats = Heartbeats { interval_ns, due_ns: now_ns(), ..self.heartbeats };
    }

    /// Heartbeats sent since the books were opened.
    pub(crate) fn heartbeats_sent(&self) -> u64 {
        self.heartbeats.sent
    }

    /// Sends those that are due; says in how many ns the next one is.
    pub(super) fn send_heartbeats(&mut self) -> u64 {
        if self.heartbeats.interval_ns == 0 || self.live == 0 {
            return u64::MAX;
        }
        let step_ns = self.heartbeats.interval_ns / self.live as u64;
        let now_ns = now_ns();
        while self.heartbeats.due_ns <= now_ns {
            let due_ns = self.heartbeats.due_ns;
            self.heartbeats.due_ns += step_ns.max(1);
            let Some(index) = self.next_live() else { break };
            self.heartbeats.sent += 1;
            self.books.heartbeat_sent(index, due_ns);
            self.connections[index].session.send(OP_HEARTBEAT, 0, &[]);
            self.handle(index, EventFlags::empty());
        }
        self.heartbeats.due_ns.saturating_sub(now_ns)
    }

    /// The next connection that is open, from where the last search ended.
    fn next_live(&mut self) -> Option<usize> {
        let connections = self.connections.len();
        let first = self.heartbeats.next;
        let is_live = |index: &usize| {
            let connection = &self.connections[*index];
            connection.stage == Stage::Live && connection.socket.is_some() && !connection.is_muted
        };
        let found = (first..first + connections).map(|index| index % connections).find(is_live)?;
        self.heartbeats.next = found + 1;
        Some(found)
    }
}
