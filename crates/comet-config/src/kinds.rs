//! The kinds of values: how each is read, checked, written and described.

pub(crate) mod lists;

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use crate::choices::{Choice, Word};
use crate::cpus::{self, Machine};
use crate::secrets;
use crate::units::{Number, Size, Span, duration_text, duration_value, size_text, size_value};

/// A kind of value. `T` is what a checked value of it is.
pub(crate) trait Kind<T> {
    /// The value as TOML has it: its shape is right, and nothing else is known of it.
    type Raw: DeserializeOwned;

    /// What documents and the environment have to know.
    fn facts(&self) -> Facts;

    /// Checks `raw`. Mistakes go to `check`; `None` if nothing usable is left.
    fn check(&self, raw: Self::Raw, check: &mut Check<'_>) -> Option<T>;

    /// `value` as TOML that reads back the same.
    fn write(&self, value: &T) -> Value;

    /// `value` for logs and terminals.
    fn show(&self, value: &T) -> Value {
        self.write(value)
    }

    /// The addresses of `value` that will be listened on.
    fn listeners<'v>(&self, _value: &'v T) -> &'v [SocketAddr] {
        &[]
    }
}

/// What documents and the environment have to know of a kind.
pub(crate) struct Facts {
    /// What a value is, in a word or two.
    pub(crate) form: &'static str,
    /// Limits, in sentences; may be empty.
    pub(crate) limits: String,
    /// The words it takes, if it takes words.
    pub(crate) words: Vec<Word>,
    pub(crate) is_secret: bool,
    pub(crate) bare: Bare,
}

impl Facts {
    pub(crate) fn new(form: &'static str) -> Self {
        let limits = String::new();
        Self { form, limits, words: Vec::new(), is_secret: false, bare: Bare::Toml }
    }
}

/// What text without quotes stands for, where it comes from the environment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bare {
    /// It has to be TOML.
    Toml,
    /// Itself.
    Text,
    /// A number if it is one, else itself.
    NumberOrText,
}

/// Whether a value has the shape of its kind.
pub(crate) type Shape = fn(Spanned<DeValue<'_>>) -> Result<(), toml::de::Error>;

/// See [`Shape`].
pub(crate) fn shape<T, K: Kind<T>>(
    _: &K,
    value: Spanned<DeValue<'_>>,
) -> Result<(), toml::de::Error> {
    K::Raw::deserialize(ValueDeserializer::from(value)).map(drop)
}

/// `value` as it is written and as it is shown.
pub(crate) fn written<T, K: Kind<T>>(kind: &K, value: &T) -> [Value; 2] {
    [kind.write(value), kind.show(value)]
}

/// What the checks of a value know beside the value, and the mistakes they found.
pub(crate) struct Check<'a> {
    pub(crate) machine: &'a Machine,
    /// The value is for a process that may run on another host.
    pub(crate) is_elsewhere: bool,
    pub(crate) faults: Vec<Fault>,
}

/// A mistake in a value, or in one element of it.
pub(crate) struct Fault {
    /// Index and place of the element.
    pub(crate) element: Option<(usize, Range<usize>)>,
    /// A sentence after the name of the key.
    pub(crate) what: String,
}

impl Check<'_> {
    /// Reports a mistake in the whole value.
    fn refuse<T>(&mut self, what: String) -> Option<T> {
        self.faults.push(Fault { element: None, what });
        None
    }

    /// Reports a mistake in one element.
    fn refuse_element(&mut self, index: usize, at: Range<usize>, what: String) {
        self.faults.push(Fault { element: Some((index, at)), what });
    }

    fn out_of_range<T>(&mut self, [value, least, most]: [String; 3]) -> Option<T> {
        self.refuse(format!("{value} is out of range: {least} to {most}"))
    }
}

/// Limits as a sentence.
fn from_to(least: &Value, most: &Value) -> String {
    format!("From {least} to {most}.")
}

/// `true` or `false`.
pub(crate) struct Switch;

impl Kind<bool> for Switch {
    type Raw = bool;

    fn facts(&self) -> Facts {
        Facts::new("true or false")
    }

    fn check(&self, raw: bool, _: &mut Check<'_>) -> Option<bool> {
        Some(raw)
    }

    fn write(&self, value: &bool) -> Value {
        Value::Boolean(*value)
    }
}

/// A whole number in a range, which has to fit the type of the field.
pub(crate) struct Numbers {
    range: RangeInclusive<i64>,
    is_power_of_two: bool,
}

pub(crate) fn number(range: RangeInclusive<i64>) -> Numbers {
    Numbers { range, is_power_of_two: false }
}

pub(crate) fn power_of_two(range: RangeInclusive<i64>) -> Numbers {
    Numbers { range, is_power_of_two: true }
}

impl<T: TryFrom<i64> + TryInto<i64> + Copy> Kind<T> for Numbers {
    type Raw = Number;

    fn facts(&self) -> Facts {
        let (least, most) = (self.range.start(), self.range.end());
        let limits = if self.is_power_of_two {
            format!("A power of two from {least} to {most}.")
        } else {
            from_to(&(*least).into(), &(*most).into())
        };
        Facts { limits, ..Facts::new("number") }
    }

