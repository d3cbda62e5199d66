//! The delay a server asks for at the end of its goodbye: `draining; retry_after_ms=1830`.

use std::time::Duration;

/// What stands between the reason and the delay, in milliseconds.
const MARK: &str = "; retry_after_ms=";

/// A longer delay is not believed: no server may send its clients away for good.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// Splits a goodbye into its reason and the delay. What is no delay as servers write it, or one beyond
/// [`RETRY_AFTER_MAX`], stays part of the reason.
pub(crate) fn split(goodbye: &str) -> (&str, Option<Duration>) {
    let hinted = goodbye.rsplit_once(MARK).and_then(|(reason, delay)| {
        let is_number = delay.bytes().all(|byte| byte.is_ascii_digit());
        let delay = Duration::from_millis(delay.parse().ok()?);
        (is_number && delay <= RETRY_AFTER_MAX).then_some((reason, Some(delay)))
    });
    hinted.unwrap_or((goodbye, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_taken_off_its_reason() {
        let check = |goodbye, reason, delay_ms| {
            let expected = (reason, Some(Duration::from_millis(delay_ms)));
            assert_eq!(split(goodbye), expected, "{goodbye}");
        };
        check("draining; retry_after_ms=1830", "draining", 1830);
        check("; retry_after_ms=0", "", 0);
        check("no logic; come back; retry_after_ms=0042", "no logic; come back", 42);
        check("a; retry_after_ms=1; retry_after_ms=2", "a; retry_after_ms=1", 2);
        check("draining; retry_after_ms=3600000", "draining", 3_600_000);
    }

    #[test]
    fn what_is_no_delay_stays_in_the_reason() {
        for goodbye in [
            "",
            "draining",
            "retry_after_ms=5",
            "draining; retry_after_ms=",
            "draining; retry_after_ms=+5",
            "draining; retry_after_ms=-5",
            "draining; retry_after_ms= 5",
            "draining; retry_after_ms=5 ",
            "draining; retry_after_ms=5ms",
            "draining; retry_after_ms=1.5",
            "draining; retry_after_ms=0x10",
            "draining; retry_after_ms=٣",
            "draining;retry_after_ms=5",
            "draining; retry_after_ms=5; and more",
            "draining; retry_after_ms=3600001",
            "draining; retry_after_ms=18446744073709551615",
            "draining; retry_after_ms=18446744073709551616",
            "draining; retry_after_ms=99999999999999999999999999999999999999",
        ] {
            assert_eq!(split(goodbye), (goodbye, None));
        }
    }
}
