//! How fast a listener enters its rooms. All at once, until a server closes it for that.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time between two rooms after the first close as `room_rate`. Each further one doubles it: the client is not told what the
/// server allows.
const INTERVAL: Duration = Duration::from_millis(250);

/// The longest one. The lowest limit that a server can be given is one room in a second.
const INTERVAL_MAX: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// `None`: no server has closed the listener for its pace.
    interval: Option<Duration>,
    /// Rooms that the present connection has not asked for.
    waiting: VecDeque<String>,
    /// When the first of these is asked for.
    due: Option<Instant>,
}

impl Pace {
    /// Whether rooms are entered one by one.
    pub(super) fn is_slow(&self) -> bool {
        self.interval.is_some()
    }

    pub(super) fn slow_down(&mut self) {
        let slower = self.interval.map_or(INTERVAL, |interval| interval * 2);
        self.interval = Some(slower.min(INTERVAL_MAX));
    }

    /// A connection is to enter these rooms; none: there is no connection.
    pub(super) fn begin(&mut self, rooms: VecDeque<String>, now: Instant) {
        self.due = (!rooms.is_empty()).then_some(now);
        self.waiting = rooms;
    }

    /// When the next room is to be asked for. `None`: none waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes the room that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<String> {
        self.due.filter(|due| *due <= now)?;
        let room = self.waiting.pop_front();
        let later = now.checked_add(self.interval.unwrap_or_default());
        self.due = later.filter(|_| !self.waiting.is_empty());
        room
    }

    /// The program asks for the room itself.
    pub(super) fn forget(&mut self, room: &str) {
        self.waiting.retain(|waiting| waiting != room);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a time to begin with")]

    use super::*;

    #[test]
    fn each_close_doubles_the_time_between_two_rooms() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        for millis in [250, 500, 1_000, 2_000, 4_000, 4_000] {
            pace.slow_down();
            let interval = Duration::from_millis(millis);
            pace.begin(["a", "b", "c"].map(str::to_owned).into(), now);
            pace.forget("b");
            assert_eq!(pace.take_due(now).as_deref(), Some("a"));
            assert_eq!(pace.take_due(now), None);
            assert_eq!(pace.due(), Some(now + interval));
            now += interval;
            assert_eq!(pace.take_due(now).as_deref(), Some("c"));
            assert_eq!(pace.due(), None);
        }
    }
}
