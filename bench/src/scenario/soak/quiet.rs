//! The conditions that must hold once a phase is over and the server has come to rest.

use std::net::SocketAddr;

use serde::Serialize;

use crate::Result;
use crate::process::Gauge;
use crate::scrape::{Counted, http_get};

/// The state of the server at rest.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rest {
    /// Open files.
    pub descriptors: usize,
    pub resident_bytes: u64,
    /// Bytes that are allocated from the allocator.
    pub heap_bytes: u64,
    #[serde(skip)]
    pub counted: Counted,
}

impl Rest {
    /// The present state of the server. Fails if it does not answer.
    pub(super) fn of(gauge: Gauge, stat: SocketAddr) -> Result<Self> {
        let counted = Counted::of(stat)?;
        Ok(Self {
            descriptors: gauge.descriptors()?.unwrap_or(0),
            resident_bytes: gauge.memory()?.map_or(0, |memory| memory.rss_bytes),
            heap_bytes: counted.heap_bytes,
            counted,
        })
    }

    /// Why it is not at rest, as text; `members` are the connections that stay, and `base` is the state at rest before
    /// any fault.
    pub(super) fn unrest(&self, members: u64, base: Option<&Self>) -> Option<String> {
        let is = &self.counted;
        let descriptors = base.map_or(self.descriptors, |base| base.descriptors);
        if is.connections != members {
            return Some(format!("{} connections are open, {members} members", is.connections));
        }
        if is.waiting > 0 {
            return Some(format!("{} deliveries still wait", is.waiting));
        }
        if is.logic_up != 1 {
            return Some("logic is not seen to be there".to_owned());
        }
        (self.descriptors > descriptors).then(|| {
            format!("{} descriptors are open, {descriptors} before any fault", self.descriptors)
        })
    }

    /// The faults in its books since the rest `before`, when callers were told of `matched` and `queued` deliveries,
    /// and clients have `received` so many.
    pub(super) fn ledger_faults(
        &self,
        before: &Self,
        [matched, queued, received]: [u64; 3],
        all_stayed: bool,
    ) -> Vec<String> {
        let is = self.counted.since(&before.counted);
        let mut faults = Vec::new();
        for (words, one, other) in [
            ("matched, of which callers were told", is.matched, matched),
            ("queued, of which callers were told", is.queued, queued),
            ("matched: queued and dropped", is.matched, is.queued + is.dropped),
            ("queued: sent, lost and superseded", is.queued, is.sent + is.lost + is.superseded),
        ] {
            if one != other {
                faults.push(format!("the ledger: {one} deliveries {words} {other}"));
            }
        }
        // Deliveries that a client had not read when it left are sent and not received.
        if is.sent < received || (all_stayed && is.sent > received) {
            faults.push(format!("{} deliveries sent, {received} received", is.sent));
        }
        faults
    }
}

/// The fault in the health of the server, if any.
pub(super) fn health_fault(stat: SocketAddr) -> Option<String> {
    http_get(stat, "/healthz").err().map(|error| format!("/healthz: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(counted: Counted) -> Rest {
        Rest { descriptors: 10, resident_bytes: 0, heap_bytes: 0, counted }
    }

    #[test]
    fn a_delivery_that_is_nowhere_is_a_fault() {
        let before = rest(Counted::default());
        let counted = Counted {
            matched: 9,
            queued: 8,
            dropped: 1,
            sent: 6,
            lost: 1,
            superseded: 1,
            ..Counted::default()
        };
        let check = |counted: Counted, told, all_stayed, faults| {
            let found = rest(counted).ledger_faults(&before, told, all_stayed);
            assert_eq!(found.len(), faults, "{found:?}");
        };
        check(counted.clone(), [9, 8, 6], true, 0);
        check(counted.clone(), [9, 8, 5], false, 0);
        check(counted.clone(), [9, 8, 5], true, 1);
        check(counted.clone(), [9, 8, 7], false, 1);
        check(counted.clone(), [8, 8, 6], true, 1);
        check(counted.clone(), [9, 7, 6], true, 1);
        check(Counted { dropped: 0, ..counted.clone() }, [9, 8, 6], true, 1);
        check(Counted { lost: 0, ..counted }, [9, 8, 6], true, 1);
    }

    #[test]
    fn a_server_is_at_rest_when_all_is_as_before() {
        let counted = Counted { connections: 5, logic_up: 1, ..Counted::default() };
        let base = rest(counted.clone());
        assert_eq!(base.unrest(5, Some(&base)), None);
        assert!(base.unrest(4, None).is_some());
        assert!(Rest { descriptors: 11, ..base.clone() }.unrest(5, Some(&base)).is_some());
        assert!(rest(Counted { waiting: 1, ..counted.clone() }).unrest(5, None).is_some());
        assert!(rest(Counted { logic_up: 0, ..counted }).unrest(5, None).is_some());
    }
}
