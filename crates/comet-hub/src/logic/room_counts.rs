//! The room counts: this server's counts go to logic, those of other servers to the rooms' homes.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use comet_core::{Millis, home_of_room};

/// Longest request, bytes: the limit of goim's logic, which is the default of grpc-go, less space for the server id and
/// the other fields.
const PIECE_MAX: usize = (4 << 20) - 1024;

/// The fields in which goim's logic stores the rooms of a server. Each request replaces the fields of its rooms, so all
/// rooms of a field must be in one request.
const BUCKETS: usize = 64;

/// The stage of the periodic update.
#[derive(Debug)]
pub(super) enum RoomCountUpdate {
    /// It begins when logic is available.
    Due,
    /// The rooms are being counted.
    Counting,
    /// A piece of the counts waits for a permit.
    Counted(Progress),
    /// A call to logic is under way.
    UnderWay(Progress),
    /// The next update begins at `until`.
    Resting { until: Millis },
}

impl RoomCountUpdate {
    /// The piece that waited is on its way.
    pub(super) fn sent(self) -> Self {
        match self {
            Self::Counted(progress) => Self::UnderWay(progress),
            other => other,
        }
    }
}

/// How many pieces logic has, and its answers.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) pieces: Arc<RoomPieces>,
    /// The piece that waits or is on its way.
    pub(super) piece: usize,
    /// The latest answer with rooms.
    pub(super) answer: Option<RoomsByHome>,
    /// Whether logic has answered every piece so far.
    pub(super) is_told: bool,
}

/// The rooms of the latest update. Logic knows no other rooms of this server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SentRooms {
    pieces: Arc<RoomPieces>,
    /// Whether logic has answered every piece.
    is_whole: bool,
}

impl SentRooms {
    /// The rooms that logic may still count members in.
    fn rooms(&self) -> impl Iterator<Item = &Arc<str>> {
        let may_count = |(_, online): &&(Arc<str>, i32)| *online > 0 || !self.is_whole;
        self.pieces.rooms.iter().filter(may_count).map(|(room, _)| room)
    }

    /// The data to free.
    pub(super) fn into_pieces(self) -> Arc<RoomPieces> {
        self.pieces
    }
}

impl Progress {
    /// Takes logic's answer, or its failure to answer. Returns the next step, and an answer that is not needed.
    pub(super) fn handle_answer(
        mut self,
        answer: Option<RoomsByHome>,
    ) -> (Next, Option<RoomsByHome>) {
        let is_last = self.piece + 1 == self.pieces.len();
        // `comet logic` answers the last piece only, goim's logic each with the rooms of all.
        let says_something =
            |answer: &RoomsByHome| is_last || answer.iter().any(|home| !home.is_empty());
        self.is_told &= answer.is_some();
        let unneeded = match answer {
            Some(answer) if says_something(&answer) => self.answer.replace(answer),
            other => other,
        };
        self.piece += 1;
        if !is_last {
            return (Next::Piece(self), unneeded);
        }
        let sent_rooms = SentRooms { pieces: self.pieces, is_whole: self.is_told };
        (Next::Over(sent_rooms, self.answer), unneeded)
    }
}

/// The next step after the answer to a piece.
pub(super) enum Next {
    /// Another piece.
    Piece(Progress),
    /// The update is over.
    Over(SentRooms, Option<RoomsByHome>),
}

/// For each home, its rooms and the number of members in each.
pub type RoomsByHome = Vec<Vec<(Arc<str>, u32)>>;

/// The rooms of this server and the number of members in each, in pieces that fit a request. The work of each function
/// grows with the number of rooms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomPieces {
    /// The rooms, grouped by piece.
    rooms: Vec<(Arc<str>, i32)>,
    /// At least one, the longest first: if logic refuses that one, the answer to the last one still comes.
    pieces: Vec<Piece>,
    bytes_max: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Piece {
    rooms: Range<usize>,
    buckets: u64,
    bytes: usize,
}

