//! How `comet upgrade` sends its request to a running server, and how the server answers.
//!
//! The command listens at an abstract Unix socket that is named after the server's process, and sends SIGUSR2. The
//! server checks whether a command listens there. If not, the signal alone is the order. So the server needs no address
//! for this, and only users who may send it a signal can make a request.
//!
//! Any user may take an abstract name. The server ignores a listener of a user that is neither root nor its own,
//! because the signal came from one of these two. It never waits for a listener.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, Uid, geteuid, kill_process};
use serde_json::{Value, json};

/// How long the new process may take until it is ready to take over, unless a request says otherwise.
const START_TIME: Duration = Duration::from_secs(30);

/// How long either side waits for the few bytes of the other.
const TALK_TIME: Duration = Duration::from_secs(10);

/// How long the server may take beside the start of the new process.
const EXTRA_TIME: Duration = Duration::from_secs(120);

/// How often the command checks whether the server has connected.
const LOOK: Duration = Duration::from_millis(10);

/// Longest request, bytes.
const REQUEST_MAX: u64 = 16 << 10;
/// Longest answer, bytes.
const ANSWER_MAX: u64 = 1 << 20;

/// A request to a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The binary of the new process; `None`: the server's own, as named in its command line.
    pub binary: Option<PathBuf>,
    /// How long the new process may take until it is ready to take over.
    pub start: Duration,
    /// Whether the server only has to report what would be handed over.
    pub is_check: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self { binary: None, start: START_TIME, is_check: false }
    }
}

/// The final answer of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Whether it has done what was requested.
    pub is_done: bool,
    /// Some lines for the operator.
    pub text: String,
}

fn name(server: u32) -> String {
    format!("comet-upgrade-{server}")
}

/// A connection to the listener at the name of `server`, with the listener's user. Does not wait: if the listener
/// accepts none, the error is [`io::ErrorKind::WouldBlock`].
fn reach(server: u32) -> io::Result<(UnixStream, Uid)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(name(server).as_bytes())?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    let user = socket_peercred(&stream)?.uid;
    Ok((stream, user))
}

/// Whether `user` may order an upgrade of a process that `owner` runs.
fn may_ask(user: Uid, owner: Uid) -> bool {
    user.is_root() || user == owner
}

/// Sends a request to the process `server`, and waits for its answer. This process must not end until `has_come` is
/// called: the server would find no listener, and take the signal as an order to upgrade. If `has_come` fails nothing
/// is done.
///
/// # Errors
/// If the request cannot be sent, or is not answered, as a sentence.
pub fn ask(
    server: u32,
    request: &Request,
    has_come: impl FnOnce() -> Result<(), String>,
) -> Result<Answer, String> {
    let address = net::SocketAddr::from_abstract_name(name(server));
    let listener = address.and_then(|address| UnixListener::bind_addr(&address));
    let listener = listener.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => is_taken(server),
        _ => format!("process {server} cannot be asked: {error}"),
    })?;
    let id = i32::try_from(server).ok().and_then(Pid::from_raw);
    let id = id.ok_or_else(|| format!("{server} is no process"))?;
    if let Some(owner) = owner(server)
        && !may_ask(geteuid(), owner)
    {
        return Err(format!("process {server} listens to root and to its user {owner} alone"));
    }
    if handles_upgrades(server) == Some(false) {
        return Err(format!(
            "process {server} hands no connections over, and SIGUSR2 would end it: restart it, \
             after a drain (comet ctl drain)"
        ));
    }
    kill_process(id, Signal::USR2)
        .map_err(|error| format!("process {server} cannot be signalled: {error}"))?;
    let mut stream = accept(&listener, id, request.start + EXTRA_TIME)?;
    has_come()?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => format!("process {server} does not answer: see its log"),
        _ => format!("process {server}: {error}"),
    };
    stream.set_read_timeout(Some(request.start + EXTRA_TIME)).map_err(failed)?;
    stream.write_all(&encode(request)).map_err(failed)?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).map_err(failed)?;
    match answer.split_at_checked(1) {
        Some(("+", text)) => Ok(Answer { is_done: true, text: text.to_owned() }),
        Some(("-", text)) => Ok(Answer { is_done: false, text: text.to_owned() }),
        _ => Err(format!("process {server} has ended without an answer: see its log")),
    }
}

/// Why the name is not available.
fn is_taken(server: u32) -> String {
    match reach(server) {
        Ok((_, user)) if !may_ask(user, geteuid()) => format!(
            "user {user} listens at the abstract socket {:?}, by which process {server} would be asked: end that process, \
             or upgrade by `kill -USR2 {server}`",
            name(server)
        ),
        _ => format!("another `comet upgrade` asks process {server} already"),
    }
}

/// The effective user of the process; `None`: it cannot be determined.
fn owner(server: u32) -> Option<Uid> {
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).ok()?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    Some(Uid::from_raw(users.split_whitespace().nth(1)?.parse().ok()?))
}

