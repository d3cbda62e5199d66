//! The forms of a log's lines: text for people, JSON for programs.

use std::fmt::Display;
use std::io::Write;
use std::time::SystemTime;

use jiff::Timestamp;
use log::Level;
use serde_json::Value;

use crate::escaped::EscapedJson;

/// The form of a log's lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// Readable text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The line of a message, with its line end: an object with the present time, level, target and message.
#[must_use]
pub fn json_line(level: Level, target: &str, message: impl Display) -> Vec<u8> {
    let mut line = Vec::new();
    let fields = [
        ("level", level.as_str().to_ascii_lowercase().into()),
        ("target", target.into()),
        ("message", message.to_string().into()),
    ];
    write_object(&mut line, now(), &fields);
    line
}

/// The wall clock. After the year 9999 times are wrong, but lines are still written.
pub(crate) fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or_default()
}

/// Appends a line with one object: the time in RFC 3339 with milliseconds, then `fields` in their order.
/// Names need no escapes.
pub(crate) fn write_object(lines: &mut Vec<u8>, time: Timestamp, fields: &[(&str, Value)]) {
    let mut write = |piece: std::fmt::Arguments<'_>| {
        lines.write_fmt(piece).expect("a Vec takes everything");
    };
    write(format_args!("{{\"time\":\"{time:.3}\""));
    for (name, value) in fields {
        write(format_args!(",\"{name}\":{}", EscapedJson(value)));
    }
    write(format_args!("}}\n"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_is_one_line_that_reads_back_the_same() {
        for message in
            ["", "plain", "a\nb\tc\"\\", "\u{1b}[2J\u{9b}\u{202e}\u{2028}\u{e0001}日本語 \u{7f}"]
        {
            let line = String::from_utf8(json_line(Level::Warn, "comet::x", message)).unwrap();
            assert!(line.starts_with("{\"time\":\"2") && line.ends_with("\"}\n"), "{line:?}");
            assert!(
                !line.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}'),
                "{line:?}"
            );
            let read: Value = serde_json::from_str(&line).unwrap();
            let time = read["time"].as_str().unwrap();
            assert!(
                time.len() == "2023-11-14T22:13:20.000Z".len() && time.ends_with('Z'),
                "{time}"
            );
            let expected =
                json!({ "time": time, "level": "warn", "target": "comet::x", "message": message });
            assert_eq!(read, expected);
        }
    }
}
