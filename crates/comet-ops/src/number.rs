//! Values of samples, and their text form.

use std::fmt::{self, Display};
use std::time::Duration;

/// A value of a sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Number {
    /// A count.
    Whole(u64),
    /// A time in seconds, the format's base unit.
    Seconds(Duration),
}

impl From<u64> for Number {
    fn from(whole: u64) -> Self {
        Self::Whole(whole)
    }
}

impl From<Duration> for Number {
    fn from(time: Duration) -> Self {
        Self::Seconds(time)
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(whole) => whole.fmt(f),
            // Written with all nine digits: as an f64, a sum of nanoseconds would lose its last ones.
            Self::Seconds(time) => write!(f, "{}.{:09}", time.as_secs(), time.subsec_nanos()),
        }
    }
}
