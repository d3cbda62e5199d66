//! The calling end of the push API, blocking: for command lines and other programs without a runtime.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use comet_serve::{BearerToken, TokenChannel, root_cause};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Endpoint;
use tonic::{Code, Response, Status};

use comet_wire::comet::v1::PushUsersReq;
use comet_wire::comet::v1::push_client::PushClient as UsersClient;
pub use comet_wire::goim::comet::Ledger;
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReq, BroadcastRoomReq, PushMsgReq};
use comet_wire::goim::protocol::Proto;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take. The server has a shorter limit, and its error says more.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no ledger.
#[derive(Debug)]
pub enum PushError {
    /// No server answers at the address, or it is none.
    Unreachable {
        /// The address as given.
        address: String,
        /// What failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server refused the push or could not finish it.
    Refused {
        /// The gRPC status, as its name.
        code: String,
        /// The sentence of the server.
        message: String,
    },
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, source } => {
                write!(f, "no push server at {address}: {}", root_cause(source.as_ref()))
            }
            Self::Refused { code, message } => write!(f, "{message} ({code})"),
        }
    }
}

impl Error for PushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } => Some(source.as_ref()),
            Self::Refused { .. } => None,
        }
    }
}

/// A connection to the push API of one server.
#[derive(Debug)]
pub struct PushClient {
    runtime: Runtime,
    channel: TokenChannel,
}

impl PushClient {
    /// Connects to `address`, as in `127.0.0.1:8083`.
    ///
    /// # Errors
    /// [`PushError::Unreachable`] if nobody listens there.
    pub fn connect(address: &str) -> Result<Self, PushError> {
        Self::connect_with(address, None)
    }

    /// The same with the token that the server asks for.
    ///
    /// # Errors
    /// As for [`PushClient::connect`].
    ///
    /// # Panics
    /// If no header can have `token`.
    pub fn connect_with(address: &str, token: Option<&str>) -> Result<Self, PushError> {
        let unreachable = |source: Box<dyn Error + Send + Sync>| PushError::Unreachable {
            address: address.to_owned(),
            source,
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| unreachable(error.into()))?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| unreachable(error.into()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        let channel =
            runtime.block_on(endpoint.connect()).map_err(|error| unreachable(error.into()))?;
        let channel = TokenChannel::new(channel, BearerToken::new(token));
        Ok(Self { runtime, channel })
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
    ) -> Result<Ledger, PushError> {
        let request = PushMsgReq { keys, proto: frame(operation, body), proto_op: operation };
        let mut client = CometClient::new(self.channel.clone());
        self.call(client.push_msg(request), |reply| reply.ledger)
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
    ) -> Result<Ledger, PushError> {
        let request = PushUsersReq { users, proto: frame(operation, body), proto_op: operation };
        let mut client = UsersClient::new(self.channel.clone());
        self.call(client.push_users(request), |reply| reply.ledger)
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
    ) -> Result<Ledger, PushError> {
        let request = BroadcastRoomReq { room_id: room, proto: frame(operation, body) };
        let mut client = CometClient::new(self.channel.clone());
        self.call(client.broadcast_room(request), |reply| reply.ledger)
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
    ) -> Result<Ledger, PushError> {
        let speed = i32::try_from(speed.unwrap_or(0)).unwrap_or(i32::MAX);
        let request = BroadcastReq { proto_op: operation, proto: frame(operation, body), speed };
        let mut client = CometClient::new(self.channel.clone());
        self.call(client.broadcast(request), |reply| reply.ledger)
    }

    /// A server that is goim's own answers without a ledger; that is an empty one.
    fn call<R>(
        &self,
        call: impl Future<Output = Result<Response<R>, Status>>,
        ledger: impl FnOnce(R) -> Option<Ledger>,
    ) -> Result<Ledger, PushError> {
        let reply = self.runtime.block_on(call).map_err(|status| PushError::Refused {
            code: format!("{:?}", status.code()),
            message: match status.code() {
                Code::Unimplemented => "the server does not know this kind of push".to_owned(),
                _ => status.message().to_owned(),
            },
        })?;
        Ok(ledger(reply.into_inner()).unwrap_or_default())
    }
}

fn frame(operation: i32, body: &[u8]) -> Option<Proto> {
    Some(Proto { ver: 1, op: operation, seq: 0, body: body.to_vec().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_server_is_named_with_the_cause() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = PushClient::connect(&free.to_string()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("no push server at {free}: ")), "{error}");
        assert!(error.contains("refused"), "{error}");
    }
}
