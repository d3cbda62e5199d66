//! The log lines of closed connections: who, why, and not more of them than somebody can read.

use comet_core::{CloseReason, ClosedEvent, Millis};

use crate::sockets::{Socket, Sockets};

/// Lines a core writes in one second about peers that did something wrong.
const LINES_A_SECOND: u32 = 100;

/// Writes the lines, and counts those that a flood of bad peers would have made.
#[derive(Default)]
pub(crate) struct Closings {
    second: u64,
    written: u32,
    withheld: u64,
}

impl Closings {
    /// What a peer did wrong is told; what ends ordinarily is there for who looks closely.
    pub(crate) fn log(&mut self, event: &ClosedEvent, sockets: &Sockets, now: Millis) {
        let is_ordinary = matches!(event.reason, CloseReason::PeerClosed | CloseReason::Draining);
        let level = if is_ordinary { log::Level::Debug } else { log::Level::Info };
        if !log::log_enabled!(level) || (!is_ordinary && !self.may_write(now)) {
            return;
        }
        let ClosedEvent { conn, reason, key, detail } = event;
        let peer = sockets
            .get(conn.slot)
            .filter(|socket| socket.conn == *conn)
            .and_then(Socket::peer)
            .map_or_else(|| "-".to_string(), |address| address.to_string());
        let key = if key.is_empty() { "-" } else { key };
        let (shard, slot, generation) = (conn.shard.0, conn.slot, conn.generation);
        log::log!(
            level,
            "closed {shard}/{slot}.{generation} key={key} peer={peer} reason={}{}{detail}",
            reason.label(),
            if detail.is_empty() { "" } else { ": " },
        );
    }

    fn may_write(&mut self, now: Millis) -> bool {
        let second = now.0 / 1000;
        if second != self.second {
            if self.withheld > 0 {
                log::info!("{} more closed connections were not logged", self.withheld);
            }
            *self = Self { second, ..Self::default() };
        }
        if self.written == LINES_A_SECOND {
            self.withheld += 1;
            return false;
        }
        self.written += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_the_next_second_starts_over() {
        let mut closings = Closings::default();
        let written = (0..250).filter(|_| closings.may_write(Millis(5_200))).count();
        assert_eq!((written, closings.withheld), (100, 150));
        assert!(closings.may_write(Millis(6_000)));
        assert_eq!(closings.withheld, 0);
    }
}
