//! Ids of [server-sent events](crate::sse): the positions of all rooms of a stream that keep a history.
//!
//! When a browser reconnects, it sends only the last id that it has read. So each id contains the positions of all
//! rooms. It is `1` and, in base64 for URLs without padding (RFC 4648 5), for each room: a hash of its name (FNV-1a, 4
//! bytes), the epoch (8 bytes, both big-endian), and the offset (7 bits a byte, the lowest first, the highest bit set
//! in all bytes but the last). The request names the rooms, so the hash only has to distinguish these. If two hashes
//! are equal, the epochs differ.

use crate::rooms::Position;

/// Bytes of an id before base64. Some 70 rooms fit; the rest is left out.
const ID_BYTES_MAX: usize = 1_024;
/// Longest id, in characters.
const ID_CHARS_MAX: usize = 1 + (ID_BYTES_MAX * 4).div_ceil(3);
/// The form of the id.
const FORM: u8 = b'1';
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// An id that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventId(Vec<(u32, Position)>);

impl EventId {
    /// Reads an id. `None`: it is no id of this server.
    #[must_use]
    pub fn read(id: &[u8]) -> Option<Self> {
        let (&FORM, digits) = id.split_first()? else { return None };
        if id.len() > ID_CHARS_MAX || digits.is_empty() {
            return None;
        }
        let bytes = from_base64(digits)?;
        let (mut rest, mut positions) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let (&hash, after) = rest.split_first_chunk()?;
            let (&epoch, after) = after.split_first_chunk()?;
            let (offset, after) = read_number(after)?;
            let (hash, epoch) = (u32::from_be_bytes(hash), u64::from_be_bytes(epoch));
            positions.push((hash, Position { epoch, offset }));
            rest = after;
        }
        Some(Self(positions))
    }

    /// The position of `room`, if the id has one.
    #[must_use]
    pub fn position(&self, room: &str) -> Option<Position> {
        let hash = hash(room);
        self.0.iter().find(|(of, _)| *of == hash).map(|&(_, position)| position)
    }
}

/// The lines that tell a client the id of `positions`, without an event. `None`: there are none.
#[must_use]
pub fn id_block<'a>(positions: impl IntoIterator<Item = (&'a str, Position)>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for (room, Position { epoch, offset }) in positions {
        let before = bytes.len();
        bytes.extend(hash(room).to_be_bytes());
        bytes.extend(epoch.to_be_bytes());
        put_number(&mut bytes, offset);
        if bytes.len() > ID_BYTES_MAX {
            bytes.truncate(before);
            break;
        }
    }
    if bytes.is_empty() {
        return None;
    }
    let mut block = b"id: ".to_vec();
    block.push(FORM);
    put_base64(&mut block, &bytes);
    block.extend(b"\n\n");
    Some(block)
}

/// FNV-1a. All servers must use the same hash.
fn hash(room: &str) -> u32 {
    room.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A number of 64 bits in as few bytes as it needs, and what follows.
fn read_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let (number, rest) = bytes.split_at(length);
    let is_short = length == 1 || number[length - 1] != 0;
    if !is_short || length > 10 || (length == 10 && number[9] > 1) {
        return None;
    }
    let value = number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, rest))
}

fn put_base64(text: &mut Vec<u8>, bytes: &[u8]) {
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = |at: u32| DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
        text.extend((0..=group.len() as u32).map(digit));
    }
}

/// `None`: a character outside the alphabet, or surplus bits.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0;
        for digit in group {
            bits = bits << 6 | DIGITS.iter().position(|known| known == digit)? as u32;
        }
        bits <<= 6 * (4 - group.len());
        let [_, decoded @ ..] = u32::to_be_bytes(bits);
        let (whole, rest) = decoded.split_at(group.len() - 1);
        if whole.is_empty() || rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend(whole);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(positions: &[(&str, u64, u64)]) -> Vec<u8> {
        let positions =
            positions.iter().map(|&(room, epoch, offset)| (room, Position { epoch, offset }));
        let block = id_block(positions).unwrap();
        let id = block.strip_prefix(b"id: ").unwrap().strip_suffix(b"\n\n").unwrap();
        id.to_vec()
    }

    #[test]
    fn an_id_has_the_positions_of_all_rooms() {
        assert_eq!(id_block([]), None);
        // The example of docs/PROTOCOL.md.
        let one = id(&[("live://1", 0x0123_4567_89ab_cdef, 300)]);
        assert_eq!(String::from_utf8(one).unwrap(), EXAMPLE);
        let rooms = [("a", 7, 0), ("b", u64::MAX, u64::MAX), ("", 0, 127), ("c", 1, 1 << 63)];
        for count in 1..=rooms.len() {
            let read = EventId::read(&id(&rooms[..count])).unwrap();
            for (at, &(room, epoch, offset)) in rooms.iter().enumerate() {
                let expected = (at < count).then_some(Position { epoch, offset });
                assert_eq!(read.position(room), expected, "{room} of {count}");
            }
        }
    }

    const EXAMPLE: &str = "18IMahAEjRWeJq83vrAI";

    #[test]
    fn an_event_id_is_bounded_and_leaves_out_rooms_beyond_it() {
        let names: Vec<String> = (0..200).map(|number| format!("room{number}")).collect();
        let rooms: Vec<_> = names.iter().map(|name| (&**name, 1, 1_000_000)).collect();
        let long = id(&rooms);
        assert!(long.len() <= ID_CHARS_MAX, "{}", long.len());
        let read = EventId::read(&long).unwrap();
        let known = names.iter().filter(|name| read.position(name).is_some()).count();
        assert_eq!(known, ID_BYTES_MAX / 15);
    }

    #[test]
    fn nonsense_is_no_id() {
        let whole = id(&[("a", 7, 300)]);
        assert!(EventId::read(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(EventId::read(&whole[..length]), None, "{length}");
        }
        let long = [b"1", &*vec![b'A'; ID_CHARS_MAX]].concat();
        // An offset of more than 64 bits, and one that is longer than it has to be.
        let mut wide = b"1".to_vec();
        put_base64(&mut wide, &[[0xff; 21].as_slice(), &[2]].concat());
        let mut padded = b"1".to_vec();
        put_base64(&mut padded, &[[0; 12].as_slice(), &[0x80, 0]].concat());
        for id in [b"2".as_slice(), b"1$$$", "1\u{e4}".as_bytes(), &long, &wide, &padded] {
            assert_eq!(EventId::read(id), None, "{id:?}");
        }
    }
}
