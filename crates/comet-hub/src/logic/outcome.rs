//! What comes of an attempt and of a call, and the sentence for the client.

use comet_core::{CloseReason, Denied};

use super::request::Reply;
use crate::Random;

/// A gRPC status code, as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StatusCode(pub i32);

#[allow(missing_docs, reason = "gRPC's own names")]
impl StatusCode {
    pub const OK: Self = Self(0);
    pub const CANCELLED: Self = Self(1);
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    pub const ABORTED: Self = Self(10);
    pub const UNIMPLEMENTED: Self = Self(12);
    pub const UNAVAILABLE: Self = Self(14);
}

/// What came of one attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AttemptOutcome {
    /// Logic did what it was asked.
    Replied(Reply),
    /// The other side answered with a status that is not OK.
    Refused {
        /// Which one.
        code: StatusCode,
        /// Its message, or what stands for the code where there is none.
        sentence: Box<str>,
    },
    /// This side gave up waiting.
    TimedOut,
    /// The connection broke, or there was none.
    Broken {
        /// Logic may have seen the request.
        was_sent: bool,
    },
}

/// Why a call has no good answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// Logic refused.
    Refused { code: StatusCode, sentence: Box<str> },
    /// No answer came in time.
    Late,
    /// No address is available, or those that were tried are not any more.
    Unavailable,
    /// As many calls as there may be are under way.
    TooManyCalls,
}

/// What to do about an attempt.
pub(super) enum Verdict {
    /// The call is over.
    Final(Result<Reply, Failure>),
    /// The address cannot answer; another one may. `was_sent`: logic may have seen the request.
    TryNext { was_sent: bool },
}

impl AttemptOutcome {
    pub(super) fn judge(self) -> Verdict {
        match self {
            Self::Replied(reply) => Verdict::Final(Ok(reply)),
            Self::TimedOut => Verdict::Final(Err(Failure::Late)),
            Self::Broken { was_sent } => Verdict::TryNext { was_sent },
            Self::Refused { code, sentence } => match code {
                StatusCode::DEADLINE_EXCEEDED => Verdict::Final(Err(Failure::Late)),
                // What stands in front of logic says these, or what is there in its place; they say
                // nothing about the client.
                StatusCode::UNAVAILABLE
                | StatusCode::RESOURCE_EXHAUSTED
                | StatusCode::UNIMPLEMENTED
                | StatusCode::CANCELLED
                | StatusCode::ABORTED => Verdict::TryNext { was_sent: true },
                _ => Verdict::Final(Err(Failure::Refused { code, sentence })),
            },
        }
    }
}

impl Failure {
    /// What to count it under.
    pub(super) fn code(&self) -> StatusCode {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Late => StatusCode::DEADLINE_EXCEEDED,
            Self::Unavailable => StatusCode::UNAVAILABLE,
            Self::TooManyCalls => StatusCode::RESOURCE_EXHAUSTED,
        }
    }

    /// For the client; the shard cuts what is too long.
    pub(super) fn sentence(self) -> Box<str> {
        match self {
            Self::Refused { sentence, .. } => sentence,
            Self::Late => "logic did not answer in time".into(),
            Self::Unavailable => "logic is not there".into(),
            Self::TooManyCalls => "logic has too much to do".into(),
        }
    }

    /// The same for a client that is not let in. Only logic's own refusal is final; after anything else
    /// the client is told to come back, after a random time from half of `retry_after_ms` up to it.
    pub(super) fn denied(self, retry_after_ms: u32, random: &mut Random) -> Denied {
        if let Self::Refused { sentence, .. } = self {
            return Denied::refused(sentence);
        }
        let hint = (retry_after_ms > 0).then(|| {
            let range = u64::from(retry_after_ms.div_ceil(2))..=u64::from(retry_after_ms);
            u32::try_from(random.within(range)).expect("not more than the longest")
        });
        Denied {
            reason: CloseReason::LogicUnavailable,
            sentence: self.sentence(),
            retry_after_ms: hint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_an_attempt_ends_the_call_or_not() {
        let refused =
            |code| AttemptOutcome::Refused { code: StatusCode(code), sentence: "so".into() };
        let no = |code| Some(Failure::Refused { code: StatusCode(code), sentence: "so".into() });
        let check = |outcome: AttemptOutcome, failure: Option<Failure>, was_sent: Option<bool>| {
            match outcome.clone().judge() {
                Verdict::Final(result) => {
                    assert_eq!((result.err(), None), (failure, was_sent), "{outcome:?}");
                }
                Verdict::TryNext { was_sent: sent } => {
                    assert_eq!((None, Some(sent)), (failure, was_sent), "{outcome:?}");
                }
            }
        };
        check(AttemptOutcome::Replied(Reply::Done), None, None);
        check(AttemptOutcome::TimedOut, Some(Failure::Late), None);
        for was_sent in [true, false] {
            check(AttemptOutcome::Broken { was_sent }, None, Some(was_sent));
        }
        // DEADLINE_EXCEEDED
        check(refused(4), Some(Failure::Late), None);
        // UNKNOWN, INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, INTERNAL, UNAUTHENTICATED
        for code in [2, 3, 5, 7, 13, 16] {
            check(refused(code), no(code), None);
        }
        // CANCELLED, RESOURCE_EXHAUSTED, ABORTED, UNIMPLEMENTED, UNAVAILABLE
        for code in [1, 8, 10, 12, 14] {
            check(refused(code), None, Some(true));
        }
    }

    #[test]
    fn only_a_refusal_of_logic_is_final() {
        let mut random = Random::new(3);
        let refused = Failure::Refused { code: StatusCode(16), sentence: "unknown token".into() };
        assert_eq!(refused.denied(5_000, &mut random), Denied::refused("unknown token"));
        for failure in [Failure::Late, Failure::Unavailable, Failure::TooManyCalls] {
            let mut denied = |retry_after_ms| failure.clone().denied(retry_after_ms, &mut random);
            assert_eq!(denied(5_000).reason, CloseReason::LogicUnavailable, "{failure:?}");
            assert_eq!(denied(5_000).sentence, failure.clone().sentence());
            for _ in 0..100 {
                assert!((2_500..=5_000).contains(&denied(5_000).retry_after_ms.unwrap()));
            }
            assert_eq!(denied(1).retry_after_ms, Some(1));
            assert_eq!(denied(0).retry_after_ms, None);
        }
    }
}
