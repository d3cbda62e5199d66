//! A TCP connection between two programs that the test can spoil without ending it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

/// What becomes of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Passage {
    /// They arrive.
    Open,
    /// They vanish, in both directions, and so does the end of a connection.
    Cut,
    /// They arrive late: each read of them by that long.
    Slow,
    /// Others arrive in the place of what the server says.
    Garbage,
}

/// How long a slow wire takes in each direction: there and back longer than any deadline of these tests.
const LATE: Duration = Duration::from_secs(4);

/// Listens, and passes on what comes to a server.
pub(super) struct Wire {
    pub(super) address: SocketAddr,
    passage: Arc<AtomicU8>,
}

impl Wire {
    pub(super) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let passage = Arc::new(AtomicU8::new(Passage::Open as u8));
        let shared = Arc::clone(&passage);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                // The server may be away.
                let Ok(server) = TcpStream::connect(server) else { continue };
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                for (from, to, is_back) in [(client, server, false), (back.0, back.1, true)] {
                    let passage = Arc::clone(&shared);
                    thread::spawn(move || pass(from, to, is_back, &passage));
                }
            }
        });
        Self { address, passage }
    }

    pub(super) fn set(&self, passage: Passage) {
        self.passage.store(passage as u8, Ordering::SeqCst);
    }
}

/// Until one end is gone.
fn pass(mut from: TcpStream, mut to: TcpStream, is_back: bool, passage: &AtomicU8) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        let is = |wanted: Passage| passage.load(Ordering::SeqCst) == wanted as u8;
        if is(Passage::Cut) {
            if read > 0 {
                continue;
            }
            // Nobody hears that the other has left.
            while is(Passage::Cut) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        if is(Passage::Slow) {
            thread::sleep(LATE);
        }
        if is(Passage::Garbage) && is_back {
            buffer[..read].fill(0xff);
        }
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            // Either may have been closed by the other direction.
            let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
            return;
        }
    }
}
