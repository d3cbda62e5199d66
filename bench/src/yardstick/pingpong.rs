//! The yardstick of latency: a message to an echoing process and back, over one bare TCP connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZero;
use std::thread;
use std::time::Duration;

use rustix::thread::set_current_timer_slack;

use crate::Result;
use crate::clock::{now_ns, sleep_until};
use crate::stats::Latencies;

/// How long an echo may take.
const ECHO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long echoes took, in ns.
#[derive(Default)]
pub(crate) struct Pongs {
    /// From the write to the last byte read.
    pub round_trips: Latencies,
    /// From the time the write was due, which one before it that took long makes late.
    pub since_due: Latencies,
}

/// Sends `bytes` to the echo at `address` for `duration_ns`: each `interval_ns`, or one after the other's
/// return. The connection comes back open. Fails if the echo is gone.
pub(crate) fn ping_pong(
    address: SocketAddr,
    bytes: usize,
    interval_ns: Option<u64>,
    duration_ns: u64,
) -> Result<(Pongs, TcpStream)> {
    // What a thread starts inherits its exact sleeps, and servers are started by the caller's.
    let played = thread::spawn(move || play(address, bytes, interval_ns, duration_ns)).join();
    played.map_err(|_| "the ping-pong panicked")?
}

fn play(
    address: SocketAddr,
    bytes: usize,
    interval_ns: Option<u64>,
    duration_ns: u64,
) -> Result<(Pongs, TcpStream)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ECHO_TIMEOUT))?;
    // 50 us unless set. The timer that pushes are due by has none.
    set_current_timer_slack(Some(NonZero::<u64>::MIN))?;
    let ping = vec![b'.'; bytes];
    let mut pong = vec![0; bytes];
    let mut pongs = Pongs::default();
    let mut due_ns = now_ns();
    let end_ns = due_ns + duration_ns;
    while due_ns < end_ns {
        sleep_until(due_ns);
        let sent_ns = now_ns();
        stream.write_all(&ping)?;
        stream.read_exact(&mut pong)?;
        let back_ns = now_ns();
        pongs.round_trips.saturating_record(back_ns - sent_ns);
        pongs.since_due.saturating_record(back_ns - due_ns);
        due_ns = interval_ns.map_or(back_ns, |interval_ns| due_ns + interval_ns);
    }
    Ok((pongs, stream))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::thread::current_timer_slack;

    use super::*;
    use crate::clock::MILLISECOND_NS;

    #[test]
    fn the_callers_sleeps_stay_as_they_were() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let echo = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut output = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut output).unwrap();
        });
        let before = current_timer_slack().unwrap();
        assert!(before > 1, "{before} ns are exact already");
        let (pongs, stream) = ping_pong(address, 10, None, MILLISECOND_NS).unwrap();
        assert!(!pongs.round_trips.is_empty());
        assert_eq!(current_timer_slack().unwrap(), before);
        drop(stream);
        echo.join().unwrap();
    }
}
