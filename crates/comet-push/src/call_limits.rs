//! The limits of one call.

use std::fmt::Display;
use std::time::Duration;

use comet_proto::{count_frames, op};
use comet_wire::goim::protocol::Proto;
use tonic::Status;

/// Bytes that the longest request may have besides its body and keys.
const REQUEST_SLACK: usize = 1_024;

/// Bytes of a key in a request with the most keys. With longer keys fewer fit.
const KEY_BYTES: usize = 256;

/// Longest `collapse_id`, bytes: the longest room id.
const COLLAPSE_ID_MAX: usize = 256;

/// The limits of one call.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// Longest body of a frame, bytes.
    pub frame_max: usize,
    /// Most keys, users, or rooms asked about, in one call.
    pub keys_max: usize,
    /// How long a call may take.
    pub timeout: Duration,
}

impl CallLimits {
    /// Longest encoded request, bytes.
    #[must_use]
    pub fn request_max(&self) -> usize {
        self.keys_max
            .saturating_mul(KEY_BYTES)
            .saturating_add(self.frame_max)
            .saturating_add(REQUEST_SLACK)
    }

    /// Checks that there is at least one of `what` and at most [`CallLimits::keys_max`].
    ///
    /// # Errors
    /// A sentence with both numbers.
    pub fn check_count(&self, what: &str, count: usize) -> Result<(), Status> {
        let max = self.keys_max;
        match count {
            0 => Err(Status::invalid_argument(format!("no {what} is given: name at least one"))),
            _ if count > max => Err(Status::invalid_argument(format!(
                "{count} {what}s are more than the {max} of one call"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that `proto` is a frame that may be pushed.
    ///
    /// # Errors
    /// If it is missing, its body or its `collapse_id` is too long, or a body of operation 9 is not a run of whole frames.
    pub fn check_proto(&self, proto: Option<Proto>) -> Result<Proto, Status> {
        let proto =
            proto.ok_or_else(|| Status::invalid_argument("proto is missing: nothing to push"))?;
        let (length, max) = (proto.body.len(), self.frame_max);
        if length > max {
            return Err(body_too_long(length, max));
        }
        let length = proto.collapse_id.len();
        if length > COLLAPSE_ID_MAX {
            return Err(Status::invalid_argument(format!(
                "collapse_id has {length} bytes, more than the {COLLAPSE_ID_MAX} allowed"
            )));
        }
        if proto.op == op::RAW {
            match count_frames(&proto.body) {
                Ok(0) => {
                    let sentence = "the body of operation 9 holds no frame";
                    return Err(Status::invalid_argument(sentence));
                }
                Ok(_) => {}
                Err(fault) => {
                    return Err(Status::invalid_argument(format!(
                        "the body of operation 9 is not a run of whole frames: {fault}"
                    )));
                }
            }
        }
        Ok(proto)
    }
}

/// The error of a body with `length` bytes, more than `max`.
pub(crate) fn body_too_long(length: impl Display, max: usize) -> Status {
    Status::invalid_argument(format!("the body has {length} bytes, more than the {max} allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CallLimits = CallLimits { frame_max: 20, keys_max: 2, timeout: Duration::ZERO };

    #[track_caller]
    fn check<T>(outcome: Result<T, Status>, expected: Result<(), &str>) {
        let outcome = outcome.map(drop);
        assert_eq!(outcome.as_ref().map_err(Status::message).copied(), expected);
    }

    #[test]
    fn counts_are_bounded() {
        check(LIMITS.check_count("key", 0), Err("no key is given: name at least one"));
        check(LIMITS.check_count("key", 2), Ok(()));
        check(LIMITS.check_count("key", 3), Err("3 keys are more than the 2 of one call"));
    }

    #[test]
    fn frames_are_bounded_and_runs_of_them_whole() {
        let proto =
            |op, length| Some(Proto { op, body: vec![0; length].into(), ..Proto::default() });
        check(LIMITS.check_proto(None), Err("proto is missing: nothing to push"));
        check(LIMITS.check_proto(proto(5, 20)), Ok(()));
        let too_long = "the body has 21 bytes, more than the 20 allowed";
        check(LIMITS.check_proto(proto(5, 21)), Err(too_long));
        let none = "the body of operation 9 holds no frame";
        check(LIMITS.check_proto(proto(op::RAW, 0)), Err(none));
        assert!(LIMITS.check_proto(proto(op::RAW, 15)).is_err());
        let with_id = |length| Proto { collapse_id: "x".repeat(length), ..Proto::default() };
        check(LIMITS.check_proto(Some(with_id(256))), Ok(()));
        let too_long = "collapse_id has 257 bytes, more than the 256 allowed";
        check(LIMITS.check_proto(Some(with_id(257))), Err(too_long));
    }
}
