//! The interface between a connection and its stream, blocking or not.

pub(crate) mod blocking;

use std::io;
use std::time::Instant;

use crate::error::Error;
use crate::options::Options;
use crate::stop::Stopper;

/// A connected stream of bytes, plain or TLS.
pub(crate) trait Stream: Sized {
    /// A stream that is being connected. It borrows nothing, so it outlives a dropped future of a call.
    type Connecting: Future<Output = Result<Self, Error>> + Unpin;

    /// Connects to the address of `options`, with TLS if they have it.
    fn connect(options: &Options, deadline: Option<Instant>) -> Self::Connecting;

    /// Reads once. `None`: no data arrived in time; `Some(0)`: the stream has ended.
    async fn read(
        &mut self,
        buffer: &mut [u8],
        deadline: Option<Instant>,
    ) -> Result<Option<usize>, Error>;

    /// Writes some bytes, and returns how many. Waits for at most [`Options::timeout`].
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error>;

    /// Sends the bytes that a write has left in a buffer.
    async fn flush(&mut self) -> Result<(), Error>;

    /// Ends both directions, with the close notice of TLS. Succeeds if the server has done so before.
    async fn close(&mut self) -> Result<(), Error>;

    /// Lets a stop end all waits for this stream.
    fn obey(&mut self, stopper: &Stopper) -> io::Result<()>;

    /// Waits until `until` (`None`: for ever), or until it is stopped.
    async fn sleep(until: Option<Instant>, stopper: &Stopper);
}
