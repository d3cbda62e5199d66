//! JSON (RFC 8259), as far as the text form needs it: ends of values, and strings. Numbers are not evaluated, and
//! nothing is allocated for values that are only passed on.

/// Most levels of nested objects and arrays in a value.
pub const DEPTH_MAX: usize = 64;

/// Called with each member of an object, the name without its quotes and the value as they stand.
type MemberVisitor<'m, 'a> = &'m mut dyn FnMut(&'a str, &'a str);

/// Whether `text` is one value.
pub(super) fn is_value(text: &str) -> bool {
    Scanner::whole(text, |scanner| scanner.value(DEPTH_MAX)).is_some()
}

/// Reads `text` as one object. `None`: it is none.
pub(super) fn read_object<'a>(text: &'a str, members: MemberVisitor<'_, 'a>) -> Option<()> {
    Scanner::whole(text, |scanner| scanner.object(DEPTH_MAX + 1, members))
}

/// Reads `text` as one array of objects. `None`: it is none.
pub(super) fn read_array<'a>(text: &'a str, items: &mut dyn FnMut(&'a str)) -> Option<()> {
    Scanner::whole(text, |scanner| scanner.array(DEPTH_MAX + 2, items))
}

/// The content of a checked value, if it is a string. A half of a surrogate pair is replaced (U+FFFD).
pub(super) fn string(value: &str) -> Option<String> {
    let mut rest = value.strip_prefix('"')?.strip_suffix('"')?;
    let mut content = String::with_capacity(rest.len());
    while let Some((plain, escape)) = rest.split_once('\\') {
        content.push_str(plain);
        let kind = escape.as_bytes()[0];
        rest = &escape[1..];
        content.push(match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = unit(&mut rest);
                let low = rest.strip_prefix("\\u").filter(|_| (0xd800..0xdc00).contains(&high));
                let pair = low.and_then(|mut behind| {
                    let low = unit(&mut behind);
                    let decoded = char::decode_utf16([high, low]).next()?.ok()?;
                    rest = behind;
                    Some(decoded)
                });
                pair.or_else(|| char::from_u32(high.into())).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            itself => itself.into(),
        });
    }
    content.push_str(rest);
    Some(content)
}

/// Takes the four digits of an escape.
fn unit(rest: &mut &str) -> u16 {
    let (digits, behind) = rest.split_at(4);
    *rest = behind;
    u16::from_str_radix(digits, 16).expect("the digits were checked")
}

/// Appends a checked value as Go's `json.Marshal` does: without spaces between its parts, and with some characters escaped.
pub(super) fn put_value(out: &mut Vec<u8>, value: &str) {
    let mut replacer = TextReplacer::new(out, value);
    let (mut is_in_string, mut is_escaped) = (false, false);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' if !is_in_string => replacer.replace(at, 1, b""),
            b'"' if !is_escaped => is_in_string = !is_in_string,
            _ => replacer.escape_html(at),
        }
        is_escaped = byte == b'\\' && !is_escaped;
    }
    replacer.finish();
}

/// Appends `text` as a string.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut replacer = TextReplacer::new(out, text);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => replacer.replace(at, 1, b"\\\""),
            b'\\' => replacer.replace(at, 1, b"\\\\"),
            b'\n' => replacer.replace(at, 1, b"\\n"),
            b'\r' => replacer.replace(at, 1, b"\\r"),
            b'\t' => replacer.replace(at, 1, b"\\t"),
            0..b' ' => {
                let [high, low] =
                    [byte >> 4, byte & 0xf].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
                replacer.replace(at, 1, &[b'\\', b'u', b'0', b'0', high, low]);
            }
            _ => replacer.escape_html(at),
        }
    }
    replacer.finish();
    out.push(b'"');
}

/// Copies a text with replacements. What lies between two of them is copied at once: a push may have megabytes.
struct TextReplacer<'a> {
    out: &'a mut Vec<u8>,
    text: &'a [u8],
    /// Number of bytes of `text` that are copied.
    done: usize,
}

impl<'a> TextReplacer<'a> {
    fn new(out: &'a mut Vec<u8>, text: &'a str) -> Self {
        Self { out, text: text.as_bytes(), done: 0 }
    }

