//! The yardstick of latency: a message to an echoing process and back, over one bare TCP connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZero;
use std::thread;
use std::time::Duration;

use rustix::thread::set_current_timer_slack;
use serde::Serialize;

use crate::Result;
use crate::args::HostArgs;
use crate::clock::{now_ns, seconds_to_ns, sleep_until};
use crate::stats::{Latencies, Percentiles};
use crate::target::Target;
use crate::yardstick::Mode;

/// How long an echo may take.
const ECHO_TIMEOUT: Duration = Duration::from_secs(10);

/// The results of a bare ping-pong.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PingPong {
    /// The time of a round trip, from the write to the last byte read.
    pub latency: Percentiles,
    /// The time from when it was due to its end, as latencies of pushes are measured. A slow one before it makes it
    /// late.
    pub since_due: Percentiles,
    /// CPU time of the echoing side for one round trip.
    pub cpu_ns: f64,
}

impl PingPong {
    /// Starts an echo and sends it `bytes` for `duration_ns`: every `interval_ns`, or each when the one before has
    /// returned. Fails if the echo does not start, or is gone.
    pub(crate) fn measure(
        bytes: usize,
        interval_ns: Option<u64>,
        seconds: f64,
        host: &HostArgs,
    ) -> Result<Self> {
        let (mut target, _feed) = Target::yardstick(Mode::Echo, 1, host)?;
        let before = target.cpu()?;
        let (round_trips, since_due, socket) =
            ping_pong(target.endpoints.tcp, bytes, interval_ns, seconds_to_ns(seconds))?;
        let cpu = target.cpu()?.zip(before).map(|(after, before)| after.since(&before).total_ns);
        // Not before: the yardstick ends with its connection.
        drop(socket);
        let cpu = cpu.expect("a yardstick's process is known");
        Ok(Self {
            latency: Percentiles::of(&round_trips),
            since_due: Percentiles::of(&since_due),
            cpu_ns: cpu as f64 / round_trips.len().max(1) as f64,
        })
    }
}

/// How long the echoes took, from the write and from when they were due, in ns; and the connection, which is still
/// open.
fn ping_pong(
    address: SocketAddr,
    bytes: usize,
    interval_ns: Option<u64>,
    duration_ns: u64,
) -> Result<(Latencies, Latencies, TcpStream)> {
    let play = move || -> Result<_> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ECHO_TIMEOUT))?;
        // It is 50 us by default. The timer for pushes has no slack.
        set_current_timer_slack(Some(NonZero::<u64>::MIN))?;
        let ping = vec![b'.'; bytes];
        let mut pong = vec![0; bytes];
        let (mut round_trips, mut since_due) = (Latencies::default(), Latencies::default());
        let mut due_ns = now_ns();
        let end_ns = due_ns + duration_ns;
        while due_ns < end_ns {
            sleep_until(due_ns);
            let sent_ns = now_ns();
            stream.write_all(&ping)?;
            stream.read_exact(&mut pong)?;
            let back_ns = now_ns();
            round_trips.saturating_record(back_ns - sent_ns);
            since_due.saturating_record(back_ns - due_ns);
            due_ns = interval_ns.map_or(back_ns, |interval_ns| due_ns + interval_ns);
        }
        Ok((round_trips, since_due, stream))
    };
    // Threads inherit the timer slack of the thread that starts them, and servers are started by the caller's thread.
    thread::spawn(play).join().map_err(|_| "the ping-pong panicked")?
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
        let (round_trips, _, stream) = ping_pong(address, 10, None, MILLISECOND_NS).unwrap();
        assert!(!round_trips.is_empty());
        assert_eq!(current_timer_slack().unwrap(), before);
        drop(stream);
        echo.join().unwrap();
    }
}
