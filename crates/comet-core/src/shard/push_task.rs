//! A push under way on a shard: its remaining targets, and its result so far.

use std::sync::Arc;
use std::vec;

use crate::home::Home;
use crate::ids::{CallId, ConnId, LocalConnId, ShardId, Slot};
use crate::ledger::{DropReason, Tally};
use crate::limits::OWNERS_MAX;
use crate::message::{KeptKey, Message, Push, Recovery, Report};
use crate::network::Network;

use super::conn_lists::ConnLists;
use super::push_forms::PushForms;

/// A push that continues in slices. The tasks of a shard run one after the other in order of arrival, which keeps the
/// order of each key. The order of a room is kept with its [`Crowd`].
pub(super) struct PushTask {
    pub(super) target: Target,
    pub(super) progress: Progress,
}

/// Pushes taken since the shard last had nothing to send. They are timed together, from the first of them on.
#[derive(Default)]
pub(super) struct PushTimer {
    pub(super) pushes: u64,
    /// The sum of the times of the turns since then.
    pub(super) micros: u64,
}

/// The remaining targets of a push.
pub(super) enum Target {
    /// At their home: the owners of keys, or the sessions of users.
    Owners(Names, Owners),
    /// Members of a room here, listed connections, or all.
    Crowd(Crowd),
    /// Every connection of a client in the network, from this slot on.
    Network(Network, Slot),
}

/// The connections of a crowd, and the position of the batch under way.
pub(super) enum Crowd {
    /// Members of the room on this shard. The position of the batch is in the room.
    Room(Arc<str>),
    /// Every connection from this slot on.
    All(Slot),
    /// Connections of this shard that a push by keys or users is sent to.
    Conns(ConnLists),
}

/// The id of an order about rooms that waits for homes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct OrderId(pub(super) u64);

/// A connection that becomes a member at this place among the pushes to a room.
pub(super) struct RecoveryPoint {
    /// `None`: only the shard learns the position of the room.
    pub(super) conn: Option<LocalConnId>,
    pub(super) recovery: Option<Box<Recovery>>,
    /// The memory of the answer, counted until the connection has it.
    pub(super) bytes: usize,
}

/// The result of a push so far.
pub(super) struct Progress {
    pub(super) call: CallId,
    pub(super) push: Push,
    /// The same in all slices, so that outboxes share their chains.
    pub(super) items: PushForms,
    pub(super) tally: Tally,
    pub(super) tally_kind: TallyKind,
    /// The push is included in this shard's count of pushes.
    pub(super) is_counted: bool,
    /// Set for an order about rooms, if its connections wait for a room's home.
    pub(super) order: Option<OrderId>,
    /// Set if this is not a push, but the entry of a connection into the room.
    pub(super) recovery_point: Option<RecoveryPoint>,
    /// The number of pushes right before it that were replaced in a window by newer ones with the same ids.
    pub(super) outdated: u64,
}

/// How the push is reported when it is over.
#[derive(Clone, Copy)]
pub(super) enum TallyKind {
    /// By a tally that announces partial tallies of other shards.
    Tally { partials: u32 },
    /// By a partial tally, to the call of another shard. It settles `settles` of the announced ones.
    PartialTally { settles: u32 },
    /// Not at all.
    None,
}

/// The names whose connections are to be found.
pub(super) enum Names {
    Keys(vec::IntoIter<Box<str>>),
    Users(vec::IntoIter<i64>),
    /// Keys of users whose sessions are kept. Another connection may have taken the key since.
    Kept(vec::IntoIter<KeptKey>),
    /// A known connection.
    Conn(Option<ConnId>),
}

/// What was found for a name.
#[derive(Default)]
pub(super) struct Found {
    pub(super) conns: Vec<ConnId>,
    /// Set to the key if its session may be parked here.
    pub(super) key: Option<Box<str>>,
    /// Keys of a user that are reached by way of their homes.
    pub(super) kept: Vec<KeptKey>,
}

/// Connections that a home has found but not passed on yet, by shard.
#[derive(Default)]
pub(super) struct Owners {
    by_shard: Vec<(ShardId, Vec<LocalConnId>)>,
    kept: Vec<(ShardId, Vec<KeptKey>)>,
}

impl Progress {
    /// The report of `shard` to control.
    pub(super) fn report(self, shard: ShardId) -> Report {
        let Self { call, tally, .. } = self;
        match self.tally_kind {
            TallyKind::Tally { partials } => Report::Tally { call, shard, tally, partials },
            TallyKind::PartialTally { settles } => {
                Report::PartialTally { call, shard, tally, settles }
            }
            TallyKind::None => Report::PartialTally { call, shard, tally, settles: 0 },
        }
    }

