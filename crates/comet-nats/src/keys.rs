//! Keys that have an owner on a host, as lines of text: first the clock of the host and when it started, then for each key
//! the time at which its owner's token arrived, and the key as a token. All times are milliseconds since 1970.
//!
//! ```text
//! 1790000000000 1789990000000
//! 1789999999990 key-1
//! ```

use std::fmt::Write as _;
use std::str;

use comet_hub::cluster::Clock;
use percent_encoding::percent_decode_str;

use crate::subject::token;

/// Most keys in one message; a message with more is not from comet.
const KEYS_MAX: usize = 4_096;

/// A key, and when its owner's token arrived.
type Key = (Box<str>, u64);

pub(crate) fn encode(clock: Clock, keys: &[Key]) -> Vec<u8> {
    let mut text = format!("{} {}\n", clock.now, clock.started);
    for (key, at) in keys {
        writeln!(text, "{at} {}", token(key)).expect("a string takes all");
    }
    text.into_bytes()
}

/// `None`: it is not such a message.
pub(crate) fn decode(text: &[u8]) -> Option<(Clock, Vec<Key>)> {
    let mut lines = str::from_utf8(text).ok()?.lines();
    let (now, started) = lines.next()?.split_once(' ')?;
    let clock = Clock { now: now.parse().ok()?, started: started.parse().ok()? };
    let mut keys = Vec::new();
    for line in lines {
        let (at, key) = line.split_once(' ')?;
        let key = percent_decode_str(key).decode_utf8().ok()?;
        if keys.len() >= KEYS_MAX {
            return None;
        }
        keys.push((key.into(), at.parse().ok()?));
    }
    Some((clock, keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_from_their_lines() {
        let clock = Clock { now: 1_790_000_000_000, started: 7 };
        let keys: Vec<(Box<str>, u64)> = vec![("a b\nc".into(), 1), ("ä%".into(), u64::MAX)];
        assert_eq!(decode(&encode(clock, &keys)), Some((clock, keys)));
        assert_eq!(decode(&encode(clock, &[])), Some((clock, Vec::new())));
        for bad in ["", "1", "1 x", "1 2\n3", "1 2\nx key", "1 2\n-1 key", "1 2\n1 %C3"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad:?}");
        }
        let many: Vec<(Box<str>, u64)> = vec![("k".into(), 1); KEYS_MAX + 1];
        assert_eq!(decode(&encode(clock, &many)), None);
    }
}
