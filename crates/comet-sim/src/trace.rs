//! The last events of a run, for the replay of a seed.

use std::collections::VecDeque;

/// The number of lines that are kept.
const LINES_MAX: usize = 200;

/// The last lines of a run; empty unless it is a replay.
#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) is_on: bool,
    pub(crate) step: u64,
    pub(crate) lines: VecDeque<String>,
}

impl Trace {
    pub(crate) fn add(&mut self, line: String) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// Adds a line to the trace of an `Env` or a `Context`. Formats nothing while the trace is off.
macro_rules! trace {
    ($env:expr, $($text:tt)*) => {
        if $env.trace.is_on {
            let line = format!("{:>6} {:>7} ms  {}", $env.trace.step, $env.now.0, format_args!($($text)*));
            $env.trace.add(line);
        }
    };
}
pub(crate) use trace;