    /// The same as a message to the shard that the push caller is connected to.
    pub(super) fn tallied(self) -> Message {
        let Self { call, tally, .. } = self;
        let tally = Box::new(tally);
        match self.tally_kind {
            TallyKind::Tally { partials } => Message::Tallied { call, tally, partials },
            TallyKind::PartialTally { settles } => {
                Message::PartiallyTallied { call, tally, settles }
            }
            TallyKind::None => Message::PartiallyTallied { call, tally, settles: 0 },
        }
    }
}

impl TallyKind {
    /// A message was sent to another shard, which reports `tallies` partial tallies.
    pub(super) fn expect(&mut self, tallies: u32) {
        match self {
            Self::Tally { partials } => *partials += tallies,
            // The other shard settles these of the announced ones.
            Self::PartialTally { settles } => *settles = settles.saturating_sub(tallies),
            Self::None => {}
        }
    }
}

impl Names {
    /// The tally of a push to a name for which nothing was found.
    pub(super) fn nobody(&self) -> Tally {
        let mut tally = Tally { absent: 1, ..Tally::default() };
        if let Self::Kept(_) = self {
            // The session ended while the push was on its way from the user's home.
            tally.absent = 0;
            tally.drop_as(DropReason::Closing, 1);
        }
        tally
    }

    /// Adds what is found for the next name to `found`, which is empty. `false`: there are no more names.
    pub(super) fn find_next(&mut self, home: &Home, found: &mut Found) -> bool {
        match self {
            Self::Keys(keys) => {
                let Some(key) = keys.next() else { return false };
                match home.parking.find(&key) {
                    Some(_) => found.key = Some(key),
                    None => found.conns.extend(home.keys.owner(&key)),
                }
            }
            Self::Kept(keys) => {
                let Some(KeptKey { user, key, conns }) = keys.next() else { return false };
                match home.parking.find(&key) {
                    Some(at) if home.parking.user(at) == user => found.key = Some(key),
                    Some(_) => {}
                    None => {
                        let owner = home.keys.owner(&key);
                        found.conns.extend(owner.filter(|owner| conns.contains(owner)));
                    }
                }
            }
            Self::Users(users) => {
                let Some(user) = users.next() else { return false };
                let kept = &home.kept_users;
                let sessions = home.users.of(user).into_iter().map(|(_, conn)| conn);
                if kept.is_empty() {
                    found.conns.extend(sessions);
                } else {
                    found.conns.extend(sessions.filter(|&conn| !kept.is_kept(conn)));
                    found.kept.extend(kept.keys_of(user));
                }
            }
            Self::Conn(conn) => {
                let Some(conn) = conn.take() else { return false };
                found.conns.push(conn);
            }
        }
        true
    }
}

impl Owners {
    /// Adds `owner`. Returns the owners of its shard if they fill a message.
    pub(super) fn add(&mut self, owner: ConnId) -> Option<(ShardId, Vec<LocalConnId>)> {
        let known = self.by_shard.iter_mut().find(|(shard, _)| *shard == owner.shard);
        let Some((shard, conns)) = known else {
            self.by_shard.push((owner.shard, vec![owner.local()]));
            return None;
        };
        conns.push(owner.local());
        (conns.len() >= OWNERS_MAX).then(|| (*shard, std::mem::take(conns)))
    }

    /// Adds `key`, whose home is `shard`. Returns the keys of that home if they fill a message.
    pub(super) fn add_kept(
        &mut self,
        shard: ShardId,
        key: KeptKey,
    ) -> Option<(ShardId, Vec<KeptKey>)> {
        let known = self.kept.iter_mut().find(|(home, _)| *home == shard);
        let Some((home, keys)) = known else {
            self.kept.push((shard, vec![key]));
            return None;
        };
        keys.push(key);
        (keys.len() >= OWNERS_MAX).then(|| (*home, std::mem::take(keys)))
    }

    /// The remaining keys, which fill no message.
    pub(super) fn take_kept(&mut self) -> impl Iterator<Item = (ShardId, Vec<KeptKey>)> + use<> {
        std::mem::take(&mut self.kept).into_iter().filter(|(_, keys)| !keys.is_empty())
    }

    /// The remaining connections, which fill no message.
    pub(super) fn take_rest(
        &mut self,
    ) -> impl Iterator<Item = (ShardId, Vec<LocalConnId>)> + use<> {
        std::mem::take(&mut self.by_shard).into_iter().filter(|(_, conns)| !conns.is_empty())
    }
}
