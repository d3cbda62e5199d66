//! A terminal that shows one screen after another and reads keys.

use std::io::{self, Stdin, Stdout, Write, stdin, stdout};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::read;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Ctrl-C, as a terminal in raw mode sends it.
const CTRL_C: u8 = 3;

/// The alternate screen of a terminal in raw mode. Dropping it restores the main screen and the former mode.
pub(crate) struct Terminal {
    input: Stdin,
    output: Stdout,
    before: Termios,
}

impl Terminal {
    /// Takes the terminal of standard input and output; `None` if one of them is not a terminal.
    ///
    /// # Errors
    /// If the terminal refuses.
    pub(crate) fn open() -> io::Result<Option<Self>> {
        let (input, output) = (stdin(), stdout());
        if !isatty(&input) || !isatty(&output) {
            return Ok(None);
        }
        let before = tcgetattr(&input)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw)?;
        let mut terminal = Self { input, output, before };
        terminal.write("\x1b[?1049h\x1b[?25l")?;
        Ok(Some(terminal))
    }

    /// Shows as much of `lines` as fits.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(crate) fn show(&mut self, lines: &[String]) -> io::Result<()> {
        let size = tcgetwinsize(&self.output)?;
        let (rows, columns) = (usize::from(size.ws_row.max(1)), usize::from(size.ws_col.max(1)));
        let mut screen = String::from("\x1b[H");
        for (row, line) in lines.iter().take(rows).enumerate() {
            let line: String = line.chars().take(columns).collect();
            screen += if row > 0 { "\r\n" } else { "" };
            screen += &line;
            // Erases the rest of the line.
            screen += "\x1b[K";
        }
        // Erases the rest of the screen.
        screen += "\x1b[J";
        self.write(&screen)
    }

    /// Waits for `time`. `true`: q or Ctrl-C was pressed, or the input has ended.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(crate) fn wait(&mut self, time: Duration) -> io::Result<bool> {
        let mut input = [PollFd::new(&self.input, PollFlags::IN)];
        let time = Timespec::try_from(time).expect("a short time");
        match poll(&mut input, Some(&time)) {
            // A signal arrived, such as for a changed size.
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut keys = [0; 64];
        let length = read(&self.input, &mut keys)?;
        Ok(length == 0 || keys[..length].iter().any(|key| [b'q', CTRL_C].contains(key)))
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.output.write_all(text.as_bytes())?;
        self.output.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Failures do not matter if the terminal is gone.
        let _ = self.write("\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(&self.input, OptionalActions::Now, &self.before);
    }
}
