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
    Ok(GrpcChannel::new(channel, token))
}

/// goim's Logic has no call for this, and gRPC's health service may not be there; that it is not is an
/// answer, too.
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
        // A ping has no token of a client in it.
        Err(status) if is_an_answer(&status) && status.code() == Code::Unauthenticated => {
            PingOutcome::CallerRefused(token_refused(has_token, &status))
        }
        Err(status) if !is_an_answer(&status) => {
            PingOutcome::Failed(root_cause(&status).to_string().into())
        }
        _ => PingOutcome::Answered,
    }
}

/// Did the other side say so? What this side notices has a source.
fn is_an_answer(status: &Status) -> bool {
    status.source().is_none() && status.code() != Code::Unavailable
}
