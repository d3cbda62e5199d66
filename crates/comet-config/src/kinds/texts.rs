//! Text of a given form, and file names.

use std::path::PathBuf;

use toml::Value;

use super::{Bare, Check, Facts, Kind};

/// Text of a given form.
pub(crate) struct Text {
    is_good: fn(&str) -> bool,
    /// The form, for error messages.
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

    /// Tokens of a NATS subject.
    pub(crate) const SUBJECT: Self = Self {
        is_good: |subject| {
            let is_token = |token: &str| {
                !token.is_empty()
                    && token.bytes().all(|b| b.is_ascii_graphic() && !b"*>".contains(&b))
            };
            subject.len() <= 255 && subject.split('.').all(is_token)
        },
        form: "a subject: up to 255 printable characters without space, * and >, and dots between them",
        limits: "It is up to 255 printable characters without space, * and >, with dots between tokens.",
    };

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

/// A name that can be used in a log line and in a label of a metric; may be empty.
pub(super) fn is_name(text: &str) -> bool {
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

/// Any text; `""` means none.
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

/// A token of a caller; `""` means none.
pub(crate) struct TokenOrNone;

impl Kind<Option<String>> for TokenOrNone {
    type Raw = String;

    fn facts(&self) -> Facts {
        Facts { bare: Bare::Text, ..Facts::new("token") }
    }

    fn check(&self, raw: String, check: &mut Check<'_>) -> Option<Option<String>> {
        if raw.is_empty() {
            return Some(None);
        }
        token(&raw).map_or_else(|what| check.refuse(what), |token| Some(Some(token)))
    }

    fn write(&self, value: &Option<String>) -> Value {
        value.as_deref().unwrap_or_default().into()
    }
}

/// A token (RFC 6750, section 2.1) long enough not to be guessed. The error does not repeat it.
pub(super) fn token(text: &str) -> Result<String, String> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    match (16..=512).contains(&text.len()) && text.bytes().all(is_good) {
        true => Ok(text.to_owned()),
        false => Err("is no token: use 16 to 512 letters, digits and -._~+/=".to_owned()),
    }
}

/// A file; `""` means none.
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

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    // The kernel accepts paths of up to 4095 bytes (PATH_MAX), without a zero byte.
    if text.is_empty() || text.len() > 4095 || text.contains('\0') {
        return Err(format!("{text:?} is not the name of a file"));
    }
    Ok(PathBuf::from(text))
}
