//! The delay that a server may ask for: at the end of its close reason, as in `draining; retry_after_ms=1830`, or as a
//! header when it refuses the upgrade.

use std::time::Duration;

/// The text between the reason and the delay in milliseconds.
const SEPARATOR: &str = "; retry_after_ms=";

/// Longer delays are cut to this, so no server can keep its clients away for good.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// Splits a server's close text into its reason and the delay. A delay that is malformed stays part of the
/// reason, and one beyond [`RETRY_AFTER_MAX`] is cut to it.
pub(crate) fn split(text: &str) -> (&str, Option<Duration>) {
    let split = text.rsplit_once(SEPARATOR).and_then(|(reason, delay)| {
        let is_number = delay.bytes().all(|byte| byte.is_ascii_digit());
        let delay = Duration::from_millis(delay.parse().ok()?);
        is_number.then_some((reason, Some(delay.min(RETRY_AFTER_MAX))))
    });
    split.unwrap_or((text, None))
}

/// The delay of HTTP's `Retry-After` (RFC 9110 section 10.2.3), cut to [`RETRY_AFTER_MAX`]; `None`: it is not a number
/// of seconds.
pub(crate) fn of_header(value: &str) -> Option<Duration> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let delay = Duration::from_secs(value.parse().ok()?);
    is_number.then_some(delay.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_split_from_the_reason() {
        let check = |text, reason, delay_ms| {
            let expected = (reason, Some(Duration::from_millis(delay_ms)));
            assert_eq!(split(text), expected, "{text}");
        };
        check("draining; retry_after_ms=1830", "draining", 1830);
        check("; retry_after_ms=0", "", 0);
        check("no logic; come back; retry_after_ms=0042", "no logic; come back", 42);
        check("a; retry_after_ms=1; retry_after_ms=2", "a; retry_after_ms=1", 2);
        check("draining; retry_after_ms=3600000", "draining", 3_600_000);
        check("draining; retry_after_ms=3600001", "draining", 3_600_000);
        check("kicked: banned; retry_after_ms=18446744073709551615", "kicked: banned", 3_600_000);
    }

    #[test]
    fn a_malformed_delay_stays_in_the_reason() {
        for text in [
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
            "draining; retry_after_ms=18446744073709551616",
            "draining; retry_after_ms=99999999999999999999999999999999999999",
        ] {
            assert_eq!(split(text), (text, None));
        }
    }
}