    fn check(&self, Number(number): Number, check: &mut Check<'_>) -> Option<T> {
        let (least, most) = (self.range.start(), self.range.end());
        if self.is_power_of_two {
            if !self.range.contains(&number) || number.count_ones() != 1 {
                let what = format!("{number} is not a power of two from {least} to {most}");
                return check.refuse(what);
            }
        } else if !self.range.contains(&number) {
            return check.out_of_range([number, *least, *most].map(|number| number.to_string()));
        }
        Some(fit(number))
    }

    fn write(&self, value: &T) -> Value {
        let number: i64 = (*value).try_into().ok().expect("read from 64 bits");
        number.into()
    }
}

/// `value` in the type of the field.
fn fit<S, T: TryFrom<S>>(value: S) -> T {
    T::try_from(value).ok().expect("every range fits the type it is for")
}

/// A size in bytes.
pub(crate) struct Sizes(RangeInclusive<u64>);

pub(crate) fn size(range: RangeInclusive<u64>) -> Sizes {
    Sizes(range)
}

impl<T: TryFrom<u64> + TryInto<u64> + Copy> Kind<T> for Sizes {
    type Raw = Size;

    fn facts(&self) -> Facts {
        let limits = from_to(&size_value(*self.0.start()), &size_value(*self.0.end()));
        Facts { limits, bare: Bare::NumberOrText, ..Facts::new("size") }
    }

    fn check(&self, Size(size): Size, check: &mut Check<'_>) -> Option<T> {
        if !self.0.contains(&size) {
            return check.out_of_range([size, *self.0.start(), *self.0.end()].map(size_text));
        }
        Some(fit(size))
    }

    fn write(&self, value: &T) -> Value {
        size_value((*value).try_into().ok().expect("a size fits 64 bits"))
    }
}

/// A duration.
pub(crate) struct Durations {
    range: RangeInclusive<Duration>,
    /// The kernel takes whole seconds.
    in_seconds: bool,
    /// Zero means something else, and is below the range.
    or_zero: bool,
}

pub(crate) fn duration(range: RangeInclusive<Duration>) -> Durations {
    Durations { range, in_seconds: false, or_zero: false }
}

pub(crate) fn whole_seconds(range: RangeInclusive<Duration>) -> Durations {
    Durations { in_seconds: true, ..duration(range) }
}

pub(crate) fn zero_or(range: RangeInclusive<Duration>) -> Durations {
    Durations { or_zero: true, ..duration(range) }
}

impl Kind<Duration> for Durations {
    type Raw = Span;

    fn facts(&self) -> Facts {
        let [least, most] = [self.range.start(), self.range.end()].map(|end| duration_value(*end));
        let limits = match (self.in_seconds, self.or_zero) {
            (true, _) => format!("Whole seconds from {least} to {most}."),
            (false, true) => format!("\"0s\", or from {least} to {most}."),
            (false, false) => from_to(&least, &most),
        };
        Facts { limits, bare: Bare::Text, ..Facts::new("duration") }
    }

    fn check(&self, Span(duration): Span, check: &mut Check<'_>) -> Option<Duration> {
        let is_zero = self.or_zero && duration == Duration::ZERO;
        if !is_zero && !self.range.contains(&duration) {
            let (least, most) = (*self.range.start(), *self.range.end());
            return check.out_of_range([duration, least, most].map(duration_text));
        }
        if self.in_seconds && duration.subsec_nanos() != 0 {
            let text = duration_text(duration);
            return check.refuse(format!("{text} is not a whole number of seconds"));
        }
        Some(duration)
    }

    fn write(&self, value: &Duration) -> Value {
        duration_value(*value)
    }
}

/// One of a few words.
pub(crate) struct OneOf;

impl<T: Choice + DeserializeOwned> Kind<T> for OneOf {
    type Raw = T;

    fn facts(&self) -> Facts {
        Facts { words: words::<T>(), bare: Bare::Text, ..Facts::new("word") }
    }

    fn check(&self, raw: T, _: &mut Check<'_>) -> Option<T> {
        Some(raw)
    }

    fn write(&self, value: &T) -> Value {
        value.word().into()
    }
}

/// Any of a few words.
pub(crate) struct AnyOf;

impl<T: Choice + DeserializeOwned> Kind<Vec<T>> for AnyOf {
    type Raw = Vec<T>;

    fn facts(&self) -> Facts {
        Facts { words: words::<T>(), ..Facts::new("list of words") }
    }

    fn check(&self, raw: Vec<T>, _: &mut Check<'_>) -> Option<Vec<T>> {
        Some(raw)
    }

    fn write(&self, value: &Vec<T>) -> Value {
        value.iter().map(|choice| choice.word()).collect::<Vec<_>>().into()
    }
}

fn words<T: Choice>() -> Vec<Word> {
    T::WORDS.iter().map(|(_, word)| *word).collect()
}

/// Text of a form.
pub(crate) struct Text {
    is_good: fn(&str) -> bool,
    /// The form, for a mistake.
    form: &'static str,
    /// The form, for documents.
    limits: &'static str,
}

