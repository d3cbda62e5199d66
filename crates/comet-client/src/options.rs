//! The settings of a connection, the entry point of this crate.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use comet_proto::Position;

use crate::backoff::Backoff;
use crate::session::{BODY_MAX_DEFAULT, Session, Transport};
#[cfg(feature = "tls")]
use crate::tls::TlsOptions;

/// The address of a server, the token of the user, and the settings of the connection.
///
/// ```no_run
/// # use std::time::Duration;
/// let mut client = comet_client::Options::websocket("127.0.0.1:8090", "/sub", "42")
///     .heartbeat(Duration::from_secs(30))
///     .connect()?;
/// # Ok::<_, comet_client::Error>(())
/// ```
#[derive(Clone)]
pub struct Options {
    transport: Transport,
    pub(crate) address: String,
    path: String,
    pub(crate) token: Vec<u8>,
    pub(crate) heartbeat: Duration,
    pub(crate) timeout: Duration,
    body_max: usize,
    /// The positions of an earlier connection in rooms that keep a history.
    pub(crate) positions: BTreeMap<String, Position>,
    keeps_session: bool,
    pub(crate) backoff: Backoff,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsOptions>,
}

impl Options {
    /// A connection over TCP to `address`, which is `host:port`, with the token that identifies the
    /// user.
    #[must_use]
    pub fn tcp(address: impl Into<String>, token: impl Into<Vec<u8>>) -> Self {
        Self {
            transport: Transport::Tcp,
            address: address.into(),
            path: String::new(),
            token: token.into(),
            heartbeat: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            body_max: BODY_MAX_DEFAULT,
            positions: BTreeMap::new(),
            keeps_session: false,
            backoff: Backoff::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// A connection over WebSocket to `address`, which is `host:port`, with the path (`/sub` unless
    /// the server is configured otherwise) and the token.
    #[must_use]
    pub fn websocket(
        address: impl Into<String>,
        path: impl Into<String>,
        token: impl Into<Vec<u8>>,
    ) -> Self {
        let path = path.into();
        Self { transport: Transport::WebSocket, path, ..Self::tcp(address, token) }
    }

    /// The time between heartbeats; 60 seconds unless set, and at most half of the server's heartbeat timeout
    /// ([`AuthReply::heartbeat_ms`](crate::AuthReply)). A server of protocol 1 does not tell its timeout.
    ///
    /// The connection ends if the server sends nothing for a whole interval after a heartbeat.
    ///
    /// # Panics
    /// If `interval` is zero.
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        assert!(!interval.is_zero(), "heartbeats need an interval");
        self.heartbeat = interval;
        self
    }

    /// The timeout of each of these: connecting up to the accepted token, the reply to a request,
    /// and a write; 10 seconds unless set.
    ///
    /// # Panics
    /// If `timeout` is zero.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "a timeout of zero leaves no time for an answer");
        self.timeout = timeout;
        self
    }

    /// The largest accepted body of a message, in bytes; 4 MiB unless set. A longer one ends the
    /// connection.
    #[must_use]
    pub fn body_max(mut self, bytes: usize) -> Self {
        self.body_max = bytes;
        self
    }

    /// An earlier connection had the messages of `room` up to this position ([`Message::position`](crate::Message::position)). If
    /// the server has the new one enter the room, because the token names it, the messages that came after it follow. The same holds
    /// for a [`Listener`](crate::Listener) that is told to enter the room before its first connection. From its second connection on, a
    /// listener does so by itself.
    #[must_use]
    pub fn resume(mut self, room: impl Into<String>, since: Position) -> Self {
        self.positions.insert(room.into(), since);
        self
    }

    /// Asks the server to keep the session when the connection is lost. Pushes to the key of the token, or to its user,
    /// then wait for the next connection ([`Client::resumed`](crate::Client::resumed)).
    /// [`Client::close`](crate::Client::close) ends the session. Servers that keep no sessions ignore this. Off unless
    /// set.
    #[must_use]
    pub fn keep_session(mut self) -> Self {
        self.keeps_session = true;
        self
    }

    /// The delays of a [`Listener`](crate::Listener); from 1 second to 2 minutes unless set.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Uses TLS. The server's listener must expect it.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls.for_transport(self.transport));
        self
    }

    /// A session with these settings.
    pub(crate) fn session(&self) -> Session {
        let begin = if self.keeps_session { Session::kept } else { Session::new };
        let session = begin(self.transport, &self.address, &self.path, &self.token);
        let mut session = session.with_body_max(self.body_max);
        for (room, since) in &self.positions {
            session.resume(room, *since);
        }
        session
    }
}

/// Leaves out the token, which is a secret.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("transport", &self.transport)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
