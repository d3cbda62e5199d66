//! The former process: its two phases, and how they are undone.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::channel::{Body, Channel, Kind};
use crate::{Failure, Greeting, VARIABLE};

/// The process that hands itself over.
pub trait Predecessor {
    /// The format of its state, and the features this may require.
    fn greeting(&self) -> Greeting;

    /// Its listeners: a description in the caller's format, and their descriptors.
    fn listeners(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>);

    /// Accepts no more clients, waits until nothing is under way, and stops.
    ///
    /// # Errors
    /// Why it cannot. [`Predecessor::thaw`] is called in this case too.
    fn freeze(&mut self) -> Result<(), String>;

    /// Sends the shards one after the other, and keeps them for [`Predecessor::thaw`].
    ///
    /// # Errors
    /// If the channel fails, or why it cannot.
    fn send(&mut self, channel: Channel) -> Result<Channel, io::Error>;

    /// Whether the upgrade is still wanted. Called while waiting for the new process, and a last time before the
    /// commit.
    ///
    /// # Errors
    /// Why it is not. The new process is ended then.
    fn check_wanted(&mut self) -> Result<(), String>;

    /// Continues as before the freeze. The new process has ended.
    fn thaw(&mut self);

    /// Called when the new process continues: closes everything handed over, without shutting any socket.
    fn release(&mut self);
}

/// How long the steps may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// From the start of the new process to its greeting.
    pub start: Duration,
    /// From the end of the freeze to the commit, while no client is served. A new process that hangs is given up after
    /// a second.
    pub frozen: Duration,
}

/// How long reading the last message of an ended process may take. The message has arrived, so only a stop of this
/// process takes time.
const FINAL_MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// The new process. Dropping this kills it, unless it is committed.
struct NewProcess {
    child: Child,
    /// A second handle for reading the last message of a new process that ended while this process was sending.
    final_reader: Channel,
    is_committed: bool,
}

impl Drop for NewProcess {
    /// Waits for the end of the new process, so that it no longer uses the sockets.
    fn drop(&mut self) {
        if !self.is_committed {
            // The process may have ended already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl NewProcess {
    /// The failure behind a channel error.
    fn explain(&mut self, error: io::Error) -> Failure {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
        match error.kind() {
            // A read whose timeout passed fails with EAGAIN.
            TimedOut | WouldBlock => Failure::Late,
            UnexpectedEof | BrokenPipe | ConnectionReset => {
                // The new process closed its end, usually because it ends.
                let _ = self.child.kill();
                let ended = self.child.wait().map_or_else(Failure::Channel, Failure::Ended);
                self.final_reader.end_input(Instant::now() + FINAL_MESSAGE_TIMEOUT);
                match self.final_reader.receive() {
                    Ok((Kind::Refusal, why)) => refused(&why),
                    _ => ended,
                }
            }
            _ => Failure::Channel(error),
        }
    }

    /// The next message, while `former` still wants the upgrade.
    fn expect(
        &mut self,
        former: &mut impl Predecessor,
        channel: &mut Channel,
        kind: Kind,
    ) -> Result<Body, Failure> {
        while !channel.wait().map_err(|error| self.explain(error))? {
            former.check_wanted().map_err(Failure::Unready)?;
        }
        match channel.receive().map_err(|error| self.explain(error))? {
            (found, body) if found == kind => Ok(body),
            (Kind::Refusal, why) => Err(refused(&why)),
            _ => Err(Failure::Channel(io::ErrorKind::InvalidData.into())),
        }
    }
}

/// Starts `command` and hands `former` over to it. `Ok` contains the id of the new process, which continues; this
/// process has to end. Otherwise `former` continues as before, and the new process has ended.
///
/// # Errors
/// Why nothing was handed over.
pub fn upgrade(
    former: &mut impl Predecessor,
    mut command: Command,
    timeouts: Timeouts,
) -> Result<u32, Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(Failure::Start)?;
    command.env(VARIABLE, "stdin").stdin(Stdio::from(OwnedFd::from(theirs)));
    let final_reader = ours.try_clone().map_err(Failure::Start)?;
    let final_reader = Channel::new(final_reader, Instant::now());
    let child = command.spawn().map_err(Failure::Start)?;
    // Closes this process's copy of the new process's end, so that the end of that process is noticed.
    drop(command);
    let mut process = NewProcess { child, final_reader, is_committed: false };
    let mut channel = Channel::new(ours, Instant::now() + timeouts.start);
    let greeting = process.expect(former, &mut channel, Kind::Greeting)?;
    let greeting = Greeting::decode(&greeting)
        .ok_or_else(|| Failure::Channel(io::ErrorKind::InvalidData.into()))?;
    greeting.reads(&former.greeting()).map_err(Failure::Format)?;
    let (names, listeners) = former.listeners();
    channel.send_listeners(&names, &listeners).map_err(|error| process.explain(error))?;
    drop(listeners);
    // The new process has set up everything that needs no state.
    process.expect(former, &mut channel, Kind::Ready)?;
    match hand_over(former, &mut process, channel, timeouts.frozen) {
        Ok(()) => {
            process.is_committed = true;
            former.release();
            Ok(process.child.id())
        }
        Err(failure) => {
            // This comes first: until the new process has ended it may use the sockets.
            drop(process);
            former.thaw();
            Err(failure)
        }
    }
}

fn refused(why: &[u8]) -> Failure {
    Failure::Refused(String::from_utf8_lossy(why).into_owned())
}

/// From the freeze to the commit.
fn hand_over(
    former: &mut impl Predecessor,
    process: &mut NewProcess,
    mut channel: Channel,
    time: Duration,
) -> Result<(), Failure> {
    former.freeze().map_err(Failure::Unready)?;
    // The waits within the freeze have bounds of their own, and clients are served during most of them.
    channel.set_deadline(Instant::now() + time);
    channel.watch(process.child.id());
    let mut channel = former.send(channel).map_err(|error| process.explain(error))?;
    channel.send(Kind::Complete, &[]).map_err(|error| process.explain(error))?;
    process.expect(former, &mut channel, Kind::Ready)?;
    former.check_wanted().map_err(Failure::Unready)?;
    // The point of no return: once these bytes are written the new process may read them.
    channel.send(Kind::Commit, &[]).map_err(|error| process.explain(error))
}
