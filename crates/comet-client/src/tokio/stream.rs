//! The stream of the asynchronous client: any stream that tokio can read and write.

use std::fmt;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::time::{Duration, Instant};

use ::tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use ::tokio::net::{TcpStream, lookup_host};
use ::tokio::select;
use ::tokio::time::{sleep_until, timeout, timeout_at};

use crate::error::Error;
use crate::options::Options;
use crate::socket::{time_until, to_any};
use crate::stop::Stopper;
use crate::stream::Stream;

/// A stream in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

pub(crate) struct TokioStream {
    duplex: Box<dyn Duplex>,
    write_timeout: Duration,
    stopper: Option<Stopper>,
}

impl TokioStream {
    pub(super) fn over(duplex: impl Duplex + 'static, options: &Options) -> Self {
        Self { duplex: Box::new(duplex), write_timeout: options.timeout, stopper: None }
    }

    async fn connect_now(options: &Options, deadline: Option<Instant>) -> Result<Self, Error> {
        let addresses: Vec<_> = lookup_host(&options.address).await?.collect();
        let socket = to_any(&addresses, deadline, |address, share| async move {
            match share {
                Some(share) => timeout(share, TcpStream::connect(address)).await?,
                None => TcpStream::connect(address).await,
            }
        })
        .await?;
        socket.set_nodelay(true)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &options.tls {
            let (config, server_name) = tls.for_address(&options.address)?;
            let connector = tokio_rustls::TlsConnector::from(config);
            let stream = connector.connect(server_name, socket).await.map_err(error_of)?;
            return Ok(Self::over(stream, options));
        }
        Ok(Self::over(socket, options))
    }
}

impl Stream for TokioStream {
    type Connecting = Pin<Box<dyn Future<Output = Result<Self, Error>> + Send>>;

    fn connect(options: &Options, deadline: Option<Instant>) -> Self::Connecting {
        let options = options.clone();
        Box::pin(async move {
            let connected = until(deadline, Self::connect_now(&options, deadline)).await;
            connected.unwrap_or(Err(Error::Unanswered(options.timeout)))
        })
    }

    async fn read(
        &mut self,
        buffer: &mut [u8],
        deadline: Option<Instant>,
    ) -> Result<Option<usize>, Error> {
        // Data that has arrived is read even if the deadline has passed, as from a blocking socket.
        #[allow(clippy::disallowed_methods, reason = "a deadline is a time of the clock")]
        let deadline =
            deadline.and_then(|deadline| Instant::now().checked_add(time_until(deadline)));
        let stopped = async {
            match &self.stopper {
                Some(stopper) => stopper.stopped().await,
                None => std::future::pending().await,
            }
        };
        let read = select! {
            biased;
            () = stopped => return Ok(Some(0)),
            read = until(deadline, self.duplex.read(buffer)) => read,
        };
        match read {
            None => Ok(None),
            // TLS that ended without close_notify. Frames have a length, so a truncated one is detected.
            Some(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Ok(Some(0)),
            Some(read) => read.map(Some).map_err(error_of),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        match timeout(self.write_timeout, self.duplex.write(bytes)).await {
            Ok(Ok(0)) => Err(Error::Io(ErrorKind::WriteZero.into())),
            Ok(written) => written.map_err(error_of),
            Err(_) => Err(Error::Io(ErrorKind::TimedOut.into())),
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        match timeout(self.write_timeout, self.duplex.flush()).await {
            Ok(flushed) => flushed.map_err(error_of),
            Err(_) => Err(Error::Io(ErrorKind::TimedOut.into())),
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        match timeout(self.write_timeout, self.duplex.shutdown()).await {
            Ok(Err(error)) if error.kind() != ErrorKind::NotConnected => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn obey(&mut self, stopper: &Stopper) -> io::Result<()> {
        self.stopper = Some(stopper.clone());
        Ok(())
    }

    async fn sleep(until: Option<Instant>, stopper: &Stopper) {
        match until {
            Some(until) => select! {
                () = sleep_until(until.into()) => {}
                () = stopper.stopped() => {}
            },
            None => stopper.stopped().await,
        }
    }
}

/// The output of `future`, if it is ready before the deadline.
async fn until<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline.into(), future).await.ok(),
        None => Some(future.await),
    }
}

/// Converts an error of the stream, which may contain a TLS error.
fn error_of(error: io::Error) -> Error {
    #[cfg(feature = "tls")]
    let error = match error.downcast::<rustls::Error>() {
        Ok(error) => return Error::Tls(error.into()),
        Err(error) => error,
    };
    Error::Io(error)
}

impl fmt::Debug for TokioStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioStream").finish_non_exhaustive()
    }
}
