//! Addresses of a process that has ended. The kernel closes the sockets on which an io_uring ring accepts in the
//! background, some milliseconds after the process is gone (30 ms with 4,000 connections). So a process that starts at
//! once finds its addresses in use.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use procfs::ProcResult;
use procfs::net::TcpNetEntry;
use procfs::process::{FDTarget, all_processes};

use crate::other_process::listening;

/// Time between two checks.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long a process may take to end, from the first check on.
const PROCESS_END: Duration = Duration::from_millis(300);

/// Waits until `address` can be bound, if the sockets that listen there belong to this user and to no process. Returns
/// whether it can be bound before `deadline`. A process that has one of the sockets may be about to end, so it is
/// waited for as well, but only for 300 ms.
///
/// A process in another PID namespace is not visible, so its address is waited for in vain.
#[must_use]
pub fn wait_until_released(address: SocketAddr, deadline: Instant) -> bool {
    let process_deadline = deadline.min(Instant::now() + PROCESS_END);
    let mut is_without = false;
    while comet_listen::check(&address.into()).is_err() {
        // Not checked again once known: on a host with many connections these lists take long.
        is_without = is_without || is_without_process(address).unwrap_or(false);
        if Instant::now() >= if is_without { deadline } else { process_deadline } {
            return false;
        }
        thread::sleep(LOOK_INTERVAL);
    }
    true
}

fn is_without_process(address: SocketAddr) -> ProcResult<bool> {
    let user = procfs::process::Process::myself()?.uid()?;
    let sockets = listening(address)?;
    // Only root can see the open files of another user's process.
    if user != 0 && sockets.iter().any(|socket: &TcpNetEntry| socket.uid != user) {
        return Ok(false);
    }
    let inodes: BTreeSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
    // A process that ends meanwhile has no readable list of files.
    let open_files = all_processes()?.flatten().filter_map(|process| process.fd().ok());
    let is_open =
        |file: FDTarget| matches!(file, FDTarget::Socket(inode) if inodes.contains(&inode));
    Ok(!open_files.flatten().flatten().any(|file| is_open(file.target)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn an_address_of_a_process_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!is_without_process(address).unwrap());
        let begin = Instant::now();
        assert!(!wait_until_released(address, begin + PATIENCE));
        assert!(begin.elapsed() < PATIENCE);
    }
}
