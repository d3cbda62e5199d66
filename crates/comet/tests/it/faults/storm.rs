//! The end by a signal while clients come in numbers.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use comet_client::{Options, Transport};
use rustix::process::Signal;

use crate::process::Server;
use crate::support::{BOTH, until};

const STORMERS: usize = 4;

#[test]
fn a_signal_in_a_storm_of_connects_ends_the_server() {
    let server = Server::start(&["server.drain_timeout=\"1m\""]);
    let (entered, told) = (AtomicU64::new(0), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let addresses = [server.tcp.to_string(), server.websocket.to_string()];
    thread::scope(|scope| {
        for stormer in 0..STORMERS {
            let (transport, address) = (BOTH[stormer % 2], &addresses[stormer % 2]);
            let (entered, told, is_over) = (&entered, &told, &is_over);
            scope.spawn(move || {
                let options = match transport {
                    Transport::Tcp => Options::tcp(address, "1"),
                    Transport::WebSocket => Options::websocket(address, "/sub", "1"),
                };
                let mut stays = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    // Some say nothing.
                    drop(TcpStream::connect(address));
                    match options.connect() {
                        Ok(client) if stays.len() < 200 => stays.push(client),
                        Ok(client) => drop(client),
                        // The listeners are shut, or it is told to go.
                        Err(_) => thread::sleep(Duration::from_millis(1)),
                    }
                    entered.fetch_add(1, Ordering::Relaxed);
                }
                for mut client in stays {
                    // Nothing was pushed: what comes is the close notice, or the end of a cut connection.
                    let error = client.receive().expect_err("the server has ended");
                    told.fetch_add(
                        u64::from(error.to_string().contains("draining")),
                        Ordering::Relaxed,
                    );
                }
            });
        }
        until("the storm", || entered.load(Ordering::Relaxed) > 200);
        server.signal(Signal::TERM);
        let (code, logged) = server.end();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(code, Some(0), "{logged:?}");
        assert!(logged.last().unwrap().ends_with("2 of 2 cores drained in time"), "{logged:?}");
        assert!(!logged.iter().any(|line| line.contains(" ERROR ")), "{logged:?}");
    });
    assert!(told.load(Ordering::Relaxed) > 0);
}
