//! The TLS handshake of a caller: bounded in time, and computed in turns.
//!
//! A signature takes up to milliseconds. At any time one handshake proceeds, and after each of its steps all other
//! ready work runs. So callers that connect in masses wait for each other, and calls do not.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::guarded::Protocol;
use crate::socket::Socket;
use crate::tls::ApiTls;

/// # Errors
/// The caller's error ([`as_tls`]), or that of its socket.
pub(crate) async fn handshake(
    stream: TcpStream,
    tls: &ApiTls,
    protocol: &Protocol,
) -> io::Result<Socket> {
    let config = tls.server(protocol).ok_or(io::ErrorKind::Unsupported)?;
    let accept = TlsAcceptor::from(config).accept(stream);
    let stream = in_turns(tls.turn(), accept).await?;
    Ok(Socket::Tls(Box::new(TlsStream::Server(stream))))
}

/// The TLS error in the handshake; `None` if the connection ended.
pub(crate) fn as_tls(error: &io::Error) -> Option<&rustls::Error> {
    let inner: &(dyn Error + 'static) = error.get_ref()?;
    inner.downcast_ref()
}

/// Runs `work`, of which each step takes a turn.
async fn in_turns<F: Future>(turn: &Mutex<()>, work: F) -> F::Output {
    let mut work = pin!(work);
    loop {
        // First come, first served.
        let turn = turn.lock().await;
        // Returns after all ready work, including work that arrived meanwhile.
        yield_now().await;
        let step = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        drop(turn);
        if let Poll::Ready(output) = step {
            return output;
        }
        // Registered in the same poll, so no wake-up of the work is lost.
        woken().await;
    }
}

/// Resolves when the task is polled again.
async fn woken() {
    let mut is_polled = false;
    poll_fn(|_| match std::mem::replace(&mut is_polled, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex as StdMutex};

    use tokio::join;
    use tokio::sync::Notify;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn one_step_at_a_time_is_computed() {
        let (turn, log) = (Arc::new(Mutex::new(())), Arc::new(StdMutex::new(String::new())));
        let steps = |name, count| {
            let log = Arc::clone(&log);
            async move {
                for _ in 0..count {
                    log.lock().unwrap().push(name);
                    yield_now().await;
                }
            }
        };
        let mut tasks = JoinSet::new();
        for name in ['a', 'b', 'c'] {
            let (turn, work) = (Arc::clone(&turn), steps(name, 2));
            tasks.spawn(async move { in_turns(&turn, work).await });
        }
        tasks.spawn(steps('.', 24));
        tasks.join_all().await;
        let log = log.lock().unwrap();
        assert_eq!(log.len(), 2 + 2 + 2 + 24, "{log}");
        // There is one step in each round of the runtime. The order of a round changes, so two steps may meet, at its
        // end and at the beginning of the next.
        assert!(log.split('.').all(|steps| steps.len() <= 2), "{log}");
    }

    #[tokio::test]
    async fn a_waiting_handshake_delays_no_other() {
        let (turn, event) = (Mutex::new(()), Notify::new());
        let waiting = in_turns(&turn, event.notified());
        let working = async {
            in_turns(&turn, yield_now()).await;
            event.notify_one();
        };
        join!(waiting, working);
    }
}
