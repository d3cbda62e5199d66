//! Why a call of logic has no good answer, and what a client is told of it.

use std::error::Error;

use comet_core::{CloseReason, Denied};
use tonic::{Code, ConnectError, Status, TimeoutExpired};

/// Why a call has no good answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Logic said no.
    No(Status),
    /// No answer came in time.
    Late,
    /// No address is there, or those that were tried went away.
    Away,
    /// As many calls as there may be are under way.
    Crowded,
}

/// Why one attempt failed.
pub(crate) enum Attempt {
    /// No other address would do better.
    Final(Failure),
    /// The address cannot answer; another one may. `unsent`: logic cannot have seen the request.
    Broken { unsent: bool },
}

impl Attempt {
    pub(crate) fn of(status: Status) -> Self {
        if status.source().is_some() {
            if has_cause::<TimeoutExpired>(&status) {
                return Self::Final(Failure::Late);
            }
            return Self::Broken { unsent: has_cause::<ConnectError>(&status) };
        }
        match status.code() {
            Code::DeadlineExceeded => Self::Final(Failure::Late),
            // What stands in front of logic says these, or what is there in its place; they say
            // nothing about the client.
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Cancelled
            | Code::Aborted => Self::Broken { unsent: false },
            _ => Self::Final(Failure::No(status)),
        }
    }
}

impl Failure {
    /// What to count it under.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::No(status) => status.code(),
            Self::Late => Code::DeadlineExceeded,
            Self::Away => Code::Unavailable,
            Self::Crowded => Code::ResourceExhausted,
        }
    }

    /// What a client is told; the shard cuts what is too long.
    pub(crate) fn sentence(&self) -> Box<str> {
        match self {
            Self::No(status) if status.message().is_empty() => status.code().description().into(),
            Self::No(status) => status.message().into(),
            Self::Late => "logic did not answer in time".into(),
            Self::Away => "logic is not there".into(),
            Self::Crowded => "logic has too much to do".into(),
        }
    }

    /// The same for one that is not let in. Only logic's own no is final; after anything else a client
    /// is told to come back, after a random time from half of `retry_after_ms` up to it.
    pub(crate) fn denied(&self, retry_after_ms: u32) -> Denied {
        let sentence = self.sentence();
        if matches!(self, Self::No(_)) {
            return Denied::refused(sentence);
        }
        let hint = (retry_after_ms > 0)
            .then(|| rand::random_range(retry_after_ms.div_ceil(2)..=retry_after_ms));
        Denied { reason: CloseReason::LogicUnavailable, sentence, retry_after_ms: hint }
    }
}

fn has_cause<E: Error + 'static>(status: &Status) -> bool {
    let mut error: Option<&(dyn Error + 'static)> = status.source();
    while let Some(cause) = error {
        if cause.is::<E>() {
            return true;
        }
        error = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_no_of_logic_is_final() {
        let no = [
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::InvalidArgument,
            Code::NotFound,
            Code::Internal,
            Code::Unknown,
        ];
        for code in no {
            let Attempt::Final(failure) = Attempt::of(Status::new(code, "unknown token")) else {
                panic!("{code:?}")
            };
            let denied = failure.denied(5_000);
            assert_eq!(denied.reason, CloseReason::AuthRefused, "{code:?}");
            assert_eq!((&*denied.sentence, denied.retry_after_ms), ("unknown token", None));
        }
        for code in [Code::Unavailable, Code::ResourceExhausted, Code::Unimplemented] {
            let attempt = Attempt::of(Status::new(code, "away"));
            assert!(matches!(attempt, Attempt::Broken { unsent: false }), "{code:?}");
        }
        for failure in [Failure::Late, Failure::Away, Failure::Crowded] {
            let denied = failure.denied(5_000);
            assert_eq!(denied.reason, CloseReason::LogicUnavailable, "{failure:?}");
            assert!((2_500..=5_000).contains(&denied.retry_after_ms.unwrap()), "{denied:?}");
            assert_eq!(failure.denied(1).retry_after_ms, Some(1));
            assert_eq!(failure.denied(0).retry_after_ms, None);
        }
    }

    #[test]
    fn only_what_could_not_connect_is_unsent() {
        let refused = Status::from_error(Box::new(ConnectError("refused".into())));
        assert!(matches!(Attempt::of(refused), Attempt::Broken { unsent: true }));
        let cut_off = Status::from_error(Box::new(std::io::Error::other("cut off")));
        assert!(matches!(Attempt::of(cut_off), Attempt::Broken { unsent: false }));
        let late = Status::from_error(Box::new(TimeoutExpired(())));
        assert!(matches!(Attempt::of(late), Attempt::Final(Failure::Late)));
    }

    #[test]
    fn a_no_without_a_word_is_given_one() {
        assert_eq!(&*Failure::No(Status::internal("")).sentence(), "Internal error");
    }
}
