//! What a connection needs of its stream, blocking or not.

pub(crate) mod blocking;

use std::io;
use std::time::Instant;

use crate::error::Error;
use crate::options::Options;
use crate::stop::Stopper;

/// A connected stream of bytes, plain or TLS.
pub(crate) trait Stream: Sized {
    /// A stream that is being connected. It borrows nothing, so it outlasts the future of a call that is dropped.
    type Connecting: Future<Output = Result<Self, Error>> + Unpin;

    /// Connects to the address of `options`, with TLS if they have it.
    fn connect(options: &Options, deadline: Option<Instant>) -> Self::Connecting;

    /// Reads once. `None`: no data arrived in time; `Some(0)`: the stream has ended.
    async fn read(
        &mut self,
        buffer: &mut [u8],
        deadline: Option<Instant>,
    ) -> Result<Option<usize>, Error>;

    /// Writes some bytes, and returns how many. It waits for [`Options::timeout`] at most.
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error>;

    /// Sends what a write has left in a buffer.
    async fn flush(&mut self) -> Result<(), Error>;

    /// Ends both directions, with the close notice of TLS. It is no error if the server has done so before.
    async fn close(&mut self) -> Result<(), Error>;

    /// Lets a stop end whatever waits for this stream.
    fn obey(&mut self, stopper: &Stopper) -> io::Result<()>;

    /// Waits until then (`None`: for ever), or until it is stopped.
    async fn sleep(until: Option<Instant>, stopper: &Stopper);
}
