//! The client of the push API, blocking: for command lines and other programs without a runtime.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

pub use comet_serve::TlsFiles;
use comet_serve::{ApiTls, Peer, TlsError, is_tls, root_cause};
use tokio::runtime::{Builder, Runtime};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use comet_wire::comet::v1::PushUsersReq;
use comet_wire::comet::v1::push_client::PushClient as UsersClient;
pub use comet_wire::goim::comet::Ledger;
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReq, BroadcastRoomReq, PushMsgReq};
use comet_wire::goim::protocol::Proto;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take. The server has a shorter limit, and its error is more precise.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no ledger.
#[derive(Debug)]
pub enum PushError {
    /// No server answers at the address, or the address is invalid.
    Unreachable {
        /// The address as given.
        address: String,
        /// What failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The connection ended before an answer. A push may have been made.
    Broken {
        /// The address as given.
        address: String,
        /// What failed.
        cause: String,
    },
    /// A file for TLS cannot be used.
    Tls(TlsError),
    /// The token has characters that a header cannot hold.
    BadToken,
    /// The server refused the push or could not finish it.
    Refused {
        /// The gRPC status, as its name.
        code: String,
        /// The sentence of the server.
        message: String,
    },
}

impl PushError {
    fn refused(status: &Status) -> Self {
        Self::Refused {
            code: format!("{:?}", status.code()),
            message: match status.code() {
                Code::Unimplemented => "the server does not know this call".to_owned(),
                _ => status.message().to_owned(),
            },
        }
    }
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, source } => {
                write!(f, "no push server at {address}: {}", root_cause(source.as_ref()))
            }
            Self::Broken { address, cause } => {
                write!(
                    f,
                    "the connection to {address} broke: {cause}; is that an address of push.grpc?"
                )
            }
            Self::Tls(error) => error.fmt(f),
            Self::BadToken => f.write_str("the token is not one line of printable ASCII"),
            Self::Refused { code, message } => write!(f, "{message} ({code})"),
        }
    }
}

impl Error for PushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } => Some(source.as_ref()),
            Self::Tls(error) => Some(error),
            Self::Broken { .. } | Self::BadToken | Self::Refused { .. } => None,
        }
    }
}

/// A connection to the push API of one server. Its pushes return the ledger; goim's own comet sends none.
#[derive(Debug)]
pub struct PushClient {
    runtime: Runtime,
    address: String,
    peer: Peer,
    channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
}

impl PushClient {
    /// Connects to `address`: `HOST:PORT`, `tls:HOST:PORT` for a certificate that an authority of the system signed,
    /// or `unix:/PATH`.
    ///
    /// # Errors
    /// [`PushError::Unreachable`] if there is no listener.
    pub fn connect(address: &str) -> Result<Self, PushError> {
        Self::connect_with(address, &TlsFiles::default())
    }

    /// As [`PushClient::connect`], with authorities and a certificate given as files.
    ///
    /// # Errors
    /// [`PushError::Tls`] if a file cannot be used, [`PushError::Unreachable`] if there is no listener.
    pub fn connect_with(address: &str, tls: &TlsFiles) -> Result<Self, PushError> {
        let unreachable = |source: Box<dyn Error + Send + Sync>| PushError::Unreachable {
            address: address.to_owned(),
            source,
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| unreachable(error.into()))?;
        let tls = ApiTls::load(tls, is_tls(address)).map_err(PushError::Tls)?;
        let peer = Peer::new(address, &tls, CONNECT_TIMEOUT);
        let peer = peer.map_err(|bad| unreachable(bad.error))?.timeout(CALL_TIMEOUT);
        let channel =
            runtime.block_on(peer.connect()).map_err(|error| unreachable(error.into()))?;
        Ok(Self { runtime, address: address.to_owned(), peer, channel, authorization: None })
    }

