//! The faults of a run.

use std::collections::BTreeMap;

/// The number of faults of one sort that are shown in full.
const SHOWN: usize = 3;

/// Faults by sort: how many there are, and the first of them.
#[derive(Default)]
pub(super) struct Faults(BTreeMap<&'static str, (u64, Vec<String>)>);

impl Faults {
    pub(super) fn add(&mut self, sort: &'static str, text: impl FnOnce() -> String) {
        let (count, texts) = self.0.entry(sort).or_default();
        *count += 1;
        if texts.len() < SHOWN {
            texts.push(text());
        }
    }

    pub(super) fn into_texts(self) -> Vec<String> {
        let texts = |(sort, (count, texts)): (&str, (u64, Vec<String>))| {
            std::iter::once(format!("{count} {sort}")).chain(texts).collect::<Vec<_>>()
        };
        self.0.into_iter().flat_map(texts).collect()
    }
}
