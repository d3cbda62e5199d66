//! Other servers that this one calls: their addresses, connections to them, and the cause of a failed call.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use comet_listen::unix_path;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, TlsStream};
use tonic::codegen::http::Uri;
use tonic::codegen::{Service, StdError};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{self, Channel, Endpoint};
use tonic::{Request, Status};

use crate::active_time::timeout_active;
use crate::http2_stream::{Http2Stream, LastProtocolError};
use crate::lookup::Resolver;
use crate::socket::Socket;
use crate::tls::ApiTls;

/// An address that cannot be called.
#[derive(Debug)]
pub struct BadAddress {
    /// The text in its place.
    pub address: String,
    /// What is wrong with it.
    pub error: StdError,
}

/// Whether `address` uses TLS.
#[must_use]
pub fn is_tls(address: &str) -> bool {
    address.starts_with(TLS)
}

const TLS: &str = "tls:";

/// An attempt that takes longer than its limit by more than this had a stall.
const STALL: Duration = Duration::from_millis(250);

/// A server that is called.
#[derive(Clone, Debug)]
pub struct Peer {
    endpoint: Endpoint,
    connector: Connector,
}

impl Peer {
    /// The server at `address`: `HOST:PORT`, `tls:HOST:PORT` or `unix:/PATH`. Connecting may take `connect_timeout` of
    /// active time, the TLS handshake included.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub fn new(address: &str, tls: &ApiTls, connect_timeout: Duration) -> Result<Self, BadAddress> {
        let bad = |error: StdError| BadAddress { address: address.to_owned(), error };
        let mut tcp = HttpConnector::new_with_resolver(Resolver::of_system());
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_timeout));
        let (authority, destination) = if let Some(path) = address.strip_prefix("unix:") {
            let path = unix_path(path).map_err(|error| bad(error.into()))?;
            ("localhost", Destination::Unix(path.to_owned()))
        } else if let Some(address) = address.strip_prefix(TLS) {
            let name = ServerName::try_from(host(address).to_owned());
            let name = name.map_err(|error| bad(error.into()))?;
            (address, Destination::Tls { tcp, tls: tls.clone(), name })
        } else {
            (address, Destination::Tcp(tcp))
        };
        let uri = |scheme| format!("{scheme}://{authority}").parse::<Uri>();
        let mut endpoint = Endpoint::from_shared(format!("http://{authority}"))
            .map_err(|error| bad(error.into()))?
            // The library would count late answers to calls that were given up, over the life of the connection.
            .http2_max_local_error_reset_streams(None);
        if is_tls(address) {
            endpoint = endpoint.origin(uri("https").map_err(|error| bad(error.into()))?);
        }
        Ok(Self {
            endpoint,
            connector: Connector {
                destination,
                protocol_error: LastProtocolError::default(),
                limit: connect_timeout,
            },
        })
    }

    /// Pings a silent connection at this interval. The answer may take as long.
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.endpoint = self
            .endpoint
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(interval)
            .keep_alive_while_idle(true);
        self
    }

    /// How long each call may take.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.endpoint = self.endpoint.timeout(limit);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// The sources of the error name the cause.
    pub async fn connect(&self) -> Result<Channel, transport::Error> {
        self.endpoint.connect_with_connector(self.connector.clone()).await
    }

    /// The server's first bytes, if they are not HTTP/2.
    pub(crate) fn protocol_error(&self) -> LastProtocolError {
        self.connector.protocol_error.clone()
    }

    /// An error that shows the first bytes of the server's latest connection, if they are not HTTP/2.
    #[must_use]
    pub fn not_http2(&self) -> Option<StdError> {
        self.connector.protocol_error.not_http2().map(Into::into)
    }

    /// A channel that connects when it is used, and again after a failure.
    #[must_use]
    pub fn connect_lazy(&self) -> Channel {
        self.endpoint.connect_with_connector_lazy(self.connector.clone())
    }
}

/// The host of `HOST:PORT`; of an IPv6 address without its brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Opens connections to one server.
#[derive(Clone, Debug)]
struct Connector {
    destination: Destination,
    protocol_error: LastProtocolError,
    /// How long an attempt may take.
    limit: Duration,
}

