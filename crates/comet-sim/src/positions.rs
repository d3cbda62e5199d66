//! What a client of protocol 2 knows about rooms with a history: its positions, and the gaps that it was told about. It
//! must get each push once and in order, and must be told about each missing push.

use std::collections::BTreeMap;

use comet_proto::{JoinReply, Position, RoomGap, RoomHandle};

/// The place of a push in a room, according to its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) handle: RoomHandle,
    /// 0: the room keeps no history.
    pub(crate) offset: u64,
    /// The push comes from the history.
    pub(crate) is_recovered: bool,
}

/// The rooms of a client, by index into [`ROOMS`](crate::plan::ROOMS).
#[derive(Clone, Default)]
pub(crate) struct Positions {
    rooms: BTreeMap<u8, Known>,
    /// It does not get all operations, so it cannot know which pushes are missing.
    is_filtered: bool,
    /// The number of pushes that it was told to have lost.
    pub(crate) gaps: u64,
}

#[derive(Clone, Default)]
struct Known {
    is_in: bool,
    /// The epoch that a reply to a join named.
    epoch: Option<u64>,
    /// The offset of the latest push that it has taken or given up.
    offset: Option<u64>,
    told: Vec<(u64, u64)>,
    /// It has lost pushes, and takes none until it has asked for these.
    is_stalled: bool,
    /// The end of the history that it was promised.
    until: u64,
    /// It has asked and has no answer yet. If it is in the room, the answer includes the pushes that come meanwhile.
    is_asking: bool,
}

impl Known {
    fn is_told(&self, missing: u64) -> bool {
        self.told.iter().any(|(first, last)| (*first..=*last).contains(&missing))
    }
}

impl Positions {
    pub(crate) fn new(is_filtered: bool) -> Self {
        Self { is_filtered, ..Self::default() }
    }

    /// The positions with which the next connection of the client begins.
    pub(crate) fn of_next_connection(&self) -> Self {
        let known = |known: &Known| {
            let Known { epoch, offset, .. } = *known;
            epoch.and(offset).map(|_| Known { epoch, offset, ..Known::default() })
        };
        let rooms = self.rooms.iter().filter_map(|(room, one)| Some((*room, known(one)?)));
        Self { rooms: rooms.collect(), is_filtered: self.is_filtered, gaps: 0 }
    }

    pub(crate) fn position(&self, room: u8) -> Option<Position> {
        let known = self.rooms.get(&room)?;
        Some(Position { epoch: known.epoch?, offset: known.offset? })
    }

    /// A room of which it has lost pushes that it has not asked for.
    pub(crate) fn stalled(&self) -> Option<u8> {
        let is_stalled = |known: &Known| known.is_stalled && !known.is_asking;
        self.rooms.iter().find(|(_, known)| is_stalled(known)).map(|(room, _)| *room)
    }

    /// Whether it gets a history in parts. The server reads none of its input before it has read the last part.
    pub(crate) fn is_catching_up(&self) -> bool {
        let has_more = |known: &Known| known.offset.is_some_and(|offset| offset < known.until);
        self.rooms.values().any(|known| known.is_in && has_more(known))
    }

    /// It asks for the pushes after its position.
    pub(crate) fn ask(&mut self, room: u8) {
        let known = self.rooms.entry(room).or_default();
        // Later gaps may be about pushes behind the answer.
        known.told.clear();
        (known.is_asking, known.until) = (true, 0);
    }

    /// The server refuses to let it enter the room.
    pub(crate) fn refused(&mut self, room: u8) {
        if let Some(known) = self.rooms.get_mut(&room) {
            known.is_asking = false;
        }
    }

