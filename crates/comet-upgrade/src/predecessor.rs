//! The former process: two phases, and the way back.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::channel::{Body, Channel, Kind};
use crate::{Failure, Greeting, VARIABLE};

/// What hands itself over.
pub trait Predecessor {
    /// What its state is written in and may require.
    fn greeting(&self) -> Greeting;

    /// Its listeners: what they are, in words of the caller, and their descriptors.
    fn listeners(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>);

    /// Accepts no more clients, sees to it that nothing is under way, and stops.
    ///
    /// # Errors
    /// Why it cannot. [`Predecessor::thaw`] is called then, too.
    fn freeze(&mut self) -> Result<(), String>;

    /// Sends the shards, one after the other. They are to be kept for [`Predecessor::thaw`].
    ///
    /// # Errors
    /// If the channel fails, or why it cannot.
    fn send(&mut self, channel: Channel) -> Result<Channel, io::Error>;

    /// Whether this is still wanted. Asked while the new process is waited for, and last before the commit.
    ///
    /// # Errors
    /// Why it is not. The new process is ended then.
    fn check_wanted(&mut self) -> Result<(), String>;

    /// Goes on as if nothing had been. The new process has ended.
    fn thaw(&mut self);

    /// The new process goes on: closes all that it was handed, and shuts nothing.
    fn release(&mut self);
}

/// How long the steps may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// From the start of the new process to its greeting.
    pub start: Duration,
    /// From the end of the freeze to the commit, while nobody is served. A process that hangs is given up after a second.
    pub frozen: Duration,
}

/// How long the last message of a process that has ended may take to be read. It is there, so only a stop of this process takes time.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// The new process, which is ended if this is dropped.
struct NewProcess {
    child: Child,
    /// Reads what it has said where it ended amid a message to it.
    last_words: Channel,
    is_committed: bool,
}

impl Drop for NewProcess {
    /// Waits for its end, so that it does nothing with the sockets any more.
    fn drop(&mut self) {
        if !self.is_committed {
            // It may have ended already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl NewProcess {
    /// What to say about a channel that failed.
    fn explain(&mut self, error: io::Error) -> Failure {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
        match error.kind() {
            // A read of a socket that is late fails with EAGAIN.
            TimedOut | WouldBlock => Failure::Late,
            UnexpectedEof | BrokenPipe | ConnectionReset => {
                // It closed its end, mostly as it ends.
                let _ = self.child.kill();
                let ended = self.child.wait().map_or_else(Failure::Channel, Failure::Ended);
                self.last_words.end_input(Instant::now() + LAST_WORDS);
                match self.last_words.receive() {
                    Ok((Kind::Refusal, why)) => refused(&why),
                    _ => ended,
                }
            }
            _ => Failure::Channel(error),
        }
    }

    /// The next message, as long as `former` wants to hand over.
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

/// Starts `command`, and hands `former` over to it. When this returns `Ok` the new process goes on, and this one is to end; it is
/// the id of the new process. Otherwise `former` goes on as before, and the new process has ended.
///
/// # Errors
/// Why nothing was handed over.
pub fn upgrade(
    former: &mut impl Predecessor,
    mut command: Command,
    times: Times,
) -> Result<u32, Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(Failure::Start)?;
    command.env(VARIABLE, "stdin").stdin(Stdio::from(OwnedFd::from(theirs)));
    let last_words = ours.try_clone().map_err(Failure::Start)?;
    let last_words = Channel::new(last_words, Instant::now());
    let child = command.spawn().map_err(Failure::Start)?;
    // Its end of the pair is open there only, so that its end shows here.
    drop(command);
    let mut process = NewProcess { child, last_words, is_committed: false };
    let mut channel = Channel::new(ours, Instant::now() + times.start);
    let greeting = process.expect(former, &mut channel, Kind::Greeting)?;
    let greeting = Greeting::decode(&greeting)
        .ok_or_else(|| Failure::Channel(io::ErrorKind::InvalidData.into()))?;
    greeting.reads(&former.greeting()).map_err(Failure::Format)?;
    let (names, listeners) = former.listeners();
    channel.send_listeners(&names, &listeners).map_err(|error| process.explain(error))?;
    drop(listeners);
    // It has set up all that needs no state.
    process.expect(former, &mut channel, Kind::Ready)?;
    match hand_over(former, &mut process, channel, times.frozen) {
        Ok(()) => {
            process.is_committed = true;
            former.release();
            Ok(process.child.id())
        }
        Err(failure) => {
            // First: until it has ended it may have the sockets.
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
    // The waits of the freeze have bounds of their own, and clients are served for most of them.
    channel.set_deadline(Instant::now() + time);
    channel.watch(process.child.id());
    let mut channel = former.send(channel).map_err(|error| process.explain(error))?;
    channel.send(Kind::Complete, &[]).map_err(|error| process.explain(error))?;
    process.expect(former, &mut channel, Kind::Ready)?;
    former.check_wanted().map_err(Failure::Unready)?;
    // The point of no return: once these bytes are written the new process may read them.
    channel.send(Kind::Commit, &[]).map_err(|error| process.explain(error))
}
