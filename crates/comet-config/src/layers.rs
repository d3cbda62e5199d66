//! From text to [`RawConfig`]: the file, then every `--set`, then the flags; the last one wins.
//!
//! serde stops at the first mistake of a document. So every key is first read in a document of its
//! own, which tells all the mistakes; the keys that passed are then read together.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::Source;
use crate::mistakes::{Origin, Report};
use crate::raw::RawConfig;

type Name<'a> = Spanned<Cow<'a, str>>;
type Value<'a> = Spanned<DeValue<'a>>;

/// Reads all layers of `source`.
pub(crate) fn read<'a>(source: &Source<'a>) -> (RawConfig, Report<'a>) {
    let mut layers = Layers { merged: DeTable::new(), report: Report::new(source.file) };
    if let Some((_, text)) = source.file {
        layers.add_file(text);
    }
    for (index, set) in source.sets.iter().enumerate() {
        layers.add_set(index, set);
    }
    for (flag, key, list) in [
        ("--cores", "cores", source.cores),
        ("--control-cores", "control_cores", source.control_cores),
    ] {
        if let Some(list) = list {
            let value = written(DeValue::String(list.into()));
            layers.add(Origin::Flag(flag), written("server".into()), written(key.into()), value);
        }
    }
    let raw = deserialize(layers.merged).expect("every key of it was read before");
    (raw, layers.report)
}

struct Layers<'a> {
    /// Section by section, the keys that were read so far.
    merged: DeTable<'a>,
    report: Report<'a>,
}

impl<'a> Layers<'a> {
    fn add_file(&mut self, text: &'a str) {
        let (document, faults) = DeTable::parse_recoverable(text);
        for fault in faults {
            let offset = fault.span().map_or(0, |span| span.start);
            self.report.add_unread(offset, &format!("not TOML: {}", fault.message()));
        }
        for (section, contents) in document.into_inner() {
            if !self.is_section(Origin::File, &section) {
                continue;
            }
            let span = contents.span();
            let DeValue::Table(keys) = contents.into_inner() else {
                let name = section.get_ref();
                let text = format!("{name}: this is a section: write [{name}] and its keys below");
                self.report.add(Origin::File, span.start, name, &text);
                continue;
            };
            for (key, value) in keys {
                self.add(Origin::File, section.clone(), key, value);
            }
        }
    }

    fn add_set(&mut self, index: usize, set: &'a str) {
        let origin = Origin::Set(index);
        let parts = set.split_once('=').and_then(|(name, value)| {
            let (section, key) = name.trim().split_once('.')?;
            (is_bare(section) && is_bare(key)).then_some((section, key, value.trim()))
        });
        let Some((section, key, text)) = parts else {
            self.report.add(origin, 0, "", &format!("{set}: write it as section.key=value"));
            return;
        };
        let section = written(section.into());
        if !self.is_section(origin, &section) {
            return;
        }
        match DeValue::parse(text) {
            Ok(value) => self.add(origin, section, written(key.into()), value),
            Err(fault) => {
                let name = format!("{section}.{key}");
                let text = format!(
                    "{name}: {text} is not a TOML value ({}): text needs quotes, \
                     --set '{name}=\"{}\"'",
                    fault.message(),
                    text.trim_matches('"')
                );
                self.report.add(origin, 0, &name, &text);
            }
        }
    }

    /// Whether there is such a section. If not, that is one mistake, whatever is in it.
    fn is_section(&mut self, origin: Origin, section: &Name<'a>) -> bool {
        let empty = written(DeValue::Table(DeTable::new()));
        let Err(fault) = deserialize(DeTable::from_iter([(section.clone(), empty)])) else {
            return true;
        };
        self.refuse(origin, section.get_ref(), &section.span(), &fault, "section");
        false
    }

    /// Takes one key over, if it can be read.
    fn add(&mut self, origin: Origin, section: Name<'a>, key: Name<'a>, value: Value<'a>) {
        let name = format!("{}.{}", section.get_ref(), key.get_ref());
        let alone = DeTable::from_iter([(key.clone(), value.clone())]);
        let alone = DeTable::from_iter([(section.clone(), written(DeValue::Table(alone)))]);
        if let Err(fault) = deserialize(alone) {
            self.refuse(origin, &name, &value.span(), &fault, "key");
            return;
        }
        self.report.found(name, origin, value.span());
        let keys = self.merged.entry(section).or_insert(written(DeValue::Table(DeTable::new())));
        if let DeValue::Table(keys) = keys.get_mut() {
            keys.insert(key, value);
        }
    }

    /// Reports what serde says about `name`; `at` is where it stands, should serde not know.
    fn refuse(
        &mut self,
        origin: Origin,
        name: &str,
        at: &Range<usize>,
        fault: &toml::de::Error,
        kind: &str,
    ) {
        let offset =
            fault.span().filter(|span| *span != NOWHERE).map_or(at.start, |span| span.start);
        // serde speaks of the fields of a struct.
        let what = fault.message().replacen("unknown field", &format!("unknown {kind}"), 1);
        self.report.add(origin, offset, name, &format!("{name}: {what}"));
    }
}

const NOWHERE: Range<usize> = 0..0;

/// `value` as if it had been written in the file, where it was not.
fn written<T>(value: T) -> Spanned<T> {
    Spanned::new(NOWHERE, value)
}

fn deserialize(document: DeTable<'_>) -> Result<RawConfig, toml::de::Error> {
    RawConfig::deserialize(ValueDeserializer::from(written(DeValue::Table(document))))
}

fn is_bare(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
