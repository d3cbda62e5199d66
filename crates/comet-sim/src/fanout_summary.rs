//! What runs of the fan-out have covered.

use std::fmt;
use std::ops::AddAssign;

/// What a run of the fan-out has covered, or the sum of several runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FanoutSummary {
    /// Pushes.
    pub pushes: u64,
    /// Pushes that found no place at the turnstile.
    pub crowded: u64,
    /// Pushes whose caller left.
    pub left: u64,
    /// Pushes that no comet is known to have taken.
    pub refused: u64,
    /// Pushes of which some comets are not known to have taken their part.
    pub partial: u64,
    /// Parts whose comet did not answer in time.
    pub late: u64,
    /// Parts that were not sent, or given up, because their comet was gone or had too many calls.
    pub left_out: u64,
    /// Parts that a comet carried out although its answer was lost.
    pub lost: u64,
    /// Times that a comet was found to serve, or to serve no longer.
    pub changes: u64,
    /// Times that a comet was removed and added again.
    pub taken_out: u64,
}

impl AddAssign for FanoutSummary {
    fn add_assign(&mut self, other: Self) {
        self.pushes += other.pushes;
        self.crowded += other.crowded;
        self.left += other.left;
        self.refused += other.refused;
        self.partial += other.partial;
        self.late += other.late;
        self.left_out += other.left_out;
        self.lost += other.lost;
        self.changes += other.changes;
        self.taken_out += other.taken_out;
    }
}

impl fmt::Display for FanoutSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pushes, crowded, left, refused, partial, late, left_out, lost, .. } = self;
        let Self { changes, taken_out, .. } = self;
        write!(
            f,
            "fan-out: {pushes} pushes, {crowded} found no place, of {left} the caller left, {refused} \
             refused, {partial} in part; {late} answers late, {lost} lost, {left_out} parts left out, \
             {changes} changes of health, {taken_out} times a comet taken out"
        )
    }
}
