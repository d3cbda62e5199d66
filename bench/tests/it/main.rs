//! Runs the program itself: against its own yardsticks, and against a comet.

mod raw;
mod scenarios;
mod support;
