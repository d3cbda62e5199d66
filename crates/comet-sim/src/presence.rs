//! What members of rooms are told about who enters and leaves, and whether it adds up to the present members.

use std::collections::BTreeMap;

use crate::plan::ROOMS;

/// A push that tells members of a room who has entered and left it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Presence {
    pub(crate) room: u8,
    members: u32,
    joined: NamedMembers,
    left: NamedMembers,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct NamedMembers {
    count: u32,
    keys: Vec<Box<str>>,
}

impl Presence {
    /// Reads the body. `None`: the server makes no such body.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let body = str::from_utf8(body).ok()?;
        let (room, rest) = body.strip_prefix(r#"{"room":""#)?.split_once(r#"","members":"#)?;
        let (members, rest) = rest.split_once(r#","joined":"#)?;
        let (joined, rest) = rest.split_once(r#","left":"#)?;
        let (left, rest) = rest.split_once(r#","who_joined":["#)?;
        let (who_joined, rest) = rest.split_once(r#"],"who_left":["#)?;
        let named =
            |count: &str, who| Some(NamedMembers { count: count.parse().ok()?, keys: keys(who)? });
        Some(Self {
            room: ROOMS.iter().position(|known| *known == room)? as u8,
            members: members.parse().ok()?,
            joined: named(joined, who_joined)?,
            left: named(left, rest.strip_suffix("]}")?)?,
        })
    }

    /// Checks one such push, under rules that name up to `names` connections.
    pub(crate) fn check(&self, names: u32) -> Result<(), String> {
        let is_bounded = |NamedMembers { count, keys }: &NamedMembers| {
            keys.len() <= (*count).min(names) as usize
        };
        // A member got it, so the room has a member. And it must tell a change.
        let holds = is_bounded(&self.joined)
            && is_bounded(&self.left)
            && self.joined.count + self.left.count > 0
            && self.members > 0;
        holds.then_some(()).ok_or_else(|| format!("{self:?}"))
    }
}

/// Keys of a list such as `{"mid":42,"key":"k"},{"mid":0,"key":"x"}`.
fn keys(mut list: &str) -> Option<Vec<Box<str>>> {
    let mut keys = Vec::new();
    while !list.is_empty() {
        let (user, rest) = list.strip_prefix(r#"{"mid":"#)?.split_once(r#","key":""#)?;
        user.parse::<i64>().ok()?;
        let (key, rest) = rest.split_once(r#""}"#)?;
        keys.push(key.into());
        list = rest.strip_prefix(',').unwrap_or(rest);
    }
    Some(keys)
}

/// The members of a room: the number of connections by key. A connection that replaces another one with its key may be
/// told before the other one has left.
pub(crate) type Members = BTreeMap<Box<str>, i64>;

/// The members that a client derives from what it is told, by room.
#[derive(Default)]
pub(crate) struct Rosters {
    rooms: BTreeMap<u8, Roster>,
}

/// A room since a time when all its members were known.
struct Roster {
    members: Members,
    total: i64,
    /// All members were named.
    is_named: bool,
}

impl Rosters {
    /// The client may have been out of the room.
    pub(crate) fn forget(&mut self, room: u8) {
        self.rooms.remove(&room);
    }

    pub(crate) fn note(&mut self, event: &Presence) {
        let Some(roster) = self.rooms.get_mut(&event.room) else { return };
        for (named, sign) in [(&event.joined, 1), (&event.left, -1)] {
            let NamedMembers { count, keys } = named;
            roster.total += sign * i64::from(*count);
            roster.is_named &= keys.len() == *count as usize;
            for key in keys {
                *roster.members.entry(key.clone()).or_default() += sign;
            }
        }
    }

    /// The client is in the room with these members.
    pub(crate) fn begin(&mut self, room: u8, members: &Members) {
        let (members, total) = (members.clone(), members.values().sum());
        self.rooms.insert(room, Roster { members, total, is_named: true });
    }

    /// Whether the present members of the room are those that the client knows; `None`: it was not there for all the
    /// time.
    pub(crate) fn end(&mut self, room: u8, members: &Members) -> Option<bool> {
        let mut roster = self.rooms.remove(&room)?;
        roster.members.retain(|_, count| *count != 0);
        let is_same = !roster.is_named || roster.members == *members;
        Some(is_same && roster.total == members.values().sum::<i64>())
    }
}