impl Text {
    /// A name; may be empty.
    pub(crate) const NAME: Self = Self {
        is_good: is_name,
        form: "a name of up to 255 printable characters without spaces",
        limits: "Up to 255 printable characters without spaces.",
    };

    /// The name of a claim of a token.
    pub(crate) const CLAIM: Self =
        Self { is_good: |name| !name.is_empty() && is_name(name), ..Self::NAME };

    /// The path of a URL.
    pub(crate) const URL_PATH: Self = Self {
        is_good: |path| {
            path.starts_with('/')
                && path.len() <= 256
                && path.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b))
        },
        form: "a path: / and up to 255 printable characters without space, ? and #",
        limits: "It is / and up to 255 printable characters without space, ? and #.",
    };
}

/// A name that fits into a line of a log and a label of a metric; may be empty.
fn is_name(text: &str) -> bool {
    text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic())
}

impl Kind<String> for Text {
    type Raw = String;

    fn facts(&self) -> Facts {
        Facts { limits: self.limits.to_owned(), bare: Bare::Text, ..Facts::new("text") }
    }

    fn check(&self, raw: String, check: &mut Check<'_>) -> Option<String> {
        if !(self.is_good)(&raw) {
            return check.refuse(format!("{raw:?} is not {}", self.form));
        }
        Some(raw)
    }

    fn write(&self, value: &String) -> Value {
        value.as_str().into()
    }
}

/// Any text; `""` is none.
pub(crate) struct TextOrNone;

impl Kind<Option<String>> for TextOrNone {
    type Raw = String;

    fn facts(&self) -> Facts {
        Facts { bare: Bare::Text, ..Facts::new("text") }
    }

    fn check(&self, raw: String, _: &mut Check<'_>) -> Option<Option<String>> {
        Some(Some(raw).filter(|text| !text.is_empty()))
    }

    fn write(&self, value: &Option<String>) -> Value {
        value.as_deref().unwrap_or_default().into()
    }
}

/// A file; `""` is none.
pub(crate) struct FileOrNone;

impl Kind<Option<PathBuf>> for FileOrNone {
    type Raw = String;

    fn facts(&self) -> Facts {
        Facts { bare: Bare::Text, ..Facts::new("file") }
    }

    fn check(&self, raw: String, check: &mut Check<'_>) -> Option<Option<PathBuf>> {
        if raw.is_empty() {
            return Some(None);
        }
        match path(&raw) {
            Ok(path) => Some(Some(path)),
            Err(what) => check.refuse(what),
        }
    }

    fn write(&self, value: &Option<PathBuf>) -> Value {
        value.as_deref().map_or("", |path| path.to_str().expect("read from text")).into()
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    // The kernel knows paths up to 4095 bytes (PATH_MAX), and none with a zero in it.
    if text.is_empty() || text.len() > 4095 || text.contains('\0') {
        return Err(format!("{text:?} is not the name of a file"));
    }
    Ok(PathBuf::from(text))
}

/// CPUs of this machine. What is for another host is not looked at, and is none.
pub(crate) struct Cpus;

impl Kind<Vec<usize>> for Cpus {
    type Raw = String;

    fn facts(&self) -> Facts {
        Facts { bare: Bare::Text, ..Facts::new("list of CPUs") }
    }

    fn check(&self, raw: String, check: &mut Check<'_>) -> Option<Vec<usize>> {
        if check.is_elsewhere {
            return Some(Vec::new());
        }
        cpus::parse(&raw, check.machine).map_or_else(|what| check.refuse(what), Some)
    }

    fn write(&self, value: &Vec<usize>) -> Value {
        cpus::format(value).into()
    }
}

/// Ids of users: ascending, none twice.
pub(crate) struct Users {
    pub(crate) most: usize,
}

impl Kind<Vec<i64>> for Users {
    type Raw = Vec<Number>;

    fn facts(&self) -> Facts {
        Facts { limits: format!("Up to {}.", self.most), ..Facts::new("list of numbers") }
    }

    fn check(&self, raw: Vec<Number>, check: &mut Check<'_>) -> Option<Vec<i64>> {
        let mut users: Vec<i64> = raw.into_iter().map(|Number(user)| user).collect();
        users.sort_unstable();
        users.dedup();
        if users.len() > self.most {
            let what = format!("{} users are too many: up to {}", users.len(), self.most);
            return check.refuse(what);
        }
        Some(users)
    }

    fn write(&self, value: &Vec<i64>) -> Value {
        value.clone().into()
    }
}

/// A secret of another kind: passwords in it are not shown, and its text may be in a file.
pub(crate) struct Secret<K>(pub(crate) K);

impl<T, K: Kind<T>> Kind<T> for Secret<K> {
    type Raw = K::Raw;

    fn facts(&self) -> Facts {
        Facts { is_secret: true, ..self.0.facts() }
    }

    fn check(&self, raw: K::Raw, check: &mut Check<'_>) -> Option<T> {
        self.0.check(raw, check)
    }

    fn write(&self, value: &T) -> Value {
        self.0.write(value)
    }

    fn show(&self, value: &T) -> Value {
        secrets::mask(self.0.write(value))
    }
}