/// Whether the process has a handler of SIGUSR2. Without one, in an older version or another program, the signal ends
/// it. `None`: it cannot be determined.
fn handles_upgrades(server: u32) -> Option<bool> {
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).ok()?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
    let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
    Some(caught & (1 << (Signal::USR2.as_raw() - 1)) != 0)
}

/// Accepts the server, and no other process.
fn accept(listener: &UnixListener, server: Pid, time: Duration) -> Result<UnixStream, String> {
    let failed = |error: io::Error| error.to_string();
    listener.set_nonblocking(true).map_err(failed)?;
    let end = Instant::now() + time;
    while Instant::now() < end {
        match listener.accept() {
            Ok((stream, _)) => {
                let credentials = socket_peercred(&stream).map_err(io::Error::from);
                if credentials.map_err(failed)?.pid == server {
                    stream.set_nonblocking(false).map_err(failed)?;
                    return Ok(stream);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOOK),
            Err(error) => return Err(failed(error)),
        }
        if rustix::process::test_kill_process(server).is_err() {
            return Err(format!("process {} has ended", server.as_raw_nonzero()));
        }
    }
    Err(format!("process {} does not ask what is wanted", server.as_raw_nonzero()))
}

fn encode(Request { binary, start, is_check }: &Request) -> Vec<u8> {
    let binary = binary.as_ref().map(|path| path.to_string_lossy());
    let start_ms = u64::try_from(start.as_millis()).unwrap_or(u64::MAX);
    format!("{}\n", json!({ "binary": binary, "start_ms": start_ms, "check": is_check })).into()
}

fn decode(line: &str) -> Option<Request> {
    let value: Value = serde_json::from_str(line).ok()?;
    Some(Request {
        binary: value["binary"].as_str().map(Into::into),
        start: value["start_ms"].as_u64().map_or(START_TIME, Duration::from_millis),
        is_check: value["check"].as_bool()?,
    })
}

/// A request at the server, with the connection for its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    /// `None`: the answer is only logged.
    command: Option<UnixStream>,
}

impl Asked {
    /// The meaning of SIGUSR2: the request of the command that listens for this process, or a plain upgrade if none
    /// listens. `None`: a command listens, and its request cannot be read. It may have been only a check, so nothing is
    /// done.
    pub(crate) fn fetch() -> Option<Self> {
        match fetch() {
            Ok(asked) => Some(asked),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Some(Self { request: Request::default(), command: None })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let name = name(std::process::id());
                log::warn!(
                    "SIGUSR2: nothing is done, as a process listens at the abstract socket {name:?} and takes no connection: \
                     `ss -xlp` names it"
                );
                None
            }
            Err(error) => {
                log::warn!("SIGUSR2: nothing is done, as the request cannot be read: {error}");
                None
            }
        }
    }

    /// Sends the answer. The command may be gone.
    pub(crate) fn answer(self, Answer { is_done, text }: &Answer) {
        let Some(mut command) = self.command else { return };
        let mark = if *is_done { '+' } else { '-' };
        let _ = command.write_all(format!("{mark}{text}").as_bytes());
    }
}

fn fetch() -> io::Result<Asked> {
    let (stream, user) = reach(std::process::id())?;
    if !may_ask(user, geteuid()) {
        log::warn!("SIGUSR2: user {user} listens for it, and is not asked what it wants");
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_read_timeout(Some(TALK_TIME))?;
    stream.set_write_timeout(Some(TALK_TIME))?;
    let mut line = String::new();
    BufReader::new((&stream).take(REQUEST_MAX)).read_line(&mut line)?;
    let request = decode(&line).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Asked { request, command: Some(stream) })
}

/// The path by which this process was started. It may contain a newer binary by now.
pub(super) fn own_binary() -> PathBuf {
    env::args_os().next().map_or_else(|| "comet".into(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_back() {
        let check = |request: Request| {
            let line = String::from_utf8(encode(&request)).unwrap();
            assert_eq!(decode(&line), Some(request));
        };
        check(Request::default());
        let binary = Some("/usr/bin/comet".into());
        check(Request { binary, start: Duration::from_millis(70), is_check: true });
        assert_eq!(decode("{}"), None);
        assert_eq!(decode(""), None);
    }

    #[test]
    fn a_process_that_is_none_is_not_asked() {
        // The largest process id of the kernel is 2^22.
        let error = ask(1 << 30, &Request::default(), || Ok(())).unwrap_err();
        assert!(error.contains("cannot be signalled"), "{error}");
    }

    #[test]
    fn a_process_that_the_signal_would_end_is_not_signalled() {
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let error = ask(sleeper.id(), &Request::default(), || Ok(())).unwrap_err();
        let ended = sleeper.try_wait().unwrap();
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(error.contains("SIGUSR2 would end it"), "{error}");
        assert_eq!(ended, None);
    }
}