#[derive(Clone, Debug)]
enum Destination {
    Tcp(HttpConnector<Resolver>),
    Tls { tcp: HttpConnector<Resolver>, tls: ApiTls, name: ServerName<'static> },
    Unix(PathBuf),
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Http2Stream<Socket>>;
    type Error = StdError;
    type Future =
        Pin<Box<dyn Future<Output = Result<TokioIo<Http2Stream<Socket>>, StdError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        match &mut self.destination {
            Destination::Tcp(tcp) | Destination::Tls { tcp, .. } => {
                tcp.poll_ready(context).map_err(Into::into)
            }
            Destination::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { destination, protocol_error, limit } = self.clone();
        Box::pin(async move {
            let socket = within_active(limit, || destination.clone().connect(uri.clone())).await?;
            Ok(TokioIo::new(Http2Stream::new(socket, protocol_error)))
        })
    }
}

impl Destination {
    async fn connect(self, uri: Uri) -> Result<Socket, StdError> {
        Ok(match self {
            Self::Tcp(mut tcp) => Socket::Tcp(tcp.call(uri).await?.into_inner()),
            Self::Tls { mut tcp, tls, name } => {
                let stream = tcp.call(uri).await?.into_inner();
                let config = tls.client();
                let config =
                    config.ok_or_else(|| io::Error::other("api_tls.server_ca is not set"))?;
                let stream = TlsConnector::from(config).connect(name, stream).await?;
                Socket::Tls(Box::new(TlsStream::Client(stream)))
            }
            Self::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
        })
    }
}

/// The output of `connect` within `limit` of active time. An attempt that failed after a stall is repeated once,
/// because its own limit for an address counts all time.
async fn within_active<T, F>(limit: Duration, connect: impl Fn() -> F) -> Result<T, StdError>
where
    F: Future<Output = Result<T, StdError>>,
{
    let attempt = async || {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time").into();
        timeout_active(limit, connect()).await.unwrap_or_else(|| Err(late()))
    };
    let begin = Instant::now();
    match attempt().await {
        Err(_) if begin.elapsed() > limit + STALL => attempt().await,
        done => done,
    }
}

/// Adds a token to every call. Without one it changes nothing.
#[derive(Clone, Default)]
pub struct BearerToken(Option<MetadataValue<Ascii>>);

impl BearerToken {
    /// # Panics
    /// If `token` has characters that no header can have; the configuration takes none.
    #[must_use]
    pub fn new(token: Option<&str>) -> Self {
        Self(token.map(|token| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {token}").parse().expect("a token is visible ASCII");
            value.set_sensitive(true);
            value
        }))
    }

    /// Whether there is one.
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl Interceptor for BearerToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "BearerToken(***)" } else { "BearerToken" })
    }
}

/// The innermost error. It names what happened; the errors around it name only where.
pub fn root_cause<'error>(
    mut error: &'error (dyn Error + 'static),
) -> &'error (dyn Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use tokio::time::{advance, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_a_stall_ended_is_made_again() {
        let attempts = Cell::new(0);
        let connect = || {
            attempts.set(attempts.get() + 1);
            let is_first = attempts.get() == 1;
            async move {
                if is_first {
                    // The process was stopped, and the library's own limit has expired.
                    advance(5 * SECOND).await;
                    return Err(io::Error::from(io::ErrorKind::TimedOut).into());
                }
                Ok("connected")
            }
        };
        assert_eq!(within_active(SECOND, connect).await.unwrap(), "connected");
        assert_eq!(attempts.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_has_an_end() {
        let attempts = Cell::new(0);
        let begin = Instant::now();
        let silent = || {
            attempts.set(attempts.get() + 1);
            pending::<Result<(), StdError>>()
        };
        let error = within_active(SECOND, silent).await.unwrap_err();
        assert_eq!(error.to_string(), "no connection in time");
        assert_eq!((attempts.get(), begin.elapsed()), (1, SECOND));
        let refused = || async {
            sleep(SECOND / 2).await;
            Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused).into())
        };
        within_active(SECOND, refused).await.unwrap_err();
        assert_eq!(begin.elapsed(), SECOND + SECOND / 2);
    }

    #[test]
    fn an_address_without_a_host_is_refused() {
        let peer = |address| Peer::new(address, &ApiTls::default(), Duration::from_secs(1));
        for good in ["logic.example:7170", "tls:[::1]:7170", "tls:logic.example:1", "unix:/run/a"] {
            assert!(peer(good).is_ok(), "{good}");
        }
        for bad in ["a b:1", "tls:a b:1", "unix:a"] {
            let BadAddress { address, error } = peer(bad).unwrap_err();
            assert_eq!(address, bad);
            assert!(root_cause(error.as_ref()).source().is_none());
        }
    }
}
