//! One comet of `comet logic`: its addresses, and the calls to it.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use comet_hub::CallerId;
use comet_hub::fanout::{CallFailure, FailureKind, LedgerSum, Target};
use comet_serve::{
    ApiTls, BadAddress, BearerToken, GrpcChannel, Outgoing, Peer, call_until_processed,
    is_unprocessed, root_cause,
};
use comet_wire::KNOWN_SO_FAR;
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReq, BroadcastRoomReq, Ledger, PushMsgReq};
use tonic::{Code, Status};

use crate::turnstile::{Turn, Turnstile};

/// How long connecting to a comet may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a silent connection to a comet is pinged, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The addresses of a comet, for pushes and for clients.
#[derive(Clone, Debug)]
pub struct CometOptions {
    /// Its server id, by which it identifies itself to logic.
    pub(crate) id: String,
    /// The address of its push service, in the form of [`Peer`].
    pub(crate) address: String,
    peer: Peer,
    /// Its hosts for clients; at least one.
    pub(crate) hosts: Vec<String>,
    pub(crate) weight: u32,
    /// Whether clients are not sent to it.
    pub(crate) is_offline: bool,
}

impl CometOptions {
    /// The comet whose server id is `id`, with its push service at `address`, which is in the form of [`Peer`]. Clients
    /// connect to the same host, and its weight is 1.
    ///
    /// # Errors
    /// If the address is invalid.
    pub fn new(id: &str, address: &str, tls: &ApiTls) -> Result<Self, BadAddress> {
        let peer = Peer::new(address, tls, CONNECT_TIMEOUT)?.keep_alive(KEEPALIVE);
        let (id, hosts) = (id.to_owned(), vec![host_of(address).to_owned()]);
        let address = address.to_owned();
        Ok(Self { id, address, peer, hosts, weight: 1, is_offline: false })
    }

    /// Sets its hosts for clients, at least one, and its share of clients relative to other comets, at least 1.
    #[must_use]
    pub fn for_clients(self, hosts: Vec<String>, weight: u32) -> Self {
        Self { hosts, weight, ..self }
    }

    /// The address of its push service, in the form of [`Peer`].
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends no clients to this comet. Pushes still go there.
    #[must_use]
    pub fn offline(self) -> Self {
        Self { is_offline: true, ..self }
    }
}

/// One comet.
#[derive(Clone)]
pub(crate) struct Comet {
    pub(crate) options: CometOptions,
    pub(crate) origin: Origin,
    link: Arc<Link>,
}

/// Why a comet is in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// The configuration names it.
    Configured,
    /// Discovery has it.
    Discovered,
    /// Discovery no longer has it, but it still answers: it drains, or discovery lost it. It may have clients.
    Left,
}

/// The connection to a comet.
struct Link {
    token: BearerToken,
    peer: Peer,
    /// Connects when it is used, and again after a failure.
    channel: Mutex<GrpcChannel>,
    /// The comet sees all callers as this process, so they take turns here.
    turnstile: Arc<Turnstile>,
}

/// A request to a comet.
#[derive(Clone)]
pub(crate) enum Request {
    Keys(PushMsgReq),
    Room(BroadcastRoomReq),
    All(BroadcastReq),
}

impl Comet {
    /// The comet, whose calls use `token`. Must be called inside a runtime.
    pub(crate) fn new(options: CometOptions, origin: Origin, token: &BearerToken) -> Self {
        let (token, peer) = (token.clone(), options.peer.clone());
        let channel = Mutex::new(GrpcChannel::new(&peer, peer.connect_lazy(), token.clone()));
        let link = Link { token, peer, channel, turnstile: Arc::default() };
        Self { options, origin, link: Arc::new(link) }
    }

    /// Whether `options` have the id and the address of this comet.
    pub(crate) fn is_at(&self, options: &CometOptions) -> bool {
        self.options.id == options.id && self.options.address == options.address
    }

    /// The same comet with the other settings of `options`. It keeps its connection.
    pub(crate) fn with(&self, options: CometOptions, origin: Origin) -> Self {
        Self { options, origin, link: Arc::clone(&self.link) }
    }

    /// Whether clients may be sent to it.
    pub(crate) fn is_for_clients(&self) -> bool {
        self.origin != Origin::Left && !self.options.is_offline
    }

    pub(crate) fn channel(&self) -> GrpcChannel {
        self.link.channel.lock().expect(NO_PANIC).clone()
    }

    /// Queues a call of `caller` to `target`.
    pub(crate) fn line_up(&self, caller: CallerId, target: &Target) -> Turn {
        self.link.turnstile.line_up(caller, target)
    }

