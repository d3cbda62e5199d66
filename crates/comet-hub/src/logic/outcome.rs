//! The outcomes of attempts and calls, and the sentence for the client.

use std::fmt;

use comet_core::{CloseReason, Denied, Jitter};

use super::request::Reply;

/// A gRPC status code, as a number; [`fmt::Display`] is its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StatusCode(pub i32);

#[allow(missing_docs, reason = "gRPC's own names")]
impl StatusCode {
    pub const OK: Self = Self(0);
    pub const UNKNOWN: Self = Self(2);
    pub const INVALID_ARGUMENT: Self = Self(3);
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    pub const NOT_FOUND: Self = Self(5);
    pub const PERMISSION_DENIED: Self = Self(7);
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    pub const INTERNAL: Self = Self(13);
    pub const UNAVAILABLE: Self = Self(14);
    pub const UNAUTHENTICATED: Self = Self(16);

    /// By number.
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];

    /// Whether the code is a statement about the client or its message. All other codes are about the service.
    pub(super) fn is_about_client(self) -> bool {
        matches!(
            self,
            Self::UNAUTHENTICATED
                | Self::PERMISSION_DENIED
                | Self::INVALID_ARGUMENT
                | Self::NOT_FOUND
        )
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0).ok().and_then(|code| Self::NAMES.get(code)) {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", self.0),
        }
    }
}

/// The meaning of UNKNOWN, the code of every error that a service in Go returns without a code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnknownCode {
    /// The client is refused. goim's logic answers a bad token with it.
    Refuse,
    /// The service failed: another address is asked, and the client may come back.
    Retry,
}

/// The outcome of one attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AttemptOutcome {
    /// Logic did what was asked.
    Replied(Reply),
    /// The other side answered with a status that is not OK.
    Refused {
        /// Which one.
        code: StatusCode,
        /// Its message, or a text for the code if there is none.
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

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// Logic refused the client. The sentence is for the client.
    Refused { code: StatusCode, sentence: Box<str> },
    /// The service reported a failure. Its message is only logged, because it may reveal internals.
    Failed { code: StatusCode },
    /// No answer came in time.
    Late,
    /// No address is available, or those that were tried no longer are.
    Unavailable,
    /// The number of calls under way is at its bound.
    TooManyCalls,
}

/// The decision after an attempt.
pub(super) enum Verdict {
    /// The call is over.
    Final(Result<Reply, Failure>),
    /// The address cannot answer; another one may. `was_sent`: logic may have seen the request.
    TryNext { was_sent: bool, failure: Failure },
}

impl AttemptOutcome {
    pub(super) fn judge(self, unknown: UnknownCode) -> Verdict {
        match self {
            Self::Replied(reply) => Verdict::Final(Ok(reply)),
            Self::TimedOut => Verdict::Final(Err(Failure::Late)),
            Self::Broken { was_sent } => {
                Verdict::TryNext { was_sent, failure: Failure::Unavailable }
            }
            Self::Refused { code, sentence } if code.is_about_client() => {
                Verdict::Final(Err(Failure::Refused { code, sentence }))
            }
            // An error without a code may contain internal details in its message.
            Self::Refused { code: code @ StatusCode::UNKNOWN, .. }
                if unknown == UnknownCode::Refuse =>
            {
                let sentence = "refused by logic".into();
                Verdict::Final(Err(Failure::Refused { code, sentence }))
            }
            Self::Refused { code, .. } => {
                Verdict::TryNext { was_sent: true, failure: Failure::Failed { code } }
            }
        }
    }
}

impl Failure {
    /// The code under which the failure is counted.
    pub(super) fn code(&self) -> StatusCode {
        match self {
            Self::Refused { code, .. } | Self::Failed { code } => *code,
            Self::Late => StatusCode::DEADLINE_EXCEEDED,
            Self::Unavailable => StatusCode::UNAVAILABLE,
            Self::TooManyCalls => StatusCode::RESOURCE_EXHAUSTED,
        }
    }

    /// The sentence for the client; the shard cuts it if it is too long.
    pub(super) fn sentence(self) -> Box<str> {
        match self {
            Self::Refused { sentence, .. } => sentence,
            Self::Failed { .. } => "logic has failed".into(),
            Self::Late => "logic did not answer in time".into(),
            Self::Unavailable => "logic is not there".into(),
            Self::TooManyCalls => "logic has too much to do".into(),
        }
    }

    /// The denial of a client that is not let in. Only logic's own refusal is final. After any other failure the client
    /// is told to come back after a random time between half of `retry_after_ms` and all of it.
    pub(super) fn denied(self, retry_after_ms: u32, jitter: &mut Jitter) -> Denied {
        if let Self::Refused { sentence, .. } = self {
            return Denied::refused(sentence);
        }
        let hint = (retry_after_ms > 0)
            .then(|| jitter.within(retry_after_ms.div_ceil(2)..=retry_after_ms));
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
    fn only_errors_of_logic_about_the_client_end_a_call() {
        for unknown in [UnknownCode::Refuse, UnknownCode::Retry] {
            for code in (-1..20).map(StatusCode).filter(|code| *code != StatusCode::OK) {
                let outcome = AttemptOutcome::Refused { code, sentence: "so be it".into() };
                let failure = match outcome.judge(unknown) {
                    Verdict::Final(Err(failure)) => failure,
                    Verdict::TryNext { was_sent: true, failure } => failure,
                    _ => panic!("{code}"),
                };
                let refused = |sentence: &str| Failure::Refused { code, sentence: sentence.into() };
                let expected = match code.0 {
                    // INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED
                    3 | 5 | 7 | 16 => refused("so be it"),
                    2 if unknown == UnknownCode::Refuse => refused("refused by logic"),
                    _ => Failure::Failed { code },
                };
                assert_eq!(failure, expected, "{code}");
                assert_eq!(failure.code(), code);
            }
            let late = AttemptOutcome::TimedOut.judge(unknown);
            assert!(matches!(late, Verdict::Final(Err(Failure::Late))));
            for sent in [true, false] {
                let Verdict::TryNext { was_sent, failure } =
                    AttemptOutcome::Broken { was_sent: sent }.judge(unknown)
                else {
                    panic!("another address may answer")
                };
                assert_eq!((was_sent, failure), (sent, Failure::Unavailable));
            }
        }
    }

    #[test]
    fn only_a_refusal_of_logic_is_final() {
        let mut jitter = Jitter::new(3);
        let refused = Failure::Refused { code: StatusCode(16), sentence: "unknown token".into() };
        assert_eq!(refused.denied(5_000, &mut jitter), Denied::refused("unknown token"));
        let failed = Failure::Failed { code: StatusCode::INTERNAL };
        for failure in [failed, Failure::Late, Failure::Unavailable, Failure::TooManyCalls] {
            let mut denied = |retry_after_ms| failure.clone().denied(retry_after_ms, &mut jitter);
            assert_eq!(denied(5_000).reason, CloseReason::LogicUnavailable, "{failure:?}");
            assert_eq!(denied(5_000).sentence, failure.clone().sentence());
            for _ in 0..100 {
                assert!((2_500..=5_000).contains(&denied(5_000).retry_after_ms.unwrap()));
            }
            assert_eq!(denied(1).retry_after_ms, Some(1));
            assert_eq!(denied(0).retry_after_ms, None);
        }
    }

    #[test]
    fn codes_have_names() {
        let names = [StatusCode::RESOURCE_EXHAUSTED, StatusCode(16), StatusCode(-1)];
        let names = names.map(|code| code.to_string());
        assert_eq!(names, ["RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "code -1"]);
    }
}