impl RoomPieces {
    /// Each of `rooms` occurs once. Rooms of the previous update without members are sent once more with 0, because
    /// goim's logic keeps counts until they are replaced.
    #[must_use]
    pub fn cut(mut rooms: Vec<(Arc<str>, u32)>, sent_rooms: Option<&SentRooms>) -> Self {
        if let Some(sent_rooms) = sent_rooms {
            let present: HashSet<&Arc<str>> = rooms.iter().map(|(room, _)| room).collect();
            let is_empty = |room: &&Arc<str>| !present.contains(*room);
            let emptied: Vec<_> = sent_rooms.rooms().filter(is_empty).map(Arc::clone).collect();
            rooms.extend(emptied.into_iter().map(|room| (room, 0)));
        }
        Self::cut_by(PIECE_MAX, rooms)
    }

    /// As [`RoomPieces::cut`], with pieces of `bytes_max`.
    pub(super) fn cut_by(bytes_max: usize, rooms: Vec<(Arc<str>, u32)>) -> Self {
        let clamp = |online| i32::try_from(online).unwrap_or(i32::MAX);
        let rooms: Vec<_> = rooms.into_iter().map(|(room, online)| (room, clamp(online))).collect();
        let bytes = rooms.iter().map(|(room, online)| entry_bytes(room, *online)).sum();
        if bytes <= bytes_max {
            let piece = Piece { rooms: 0..rooms.len(), buckets: u64::MAX, bytes };
            return Self { rooms, pieces: vec![piece], bytes_max };
        }
        let mut buckets: [(Vec<_>, usize); BUCKETS] = std::array::from_fn(|_| (Vec::new(), 0));
        for (room, online) in rooms {
            let (rooms, bytes) = &mut buckets[bucket_of(&room)];
            *bytes += entry_bytes(&room, online);
            rooms.push((room, online));
        }
        let (mut rooms, mut pieces) = (Vec::new(), Vec::<Piece>::new());
        for (bucket, (of_bucket, bytes)) in (0..).zip(buckets) {
            let begin = rooms.len();
            rooms.extend(of_bucket);
            match pieces.last_mut() {
                Some(piece) if piece.bytes + bytes <= bytes_max => {
                    piece.rooms.end = rooms.len();
                    piece.buckets |= 1 << bucket;
                    piece.bytes += bytes;
                }
                _ => pieces.push(Piece { rooms: begin..rooms.len(), buckets: 1 << bucket, bytes }),
            }
        }
        pieces.sort_by_key(|piece| Reverse(piece.bytes));
        Self { rooms, pieces, bytes_max }
    }

    /// Number of pieces, at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is always a piece")]
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The rooms of a piece.
    #[must_use]
    pub fn rooms(&self, piece: usize) -> &[(Arc<str>, i32)] {
        &self.rooms[self.pieces[piece].rooms.clone()]
    }

    /// The buckets of a piece, as a bit set. All rooms of these buckets are in the piece.
    #[must_use]
    pub fn buckets(&self, piece: usize) -> u64 {
        self.pieces[piece].buckets
    }

    /// Bytes of the longest piece, if it exceeds the limit of a request: the rooms of one bucket.
    pub(super) fn beyond(&self) -> Option<usize> {
        Some(self.pieces[0].bytes).filter(|bytes| *bytes > self.bytes_max)
    }

    /// The rooms with members on other servers. `all` has the members of each room on all servers. It may be older than
    /// our own count, so the difference is clamped at zero.
    #[must_use]
    pub fn elsewhere(
        &self,
        all: impl IntoIterator<Item = (String, i32)>,
        shards: u16,
    ) -> RoomsByHome {
        let mut all = all.into_iter().peekable();
        let mut homes: RoomsByHome = (0..shards).map(|_| Vec::new()).collect();
        if all.peek().is_none() {
            return homes;
        }
        let here: HashMap<&str, i32> =
            self.rooms.iter().map(|(room, online)| (&**room, *online)).collect();
        for (room, online) in all {
            let own = here.get(&*room).copied().unwrap_or(0);
            if let Ok(others @ 1..) = u32::try_from(online.saturating_sub(own)) {
                let home = home_of_room(&room, shards);
                homes[usize::from(home.0)].push((room.into(), others));
            }
        }
        homes
    }
}

