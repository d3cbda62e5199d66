//! What to connect to and how: the way into this crate.

use std::fmt;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::Error;
use crate::listener::Listener;
use crate::session::{BODY_MAX_DEFAULT, Session, Transport};
#[cfg(feature = "tls")]
use crate::tls::TlsOptions;

/// Where a server is, who is calling, and the settings of the connection.
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
    pub(crate) backoff: Backoff,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsOptions>,
}

impl Options {
    /// A server's TCP address, as `host:port`, and the token that says who is calling.
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
            backoff: Backoff::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// A server's WebSocket address, as `host:port`, the path it serves (`/sub` unless configured
    /// otherwise) and the token.
    #[must_use]
    pub fn websocket(
        address: impl Into<String>,
        path: impl Into<String>,
        token: impl Into<Vec<u8>>,
    ) -> Self {
        let path = path.into();
        Self { transport: Transport::WebSocket, path, ..Self::tcp(address, token) }
    }

    /// How often to tell the server that the client lives; 60 seconds unless set. It must be shorter
    /// than what the server waits for, which is 5 minutes by default.
    ///
    /// A server from which nothing comes for a whole interval after a heartbeat is given up.
    ///
    /// # Panics
    /// If `interval` is zero.
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        assert!(!interval.is_zero(), "heartbeats need an interval");
        self.heartbeat = interval;
        self
    }

    /// How long to wait for the connection with everything up to the accepted token, for the reply to
    /// each request, and for the server to take what is written; 10 seconds unless set.
    ///
    /// # Panics
    /// If `timeout` is zero.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "nothing is answered in no time");
        self.timeout = timeout;
        self
    }

    /// Largest body of a message, in bytes, that is accepted; 1 MiB unless set. A longer one ends the
    /// connection.
    #[must_use]
    pub fn body_max(mut self, bytes: usize) -> Self {
        self.body_max = bytes;
        self
    }

    /// The delays of a [`Listener`]; from 1 second to 2 minutes unless set.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Speaks TLS, to a listener of the server's that expects it.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls.speaking(self.transport));
        self
    }

    /// Connects, and returns once the server has accepted the token.
    ///
    /// # Errors
    /// When no address behind the name can be reached, the server refuses, it is not the one that TLS
    /// demands, or it does not answer in time; and when the token is longer than [`SEND_BODY_MAX`](crate::SEND_BODY_MAX).
    ///
    /// # Panics
    /// If the WebSocket path does not begin with `/` or cannot stand in an HTTP request.
    pub fn connect(&self) -> Result<Client, Error> {
        Client::connect(self)
    }

    /// A connection that is made again whenever it is lost. Nothing happens before its first event is
    /// asked for.
    #[must_use]
    pub fn reconnecting(self) -> Listener {
        Listener::new(self)
    }

    pub(crate) fn session(&self) -> Session {
        Session::new(self.transport, &self.address, &self.path, &self.token)
            .with_body_max(self.body_max)
    }
}

/// Without the token, which is a secret.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("transport", &self.transport)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