    /// Copies all bytes before `at`, and `with` in place of the `len` bytes there.
    fn replace(&mut self, at: usize, len: usize, with: &[u8]) {
        self.out.extend_from_slice(&self.text[self.done..at]);
        self.out.extend_from_slice(with);
        self.done = at + len;
    }

    /// Go escapes characters that could end a script in HTML, or a line of it (U+2028, U+2029).
    fn escape_html(&mut self, at: usize) {
        let (len, escape) = match self.text[at..] {
            [b'<', ..] => (1, br"\u003c"),
            [b'>', ..] => (1, br"\u003e"),
            [b'&', ..] => (1, br"\u0026"),
            [0xe2, 0x80, 0xa8, ..] => (3, br"\u2028"),
            [0xe2, 0x80, 0xa9, ..] => (3, br"\u2029"),
            _ => return,
        };
        self.replace(at, len, escape);
    }

    fn finish(self) {
        self.out.extend_from_slice(&self.text[self.done..]);
    }
}

/// Finds the end of values. Each method reads what it is named after, or returns `None` if the text does not match.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Succeeds if `read` reads all of `text`, except for spaces around it.
    fn whole(text: &'a str, read: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let mut scanner = Self { text, at: 0 };
        scanner.spaces();
        read(&mut scanner)?;
        scanner.spaces();
        (scanner.at == text.len()).then_some(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    /// Takes bytes while `wanted` holds, and returns their number.
    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> usize {
        let begin = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        self.at - begin
    }

    fn spaces(&mut self) {
        self.take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    }

    /// `depth`: how many further levels of objects and arrays are allowed.
    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(depth, &mut |_, _| {}),
            b'[' => self.array(depth, &mut |_| {}),
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            _ => ["true", "false", "null"].into_iter().find_map(|literal| {
                self.text[self.at..].starts_with(literal).then(|| self.at += literal.len())
            }),
        }
    }

    fn object(&mut self, depth: usize, members: MemberVisitor<'_, 'a>) -> Option<()> {
        self.list(depth, [b'{', b'}'], &mut |scanner, depth| {
            let name = scanner.at;
            scanner.string()?;
            let name = name + 1..scanner.at - 1;
            scanner.spaces();
            if !scanner.take(b':') {
                return None;
            }
            scanner.spaces();
            let value = scanner.at;
            scanner.value(depth)?;
            members(&scanner.text[name], &scanner.text[value..scanner.at]);
            Some(())
        })
    }

    fn array(&mut self, depth: usize, items: &mut dyn FnMut(&'a str)) -> Option<()> {
        self.list(depth, [b'[', b']'], &mut |scanner, depth| {
            let value = scanner.at;
            scanner.value(depth)?;
            items(&scanner.text[value..scanner.at]);
            Some(())
        })
    }

    /// Reads a bracketed list: what `element` reads, any number of times, separated by commas.
    fn list(
        &mut self,
        depth: usize,
        [open, close]: [u8; 2],
        element: &mut dyn FnMut(&mut Self, usize) -> Option<()>,
    ) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        if !self.take(open) {
            return None;
        }
        self.spaces();
        if self.take(close) {
            return Some(());
        }
        loop {
            self.spaces();
            element(self, depth)?;
            self.spaces();
            if self.take(close) {
                return Some(());
            }
            if !self.take(b',') {
                return None;
            }
        }
    }

    fn string(&mut self) -> Option<()> {
        if !self.take(b'"') {
            return None;
        }
        loop {
            self.take_while(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
            if self.take(b'"') {
                return Some(());
            }
            if !self.take(b'\\') {
                return None;
            }
            let kind = self.peek()?;
            self.at += 1;
            match kind {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                b'u' => {
                    let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return None;
                    }
                    self.at += 4;
                }
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        let digits = |scanner: &mut Self| {
            (scanner.take_while(|byte| byte.is_ascii_digit()) > 0).then_some(())
        };
        self.take(b'-');
        if !self.take(b'0') {
            digits(self)?;
        }
        if self.take(b'.') {
            digits(self)?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            digits(self)?;
        }
        Some(())
    }
}
