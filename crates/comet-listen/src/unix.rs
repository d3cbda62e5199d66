//! Unix sockets. The file that a killed process left behind is replaced, and the file is removed when its listener
//! ends.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::Access;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{Address, ListenError};

/// User and group of the process may connect, whatever its umask.
const MODE: u32 = 0o660;

/// How often locking a directory is tried, and the pause between attempts. Another comet holds the lock far shorter.
const LOCK_ATTEMPTS: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The file of a listening Unix socket. Dropping this removes the file, unless another socket is there by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
    /// Kept open until the file is removed. So no other process takes the path before, and the inode number is not
    /// reused.
    _socket: Socket,
}

/// Whether the files of sockets are kept, because another process listens there.
static ARE_FILES_KEPT: AtomicBool = AtomicBool::new(false);

/// Sets whether this process keeps the files of its Unix sockets when it ends, because another process uses the sockets
/// too. This holds for the former process of a live upgrade from the commit on, and for the new process until the
/// commit.
pub fn keep_socket_files(are_kept: bool) {
    ARE_FILES_KEPT.store(are_kept, Ordering::Release);
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !ARE_FILES_KEPT.load(Ordering::Acquire) && id(&self.path).is_ok_and(|id| id == self.id) {
            // The next process replaces a file that is left.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds `path` and listens. A socket file without a listener is replaced.
///
/// # Errors
/// If the kernel refuses, another socket listens there, or a file is there that is no socket.
pub fn listen_unix(path: &Path, backlog: i32) -> Result<(Socket, SocketFile), ListenError> {
    let address = || Address::Unix(path.to_owned());
    open(path, backlog).map_err(|source| ListenError { address: address(), source })
}

/// Continues with a listening socket that another process has handed over.
///
/// # Errors
/// If its file is gone.
pub fn inherit_unix(path: &Path, socket: OwnedFd) -> Result<(Socket, SocketFile), ListenError> {
    let inherit = || {
        let socket = Socket::from(socket);
        let _socket = socket.try_clone()?;
        Ok((socket, SocketFile { path: path.to_owned(), id: id(path)?, _socket }))
    };
    inherit().map_err(|source| ListenError { address: Address::Unix(path.to_owned()), source })
}

fn open(path: &Path, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    // Two processes that find the same file must not both replace it.
    let _lock = lock(path.parent().expect("the path of a socket has a directory"))?;
    remove_stale_socket(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Set before the first connection. The kernel removes the bits of the umask (unix(7)).
    File::from(OwnedFd::from(socket.try_clone()?)).set_permissions(Permissions::from_mode(MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let _socket = socket.try_clone()?;
    let file = SocketFile { path: path.to_owned(), id: id(path)?, _socket };
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(backlog)?;
    Ok((socket, file))
}

/// Locks `directory` against other processes that open a socket in it, until the file is dropped.
#[allow(clippy::disallowed_methods, reason = "a lock that is taken without a bound has no event")]
fn lock(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::other("another process keeps its directory locked (flock)"))
}

/// Whether [`listen_unix`] could take `path`, as far as that can be seen without making anything.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    let directory = path.parent().expect("the path of a socket has a directory");
    rustix::fs::access(directory, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)?;
    has_stale_socket(path).map(|_| ())
}

/// Removes a socket file without a listener.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    if has_stale_socket(path)? { fs::remove_file(path) } else { Ok(()) }
}

/// Whether `path` is a socket file without a listener.
///
/// # Errors
/// [`ErrorKind::AddrInUse`] if it has a listener, [`ErrorKind::AlreadyExists`] if it is not a socket.
fn has_stale_socket(path: &Path) -> io::Result<bool> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    match is_live(path) {
        Ok(true) => Err(ErrorKind::AddrInUse.into()),
        Ok(false) => Ok(true),
        // Without permission to connect it is unknown whether something listens.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let (owner, mode) = (found.uid(), found.mode() & 0o777);
            Err(io::Error::other(format!(
                "a socket is there already, of the user with id {owner} and with mode {mode:o}, \
                 and this user may not connect to it: stop what listens there, or remove the file"
            )))
        }
        Err(error) => Err(error),
    }
}

/// Whether the socket has a listener.
fn is_live(path: &Path) -> io::Result<bool> {
    // Tried without waiting: a listener whose backlog is full counts as well.
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ok(false),
            ErrorKind::WouldBlock => Ok(true),
            _ => Err(error),
        },
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::env::temp_dir;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process;

    use super::*;

    /// A directory of its own, gone with the value.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = temp_dir().join(format!("comet-listen-{}-{name}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("a.sock")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_live_socket_is_in_use_and_its_file_is_gone_with_it() {
        let directory = Directory::new("live");
        let path = directory.socket();
        let (socket, file) = listen_unix(&path, 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let _connected = UnixStream::connect(&path).unwrap();
        // The same holds while its backlog is full.
        for _ in 0..4 {
            let error = listen_unix(&path, 1).unwrap_err().to_string();
            let expected = format!("unix:{} is in use: stop what listens there", path.display());
            assert!(error.starts_with(&expected), "{error}");
        }
        drop(file);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let directory = Directory::new("stale");
        let path = directory.socket();
        // The std listener leaves its file.
        drop(UnixListener::bind(&path).unwrap());
        let (_socket, file) = listen_unix(&path, 8).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn the_socket_of_another_is_left_alone() {
        let directory = Directory::new("other");
        let path = directory.socket();
        let (_socket, file) = listen_unix(&path, 8).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_of_another_user_is_named_with_its_owner() {
        let directory = Directory::new("owner");
        let path = directory.socket();
        drop(UnixListener::bind(&path).unwrap());
        fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
        let owner = fs::metadata(&path).unwrap().uid();
        let checked = std::thread::spawn({
            let path = path.clone();
            move || {
                if rustix::process::geteuid().is_root() {
                    // Root may connect to every socket. This changes the user of this thread only.
                    let user = rustix::process::Uid::from_raw(65_534);
                    rustix::thread::set_thread_uid(user).unwrap();
                }
                has_stale_socket(&path)
            }
        });
        let source = checked.join().unwrap().unwrap_err();
        let error = ListenError { address: Address::Unix(path.clone()), source }.to_string();
        let expected = format!("unix:{} cannot be listened on: a socket is there", path.display());
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains(&format!("user with id {owner} and with mode 0,")), "{error}");
    }

    #[test]
    fn files_that_are_no_sockets_are_left_alone() {
        let directory = Directory::new("file");
        let path = directory.socket();
        fs::write(&path, "kept").unwrap();
        let link = directory.0.join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for path in [&path, &link] {
            let error = listen_unix(path, 8).unwrap_err().to_string();
            assert!(error.contains("no socket"), "{error}");
            let checked = crate::check(&Address::Unix(path.clone())).unwrap_err().to_string();
            assert_eq!(checked, error);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }

    #[test]
    fn a_directory_that_is_missing_is_named() {
        let directory = Directory::new("missing");
        let path = directory.0.join("none/a.sock");
        let listened = listen_unix(&path, 8).map(|_| ());
        for tried in [listened, crate::check(&Address::Unix(path))] {
            let error = tried.unwrap_err().to_string();
            assert!(error.contains("has no directory"), "{error}");
        }
    }
}
