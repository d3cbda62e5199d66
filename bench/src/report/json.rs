//! The layout of a result in its file: a line for each key, and each list of numbers on one line, so that a diff and a
//! pager show figures and not the points of a curve.

use std::fmt::Write as _;

use serde_json::Value;

/// `value` as JSON, ending in a line feed.
pub(super) fn to_text(value: &Value) -> String {
    let mut text = String::new();
    append(value, 0, &mut text);
    text.push('\n');
    text
}

/// Objects break lines, arrays do not.
fn append(value: &Value, depth: usize, text: &mut String) {
    const ALWAYS: &str = "a String takes all";
    match value {
        Value::Object(members) if !members.is_empty() => {
            let indent = 2 * (depth + 1);
            for (index, (key, member)) in members.iter().enumerate() {
                let before = if index == 0 { '{' } else { ',' };
                let key = Value::from(key.as_str());
                write!(text, "{before}\n{:indent$}{key}: ", "").expect(ALWAYS);
                append(member, depth + 1, text);
            }
            write!(text, "\n{:1$}}}", "", indent - 2).expect(ALWAYS);
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index == 0 { "[" } else { ", " });
                append(item, depth, text);
            }
            text.push(']');
        }
        _ => write!(text, "{value}").expect(ALWAYS),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_break_lines_and_arrays_do_not() {
        let value = json!({"a": {}, "b": [[1, 2], [3.5]], "c": [{"d": null}, {}], "e": []});
        let expected = "{\n  \"a\": {},\n  \"b\": [[1, 2], [3.5]],\n  \
                        \"c\": [{\n    \"d\": null\n  }, {}],\n  \"e\": []\n}\n";
        let text = to_text(&value);
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
