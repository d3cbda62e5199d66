//! One attempt of a call: a request on the wire of `goim.logic.Logic`, and its outcome.

use comet_core::{Identity, OperationFilter};
use comet_hub::logic::{AttemptOutcome, Reply, Request};
use comet_serve::{EncodedFirst, GrpcChannel, call_until_processed};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tonic::codec::CompressionEncoding;
use tonic::{Response, Status};

use super::failure::outcome_of_status;
use comet_wire::goim::logic::logic_client::LogicClient;
use comet_wire::goim::logic::{
    ConnectReply, ConnectReq, DisconnectReq, HeartbeatReq, OnlineReply, OnlineReq, ReceiveReq,
};
use comet_wire::goim::protocol::Proto;

/// Version of the frame header that goim's logic expects.
const FRAME_VERSION: i32 = 1;

/// Longest list of room counts accepted, bytes when unpacked: it names the rooms of all servers.
const ROOM_COUNTS_MAX: usize = 64 << 20;

/// Time that logic is given beyond the limit of a call. At its limit a call is abandoned, which also cancels it at
/// logic; the longer time matters only if the cancellation is lost. tonic applies the same deadline, and would
/// otherwise end a call before it reads an answer that arrived while the process was held up.
const CANCEL_GRACE: Duration = Duration::from_secs(60);

/// Sends `request` of the comet `server` with its number of shards. It is abandoned after `limit`; logic is told how
/// much of that is left. The rooms of [`Request::RenewOnline`] are encoded and decoded where this is polled.
pub(super) async fn send(
    channel: GrpcChannel,
    (server, shards): (String, u16),
    request: Arc<Request>,
    limit: Duration,
) -> AttemptOutcome {
    let begin = Instant::now();
    let has_token = channel.has_token();
    let is_of_client = matches!(*request, Request::Connect { .. } | Request::Receive { .. });
    let sent = call_until_processed(|| {
        let left = limit.saturating_sub(begin.elapsed());
        try_send(channel.clone(), (server.clone(), shards), &request, left)
    });
    match sent.await {
        Ok(reply) => AttemptOutcome::Replied(reply),
        Err(status) => outcome_of_status(&status, has_token, is_of_client),
    }
}

async fn try_send(
    channel: GrpcChannel,
    (server, shards): (String, u16),
    request: &Request,
    limit: Duration,
) -> Result<Reply, Status> {
    let mut client = LogicClient::new(channel.clone());
    match request {
        Request::Connect { token, cookie } => {
            let request = ConnectReq { server, cookie: cookie.to_string(), token: token.to_vec() };
            let reply = client.connect(limited(request, limit)).await?;
            Ok(Reply::Connected(identity(reply.into_inner())))
        }
        Request::Receive { user, operation, sequence, body } => {
            let (ver, body) = (FRAME_VERSION, body.to_vec().into());
            let proto =
                Some(Proto { ver, op: *operation, seq: *sequence, body, ..Proto::default() });
            done(client.receive(limited(ReceiveReq { mid: *user, proto }, limit)).await)
        }
        Request::Heartbeat { user, key } => {
            let request = HeartbeatReq { mid: *user, key: key.to_string(), server };
            done(client.heartbeat(limited(request, limit)).await)
        }
        Request::Disconnect { user, key } => {
            let request = DisconnectReq { mid: *user, key: key.to_string(), server };
            done(client.disconnect(limited(request, limit)).await)
        }
        Request::RenewOnline { pieces, piece } => {
            let mut client = LogicClient::new(EncodedFirst(channel))
                .send_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(ROOM_COUNTS_MAX);
            let rooms = pieces.rooms(*piece).iter();
            let request = OnlineReq {
                server,
                room_count: rooms
                    .map(|(room, online)| (room.as_ref().to_owned(), *online))
                    .collect(),
                // goim's comet means all buckets when it leaves the field out.
                buckets: if pieces.len() > 1 { pieces.buckets(*piece) } else { 0 },
                more: piece + 1 < pieces.len(),
            };
            let reply = client.renew_online(limited(request, limit)).await?;
            let OnlineReply { all_room_count } = reply.into_inner();
            Ok(Reply::Elsewhere(pieces.elsewhere(all_room_count, shards)))
        }
    }
}

fn limited<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit + CANCEL_GRACE);
    request
}

fn done<T>(answer: Result<Response<T>, Status>) -> Result<Reply, Status> {
    answer.map(|_| Reply::Done)
}

fn identity(reply: ConnectReply) -> Identity {
    let named = |name: String| (!name.is_empty()).then(|| name.into_boxed_str());
    Identity {
        user: reply.mid,
        key: named(reply.key),
        room: named(reply.room_id),
        rooms: reply.rooms.into_iter().map(String::into_boxed_str).collect(),
        accepts: match reply.accepts_all {
            true => OperationFilter::All,
            false => OperationFilter::Only(reply.accepts.into()),
        },
        heartbeat_ms: heartbeat_ms(reply.heartbeat),
        expires_in_ms: expires_in_ms(reply.expires_at, SystemTime::now()),
    }
}

/// Logic gives nanoseconds, like Go's `time.Duration`.
fn heartbeat_ms(nanos: i64) -> Option<u32> {
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0)?;
    Some(u32::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u32::MAX))
}

/// Logic gives seconds of Unix time. A time in the past counts as now.
fn expires_in_ms(expires_at: i64, now: SystemTime) -> Option<u64> {
    let seconds = u64::try_from(expires_at).ok().filter(|seconds| *seconds > 0)?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let left = Duration::from_secs(seconds).saturating_sub(now);
    Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_time_is_converted_to_the_remaining_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500);
        let check = |expires_at, left| {
            assert_eq!(expires_in_ms(expires_at, now), left, "{expires_at}");
        };
        check(0, None);
        check(-1, None);
        check(i64::MIN, None);
        check(1, Some(0));
        check(1_000, Some(0));
        check(1_001, Some(500));
        check(4_600, Some(3_599_500));
        check(i64::MAX, Some(u64::MAX));
    }

    #[test]
    fn a_heartbeat_is_rounded_up_to_milliseconds() {
        let check = |nanos, millis| assert_eq!(heartbeat_ms(nanos), millis, "{nanos}");
        check(0, None);
        check(-1, None);
        check(i64::MIN, None);
        check(1, Some(1));
        check(1_000_000, Some(1));
        check(1_000_001, Some(2));
        check(240_000_000_000, Some(240_000));
        check(i64::MAX, Some(u32::MAX));
    }

    #[test]
    fn a_reply_without_names_leaves_them_to_the_shard() {
        let reply = ConnectReply { mid: 42, ..ConnectReply::default() };
        let nobody_named = Identity {
            user: 42,
            accepts: OperationFilter::Only(Box::default()),
            ..Identity::default()
        };
        assert_eq!(identity(reply), nobody_named);
    }
}
