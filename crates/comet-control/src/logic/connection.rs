//! Connections to the addresses of logic: opened, and asked over gRPC's health service whether they serve.

use std::error::Error;

use comet_hub::logic::PingOutcome;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use comet_serve::{BearerToken, GrpcChannel, Peer, call_until_processed, misses_token, root_cause};

use super::failure::{TOKEN_MISSING, token_refused};

/// # Errors
/// What failed, in one sentence.
pub(super) async fn open(peer: Peer, token: BearerToken) -> Result<GrpcChannel, String> {
    let channel = peer.connect().await.map_err(|error| root_cause(&error).to_string())?;
    Ok(GrpcChannel::new(&peer, channel, token))
}

/// goim's Logic has no procedure for this, and gRPC's health service may be missing; an answer that it is missing
/// counts as an answer too.
pub(super) async fn ping(channel: GrpcChannel) -> PingOutcome {
    let check = || {
        let mut client = HealthClient::new(channel.clone());
        async move { client.check(HealthCheckRequest::default()).await }
    };
    let has_token = channel.has_token();
    match call_until_processed(check).await {
        Ok(reply) if misses_token(&reply) => PingOutcome::CallerRefused(TOKEN_MISSING.into()),
        Ok(reply) if reply.get_ref().status == ServingStatus::NotServing as i32 => {
            PingOutcome::NotServing
        }
        // A ping contains no token of a client, so this comet is meant.
        Err(status) if is_an_answer(&status) && status.code() == Code::Unauthenticated => {
            PingOutcome::CallerRefused(token_refused(has_token, &status))
        }
        Err(status) if !is_an_answer(&status) => {
            PingOutcome::Failed(root_cause(&status).to_string().into())
        }
        _ => PingOutcome::Answered,
    }
}

/// Whether the other side made this status. A status made on this side has a source, except if a reply could not be
/// read; such a status has one of the other codes.
fn is_an_answer(status: &Status) -> bool {
    let is_other = matches!(status.code(), Code::Unavailable | Code::Internal | Code::OutOfRange);
    status.source().is_none() && !is_other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_cannot_be_read_does_not_count_as_an_answer() {
        let is_answer = |code| is_an_answer(&Status::new(code, "a sentence"));
        for code in [Code::Unimplemented, Code::NotFound, Code::PermissionDenied, Code::Unknown] {
            assert!(is_answer(code), "{code:?}");
        }
        // The last two codes also stand for a reply that is too long, or that has no message.
        for code in [Code::Unavailable, Code::OutOfRange, Code::Internal] {
            assert!(!is_answer(code), "{code:?}");
        }
        assert!(!is_an_answer(&Status::from_error("cut off".into())));
    }
}
