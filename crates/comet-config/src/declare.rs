//! The macro that makes fields, the table of keys, and the operations on all keys from their declarations.

use toml::Value;

use crate::choices::Word;
use crate::kinds::{Facts, Shape};

/// A section of the configuration.
#[derive(Debug)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// A description of its keys, in sentences.
    pub about: &'static str,
    /// Its keys, in the order of `comet.toml`.
    pub keys: &'static [Key],
}

impl Section {
    /// The key that is the whole section, if that is a list of tables, each written as `[[section]]`.
    #[must_use]
    pub fn tables(&self) -> Option<&'static Key> {
        self.keys.first().filter(|key| key.form() == Facts::TABLES)
    }
}

/// A key, as it is declared.
#[derive(Debug)]
pub struct Key {
    /// `section.key`
    pub path: &'static str,
    /// Its name in the section.
    pub name: &'static str,
    /// Its meaning and unit, in sentences.
    pub about: &'static str,
    /// Its default, as TOML.
    pub default: &'static str,
    /// When a change of the value takes effect.
    pub takes_effect: TakesEffect,
    pub(crate) facts: fn() -> Facts,
    pub(crate) shape: Shape,
}

/// When a running server adopts another value of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakesEffect {
    /// At SIGHUP.
    Alive,
    /// At the next start.
    AtStart,
    /// Never: only `comet logic` reads the key, at its start.
    InLogic,
    /// Never: only `comet logic` reads the key, at its start and at its own SIGHUP.
    AliveInLogic,
}

impl Key {
    /// The form of its value, in a word or two: "duration", "list of files".
    #[must_use]
    pub fn form(&self) -> &'static str {
        (self.facts)().form
    }

    /// The limits of its value, in sentences; may be empty.
    #[must_use]
    pub fn limits(&self) -> String {
        (self.facts)().limits
    }

    /// The words it takes, if it takes words.
    #[must_use]
    pub fn words(&self) -> Vec<Word> {
        (self.facts)().words
    }

    /// Whether its value is never shown in full, and may be read from a file.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        (self.facts)().is_secret
    }

    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("COMET_{}", self.path.replace('.', "_").to_uppercase())
    }
}

/// The value of a key in a configuration.
pub(crate) struct Entry {
    pub(crate) key: &'static Key,
    pub(crate) value: Value,
    /// The value for logs and terminals, without passwords.
    pub(crate) shown: Value,
}

/// Declares sections and their keys:
///
/// ```text
/// /// What the section is about.
/// section: Struct {
///     /// What the key means.
///     key: Type = DEFAULT in KIND, TAKES_EFFECT;
/// }
/// ```
///
/// `DEFAULT` is one token tree that is also TOML. `KIND` is a [`Kind`](crate::kinds::Kind) of `Type`: it reads, checks,
/// writes and describes values. `TAKES_EFFECT` is a variant of [`TakesEffect`].
macro_rules! sections {
    ($(
        $(#[doc = $about_section:literal])+
        $section:ident: $Section:ident {$(
            $(#[doc = $about:literal])+
            $key:ident: $type:ty = $default:tt in $kind:expr, $takes_effect:ident;
        )+}
    )+) => {
        /// A configuration that can be used as it is; made by [`crate::load`].
        #[derive(Clone, PartialEq, Debug)]
        pub struct Config {
            $($(#[doc = $about_section])+ pub $section: $Section,)+
        }

        $(
            #[doc = concat!("`[", stringify!($section), "]`:")]
            $(#[doc = $about_section])+
            #[derive(Clone, PartialEq)]
            pub struct $Section {
                $($(#[doc = $about])+ pub $key: $type,)+
            }

            /// As `--check` prints it: without passwords.
            impl std::fmt::Debug for $Section {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.debug_struct(stringify!($Section))
                        $(.field(
                            stringify!($key),
                            &format_args!("{}", Kind::<$type>::show(&$kind, &self.$key)),
                        ))+
                        .finish()
                }
            }
        )+

        /// Every section with its keys, in the order of `comet.toml`.
        pub static SECTIONS: &[Section] = &[$(Section {
            name: stringify!($section),
            about: concat!($($about_section),+),
            keys: &[$(Key {
                path: concat!(stringify!($section), ".", stringify!($key)),
                name: stringify!($key),
                about: concat!($($about),+),
                default: stringify!($default),
                takes_effect: TakesEffect::$takes_effect,
                facts: || Kind::<$type>::facts(&$kind),
                shape: |value| kinds::shape::<$type, _>(&$kind, value),
            },)+],
        },)+];

        impl Config {
            /// Takes and checks the value of every key.
            pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
                Self {$(
                    $section: $Section {$(
                        $key: reader.take(
                            concat!(stringify!($section), ".", stringify!($key)),
                            stringify!($default),
                            &$kind,
                        ),
                    )+},
                )+}
            }

            /// Every value, in the order of [`SECTIONS`].
            pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
                let values = [$($(
                    kinds::value_and_shown::<$type, _>(&$kind, &self.$section.$key),
                )+)+];
                let keys = SECTIONS.iter().flat_map(|section| section.keys);
                keys.zip(values).map(|(key, [value, shown])| Entry { key, value, shown })
            }

            /// Takes over what `newer` has for every key that does not wait for the next start.
            pub(crate) fn take_alive(&mut self, newer: &Self) {
                $($(
                    if TakesEffect::$takes_effect != TakesEffect::AtStart {
                        self.$section.$key.clone_from(&newer.$section.$key);
                    }
                )+)+
            }
        }
    };
}

pub(crate) use sections;
