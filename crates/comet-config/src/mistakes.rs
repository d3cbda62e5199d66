//! The mistakes in a configuration, and their places.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use crate::secrets::without_passwords;

/// Most mistakes that are described; of further ones only the number is given. Each description searches the whole
/// file.
const DESCRIBED: usize = 100;

/// All mistakes in a configuration. Its `Display` is one line for each: `comet.toml:12:9: tcp.bind[0]: "0.0.0.0:80800"
/// is not an address: use HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistakes(Vec<String>);

impl Mistakes {
    /// The mistakes, each on one line.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// The place where a value was written. The order is that in which layers override each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Origin<'a> {
    /// Nowhere: it is the default.
    Default,
    File,
    /// The environment variable of this name.
    Variable(&'a str),
    /// The `--set` with this index.
    Set(usize),
    /// Another flag.
    Flag(&'static str),
}

/// Collects mistakes, and knows the place of each value.
pub(crate) struct Report<'a> {
    file: Option<(&'a Path, &'a str)>,
    /// The place of the value of each `section.key`, unless it is the default.
    places: BTreeMap<&'static str, (Origin<'a>, Range<usize>)>,
    /// Text that mistakes must not show: the key, the quoted text, and its replacement.
    secrets: Vec<(&'static str, String, String)>,
    /// A part of the file is not TOML. A key that seems to be missing may be in that part.
    is_partly_read: bool,
    mistakes: Vec<Mistake<'a>>,
    /// Number of mistakes beyond [`DESCRIBED`].
    more: usize,
}

struct Mistake<'a> {
    origin: Origin<'a>,
    /// Byte offset into the file; 0 for other origins.
    offset: usize,
    /// `section.key`, without an index.
    key: String,
    line: String,
}

impl<'a> Report<'a> {
    pub(crate) fn new(file: Option<(&'a Path, &'a str)>) -> Self {
        Self {
            file,
            places: BTreeMap::new(),
            secrets: Vec::new(),
            is_partly_read: false,
            mistakes: Vec::new(),
            more: 0,
        }
    }

    /// Notes where the value of `key` was written; a later place overrides an earlier one.
    pub(crate) fn found(&mut self, key: &'static str, origin: Origin<'a>, at: Range<usize>) {
        self.places.insert(key, (origin, at));
    }

    /// Makes mistakes in `key` show `instead` where they would quote `text`.
    pub(crate) fn hide(&mut self, key: &'static str, text: &str, instead: String) {
        self.secrets.push((key, format!("{text:?}"), instead));
    }

    pub(crate) fn is_default(&self, key: &str) -> bool {
        !self.places.contains_key(key)
    }

    /// Notes a mistake in the value of `key`.
    pub(crate) fn value(&mut self, key: &str, what: &str) {
        let (origin, at) = self.places.get(key).cloned().unwrap_or((Origin::Default, 0..0));
        self.add(origin, at.start, key, &format!("{key}: {what}"));
    }

    /// Notes a mistake in one element of the list `key`.
    pub(crate) fn element(&mut self, key: &str, index: usize, at: &Range<usize>, what: &str) {
        let origin = self.places.get(key).map_or(Origin::Default, |(origin, _)| *origin);
        self.add(origin, at.start, key, &format!("{key}[{index}]: {what}"));
    }

    /// Notes a mistake of `origin`; `text` is the whole line without the place.
    pub(crate) fn add(&mut self, origin: Origin<'a>, offset: usize, key: &str, text: &str) {
        if self.mistakes.len() == DESCRIBED {
            self.more += 1;
            return;
        }
        let mut text = text.to_owned();
        for (_, secret, instead) in self.secrets.iter().filter(|(of, ..)| *of == key) {
            text = text.replace(secret, instead);
        }
        // Also hides a password at a place where none belongs.
        let text = without_passwords(&text);
        let line = match (origin, self.file) {
            (Origin::File, Some((path, contents))) => {
                let (line, column) = position(contents, offset);
                format!("{}:{line}:{column}: {text}", path.display())
            }
            (Origin::Variable(name), _) => format!("{name}: {text}"),
            (Origin::Set(_), _) => format!("--set {text}"),
            // A flag shows its own name, not its key: `--cores 99: this machine has CPUs 0-1`.
            (Origin::Flag(flag), _) => {
                let what = text.strip_prefix(key).and_then(|rest| rest.strip_prefix(": "));
                format!("{flag} {}", what.unwrap_or(&text))
            }
            (Origin::Default | Origin::File, _) => text,
        };
        // If the text is not TOML, the parser guesses its value, so only one mistake is reported for a place.
        let is_same = |other: &Mistake<'_>| (other.origin, other.offset) == (Origin::File, offset);
        if origin == Origin::File && self.mistakes.iter().any(is_same) {
            return;
        }
        let offset = if origin == Origin::File { offset } else { 0 };
        // One line for each mistake, whatever the text contains.
        let line = line.replace(|c: char| c.is_control(), " ");
        self.mistakes.push(Mistake { origin, offset, key: key.to_owned(), line });
    }

    /// Notes a part of the file that is not TOML.
    pub(crate) fn add_unread(&mut self, offset: usize, text: &str) {
        self.is_partly_read = true;
        self.add(Origin::File, offset, "", text);
    }

    /// Whether none of `keys` has a mistake. Only then are their values compared.
    pub(crate) fn is_sound(&self, keys: &[&str]) -> bool {
        !self.is_partly_read
            && self.more == 0
            && self.mistakes.iter().all(|mistake| !keys.contains(&mistake.key.as_str()))
    }

    /// `value`, if there was no mistake.
    pub(crate) fn conclude<T>(mut self, value: T) -> Result<T, Mistakes> {
        if self.mistakes.is_empty() {
            return Ok(value);
        }
        self.mistakes.sort_by_key(|mistake| (mistake.origin, mistake.offset));
        let more = (self.more > 0).then(|| format!("and {} more mistakes", self.more));
        Err(Mistakes(self.mistakes.into_iter().map(|mistake| mistake.line).chain(more).collect()))
    }
}

/// Line and column of a byte offset, from 1; columns count characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one_in_characters() {
        let text = "a = 1\né = \"ü\" # x\n";
        let check = |needle: &str, expected| {
            assert_eq!(position(text, text.find(needle).unwrap()), expected, "{needle}");
        };
        check("a", (1, 1));
        check("1", (1, 5));
        check("é", (2, 1));
        check("#", (2, 9));
        assert_eq!(position(text, text.len()), (3, 1));
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position(text, 1000), (3, 1));
    }
}
