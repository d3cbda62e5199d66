//! Signals of the process. No other test of this program sends any.

use std::time::Duration;

use comet_ops::{Signal, Signals};
use rustix::process::{Signal as Kill, getpid, kill_process};

#[test]
fn signals_arrive_as_values() {
    let mut signals = Signals::listen().unwrap();
    assert_eq!(signals.wait_for(Duration::ZERO), None);
    for (kill, expected) in [
        (Kill::TERM, Signal::Terminate),
        (Kill::INT, Signal::Interrupt),
        (Kill::HUP, Signal::Hangup),
        (Kill::HUP, Signal::Hangup),
    ] {
        kill_process(getpid(), kill).unwrap();
        assert_eq!(signals.wait(), expected);
        kill_process(getpid(), kill).unwrap();
        assert_eq!(signals.wait_for(Duration::MAX), Some(expected));
    }
    // A signal to end is found among others, and still pending.
    for (kill, expected) in [(Kill::TERM, Signal::Terminate), (Kill::INT, Signal::Interrupt)] {
        kill_process(getpid(), Kill::HUP).unwrap();
        assert_eq!(signals.find_end(), None);
        kill_process(getpid(), kill).unwrap();
        // Another thread may receive it, with a delay.
        while signals.find_end().is_none() {}
        assert_eq!(signals.find_end(), Some(expected));
        let both = [signals.wait(), signals.wait()];
        assert_eq!(both, [expected, Signal::Hangup]);
        assert_eq!(signals.wait_for(Duration::ZERO), None);
    }
}
