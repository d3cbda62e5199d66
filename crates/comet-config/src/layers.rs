//! Merges the layers into one value per key: the file, then the environment, then every `--set`, then the flags. The
//! last one wins.
//!
//! serde stops at the first mistake of a document. So every value is read separately, in order to report all mistakes.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::declare::{Key, Section};
use crate::environment::{Variable, variable};
use crate::keys::SECTIONS;
use crate::kinds::Bare;
use crate::mistakes::{Origin, Report};
use crate::reader::Written;
use crate::secrets::{self, HIDDEN};
use crate::source::Source;

type Name<'a> = Spanned<Cow<'a, str>>;
type Value<'a> = Spanned<DeValue<'a>>;

/// Reads all layers of `source`.
pub(crate) fn read<'a>(source: &Source<'a>) -> (Written<'a>, Report<'a>) {
    let mut layers =
        Layers { source: *source, merged: Written::new(), report: Report::new(source.file) };
    if let Some((_, text)) = source.file {
        layers.add_file(text);
    }
    for (name, value) in source.environment {
        if let Some(name) = name.to_str() {
            layers.add_variable(name, value);
        }
    }
    for (index, set) in source.sets.iter().enumerate() {
        layers.add_set(index, set);
    }
    for (flag, key, list) in [
        ("--cores", "server.cores", source.cores),
        ("--control-cores", "server.control_cores", source.control_cores),
    ] {
        if let Some(list) = list {
            layers.add_flag(flag, key, list);
        }
    }
    (layers.merged, layers.report)
}

struct Layers<'a> {
    source: Source<'a>,
    merged: Written<'a>,
    report: Report<'a>,
}

impl<'a> Layers<'a> {
    fn add_file(&mut self, text: &'a str) {
        let (document, faults) = DeTable::parse_recoverable(text);
        for fault in faults {
            let offset = fault.span().map_or(0, |span| span.start);
            self.report.add_unread(offset, &format!("not TOML: {}", fault.message()));
        }
        for (name, contents) in document.into_inner() {
            let Some(section) = self.section(Origin::File, &name) else { continue };
            let span = contents.span();
            if let Some(key) = section.tables() {
                match contents.get_ref() {
                    DeValue::Array(_) => self.add(Origin::File, key, contents),
                    _ => {
                        let name = section.name;
                        let text = format!("{name}: write [[{name}]] for each, and its keys below");
                        self.report.add(Origin::File, span.start, name, &text);
                    }
                }
                continue;
            }
            let DeValue::Table(keys) = contents.into_inner() else {
                let name = section.name;
                let text = format!("{name}: this is a section: write [{name}] and its keys below");
                self.report.add(Origin::File, span.start, name, &text);
                continue;
            };
            for (name, value) in keys {
                if let Some(key) = self.key(Origin::File, section, &name) {
                    self.add(Origin::File, key, value);
                }
            }
        }
    }

    fn add_variable(&mut self, name: &'a str, value: &'a OsStr) {
        let origin = Origin::Variable(name);
        let key = match variable(name, value) {
            Variable::Sets(key) => key,
            Variable::Mistaken(closest) => {
                let text = format!("sets no key: did you mean {closest}?");
                return self.report.add(origin, 0, name, &text);
            }
            Variable::Other => return,
        };
        let Some(text) = value.to_str() else {
            let text = format!("{}: the value is not UTF-8", key.path);
            return self.report.add(origin, 0, key.path, &text);
        };
        let is_text = match (key.facts)().bare {
            Bare::Toml => false,
            Bare::NumberOrText if text.bytes().all(|b| b.is_ascii_digit()) => false,
            Bare::Text | Bare::NumberOrText => !text.starts_with(['"', '\'', '[', '{']),
        };
        let value = if is_text {
            Ok(unplaced(DeValue::String(text.into())))
        } else {
            DeValue::parse(text.trim())
        };
        match value {
            Ok(value) => self.add(origin, key, value),
            Err(fault) => {
                let (name, text) = (key.path, if key.is_secret() { HIDDEN } else { text });
                let text = format!(
                    "{name}: {text} is not a TOML value ({}); the default is {}",
                    fault.message(),
                    key.default
                );
                self.report.add(origin, 0, name, &text);
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
            let shown = without_value(set);
            self.report.add(origin, 0, "", &format!("{shown}: write it as section.key=value"));
            return;
        };
        let Some(section) = self.section(origin, &unplaced(section.into())) else { return };
        let Some(key) = self.key(origin, section, &unplaced(key.into())) else { return };
        match DeValue::parse(text) {
            Ok(value) => self.add(origin, key, value),
            Err(fault) => {
                let (name, text) = (key.path, if key.is_secret() { HIDDEN } else { text });
                let text = format!(
                    "{name}: {text} is not a TOML value ({}): text needs quotes, \
                     --set '{name}=\"{}\"'",
                    fault.message(),
                    text.trim_matches('"')
                );
                self.report.add(origin, 0, name, &text);
            }
        }
    }

    fn add_flag(&mut self, flag: &'static str, path: &str, text: &'a str) {
        let mut keys = SECTIONS.iter().flat_map(|section| section.keys);
        let key = keys.find(|key| key.path == path).expect("flags are for keys");
        self.add(Origin::Flag(flag), key, unplaced(DeValue::String(text.into())));
    }

    /// The section of this name. An unknown section is one mistake, whatever its number of keys.
    fn section(&mut self, origin: Origin<'a>, name: &Name<'a>) -> Option<&'static Section> {
        let found = SECTIONS.iter().find(|section| section.name == name.get_ref());
        if found.is_none() {
            let sections = SECTIONS.iter().map(|section| section.name);
            self.unknown(origin, name, "section", name.get_ref(), sections);
        }
        found
    }