    /// Replaces a connection that seems dead; calls under way stay on it.
    pub(crate) fn reconnect(&self) {
        let Link { token, peer, channel, .. } = &*self.link;
        *channel.lock().expect(NO_PANIC) =
            GrpcChannel::new(peer, peer.connect_lazy(), token.clone());
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

/// Makes one call, whose message is `outgoing`. goim's own comet answers without a ledger.
pub(crate) async fn ask(
    channel: GrpcChannel,
    request: Request,
    outgoing: Outgoing,
) -> Result<LedgerSum, CallFailure> {
    let channel = channel.for_call(&outgoing);
    let ledger = call_until_processed(|| {
        outgoing.begin_again();
        let (mut client, request) = (CometClient::new(channel.clone()), request.clone());
        async move {
            Ok(match request {
                Request::Keys(request) => client.push_msg(request).await?.into_inner().ledger,
                Request::Room(request) => client.broadcast_room(request).await?.into_inner().ledger,
                Request::All(request) => client.broadcast(request).await?.into_inner().ledger,
            })
        }
    });
    let ledger = ledger.await.map_err(|status| CallFailure {
        kind: kind(&status, !outgoing.take_back()),
        message: message(&status),
    })?;
    let Ledger { matched, queued, dropped, absent, scheduled, parked, .. } =
        ledger.unwrap_or_default();
    let dropped = dropped.into_iter().collect::<BTreeMap<_, _>>();
    Ok(LedgerSum { matched, queued, dropped, absent, scheduled, parked })
}

/// Why a call failed, in the comet's own words if it answered.
pub(crate) fn message(status: &Status) -> String {
    let cause = root_cause(status).to_string();
    match status.message() {
        "" => cause,
        // The cause of a failure on this side says more than the status around it.
        _ if status.source().is_some() || status.code() == Code::Unavailable => cause,
        said => said.to_owned(),
    }
}

/// What a status says of the push. `was_sent`: the comet may have the message.
fn kind(status: &Status, was_sent: bool) -> FailureKind {
    // One with a source was made on this side, and says nothing of what the comet does.
    let has_answered = status.source().is_none();
    if status.code() == Code::InvalidArgument {
        FailureKind::BadRequest
    } else if was_sent && !is_unprocessed(status) && !(has_answered && is_refusal(status)) {
        FailureKind::Unknown
    } else {
        FailureKind::NotTaken
    }
}

/// Whether a comet that answers so has not begun the push. The other codes are also those of one that broke off, or of
/// a proxy that lost the comet's answer.
fn is_refusal(status: &Status) -> bool {
    match status.code() {
        Code::ResourceExhausted => !status.message().contains(KNOWN_SO_FAR),
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => false,
        _ => true,
    }
}

/// The `HOST` of `HOST:PORT` or `tls:HOST:PORT`; an IPv6 address without its brackets. A comet behind a Unix socket is
/// on this host.
fn host_of(address: &str) -> &str {
    if address.starts_with("unix:") {
        return "localhost";
    }
    let address = address.strip_prefix("tls:").unwrap_or(address);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_without_a_port() {
        let check = |address, expected| assert_eq!(host_of(address), expected);
        check("127.0.0.1:8083", "127.0.0.1");
        check("comet-7.example:1", "comet-7.example");
        check("[2001:db8::1]:8083", "2001:db8::1");
        check("tls:[2001:db8::1]:8083", "2001:db8::1");
        check("unix:/run/comet/push.sock", "localhost");
    }

    #[test]
    fn only_errors_that_exclude_delivery_count_as_not_taken() {
        let check = |status: &Status, was_sent, expected| {
            assert_eq!(kind(status, was_sent), expected, "{status:?}, sent: {was_sent}");
        };
        let lost = Status::from_error("connection reset".into());
        check(&lost, true, FailureKind::Unknown);
        check(&lost, false, FailureKind::NotTaken);
        check(&Status::invalid_argument("no frame"), true, FailureKind::BadRequest);
        let too_many = "16384 calls are under way; try again when some are answered";
        for refused in [
            Status::unauthenticated("a token that opens is needed"),
            Status::unimplemented(""),
            Status::out_of_range("too long"),
            Status::resource_exhausted(too_many),
        ] {
            check(&refused, true, FailureKind::NotTaken);
        }
        let known = "the inbox of shard 1 stayed full for 5s; known so far: matched 3, queued 3";
        for begun in [
            Status::resource_exhausted(known),
            Status::deadline_exceeded("reports still missing after 5s: 1; known so far: matched 3"),
            Status::unavailable("shard 1 has ended: the server is going down"),
            Status::internal("the reply has no message"),
            Status::unknown("a comet of goim stopped in the middle"),
        ] {
            check(&begun, true, FailureKind::Unknown);
            check(&begun, false, FailureKind::NotTaken);
        }
    }
}
