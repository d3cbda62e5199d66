//! The inputs of the helpers: tokens, lists of keys, and messages, each bounded.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use crate::args::Input;

/// Most bytes of a message, a token or a list that are read: the largest `push.frame_max`.
const READ_MAX: u64 = 64 << 20;

/// The bytes of a `--token`. The newline at the end of a file is not part of it.
pub(crate) fn token(argument: &str) -> Result<Vec<u8>, String> {
    let Some(path) = argument.strip_prefix('@') else { return Ok(argument.into()) };
    let named = |error: io::Error| format!("--token {path}: {error}");
    let mut token = File::open(path).and_then(read).map_err(named)?;
    while token.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        token.pop();
    }
    Ok(token)
}

/// Reads all of `source`, within the bound.
fn read(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(READ_MAX + 1).read_to_end(&mut bytes)?;
    check_length(&bytes)?;
    Ok(bytes)
}

/// The lines of a file, empty ones left out.
pub(crate) fn list(path: &Path) -> Result<Vec<String>, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = File::open(path).and_then(read).map_err(|error| named(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| named(&error))?;
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// The messages of an [`Input`], one after the other as they arrive.
pub(crate) struct Messages {
    source: Box<dyn BufRead>,
    name: String,
    has_lines: bool,
    is_done: bool,
}

impl Messages {
    pub(crate) fn open(input: &Input) -> Result<Self, String> {
        let named = |error, path: &Path| format!("{}: {error}", path.display());
        let (source, name): (Box<dyn BufRead>, _) = match (&input.file, &input.text) {
            (Some(path), _) => {
                let file = File::open(path).map_err(|error| named(error, path))?;
                (Box::new(BufReader::new(file)), path.display().to_string())
            }
            (None, Some(text)) if text != "-" => {
                (Box::new(Cursor::new(text.clone().into_bytes())), "the message".to_owned())
            }
            (None, _) => (Box::new(BufReader::new(io::stdin())), "standard input".to_owned()),
        };
        Ok(Self { source, name, has_lines: input.lines, is_done: false })
    }

    /// The next message; `None`: there are no more.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        if self.is_done {
            return Ok(None);
        }
        let next = if self.has_lines {
            line(&mut self.source)
        } else {
            self.is_done = true;
            read(&mut self.source).map(Some)
        };
        next.map_err(|error| format!("{}: {error}", self.name))
    }
}

/// Reads a line, without its line end. The last line may have none.
fn line(source: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    // This includes space for the end of the longest line.
    source.take(READ_MAX + 2).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop_if(|byte| *byte == b'\n').is_some() {
        line.pop_if(|byte| *byte == b'\r');
    }
    check_length(&line)?;
    Ok(Some(line))
}

fn check_length(bytes: &[u8]) -> io::Result<()> {
    if bytes.len() as u64 > READ_MAX {
        return Err(io::Error::other(format!("more than {READ_MAX} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_bounded() {
        assert_eq!(read(&b"text\n"[..]).unwrap(), b"text\n");
        let most = read(io::repeat(0).take(READ_MAX)).unwrap();
        assert_eq!(most.len() as u64, READ_MAX);
        let said = read(io::repeat(0)).unwrap_err().to_string();
        assert_eq!(said, "more than 67108864 bytes");
        let said = line(&mut BufReader::new(io::repeat(0))).unwrap_err().to_string();
        assert_eq!(said, "more than 67108864 bytes");
    }

    #[test]
    fn lines_are_messages_without_their_ends() {
        let check = |text: &str, expected: &[&str]| {
            let input = Input { text: Some(text.to_owned()), lines: true, ..Input::default() };
            let mut messages = Messages::open(&input).unwrap();
            for message in expected {
                assert_eq!(
                    messages.next().unwrap().as_deref(),
                    Some(message.as_bytes()),
                    "{text:?}"
                );
            }
            assert_eq!(messages.next(), Ok(None), "{text:?}");
        };
        check("", &[]);
        check("one", &["one"]);
        check("one\n", &["one"]);
        check("one\r\n\n two\r", &["one", "", " two\r"]);
    }
}
