//! Text that may come from outside, for a line of a log.

use std::fmt::{self, Display, Write};

use serde_json::Value;

/// The text with every character escaped that could end the line, control a terminal, or reorder the displayed text:
/// control characters (C0 and C1), line separators, marks of direction and other invisible ones. Escapes are those of
/// Rust's string literals. Quotes and backslashes stay, so text already quoted with `{:?}` is not escaped twice.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// The value as JSON, with the characters that [`Escaped`] escapes as `\u`: it reads back as the same value.
pub(crate) struct EscapedJson<'a>(pub(crate) &'a Value);

impl Display for EscapedJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // JSON contains such characters only inside strings.
        for character in self.0.to_string().chars() {
            if !is_escaped(character) {
                f.write_char(character)?;
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(f, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_escaped) {
            let (before, from) = rest.split_at(at);
            self.0.write_str(before)?;
            let mut chars = from.chars();
            for escaped in chars.next().into_iter().flat_map(char::escape_debug) {
                self.0.write_char(escaped)?;
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

fn is_escaped(character: char) -> bool {
    match character {
        ' '..='~' => false,
        _ => character.escape_debug().len() > 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        let check = |text: &str, escaped: &str| {
            assert_eq!(Escaped(text).to_string(), escaped, "{text:?}");
        };
        check("", "");
        check(
            r#"plain "quoted\n" text: it's 4 µs, 日本語"#,
            r#"plain "quoted\n" text: it's 4 µs, 日本語"#,
        );
        check("a\nb\r\tc", r"a\nb\r\tc");
        check("\u{1b}]0;title\u{7}", r"\u{1b}]0;title\u{7}");
        check("\u{0}\u{7f}\u{80}\u{9b}31m\u{9f}", r"\0\u{7f}\u{80}\u{9b}31m\u{9f}");
        check(
            "\u{202e}\u{2066}\u{2069}\u{200f}\u{61c}",
            r"\u{202e}\u{2066}\u{2069}\u{200f}\u{61c}",
        );
        check("\u{2028}\u{2029}\u{85}\u{feff}\u{ad}", r"\u{2028}\u{2029}\u{85}\u{feff}\u{ad}");
        check("\u{e0001}\u{e000}", r"\u{e0001}\u{e000}");
    }
}
