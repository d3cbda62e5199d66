//! What connections do beside receiving: say something, leave, read slowly or not at all.

use std::io;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::{Receiver, Stage};
use crate::visits::StreamId;

impl Receiver {
    /// The number of the connection that is added next.
    pub(crate) fn next_index(&self) -> usize {
        self.connections.len()
    }

    /// Whether the connection's handshake is over and it is still open.
    pub(crate) fn is_live(&self, index: usize) -> bool {
        let connection = &self.connections[index];
        connection.stage == Stage::Live && connection.socket.is_some()
    }

    /// From now on the connection may receive `stream`; all of it where it is there `from_the_start`.
    pub(crate) fn visit(&mut self, index: usize, stream: StreamId, from_the_start: bool) {
        self.books.visits.begin(index, stream, from_the_start);
    }

    /// Sends a frame, if the connection is live.
    pub(crate) fn say(&mut self, index: usize, operation: i32, body: &[u8]) {
        if self.is_live(index) {
            self.connections[index].session.send(operation, 0, body);
            self.handle(index, EventFlags::empty());
        }
    }

    /// Closes the connection from this side; false where it was closed already.
    pub(crate) fn leave(&mut self, index: usize) -> bool {
        let was_live = self.is_live(index);
        let connection = &mut self.connections[index];
        let was_open = connection.socket.take().is_some();
        connection.tls = None;
        self.closed += usize::from(was_open);
        self.live -= usize::from(was_live);
        self.books.visits.end(index);
        was_open
    }

    /// Reads no more from the connection, until [`Receiver::sip`] or [`Receiver::unmute`].
    ///
    /// # Errors
    ///
    /// epoll failed.
    pub(crate) fn mute(&mut self, index: usize) -> io::Result<()> {
        self.books.impair(index);
        let connection = &mut self.connections[index];
        // Out of epoll altogether, which would go on to tell of a connection that the server has cut.
        if let Some(socket) = connection.socket.as_ref().filter(|_| !connection.is_muted) {
            epoll::delete(&self.epoll, socket)?;
            connection.is_muted = true;
        }
        Ok(())
    }

    /// Reads at most so many bytes of what waits for a connection that is muted.
    pub(crate) fn sip(&mut self, index: usize, bytes: usize) {
        let connection = &mut self.connections[index];
        if connection.socket.is_some() {
            let bytes = bytes.clamp(1, self.buffer.len());
            let sipped = connection.receive_once(index, &mut self.buffer[..bytes], &mut self.books);
            if let Err(reason) = sipped {
                self.end(index, reason);
            }
        }
    }

    /// Reads from the connection again as from any other.
    ///
    /// # Errors
    ///
    /// epoll failed.
    pub(crate) fn unmute(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        if let Some(socket) = connection.socket.as_ref().filter(|_| connection.is_muted) {
            let flags = EventFlags::IN | EventFlags::OUT;
            epoll::add(&self.epoll, socket, EventData::new_u64(index as u64), flags)?;
            connection.is_muted = false;
            connection.watches_output = true;
        }
        Ok(())
    }
}
