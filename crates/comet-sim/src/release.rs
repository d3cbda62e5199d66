//! The release of the other process in an upgrade: the next release may write data that this one does not know.

use comet_handover::{Fault, Shard, VERSION};

use crate::driver::FrozenShard;
use crate::rng::Rng;

/// Fields of messages that this release does not know: a number, and bytes.
const UNKNOWN_NUMBER: u32 = 1_000;
const UNKNOWN_BYTES: u32 = 1_001;

/// A name in `required` that this release does not know.
const UNKNOWN_FEATURE: &str = "of_the_next_release";

/// How the other process writes or reads the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Release {
    /// As this release does.
    Same,
    /// Every message has unknown fields that may be ignored, and there is an unknown counter.
    Next,
    /// A shard requires a feature that this release does not know.
    Requiring,
    /// The format has another version.
    Unreadable,
}

impl Release {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        rng.pick(&[
            Self::Same,
            Self::Same,
            Self::Next,
            Self::Next,
            Self::Requiring,
            Self::Unreadable,
        ])
    }

    /// The state of all shards as this release reads it. `None`: it must refuse the state, and does.
    pub(crate) fn pass(
        self,
        rng: &mut Rng,
        offers: &[FrozenShard],
    ) -> Result<Option<Vec<Shard>>, String> {
        let changed = rng.below(offers.len());
        let read = |(at, offer): (usize, &FrozenShard)| match self {
            Self::Same => Shard::decode(&offer.bytes),
            Self::Next => Shard::decode(&of_next_release(&offer.bytes)?),
            _ if at != changed => Shard::decode(&offer.bytes),
            Self::Requiring => {
                let mut shard = Shard::decode(&offer.bytes)?;
                shard.required.push(UNKNOWN_FEATURE.into());
                Shard::decode(&shard.encode())
            }
            Self::Unreadable => {
                let shard = Shard { version: VERSION + 1, ..Shard::decode(&offer.bytes)? };
                Shard::decode(&shard.encode())
            }
        };
        let shards: Result<Vec<_>, _> = offers.iter().enumerate().map(read).collect();
        match (self, shards) {
            (Self::Same | Self::Next, Ok(shards)) => Ok(Some(shards)),
            (Self::Requiring, Err(Fault::Feature(name))) if name == UNKNOWN_FEATURE => Ok(None),
            (Self::Unreadable, Err(Fault::Version(version))) if version == VERSION + 1 => Ok(None),
            (_, shards) => Err(format!("{self:?} ends with {:?}", shards.err())),
        }
    }
}

/// The state as the next release would write it.
fn of_next_release(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut shard = Shard::decode(bytes)?;
    let counters = shard.counters.get_or_insert_default();
    counters.totals.insert("of_the_next_release".into(), 7);
    let mut encoded = Vec::new();
    let mut rest = &shard.encode()[..];
    while let Some((key, behind)) = varint(rest) {
        // The other messages contain fields; names in `required`, which has the tag 2, are text.
        match (key & 7, key >> 3) {
            (2, 3..) => {
                let (length, body) = varint(behind).expect("encoded above");
                let (body, behind) = body.split_at(length as usize);
                let mut body = body.to_vec();
                put_unknown(&mut body);
                put_varint(&mut encoded, key);
                put_varint(&mut encoded, body.len() as u64);
                encoded.extend(body);
                rest = behind;
            }
            (kind, _) => {
                let (value, behind) = varint(behind).expect("encoded above");
                let (text, behind) = behind.split_at(if kind == 2 { value as usize } else { 0 });
                put_varint(&mut encoded, key);
                put_varint(&mut encoded, value);
                encoded.extend(text);
                rest = behind;
            }
        }
    }
    put_unknown(&mut encoded);
    Ok(encoded)
}

/// Adds two unknown fields.
fn put_unknown(message: &mut Vec<u8>) {
    put_varint(message, u64::from(UNKNOWN_NUMBER << 3));
    put_varint(message, 300);
    put_varint(message, u64::from(UNKNOWN_BYTES << 3 | 2));
    put_varint(message, 3);
    message.extend(b"new");
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The number at the front of `bytes`, and the rest.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let value =
        bytes[..length].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, &bytes[length..]))
}
