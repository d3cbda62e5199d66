//! Bytes of incomplete messages, kept in the pieces in which they arrived. Short pieces are joined: a frame of one byte
//! has as much overhead as a long one. So the memory in use is close to the bytes counted.

use std::collections::VecDeque;
use std::mem;

use axum::body::Bytes;

/// Pieces shorter than this are joined with their neighbours. A longer piece may keep a buffer of the HTTP library that
/// is a few times as long.
const SHORT: usize = 1 << 10;

/// Joined pieces have at most so many bytes.
const JOINED_MAX: usize = 4 << 10;

/// See the module.
#[derive(Default)]
pub(crate) struct Pieces {
    pieces: VecDeque<Bytes>,
    /// Short pieces that follow `pieces`, joined.
    joined: Vec<u8>,
    len: usize,
}

impl Pieces {
    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        // Most messages come in one piece, which needs no copy.
        let is_kept = bytes.len() >= SHORT || self.is_empty();
        self.len += bytes.len();
        if is_kept || self.joined.len() + bytes.len() > JOINED_MAX {
            self.end_joined();
        }
        if is_kept {
            self.pieces.push_back(bytes);
        } else {
            self.joined.extend_from_slice(&bytes);
        }
    }

    /// The first `N` bytes, if there are as many.
    pub(crate) fn first<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = self.pieces.iter().flatten().chain(&self.joined);
        let mut first = [0; N];
        for byte in &mut first {
            *byte = *bytes.next()?;
        }
        Some(first)
    }

    /// Moves the first `length` bytes to the end of `to`. At least as many must be there.
    pub(crate) fn move_to(&mut self, mut length: usize, to: &mut VecDeque<Bytes>) {
        self.end_joined();
        self.len -= length;
        while length > 0 {
            let mut piece = self.pieces.pop_front().expect("so many bytes are there");
            if piece.len() > length {
                self.pieces.push_front(piece.split_off(length));
            }
            length -= piece.len();
            to.push_back(piece);
        }
    }

    fn end_joined(&mut self) {
        if !self.joined.is_empty() {
            self.pieces.push_back(mem::take(&mut self.joined).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_pieces_are_joined() {
        let mut pieces = Pieces::default();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|index| index as u8).collect();
        for byte in &sent {
            pieces.push(Bytes::copy_from_slice(&[*byte]));
        }
        assert_eq!((pieces.len(), pieces.first()), (sent.len(), Some([0, 1, 2, 3, 4])));
        assert!(pieces.pieces.len() < 1_000, "{}", pieces.pieces.len());
        let mut moved = VecDeque::new();
        pieces.move_to(sent.len() - 1, &mut moved);
        assert_eq!((pieces.len(), pieces.first()), (1, Some([sent[sent.len() - 1]])));
        pieces.move_to(1, &mut moved);
        assert!(pieces.is_empty());
        assert_eq!(Vec::from(moved).concat(), sent);
    }

    #[test]
    fn pieces_keep_their_order() {
        let mut pieces = Pieces::default();
        let mut sent = Vec::new();
        for (index, length) in
            [1, 2, 5_000, 3, SHORT - 1, SHORT, 4_095, 2, 0, 1].into_iter().enumerate()
        {
            let piece = vec![index as u8; length];
            sent.extend_from_slice(&piece);
            pieces.push(piece.into());
        }
        assert_eq!((pieces.len(), pieces.first()), (sent.len(), Some([0, 1, 1, 2])));
        let mut moved = VecDeque::new();
        for length in [2, 1, 0, 5_001] {
            pieces.move_to(length, &mut moved);
        }
        let rest = pieces.len();
        assert_eq!(pieces.first::<9_999>(), None);
        pieces.move_to(rest, &mut moved);
        assert_eq!(Vec::from(moved).concat(), sent);
    }
}
