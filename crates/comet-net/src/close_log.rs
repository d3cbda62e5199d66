//! The log lines of closed connections: peer, key and reason, at a bounded rate.

use std::fmt;

use comet_core::{CloseReason, ClosedEvent, Millis};

use crate::sockets::{Socket, Sockets};

/// Most log lines a core writes per second about closes that are not ordinary.
const LINES_A_SECOND: u32 = 100;

/// Writes the lines, and counts those beyond the bound.
#[derive(Default)]
pub(crate) struct CloseLog {
    second: u64,
    written: u32,
    withheld: u64,
}

impl CloseLog {
    /// Writes a line at level info, or at debug for an ordinary end: the peer closed, or the server
    /// drains.
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
        let (shard, slot, generation) = (conn.shard.0, conn.slot, conn.generation);
        log::log!(
            level,
            "closed {shard}/{slot}.{generation} key={key:?} peer={peer} reason={}{}",
            reason.label(),
            Detail(detail),
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

/// The detail of a reason, if there is one. It may contain text from the peer or from logic.
struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            detail => write!(f, " detail={detail:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_bound_are_counted_until_the_next_second() {
        let mut log = CloseLog::default();
        let written = (0..250).filter(|_| log.may_write(Millis(5_200))).count();
        assert_eq!((written, log.withheld), (100, 150));
        assert!(log.may_write(Millis(6_000)));
        assert_eq!(log.withheld, 0);
    }
}
