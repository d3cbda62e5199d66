//! The yardstick of latency: a message to an echoing process and back, over one bare TCP connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Result;
use crate::clock::{now_ns, sleep_until};
use crate::stats::latency_histogram;

/// How long an echo may take.
const ECHO_TIMEOUT: Duration = Duration::from_secs(10);

/// Round trips of `bytes` to the echo at `address` for `duration_ns`: one each `interval_ns`, or one after
/// the other. In ns, from the write to the last byte read. The connection comes back open.
///
/// # Errors
///
/// The echo is gone.
pub(crate) fn ping_pong(
    address: SocketAddr,
    bytes: usize,
    interval_ns: Option<u64>,
    duration_ns: u64,
) -> Result<(Histogram<u64>, TcpStream)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ECHO_TIMEOUT))?;
    let ping = vec![b'.'; bytes];
    let mut pong = vec![0; bytes];
    let mut histogram = latency_histogram();
    let mut due_ns = now_ns();
    let end_ns = due_ns + duration_ns;
    while due_ns < end_ns {
        sleep_until(due_ns);
        let sent_ns = now_ns();
        stream.write_all(&ping)?;
        stream.read_exact(&mut pong)?;
        let back_ns = now_ns();
        histogram.saturating_record(back_ns - sent_ns);
        due_ns = interval_ns.map_or(back_ns, |interval_ns| due_ns + interval_ns);
    }
    Ok((histogram, stream))
}
