//! What a gRPC status says about an attempt.

use std::error::Error;

use comet_hub::logic::{AttemptOutcome, StatusCode};
use comet_serve::{NotGrpc, cause, is_caller_refused, is_unprocessed};
use tonic::{ConnectError, Status, TimeoutExpired};

/// What is said of an address that refuses this comet, not its client.
pub(super) const TOKEN_REFUSED: &str =
    "logic.token is refused: it has to be one of logic's tokens (logic_server.tokens)";

/// What is said of an address that wants a token, where there is none.
pub(super) const TOKEN_MISSING: &str =
    "it asks for a token: set logic.token to one of logic's tokens (logic_server.tokens)";

/// A status with a source was made on this side, one without came from the other.
pub(super) fn outcome_of_status(status: &Status) -> AttemptOutcome {
    if let Some(page) = cause::<NotGrpc>(status) {
        let sentence = page.to_string().into();
        return AttemptOutcome::Refused { code: StatusCode::UNAVAILABLE, sentence };
    }
    if is_caller_refused(status) {
        // Nothing that a client could mend, and another address may have another list.
        let sentence = TOKEN_REFUSED.into();
        return AttemptOutcome::Refused { code: StatusCode::UNAVAILABLE, sentence };
    }
    if status.source().is_none() {
        let sentence = match status.message() {
            "" => status.code().description(),
            message => message,
        };
        let code = StatusCode(status.code() as i32);
        return AttemptOutcome::Refused { code, sentence: sentence.into() };
    }
    if cause::<TimeoutExpired>(status).is_some() {
        return AttemptOutcome::TimedOut;
    }
    let was_sent = cause::<ConnectError>(status).is_none() && !is_unprocessed(status);
    AttemptOutcome::Broken { was_sent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_this_side_and_of_the_other_differ() {
        let check = |status: Status, expected| assert_eq!(outcome_of_status(&status), expected);
        let local = |source: Box<dyn Error + Send + Sync>| Status::from_error(source);
        let broken = |was_sent| AttemptOutcome::Broken { was_sent };
        check(local(Box::new(ConnectError("refused".into()))), broken(false));
        check(local(Box::new(std::io::Error::other("cut off"))), broken(true));
        let page = NotGrpc::Cut;
        let sentence = page.to_string().into();
        let refused_by_gateway =
            AttemptOutcome::Refused { code: StatusCode::UNAVAILABLE, sentence };
        check(local(Box::new(page)), refused_by_gateway);
        check(local(Box::new(TimeoutExpired(()))), AttemptOutcome::TimedOut);
        let refused = |code, sentence: &str| AttemptOutcome::Refused {
            code: StatusCode(code),
            sentence: sentence.into(),
        };
        check(Status::unauthenticated("unknown token"), refused(16, "unknown token"));
        let mut own = Status::unauthenticated("a token is needed");
        own.metadata_mut().insert("www-authenticate", "Bearer".parse().unwrap());
        check(own, refused(14, TOKEN_REFUSED));
        check(Status::unavailable("away"), refused(14, "away"));
        // A client always gets a sentence.
        check(Status::internal(""), refused(13, "Internal error"));
    }
}
