//! Where a listener was in rooms that the server had it enter. They may be others on each connection.

use std::collections::BTreeMap;

use comet_proto::Position;

/// The most rooms of which a position is kept, unless the program has named more. A server lets a connection be in as many.
const KNOWN_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Known {
    rooms: BTreeMap<String, Noted>,
    /// How many positions were noted.
    notes: u64,
}

#[derive(Debug)]
struct Noted {
    position: Position,
    /// A higher number than those that were noted before.
    at: u64,
}

impl Known {
    /// Those that the program has named.
    pub(super) fn new(positions: BTreeMap<String, Position>) -> Self {
        let noted = |(room, position)| (room, Noted { position, at: 0 });
        Self { rooms: positions.into_iter().map(noted).collect(), notes: 0 }
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = (String, Position)> {
        self.rooms.iter().map(|(room, noted)| (room.clone(), noted.position))
    }

    /// Of too many rooms, that one is forgotten which has been silent for longest: the rooms of the present connection were noted when it
    /// entered them.
    pub(super) fn note(&mut self, room: &str, position: Position) {
        self.notes += 1;
        let noted = Noted { position, at: self.notes };
        if let Some(known) = self.rooms.get_mut(room) {
            *known = noted;
            return;
        }
        if self.rooms.len() >= KNOWN_MAX {
            let oldest = self.rooms.iter().min_by_key(|(_, noted)| noted.at);
            let oldest = oldest.map(|(room, _)| room.clone());
            oldest.map(|room| self.rooms.remove(&room));
        }
        self.rooms.insert(room.to_owned(), noted);
    }

    /// The room is entered with what was missed, which moves its position when it arrives.
    pub(super) fn touch(&mut self, room: &str) {
        if let Some(known) = self.rooms.get_mut(room) {
            self.notes += 1;
            known.at = self.notes;
        }
    }

    pub(super) fn knows(&self, room: &str) -> bool {
        self.rooms.contains_key(room)
    }

    pub(super) fn remove(&mut self, room: &str) -> Option<Position> {
        self.rooms.remove(room).map(|noted| noted.position)
    }

    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&str) -> bool) {
        self.rooms.retain(|room, _| keeps(room));
    }
}
