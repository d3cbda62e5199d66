//! APIs on Unix sockets.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use comet::blocking_client::PushClient;
use comet_client::Transport;
use rustix::process::Signal;

use crate::process::{Running, comet, line_with, run, with_sets};
use crate::support::{PATIENCE, Permit, Server, To, push, queued, received, two_cores};

/// A folder for sockets, which is removed with the value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("comet-unix-{}-{number}", std::process::id());
        let folder = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The address of a socket in the folder.
    pub(crate) fn address(&self, name: &str) -> String {
        format!("unix:{}", self.file(name).display())
    }

    fn set(&self, key: &str) -> String {
        format!("{key}=[\"{}\"]", self.address(key))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A failure is ignored, as the folder is in the directory of temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The status of a push to all clients.
pub(crate) fn post(path: &Path, headers: &str) -> u16 {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let line = "POST /goim/push/all?operation=5 HTTP/1.1\r\nContent-Length: 0\r\nConnection: close";
    write!(stream, "{line}\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer["HTTP/1.1 ".len()..][..3].parse().unwrap()
}

#[test]
fn pushes_reach_clients_over_unix_sockets() {
    let folder = Folder::new();
    let sets = ["push.grpc", "push.http"].map(|key| folder.set(key));
    let server = Server::start(&sets.each_ref().map(String::as_str));
    let mut client = server.client(Transport::Tcp, "1");
    assert_eq!(server.push(To::User(1), 5, b"by gRPC"), queued(1));
    assert_eq!(received(&mut client), b"by gRPC");
    let http = folder.file("push.http");
    // Any host name is accepted, since only processes of this host reach the socket.
    assert_eq!(post(&http, "Host: anything.example\r\n"), 200);
    assert_eq!(received(&mut client), b"");
    // The headers of a browser are refused here, too, as another page may have sent the request.
    assert_eq!(post(&http, "Host: a\r\nOrigin: https://evil.example\r\n"), 403);
    for key in ["push.grpc", "push.http"] {
        let mode = fs::metadata(folder.file(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
    }
    drop(client);
    server.drain();
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0, "both socket files are removed");
}

#[test]
fn a_start_replaces_the_socket_of_a_killed_server_only() {
    let folder = Folder::new();
    let path = folder.file("push.grpc");
    let set = folder.set("push.grpc");
    let cores = two_cores();
    let arguments = [&["--cores", &cores][..], &with_sets(&[&set])].concat();
    let start = || {
        let (process, log) = Running::start(comet(&arguments));
        line_with(&log, "debug [");
        (process, log)
    };
    let permit = Permit::wait();
    let (process, _log) = start();
    process.signal(Signal::KILL);
    assert_eq!(process.end(), None);
    assert!(path.exists());
    let (process, _log) = start();
    let caller = PushClient::connect(&folder.address("push.grpc")).unwrap();
    assert_eq!(push(&caller, To::All, 5, b""), queued(0));
    drop(caller);
    let (code, _, error) = run(&["push", "--grpc", &folder.address("push.grpc"), "all", "hello"]);
    assert_eq!(code, 3, "{error}");
    let (code, _, error) = run(&arguments);
    assert_eq!(code, 1);
    let expected = format!("comet: push.grpc: unix:{} is in use: stop", path.display());
    assert!(error.lines().last().unwrap().starts_with(&expected), "{error}");
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0));
    assert!(!path.exists());
    drop(permit);
}

#[test]
fn files_that_are_not_stale_sockets_are_kept() {
    let folder = Folder::new();
    let set = folder.set("push.grpc");
    let path = folder.file("push.grpc");
    fs::write(&path, "kept").unwrap();
    let (code, _, error) = run(&with_sets(&[&set]));
    assert_eq!(code, 1);
    assert!(error.contains("push.grpc: unix:") && error.contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let (code, _, error) = run(&with_sets(&[&set]));
    assert_eq!(code, 1);
    assert!(error.contains("is in use"), "{error}");
    drop(other);
    assert!(path.exists());
}
