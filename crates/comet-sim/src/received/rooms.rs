//! What a client is told about its rooms: their handles, their members, and the places of pushes.

use comet_proto::{JoinReply, RoomHandle, RoomRefusal};

use crate::plan::{PRESENCE_OPERATION, ROOMS};
use crate::positions::Place;
use crate::presence::Presence;

use super::{Expected, ReceivedStream};

impl ReceivedStream {
    pub(super) fn note_recovered(&mut self, place: Option<Place>, next_call: u64) {
        if let Some(place) = place.filter(|place| place.is_recovered)
            && let Some(known) = self.rooms.get_mut(&place.handle)
        {
            // It is no member until it has caught up.
            known.1 = next_call;
        }
    }

    /// Whether a request to enter `room` may have this outcome.
    pub(super) fn may_be(&self, room: u8, outcome: Result<RoomHandle, RoomRefusal>) -> bool {
        let known = self.rooms.iter().find(|(_, (other, _))| *other == room);
        match (outcome, known) {
            (Ok(handle), Some((known, _))) => handle == *known,
            (Ok(handle), None) => {
                self.rooms.len() < self.rooms_max && !self.rooms.contains_key(&handle)
            }
            (Err(RoomRefusal::TooManyRooms), None) => self.rooms.len() >= self.rooms_max,
            (Err(RoomRefusal::OutOfMemory), None) => true,
            (Err(_), _) => false,
        }
    }

    /// The server has told the handle of the room that operation 12 changes.
    pub(super) fn told_room(&mut self, body: &[u8], next_call: u64) -> Result<(), String> {
        let reply = JoinReply::decode(body).filter(|reply| reply.is_unasked && reply.is_primary);
        let room = self.room.filter(|_| self.is_protocol_2 && self.is_live);
        match (reply, room) {
            (Some(JoinReply { outcome: Ok(handle), room: name, .. }), Some(room))
                if name == ROOMS[usize::from(room)].as_bytes() && self.primary.is_none() =>
            {
                self.primary = Some(handle);
                self.positions.entered(room);
                let (known, _) = *self.rooms.entry(handle).or_insert((room, next_call));
                if known == room { Ok(()) } else { Err(format!("{handle:?} is room {known}")) }
            }
            _ => Err(format!("told of a room by {body:?} while in {:?}", self.room)),
        }
    }

    /// The handle by which it knows the room of an unrequested operation 19, if that names another handle.
    pub(super) fn former_handle(&self, body: &[u8]) -> Option<RoomHandle> {
        let JoinReply { outcome, room: name, .. } = JoinReply::decode(body)?;
        let is_former = |(known, (room, _)): &(&RoomHandle, &(u8, u64))| {
            name == ROOMS[usize::from(*room)].as_bytes() && outcome != Ok(**known)
        };
        self.rooms.iter().find(is_former).map(|(&known, _)| known)
    }

    /// After an upgrade: the server knows a room by another handle. The client stays in the room, so no push may be
    /// missing, and its position does not change.
    pub(super) fn given_handle(&mut self, former: RoomHandle, body: &[u8]) -> Result<(), String> {
        let wrong = || format!("another handle than {former:?} by {body:?}");
        let (room, since) = self.rooms.remove(&former).ok_or_else(wrong)?;
        let JoinReply { outcome, room: _, is_unasked, is_primary, position, recovered } =
            JoinReply::decode(body).ok_or_else(wrong)?;
        let is_right = is_unasked
            && (position, recovered) == (None, None)
            && is_primary == (self.room == Some(room));
        let handle = outcome.ok().filter(|_| is_right).ok_or_else(wrong)?;
        if self.rooms.insert(handle, (room, since)).is_some() {
            return Err(wrong());
        }
        self.primary.take_if(|primary| *primary == former);
        if is_primary {
            self.primary = Some(handle);
        }
        if self.expected.iter().any(|(_, expected)| *expected == Expected::Leave(former)) {
            // The server does not know the handle that it was to leave. So the client stays in the room, and has
            // ignored the pushes that came meanwhile.
            self.positions.ignored(room);
        }
        Ok(())
    }

    /// In protocol 2: whether it has read the handle of the room that operation 12 changes, if there is one.
    pub(crate) fn knows_its_room(&self) -> bool {
        self.room.is_some() == self.primary.is_some()
    }

    /// The first call that was made after it had read that it is in `room`, if it is.
    pub(crate) fn since(&self, room: u8) -> Option<u64> {
        if self.is_protocol_2 {
            let mut rooms = self.rooms.values();
            rooms.find(|(other, _)| *other == room).map(|(_, since)| *since)
        } else {
            (self.room == Some(room)).then_some(self.room_since)
        }
    }

    /// Whether a client that keeps positions takes the push.
    pub(super) fn is_taken(&mut self, place: Option<Place>) -> Result<bool, String> {
        let Some(place) = place.filter(|place| place.offset > 0) else { return Ok(true) };
        let Some((room, _)) = self.rooms.get(&place.handle).copied() else { return Ok(true) };
        self.mix(place.offset);
        // It may get pushes that come before it has left again when it comes back, so its position does not change.
        let is_leaving = |(_, expected): &(i32, Expected)| match expected {
            Expected::Leave(handle) => *handle == place.handle,
            Expected::Room(next) => self.primary == Some(place.handle) && *next != Some(room),
            _ => false,
        };
        if self.expected.iter().any(is_leaving) {
            return Ok(false);
        }
        self.positions.take(room, place)
    }

    /// Whether a push to `room` with its `handle` is for this client.
    pub(super) fn is_in(&self, room: u8, handle: Option<RoomHandle>) -> bool {
        let named = handle.and_then(|handle| self.rooms.get(&handle)).map(|(room, _)| *room);
        (if self.is_protocol_2 { named } else { self.room }) == Some(room)
    }

    /// Handles a push about who has entered and left a room.
    pub(super) fn presence(
        &mut self,
        presence: &Presence,
        place: Option<Place>,
    ) -> Result<(), String> {
        let is_recovered = place.is_some_and(|place| place.is_recovered);
        let is_filtered = self.filters_rooms && !is_recovered;
        let is_right = self.is_live
            && self.is_in(presence.room, place.map(|place| place.handle))
            && (!is_filtered || self.accepts.contains(PRESENCE_OPERATION));
        if !is_right {
            return Err(format!("{presence:?} in {:?} {:?}", self.room, self.rooms));
        }
        presence.check(self.names)?;
        if self.is_taken(place)? && !is_recovered {
            self.rosters.note(presence);
        } else {
            self.rosters.forget(presence.room);
        }
        Ok(())
    }
}
