//! What fails at logic, for the log: one line when calls begin to fail in some way, and one when that is
//! over.
//!
//! A way to fail is a remote procedure and a code. It is over when a call of the procedure succeeds after
//! a quiet time, so that single bad calls among good ones do not make a line each.

use std::collections::BTreeMap;

use comet_core::Millis;

use super::action::{Event, Output};
use super::outcome::StatusCode;

/// Time without another such failure after which a success ends it, milliseconds.
const QUIET_MS: u64 = 10_000;

/// Longest part of a message that is logged, bytes.
const MESSAGE_MAX: usize = 256;

struct Failing {
    calls: u64,
    last: Millis,
}

#[derive(Default)]
pub(super) struct FailingCalls(BTreeMap<(&'static str, StatusCode), Failing>);

impl FailingCalls {
    /// A call of `rpc` failed, `message` says how. It is a text of another machine.
    pub(super) fn failed(
        &mut self,
        now: Millis,
        (rpc, code): (&'static str, StatusCode),
        message: &str,
        out: &mut Output,
    ) {
        let failing = self.0.entry((rpc, code)).or_insert_with(|| {
            let message = &message[..message.floor_char_boundary(MESSAGE_MAX)];
            out.events.push_back(Event::CallsFail { rpc, code, message: message.into() });
            Failing { calls: 0, last: now }
        });
        failing.calls += 1;
        failing.last = now;
    }

    pub(super) fn succeeded(&mut self, now: Millis, rpc: &'static str, out: &mut Output) {
        let ways = (rpc, StatusCode(i32::MIN))..=(rpc, StatusCode(i32::MAX));
        for ((_, code), Failing { calls, .. }) in
            self.0.extract_if(ways, |_, failing| failing.last.after(QUIET_MS) <= now)
        {
            out.events.push_back(Event::CallsSucceed { rpc, code, failed: calls });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENEWAL: (&str, StatusCode) = ("RenewOnline", StatusCode::RESOURCE_EXHAUSTED);

    fn lines(out: &mut Output) -> Vec<String> {
        out.events.drain(..).map(|event| event.to_string()).collect()
    }

    #[test]
    fn a_change_is_one_line() {
        let (mut failing, mut out) = (FailingCalls::default(), Output::default());
        failing.succeeded(Millis(0), "RenewOnline", &mut out);
        assert!(lines(&mut out).is_empty());
        for now in [1, 2] {
            failing.failed(Millis(now), RENEWAL, "5 MB is too \u{1b}[31mmuch", &mut out);
        }
        let expected = "RenewOnline of logic fails with RESOURCE_EXHAUSTED: \
                        \"5 MB is too \\u{1b}[31mmuch\"";
        assert_eq!(lines(&mut out), [expected]);
        // A success between failures changes nothing, nor does one of another procedure.
        failing.succeeded(Millis(2 + QUIET_MS - 1), "RenewOnline", &mut out);
        failing.succeeded(Millis(2 + QUIET_MS), "Connect", &mut out);
        assert!(lines(&mut out).is_empty());
        failing.succeeded(Millis(2 + QUIET_MS), "RenewOnline", &mut out);
        let expected =
            "RenewOnline of logic succeeds again: 2 calls failed with RESOURCE_EXHAUSTED";
        assert_eq!(lines(&mut out), [expected]);
        failing.failed(Millis(50_000), RENEWAL, &"é".repeat(MESSAGE_MAX), &mut out);
        assert!(lines(&mut out)[0].len() < 2 * MESSAGE_MAX);
    }
}
