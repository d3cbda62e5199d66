//! How a result is laid out in its file: a line for each key, and each list of numbers on one line, so
//! that a diff and a pager show figures and not the points of a curve.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

/// `value` as JSON, ending in a line feed.
pub(super) fn to_vec(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut json = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut json, Layout::default()))?;
    json.push(b'\n');
    Ok(json)
}

/// Objects break lines, arrays do not.
#[derive(Default)]
struct Layout {
    depth: usize,
    /// The object that was begun last has no key yet.
    empty: bool,
}

impl Layout {
    fn new_line(&self, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        out.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| out.write_all(b"  "))
    }
}

impl Formatter for Layout {
    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        out.write_all(b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.depth -= 1;
        if !std::mem::take(&mut self.empty) {
            self.new_line(out)?;
        }
        out.write_all(b"}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.empty = false;
        if !first {
            out.write_all(b",")?;
        }
        self.new_line(out)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
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
        let json = String::from_utf8(to_vec(&value).unwrap()).unwrap();
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
    }
}
