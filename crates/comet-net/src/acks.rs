//! What the peer of a socket has acknowledged of the bytes that were sent to it.
#![allow(unsafe_code, reason = "no safe binding has this socket option")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The acknowledgements of a TCP socket, as the kernel counts them (`TCP_INFO`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acks {
    /// Bytes that the peer has acknowledged since the connection began, modulo 2^32.
    pub(crate) bytes: u32,
    /// The time since an acknowledgement that may have been one of new bytes (see [`silence`]).
    pub(crate) silence: Duration,
}

/// # Errors
/// `socket` is none of TCP.
pub(crate) fn acks(socket: impl AsFd) -> io::Result<Acks> {
    let socket = socket.as_fd().as_raw_fd();
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`.
    let result = unsafe {
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        libc::getsockopt(socket, level, option, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the structure has numbers alone, and those that an older kernel does not write are zero.
    let info = unsafe { info.assume_init() };
    Ok(Acks {
        bytes: info.tcpi_bytes_acked as u32,
        silence: Duration::from_millis(silence(&info).into()),
    })
}

/// Milliseconds since the last acknowledgement that may have been one of new bytes.
///
/// With bytes in flight that is the last acknowledgement of all. A whole send buffer may be in flight, so the time of the
/// last transmission says nothing about a slow link. With none in flight the peer has closed its window. It acknowledges the
/// probes of the window as well, but since the last transmission nothing new.
fn silence(info: &libc::tcp_info) -> u32 {
    match info.tcpi_unacked {
        0 => info.tcpi_last_ack_recv.max(info.tcpi_last_data_sent),
        _ => info.tcpi_last_ack_recv,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    #[test]
    fn acknowledgements_count_as_long_as_bytes_are_in_flight() {
        let silence = |unacked, last_ack, last_sent| {
            // SAFETY: zeros are values of all its numbers.
            let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
            info.tcpi_unacked = unacked;
            info.tcpi_last_ack_recv = last_ack;
            info.tcpi_last_data_sent = last_sent;
            silence(&info)
        };
        // A slow link: its queue has the whole send buffer.
        assert_eq!(silence(20, 100, 15_000), 100);
        // A peer that is gone: bytes are sent to it again.
        assert_eq!(silence(20, 15_000, 100), 15_000);
        // A closed window: its probes are acknowledged.
        assert_eq!(silence(0, 100, 15_000), 15_000);
    }

    /// Bytes that the peer's kernel has taken are acknowledged. Once its buffer is full nothing is sent any more, and once it
    /// has read they go on.
    #[test]
    fn a_peer_that_does_not_read_falls_silent_and_one_that_reads_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut writer, _) = listener.accept().unwrap();
        writer.set_nonblocking(true).unwrap();
        let mut written = 0;
        let end = loop {
            match writer.write(&[0; 1 << 14]) {
                Ok(bytes) => written += bytes,
                Err(error) => break error.kind(),
            }
        };
        assert_eq!(end, ErrorKind::WouldBlock);
        let silent = Duration::from_millis(300);
        let full = loop {
            let full = acks(&writer).unwrap();
            if full.silence >= silent {
                break full;
            }
            thread::sleep(silent / 10);
        };
        assert!((1..=written).contains(&(full.bytes as usize)), "{full:?} of {written}");
        let mut read = vec![0; 1 << 20];
        loop {
            assert!(reader.read(&mut read).unwrap() > 0);
            let now = acks(&writer).unwrap();
            if now.bytes > full.bytes {
                break;
            }
        }
    }
}
