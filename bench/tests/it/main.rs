//! Runs the program itself: against its own yardsticks, and against a comet.

mod books;
mod raw;
mod report;
mod scenarios;
mod support;
