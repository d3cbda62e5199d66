//! Secrets: how they are shown, and where they are read from.

use std::borrow::Cow;

use toml::de::DeValue;
use toml::{Spanned, Value};

/// What is shown of a secret.
pub(crate) const HIDDEN: &str = "***";

/// `value` as it may be printed and logged: only whether there is one.
pub(crate) fn mask(value: Value) -> Value {
    match value {
        Value::String(text) if text.is_empty() => text.into(),
        _ => HIDDEN.into(),
    }
}

/// `url` with `***` for the password, and for the query, which may have another one. The rest helps the reader.
pub(crate) fn without_secrets(url: &str) -> String {
    match url.split_once(['?', '#']) {
        None => without_password(url),
        // It may be the password that goes on behind the question mark.
        Some((_, query)) if query.contains('@') => {
            let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://{HIDDEN}")
        }
        Some((place, _)) => format!("{}?{HIDDEN}", without_password(place)),
    }
}

/// `url` with `***` for the password of `scheme://user:password@host`. If it is not a URL, it rather hides too much
/// than too little.
pub(crate) fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    match rest.rsplit_once('@') {
        Some((login, host)) => {
            let user = login.split_once(':').map_or("", |(user, _)| user);
            format!("{scheme}://{user}:{HIDDEN}@{host}")
        }
        None => url.to_owned(),
    }
}

/// A sentence with `***` for every password of a `user:password@host` in it, wherever that comes from. It rather hides
/// too much than too little.
pub(crate) fn without_passwords(sentence: &str) -> String {
    let mut shown = String::with_capacity(sentence.len());
    let mut rest = sentence;
    // A password may contain spaces and quotes, so an address ends only where the next one begins.
    while let Some((before, after)) = rest.split_once("://") {
        let scheme_of =
            |text: &str| text.trim_end_matches(|c: char| c.is_ascii_alphanumeric()).len();
        let next = after.find("://").map_or(after.len(), |next| scheme_of(&after[..next]));
        let (address, beyond) = after.split_at(next);
        let scheme = scheme_of(before);
        shown += &without_schemeless_passwords(&before[..scheme]);
        shown += &without_password(&format!("{}://{address}", &before[scheme..]));
        rest = beyond;
    }
    shown + &without_schemeless_passwords(rest)
}

/// Words are separated by spaces and quotes.
fn without_schemeless_passwords(sentence: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || "\"'`=[]{},".contains(c);
    let words = sentence.split_inclusive(is_end);
    let shown = words.map(|word| match word.rsplit_once('@') {
        Some((login, host)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}").into(),
            None => Cow::Borrowed(word),
        },
        None => Cow::Borrowed(word),
    });
    shown.collect()
}

/// The path in `{ file = "PATH" }`.
pub(crate) fn file_of<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    let DeValue::Table(table) = value else { return None };
    let (name, path) = table.iter().next().filter(|_| table.len() == 1)?;
    path.get_ref().as_str().filter(|_| name.get_ref() == "file")
}

/// Replaces each `{ file = "PATH" }` by the result of `read`: in the value itself, or in the elements of a list. `read`
/// gets the index of an element, the position in the document and the path. Returns false if it returned no text for
/// one of them.
pub(crate) fn read_files(
    value: &mut Spanned<DeValue<'_>>,
    mut read: impl FnMut(Option<usize>, usize, &str) -> Option<String>,
) -> bool {
    let mut read_one = |index, value: &mut Spanned<DeValue<'_>>| {
        let at = value.span().start;
        let Some(path) = file_of(value.get_ref()) else { return true };
        let text = read(index, at, path);
        let is_read = text.is_some();
        *value.get_mut() = DeValue::String(Cow::Owned(text.unwrap_or_default()));
        is_read
    };
    match value.get_mut() {
        DeValue::Array(elements) => {
            let elements = elements.iter_mut().enumerate();
            elements.fold(true, |good, (index, element)| read_one(Some(index), element) && good)
        }
        _ => read_one(None, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_left_out() {
        let check = |url: &str, shown: &str| assert_eq!(without_password(url), shown);
        check("redis://h:6379/1", "redis://h:6379/1");
        check("redis://:secret@h", "redis://:***@h");
        check("redis://user:s:e@c/ret@h:1/2", "redis://user:***@h:1/2");
        check("redis://secret@h", "redis://:***@h");
        check("rediss://u:secret@h", "rediss://u:***@h");
        check("u:secret@h", "://u:***@h");
    }

    #[test]
    fn queries_are_left_out() {
        let check = |url: &str, shown: &str| assert_eq!(without_secrets(url), shown);
        check("redis://user:secret@h:1/2", "redis://user:***@h:1/2");
        check("redis://h:1/0?password=secret", "redis://h:1/0?***");
        check("redis://h:1#secret", "redis://h:1?***");
        check("redis://u:12?secret@h", "redis://***");
        check("redis://h/?password=sec@ret", "redis://***");
        check("h?secret", "h?***");
    }

    #[test]
    fn other_secrets_are_left_out_whole() {
        let check = |value: Value, shown: Value| assert_eq!(mask(value), shown);
        check("secret".into(), "***".into());
        check("p://w".into(), "***".into());
        check("".into(), "".into());
        check(5.into(), "***".into());
    }

    #[test]
    fn passwords_are_left_out_of_sentences() {
        let check = |text: &str, shown: &str| assert_eq!(without_passwords(text), shown, "{text}");
        check("", "");
        check("a: b, c: 1:2 is none", "a: b, c: 1:2 is none");
        check("https://a.example:1 is no origin", "https://a.example:1 is no origin");
        check("\"http://u:secret@h:1\" is not", "\"http://u:***@h:1\" is not");
        check("\"u:secret@h:1\" is not", "\"u:***@h:1\" is not");
        check("redis=redis://:secret@h: write", "redis=redis://:***@h: write");
        check("redis://:se cr\"et@h `x`", "redis://:***@h `x`");
        check("redis://secret@h", "redis://:***@h");
        check(
            "[\"redis://a:secret@b\", \"redis://c:secret@d\"] and u:secret@h",
            "[\"redis://a:***@b\", \"redis://c:***@h",
        );
        check("redis://a:***@b", "redis://a:***@b");
        check("id=u:secret@h", "id=u:***@h");
    }
}
