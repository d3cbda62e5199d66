//! The meaning of a gRPC status for an attempt.

use std::error::Error;

use comet_hub::logic::{AttemptOutcome, StatusCode};
use comet_serve::{NotGrpc, Quoted, cause, is_caller_refused, is_unprocessed};
use tonic::{Code, ConnectError, Status, TimeoutExpired};

const TOKEN_REFUSED: &str =
    "logic.token is refused: it has to be one of logic's tokens (logic_server.tokens)";

/// The message about an address that requires a token when none is set.
pub(super) const TOKEN_MISSING: &str =
    "it asks for a token: set logic.token to one of logic's tokens (logic_server.tokens)";

/// The message about an address that refuses this comet, not its client. The address may be a service with tokens of
/// its own, so its own message is included.
pub(super) fn token_refused(has_token: bool, status: &Status) -> Box<str> {
    let sentence = if has_token { TOKEN_REFUSED } else { TOKEN_MISSING };
    format!("{sentence}; it says {}", Quoted(status.message())).into()
}

/// A status with a source was made on this side, one without came from the other side. `has_token`: the call had a
/// token of this comet. `is_of_client`: the call was about a client, so UNAUTHENTICATED may be about the client.
pub(super) fn outcome_of_status(
    status: &Status,
    has_token: bool,
    is_of_client: bool,
) -> AttemptOutcome {
    if let Some(page) = cause::<NotGrpc>(status) {
        let sentence = page.to_string().into();
        return AttemptOutcome::Refused { code: StatusCode::UNAVAILABLE, sentence };
    }
    let is_refused = status.source().is_none() && status.code() == Code::Unauthenticated;
    if is_caller_refused(status) || (is_refused && !is_of_client) {
        // The client cannot fix this, and another address may have other tokens.
        let sentence = token_refused(has_token, status);
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
        let check = |status: Status, expected| {
            assert_eq!(outcome_of_status(&status, true, true), expected);
        };
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
        let of_comet = format!("{TOKEN_REFUSED}; it says \"a token is needed\"");
        check(own, refused(14, &of_comet));
        // This call has nothing to do with a client.
        let foreign = Status::unauthenticated("log in first");
        let of_comet = format!("{TOKEN_MISSING}; it says \"log in first\"");
        assert_eq!(outcome_of_status(&foreign, false, false), refused(14, &of_comet));
        check(Status::unavailable("away"), refused(14, "away"));
        // A client always gets a sentence.
        check(Status::internal(""), refused(13, "Internal error"));
    }
}