/// The field of goim's logic in which a room is stored.
fn bucket_of(room: &str) -> usize {
    cityhasher::hash::<u32>(room) as usize % BUCKETS
}

/// Upper bound of the bytes of an entry of a protobuf map from texts to positive numbers.
fn entry_bytes(room: &str, online: i32) -> usize {
    let varint = |number: usize| (number.max(1).ilog2() as usize) / 7 + 1;
    let number = usize::try_from(online).map_or(10, varint);
    let entry = 1 + varint(room.len()) + room.len() + 1 + number;
    1 + varint(entry) + entry
}

#[cfg(test)]
mod city_hash;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use comet_core::ShardId;

    use super::*;

    fn named(rooms: impl IntoIterator<Item = String>) -> Vec<(Arc<str>, u32)> {
        (1..).zip(rooms).map(|(online, room)| (Arc::from(room), online)).collect()
    }

    #[test]
    fn the_count_of_other_hosts_excludes_our_own_and_is_never_negative() {
        let here = [("both", 2), ("stale", 9), ("odd", u32::MAX)];
        let here = here.map(|(room, online)| (Arc::from(room), online));
        let all = [("both", 5), ("stale", 4), ("there", 1), ("none", 0), ("odd", i32::MIN)];
        for shards in [1, 3] {
            let all = all.map(|(room, online)| (room.to_owned(), online));
            let homes = RoomPieces::cut(here.to_vec(), None).elsewhere(all, shards);
            assert_eq!(homes.len(), usize::from(shards));
            let mut rooms = Vec::new();
            for (shard, home) in (0..).zip(homes) {
                for (room, others) in home {
                    assert_eq!(home_of_room(&room, shards), ShardId(shard));
                    rooms.push((room.to_string(), others));
                }
            }
            rooms.sort();
            assert_eq!(rooms, [("both".to_owned(), 3), ("there".to_owned(), 1)]);
        }
    }

    /// Pieces fit, contain whole buckets, and together have all rooms.
    #[test]
    fn rooms_are_cut_by_bytes_between_buckets() {
        for (count, bytes, most) in [(0, 20, 1), (1_000, 20, 1), (60_000, 200, 4), (300_000, 30, 3)]
        {
            let all = named((0..count).map(|at| format!("{at:0bytes$}")));
            let pieces = RoomPieces::cut(all.clone(), None);
            let expected = usize::from(count * (bytes + 8) > PIECE_MAX) * (most - 1) + 1;
            assert_eq!(pieces.len(), expected, "{count} rooms");
            let (mut seen, mut rooms) = (0_u64, BTreeMap::new());
            for piece in 0..pieces.len() {
                let buckets = pieces.buckets(piece);
                assert_eq!(seen & buckets, 0, "a bucket is in one piece");
                seen |= buckets;
                let of_piece = pieces.rooms(piece);
                let bytes: usize =
                    of_piece.iter().map(|(room, online)| entry_bytes(room, *online)).sum();
                assert!(bytes <= PIECE_MAX, "{bytes}");
                for (room, online) in of_piece {
                    assert_ne!(buckets & 1 << bucket_of(room), 0, "{room}");
                    rooms.insert(Arc::clone(room), *online as u32);
                }
            }
            assert_eq!(seen, u64::MAX);
            assert_eq!(rooms, all.into_iter().collect());
            assert_eq!(pieces.beyond(), None);
        }
    }

    #[test]
    fn a_bucket_that_does_not_fit_is_a_piece_of_its_own() {
        let of_bucket = |bucket| {
            let names = (0..).map(|at| format!("{at:0200}"));
            names.filter(move |name| bucket_of(name) == bucket)
        };
        let rooms = of_bucket(7).take(20).chain(of_bucket(8).take(1)).collect::<Vec<_>>();
        let pieces = RoomPieces::cut_by(4_000, named(rooms));
        assert_eq!((pieces.len(), pieces.buckets(0)), (3, 1 << 7));
        assert!(pieces.beyond().is_some_and(|bytes| bytes > 4_000));
        assert_eq!(pieces.rooms(0).len(), 20);
    }
}