    /// The same connection, with `token` in the header of every call: `authorization: Bearer TOKEN`.
    ///
    /// # Errors
    /// [`PushError::BadToken`].
    pub fn with_token(mut self, token: &[u8]) -> Result<Self, PushError> {
        let value = MetadataValue::try_from([b"Bearer ", token].concat());
        let mut value = value.map_err(|_| PushError::BadToken)?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// Pushes `body` to the connections that hold `keys`.
    ///
    /// # Errors
    /// [`PushError::Refused`] with the server's reason.
    pub fn push_keys(
        &self,
        keys: Vec<String>,
        operation: i32,
        body: &[u8],
    ) -> Result<Option<Ledger>, PushError> {
        let request = PushMsgReq { keys, proto: frame(operation, body), proto_op: operation };
        let mut client = CometClient::new(self.channel.clone());
        self.call(client.push_msg(self.request(request)), |reply| reply.ledger)
    }

    /// Pushes `body` to every session of `users`.
    ///
    /// # Errors
    /// [`PushError::Refused`] with the server's reason.
    pub fn push_users(
        &self,
        users: Vec<i64>,
        operation: i32,
        body: &[u8],
    ) -> Result<Option<Ledger>, PushError> {
        let request = PushUsersReq { users, proto: frame(operation, body), proto_op: operation };
        let mut client = UsersClient::new(self.channel.clone());
        self.call(client.push_users(self.request(request)), |reply| reply.ledger)
    }

    /// Pushes `body` to the members of `room`.
    ///
    /// # Errors
    /// [`PushError::Refused`] with the server's reason.
    pub fn push_room(
        &self,
        room: String,
        operation: i32,
        body: &[u8],
    ) -> Result<Option<Ledger>, PushError> {
        let request = BroadcastRoomReq { room_id: room, proto: frame(operation, body) };
        let mut client = CometClient::new(self.channel.clone());
        self.call(client.broadcast_room(self.request(request)), |reply| reply.ledger)
    }

    /// Pushes `body` to every connection: at once, or `speed` connections a second.
    ///
    /// # Errors
    /// [`PushError::Refused`] with the server's reason.
    pub fn broadcast(
        &self,
        operation: i32,
        body: &[u8],
        speed: Option<u32>,
    ) -> Result<Option<Ledger>, PushError> {
        let speed = i32::try_from(speed.unwrap_or(0)).unwrap_or(i32::MAX);
        let request = BroadcastReq { proto_op: operation, proto: frame(operation, body), speed };
        let mut client = CometClient::new(self.channel.clone());
        self.call(client.broadcast(self.request(request)), |reply| reply.ledger)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = &self.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        request
    }

    /// Makes the call `call` with a request of `message`, and waits for the answer.
    pub(crate) fn ask<T, R>(
        &self,
        message: T,
        call: impl AsyncFnOnce(Channel, Request<T>) -> Result<Response<R>, Status>,
    ) -> Result<R, PushError> {
        self.call(call(self.channel.clone(), self.request(message)), |reply| reply)
    }

    /// Waits for the next message of a stream; `None` is its end.
    pub(crate) fn next_of<T>(&self, stream: &mut Streaming<T>) -> Result<Option<T>, PushError> {
        self.runtime.block_on(stream.message()).map_err(|status| self.failure(&status))
    }

    /// Sleeps for a second.
    pub(crate) fn pause(&self) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_secs(1)).await });
    }

    fn call<R, T>(
        &self,
        call: impl Future<Output = Result<Response<R>, Status>>,
        read: impl FnOnce(R) -> T,
    ) -> Result<T, PushError> {
        let reply = self.runtime.block_on(call).map_err(|status| self.failure(&status))?;
        Ok(read(reply.into_inner()))
    }

    fn failure(&self, status: &Status) -> PushError {
        let address = self.address.clone();
        if let Some(source) = self.peer.not_http2() {
            return PushError::Unreachable { address, source };
        }
        match status.source().filter(|_| status.code() == Code::Unknown) {
            Some(source) => PushError::Broken { address, cause: root_cause(source).to_string() },
            None => PushError::refused(status),
        }
    }
}

fn frame(operation: i32, body: &[u8]) -> Option<Proto> {
    Some(Proto { ver: 1, op: operation, seq: 0, body: body.to_vec().into(), ..Proto::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_server_is_named_with_the_cause() {
        // The kernel assigns this port to no program.
        let nobody = "127.0.0.1:1";
        let error = PushClient::connect(nobody).unwrap_err().to_string();
        assert!(error.starts_with(&format!("no push server at {nobody}: ")), "{error}");
        assert!(error.contains("refused"), "{error}");
    }
}
