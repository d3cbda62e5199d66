//! Keys that connections of other hosts hold as well.
//!
//! Hosts tell each other which given keys get an owner, and when its token arrived. Each host compares them with its
//! own owners. All come to the same result: the younger connection stays.

use crate::home::keys::Older;
use crate::ledger::CloseReason;
use crate::message::{Message, Report};
use crate::time::Millis;

use super::Shard;

impl Shard {
    /// Ends the connections that are older than those of the other host, and reports the keys that stay here once more.
    pub(super) fn held_elsewhere(&mut self, keys: Vec<(Box<str>, Millis)>, wins_ties: bool) {
        for (key, at) in keys {
            let Some((conn, own_at)) = self.home.keys.owner_of_given(&key) else {
                self.end_session_elsewhere(&key, None);
                continue;
            };
            if own_at > at || own_at == at && !wins_ties {
                self.reports.push(Report::Claimed { key, at: own_at });
                continue;
            }
            // The key is released at once, so that logic is not told about the end of a key that has moved.
            let is_kept = self.home.keys.is_kept(&key);
            self.home.keys.release(&key, conn);
            // The connection gets this before any answer that it is registered. Then it has no session to leave behind.
            self.messages.send(conn.shard, Message::Evict { conn, reason: CloseReason::Replaced });
            self.end_session_elsewhere(&key, Some(Older { conn, is_kept }));
        }
    }

    pub(super) fn list_keys(&mut self, since: Millis, table: u32) {
        let (keys, next) = self.home.keys.slice(since, table);
        self.reports.push(Report::KeySlice { shard: self.context.shard, keys, next });
    }
}