    /// Handles the reply to a join.
    pub(crate) fn joined(
        &mut self,
        room: u8,
        since: Option<Position>,
        reply: &JoinReply<'_>,
    ) -> Result<(), String> {
        let known = self.rooms.entry(room).or_default();
        let wrong = || Err(format!("a join since {since:?} is answered {reply:?}"));
        match (since, reply.position, reply.recovered) {
            (Some(since), Some(position), Some(missed)) => {
                if position.epoch != since.epoch
                    || position.offset != since.offset + u64::from(missed)
                {
                    return wrong();
                }
                (known.epoch, known.offset) = (Some(since.epoch), Some(since.offset));
                known.until = position.offset;
            }
            (_, _, Some(_)) => return wrong(),
            (_, Some(Position { epoch, offset }), None) => {
                (known.epoch, known.offset) = (Some(epoch), Some(offset));
            }
            // It did not ask for earlier pushes.
            (None, None, None) if known.is_in => return Ok(()),
            (_, None, None) if known.is_in => {}
            (_, None, None) => (known.epoch, known.offset) = (None, None),
        }
        (known.is_in, known.is_stalled, known.is_asking) = (true, false, false);
        Ok(())
    }

    /// The server has said that it is in the room.
    pub(crate) fn entered(&mut self, room: u8) {
        let known = self.rooms.entry(room).or_default();
        if !known.is_in {
            let is_asking = known.is_asking;
            *known = Known { is_in: true, is_asking, ..Known::default() };
        }
    }

    pub(crate) fn left(&mut self, room: u8) {
        if let Some(known) = self.rooms.get_mut(&room) {
            known.told.clear();
            (known.is_in, known.is_stalled, known.is_asking) = (false, false, false);
        }
    }

    /// It is still in the room, and may have ignored pushes.
    pub(crate) fn ignored(&mut self, room: u8) {
        let Some(known) = self.rooms.get_mut(&room).filter(|_| !self.is_filtered) else { return };
        match known.epoch {
            Some(_) => known.is_stalled = true,
            None => known.offset = None,
        }
    }

    pub(crate) fn lost(&mut self, room: u8, gap: RoomGap) -> Result<(), String> {
        let known = self.rooms.entry(room).or_default();
        if gap.first == 0 || gap.first > gap.last {
            return Err(format!("{gap:?}"));
        }
        self.gaps += gap.last - gap.first + 1;
        known.told.push((gap.first, gap.last));
        Ok(())
    }

    /// Whether the client takes a push to the room.
    pub(crate) fn take(&mut self, room: u8, place: Place) -> Result<bool, String> {
        let known = self.rooms.entry(room).or_default();
        let offset = place.offset;
        // Pushes that it ignores come again after the answer to its next join.
        if known.is_asking || known.is_stalled {
            return Ok(false);
        }
        if let Some(last) = known.offset {
            if offset <= last {
                return Err(format!("{place:?} of room {room} after offset {last}"));
            }
            let missing = last + 1..offset;
            if !self.is_filtered && !missing.clone().all(|missing| known.is_told(missing)) {
                let told = &known.told;
                return Err(format!("{place:?} of room {room} after {last}, told {told:?}"));
            }
            // Some clients continue without the missing pushes.
            if !self.is_filtered && !missing.is_empty() && known.epoch.is_some() && last % 3 > 0 {
                known.is_stalled = true;
                return Ok(false);
            }
        }
        known.offset = Some(offset);
        known.told.retain(|(_, last)| *last > offset);
        Ok(true)
    }

    /// Everything is read: checks that it has all pushes of the room, the latest of which has the offset `top`, or
    /// knows which are missing.
    pub(crate) fn check_complete(&self, room: u8, top: u64) -> Result<(), String> {
        let Some(known) = self.rooms.get(&room) else { return Ok(()) };
        let Some(last) = known.offset else { return Ok(()) };
        if self.is_filtered || known.is_stalled {
            return Ok(());
        }
        match (last + 1..=top).find(|missing| !known.is_told(*missing)) {
            Some(missing) => Err(format!("{missing} of {top} is missing in room {room}")),
            None => Ok(()),
        }
    }
}
