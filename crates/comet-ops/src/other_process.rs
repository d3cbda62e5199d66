//! Another process of this host: whether it runs the same program with given arguments, and at which addresses it
//! listens.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use comet_listen::Address;
use procfs::ProcResult;
use procfs::net::{TcpNetEntry, TcpState, UnixNetEntry, UnixState, tcp, tcp6, unix};
use procfs::process::{FDTarget, Process, all_processes};

/// Another process that this one's user may inspect: one of the same user, or any for root.
#[derive(Debug)]
pub struct OtherProcess(Process);

impl OtherProcess {
    /// The process with this id.
    #[must_use]
    pub fn with_id(id: u32) -> Option<Self> {
        Process::new(i32::try_from(id).ok()?).ok().map(Self)
    }

    /// A process that runs the same program as this one, with exactly these arguments after the program's name.
    #[must_use]
    pub fn with_arguments(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let program = env::current_exe().ok()?;
        let arguments: Vec<String> =
            arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let is_same = |process: &Process| {
            // The kernel marks the name of a program that was replaced while it runs.
            let exe = process.exe().unwrap_or_default();
            let exe = exe.as_os_str().as_bytes();
            let exe = exe.strip_suffix(b" (deleted)").unwrap_or(exe);
            exe == program.as_os_str().as_bytes()
                && process.cmdline().is_ok_and(|line| line.get(1..) == Some(&arguments))
        };
        let others = all_processes().ok()?.filter_map(Result::ok);
        let mut others = others.filter(|process| process.pid.unsigned_abs() != std::process::id());
        others.find(is_same).map(Self)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.pid.unsigned_abs()
    }

    /// Whether only this process uses `address`. False if that cannot be determined.
    #[must_use]
    pub fn listens_at(&self, address: &Address) -> bool {
        let sockets = match address {
            Address::Plain(address) | Address::Tls(address) => listening(*address)
                .map(|sockets| sockets.into_iter().map(|socket| socket.inode).collect()),
            Address::Unix(path) => listening_unix(path),
        };
        let Ok(mut sockets) = sockets else { return false };
        if sockets.is_empty() {
            return false;
        }
        let Ok(files) = self.0.fd() else { return false };
        for file in files.flatten() {
            if let FDTarget::Socket(inode) = file.target {
                sockets.remove(&inode);
            }
            if sockets.is_empty() {
                return true;
            }
        }
        false
    }
}

/// The sockets whose listening prevents binding `address`.
pub(crate) fn listening(address: SocketAddr) -> ProcResult<Vec<TcpNetEntry>> {
    let entries = if address.is_ipv4() { tcp()? } else { tcp6()? };
    let overlaps = |entry: &TcpNetEntry| {
        let [one, other] = [entry.local_address, address].map(|address| address.ip());
        let is_any = |address: IpAddr| address.is_unspecified();
        entry.state == TcpState::Listen
            && entry.local_address.port() == address.port()
            && (one == other || is_any(one) || is_any(other))
    };
    Ok(entries.into_iter().filter(overlaps).collect())
}

/// The inode of the socket that listens at `path`.
fn listening_unix(path: &Path) -> ProcResult<BTreeSet<u64>> {
    // A connected socket has the path of its listener as well.
    let is_there = |entry: &UnixNetEntry| {
        entry.path.as_deref() == Some(path) && entry.state == UnixState::UNCONNECTED
    };
    Ok(unix()?.into_iter().filter(is_there).map(|entry| entry.inode).collect())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn this() -> OtherProcess {
        OtherProcess::with_id(std::process::id()).unwrap()
    }

    #[test]
    fn a_process_is_known_by_the_sockets_it_listens_on() {
        for (host, any) in [("127.0.0.1", "0.0.0.0"), ("[::1]", "[::]")] {
            let listener = TcpListener::bind(format!("{host}:0")).unwrap();
            let address = Address::from(listener.local_addr().unwrap());
            let port = listener.local_addr().unwrap().port();
            let of_any = format!("{any}:{port}").parse().unwrap();
            assert!(this().listens_at(&address) && this().listens_at(&of_any), "{address}");
            assert!(!OtherProcess::with_id(1).unwrap().listens_at(&address));
            drop(listener);
            assert!(!this().listens_at(&address));
        }
        let path = env::temp_dir().join(format!("comet-ops-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let address = Address::Unix(path.clone());
        assert!(this().listens_at(&address));
        assert!(!OtherProcess::with_id(1).unwrap().listens_at(&address));
        drop(listener);
        assert!(!this().listens_at(&address));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn this_process_is_no_other() {
        assert!(OtherProcess::with_arguments(env::args_os().skip(1)).is_none());
    }
}
