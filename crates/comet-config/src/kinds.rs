//! The kinds of values: how each is read, checked, written and described.

pub(crate) mod coalesce;
pub(crate) mod history;
pub(crate) mod lists;
pub(crate) mod presence;
pub(crate) mod quantities;
mod rules;
pub(crate) mod texts;
pub(crate) mod urls;

use std::ops::Range;

use comet_listen::Address;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use crate::choices::{Choice, Word};
use crate::cpus::{self, Machine};
use crate::secrets;
use crate::units::Number;

/// A kind of value. `T` is the type of a checked value.
pub(crate) trait Kind<T> {
    /// The value as parsed from TOML: its shape is right, but it is not checked further.
    type Raw: DeserializeOwned;

    /// The facts for documents and for the environment.
    fn facts(&self) -> Facts;

    /// Checks `raw`. Mistakes go to `check`; `None` if nothing usable is left.
    fn check(&self, raw: Self::Raw, check: &mut Check<'_>) -> Option<T>;

    /// `value` as TOML that reads back the same.
    fn write(&self, value: &T) -> Value;

    /// `value` for logs and terminals.
    fn show(&self, value: &T) -> Value {
        self.write(value)
    }

    /// `value` for logs and terminals, where it is a secret.
    fn show_secret(&self, value: &T) -> Value {
        secrets::mask(self.write(value))
    }

    /// The addresses of `value` that will be listened on.
    fn listeners(&self, _value: &T) -> Vec<Address> {
        Vec::new()
    }
}

/// The facts about a kind for documents and for the environment.
pub(crate) struct Facts {
    /// The form of a value, in a word or two.
    pub(crate) form: &'static str,
    /// Limits, in sentences; may be empty.
    pub(crate) limits: String,
    /// The words it takes, if it takes words.
    pub(crate) words: Vec<Word>,
    pub(crate) is_secret: bool,
    pub(crate) bare: Bare,
}

impl Facts {
    /// The form of a list of tables that is a whole section, each written as `[[section]]`.
    pub(crate) const TABLES: &'static str = "tables";

    pub(crate) fn new(form: &'static str) -> Self {
        let limits = String::new();
        Self { form, limits, words: Vec::new(), is_secret: false, bare: Bare::Toml }
    }
}

/// The meaning of text without quotes from the environment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bare {
    /// It must be TOML.
    Toml,
    /// It is the text itself.
    Text,
    /// A number if it is one, otherwise the text itself.
    NumberOrText,
}

/// A function that checks whether a value has the shape of its kind.
pub(crate) type Shape = fn(Spanned<DeValue<'_>>) -> Result<(), toml::de::Error>;

/// See [`Shape`].
pub(crate) fn shape<T, K: Kind<T>>(
    _: &K,
    value: Spanned<DeValue<'_>>,
) -> Result<(), toml::de::Error> {
    K::Raw::deserialize(ValueDeserializer::from(value)).map(drop)
}

/// `value` in the forms for writing and for showing.
pub(crate) fn value_and_shown<T, K: Kind<T>>(kind: &K, value: &T) -> [Value; 2] {
    [kind.write(value), kind.show(value)]
}

/// The context of the checks of a value, and the mistakes they found.
pub(crate) struct Check<'a> {
    pub(crate) machine: &'a Machine,
    /// The value is for a process that may run on another host.
    pub(crate) is_elsewhere: bool,
    pub(crate) faults: Vec<Fault>,
}

/// A mistake in a value, or in one element of it.
pub(crate) struct Fault {
    /// Index and position of the element.
    pub(crate) element: Option<(usize, Range<usize>)>,
    /// A sentence that follows the name of the key.
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

/// CPUs of this machine. A value for another host is not checked, and read as empty.
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

/// User ids: ascending, without duplicates.
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

/// A secret of another kind, which decides what of it is shown. Its text may be in a file.
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
        self.0.show_secret(value)
    }
}
