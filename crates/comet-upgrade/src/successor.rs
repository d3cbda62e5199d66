//! The new process.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use crate::channel::{Body, Channel, Kind};
use crate::{Greeting, VARIABLE};

/// How long sending a refusal to the former process may take, whatever time was used before.
const REFUSAL: Duration = Duration::from_secs(1);

/// How long the new process waits for the commit. The former process decides, with a bound of its own: it kills a new
/// process that it gives up, and its own end is noticed at once. If the new process gave up by its own clock, neither
/// might serve the connections.
const COMMIT: Duration = Duration::from_secs(24 * 3600);

/// The new process's end of the channel. If it is dropped, the former process continues.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
}

/// Bytes, and the descriptors that belong to them.
pub type Handed = (Body, Vec<OwnedFd>);

impl Successor {
    /// The channel to the former process; `None`: this process was not started for an upgrade. Standard input becomes
    /// /dev/null. The former process may take `time` for each of its steps.
    ///
    /// # Errors
    /// If standard input is no socket.
    pub fn from_environment(time: Duration) -> io::Result<Option<Self>> {
        if env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        rustix::net::sockopt::socket_type(&stdin)?;
        rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
        let channel = Channel::new(UnixStream::from(stdin), Instant::now() + time);
        Ok(Some(Self { channel }))
    }

    /// Sends the formats that this process reads, and waits for the listeners of the former one.
    ///
    /// # Errors
    /// If the former process does not want it, or is gone.
    pub fn greet(&mut self, greeting: &Greeting) -> io::Result<Handed> {
        self.channel.send(Kind::Greeting, &greeting.encode())?;
        let names = self.expect(Kind::Listeners)?;
        self.channel.receive_descriptors(names)
    }

    /// Reports that everything is set up that needs no state, and waits for the shards of the former process, for at
    /// most `time` each.
    ///
    /// # Errors
    /// As [`Successor::greet`].
    pub fn receive_shards(&mut self, time: Duration) -> io::Result<Vec<Handed>> {
        self.channel.send(Kind::Ready, &[])?;
        let mut shards = Vec::new();
        loop {
            self.channel.set_deadline(Instant::now() + time);
            match self.channel.receive()? {
                (Kind::Shard, body) => shards.push(self.channel.receive_descriptors(body)?),
                (Kind::Complete, _) => return Ok(shards),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Reports that this process is ready to continue, and waits for the commit. Only after the commit may it use the
    /// connections.
    ///
    /// # Errors
    /// As [`Successor::greet`]: the former process continues.
    pub fn wait_for_commit(mut self) -> io::Result<()> {
        self.channel.set_deadline(Instant::now() + COMMIT);
        self.channel.send(Kind::Ready, &[])?;
        self.expect(Kind::Commit).map(drop)
    }

    /// Reports why this process cannot continue. It must end afterwards.
    pub fn refuse(mut self, why: &str) {
        self.channel.set_deadline(Instant::now() + REFUSAL);
        // If the former process is gone, the refusal is not needed.
        let _ = self.channel.send(Kind::Refusal, why.as_bytes());
    }

    fn expect(&mut self, kind: Kind) -> io::Result<Body> {
        match self.channel.receive()? {
            (found, body) if found == kind => Ok(body),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ready process whose time for receiving the state is over, and the former process.
    fn ready() -> (Successor, Channel) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let former = Channel::new(theirs, Instant::now() + COMMIT);
        (Successor { channel: Channel::new(ours, Instant::now()) }, former)
    }

    #[test]
    fn a_commit_is_read_however_late() {
        let (successor, mut former) = ready();
        former.send(Kind::Commit, &[]).unwrap();
        successor.wait_for_commit().unwrap();
        assert_eq!(former.receive().unwrap().0, Kind::Ready);
    }

    #[test]
    fn the_end_of_the_former_process_is_no_commit() {
        let (successor, former) = ready();
        drop(former);
        successor.wait_for_commit().unwrap_err();
    }
}
