//! The keys of all files together, and the changes of a newer set.

use std::fmt;

use jsonwebtoken::DecodingKeyKind;

use super::algorithm::Algorithm;
use super::error::JwtError;
use super::keys::{Key, KeyFile};

/// Keys that check tokens, by the file that they are from. Made by [`Jwt::read`](crate::Jwt::read).
pub struct KeySet {
    files: Vec<(String, Vec<Key>)>,
}

/// The change of one file or URL in a newer set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyChange {
    /// The index of the file or URL, in the order of the configuration.
    pub file: usize,
    /// Keys in it.
    pub keys: usize,
    /// Of these, keys that the older set does not have.
    pub new: usize,
}

impl KeySet {
    pub(super) fn read(files: &[KeyFile], allowed: &[Algorithm]) -> Result<Self, JwtError> {
        let read = |file: &KeyFile| Ok((file.name.clone(), file.read(allowed)?));
        Ok(Self { files: files.iter().map(read).collect::<Result<_, _>>()? })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.files.iter().flat_map(|(_, keys)| keys)
    }

    /// The files whose keys differ from those in `older`.
    pub(super) fn changes_from(&self, older: &Self) -> Vec<KeyChange> {
        let all: Vec<&Key> = older.iter().collect();
        let mut changes = Vec::new();
        for (file, (name, keys)) in self.files.iter().enumerate() {
            let before = older.files.iter().find(|(before, _)| before == name);
            if before.is_none_or(|(_, before)| !is_same_list(before, keys)) {
                let is_new = |key: &&Key| !all.iter().any(|before| same(before, key));
                let new = keys.iter().filter(is_new).count();
                changes.push(KeyChange { file, keys: keys.len(), new });
            }
        }
        changes
    }
}

/// The change from `older` to `newer`, the keys of one file or URL.
pub(super) fn change(file: usize, older: &[Key], newer: &[Key]) -> Option<KeyChange> {
    let is_new = |key: &&Key| !older.iter().any(|before| same(before, key));
    let new = newer.iter().filter(is_new).count();
    (!is_same_list(older, newer)).then_some(KeyChange { file, keys: newer.len(), new })
}

fn is_same_list(one: &[Key], other: &[Key]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, new, .. } = self;
        let s = if *keys == 1 { "" } else { "s" };
        match new {
            0 => write!(f, "{keys} key{s}, none of them new"),
            1 => write!(f, "{keys} key{s}, of which 1 is new"),
            _ => write!(f, "{keys} key{s}, of which {new} are new"),
        }
    }
}

/// Leaves out the keys, which may be secrets.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.iter().map(|key| (key.algorithm, &key.id));
        f.debug_list().entries(keys).finish()
    }
}

/// Whether both check the same tokens.
fn same(one: &Key, other: &Key) -> bool {
    let is_same_key = match (one.key.kind(), other.key.kind()) {
        (DecodingKeyKind::SecretOrDer(one), DecodingKeyKind::SecretOrDer(other)) => one == other,
        (
            DecodingKeyKind::RsaModulusExponent { n, e },
            DecodingKeyKind::RsaModulusExponent { n: other_n, e: other_e },
        ) => n == other_n && e == other_e,
        _ => false,
    };
    is_same_key && one.algorithm == other.algorithm && one.id == other.id
}