    /// The key of this name.
    fn key(
        &mut self,
        origin: Origin<'a>,
        section: &'static Section,
        name: &Name<'a>,
    ) -> Option<&'static Key> {
        let found = section.keys.iter().find(|key| key.name == name.get_ref());
        if found.is_none() {
            let path = format!("{}.{}", section.name, name.get_ref());
            let keys = section.keys.iter().map(|key| key.name);
            self.unknown(origin, name, "key", &path, keys);
        }
        found
    }

    fn unknown(
        &mut self,
        origin: Origin<'a>,
        name: &Name<'a>,
        kind: &str,
        path: &str,
        known: impl Iterator<Item = &'static str>,
    ) {
        let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
        let expected = match known.as_slice() {
            [one, other] => format!("{one} or {other}"),
            known => format!("one of {}", known.join(", ")),
        };
        let text = format!("{path}: unknown {kind} `{}`, expected {expected}", name.get_ref());
        self.report.add(origin, name.span().start, path, &text);
    }

    /// Adopts a value, if it has the shape of its key.
    fn add(&mut self, origin: Origin<'a>, key: &'static Key, mut value: Value<'a>) {
        if key.is_secret() {
            if let DeValue::String(text) = value.get_ref() {
                self.report.hide(key.path, text, "\"***\"".to_owned());
            }
            if !self.read_files(origin, key, &mut value) {
                return;
            }
        }
        let span = value.span();
        if let Err(fault) = (key.shape)(value.clone()) {
            let at = fault.span().filter(|span| *span != NOWHERE).unwrap_or(span);
            let fault = match key.is_secret() {
                true => without_found(fault.message()),
                false => fault.message().into(),
            };
            self.report.add(origin, at.start, key.path, &format!("{}: {fault}", key.path));
            return;
        }
        self.report.found(key.path, origin, span);
        self.merged.insert(key.path, value);
    }

    /// Reads the files that a secret names. False if one cannot be read.
    fn read_files(&mut self, origin: Origin<'a>, key: &'static Key, value: &mut Value<'a>) -> bool {
        let read = self.source.read_secret;
        secrets::read_files(value, |index, at, path| {
            let text = match read {
                Some(read) => read(Path::new(path)).map_err(|error| error.to_string()),
                None => Err("no files are read here".to_owned()),
            };
            match text {
                Ok(text) => {
                    let text = text.strip_suffix('\n').unwrap_or(&text);
                    let text = text.strip_suffix('\r').unwrap_or(text);
                    self.report.hide(key.path, text, format!("the text of {path}"));
                    Some(text.to_owned())
                }
                Err(error) => {
                    let index = index.map_or(String::new(), |index| format!("[{index}]"));
                    let text = format!("{}{index}: cannot read {path}: {error}", key.path);
                    self.report.add(origin, at, key.path, &text);
                    None
                }
            }
        })
    }
}

const NOWHERE: Range<usize> = 0..0;

/// A value from another layer, in the type of values from the file.
fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(NOWHERE, value)
}

fn is_bare(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_bare_char)
}

fn is_bare_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// A `--set` that names no key, without what may be a secret.
fn without_value(set: &str) -> String {
    let is_name = |c: char| is_bare_char(c) || c == '.';
    let rest = set.trim_start_matches(is_name);
    let name = &set[..set.len() - rest.len()];
    match rest.chars().next() {
        None => name.to_owned(),
        Some('=') => format!("{name}={HIDDEN}"),
        Some(_) => format!("{name}{HIDDEN}"),
    }
}

/// What serde says of a value of another type, without the value: "invalid type: integer `5`, expected a string".
fn without_found(message: &str) -> Cow<'_, str> {
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.into() };
    match found.split_once(['"', '`']) {
        Some((found, _)) => format!("{}, expected {expected}", found.trim_end()).into(),
        None => message.into(),
    }
}
