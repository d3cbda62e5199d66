//! The receiving side: all connections of a process on one thread and one epoll; each delivery is recorded when it
//! arrives.

mod connection;

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use comet_client::Session;
use comet_proto::Position;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use self::connection::{ConnectStage, Connection};
use crate::accounting::StreamId;
use crate::clock::{SECOND_NS, now_ns, timespec};
use crate::deflate::Deflate;
use crate::heartbeats::Heartbeats;
use crate::message::OP_HEARTBEAT;
use crate::recorder::Recorder;
use crate::sampler::Counts;
use crate::tls::Tls;

/// Events taken with one system call.
const EVENTS: usize = 1024;
/// Bytes read with one system call, shared by all connections.
const READ_BUFFER: usize = 256 << 10;
/// The longest wait for events: heartbeats are checked between waits.
const WAIT_NS_MAX: u64 = SECOND_NS;

/// All connections of a process, identified by their index.
pub(crate) struct Receiver {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    pub recorder: Recorder,
    buffer: Box<[u8]>,
    events: Vec<epoll::Event>,
    live: usize,
    closed: usize,
    pub heartbeats: Heartbeats,
}

impl Receiver {
    /// A receiver without connections. Fails if the host refuses a descriptor.
    pub(crate) fn new(recorder: Recorder) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::new(),
            recorder,
            buffer: vec![0; READ_BUFFER].into(),
            events: Vec::with_capacity(EVENTS),
            live: 0,
            closed: 0,
            heartbeats: Heartbeats::default_from(now_ns()),
        })
    }

    /// Takes over a socket whose connect began at `since_ns`, to receive `stream`; returns its index.
    pub(crate) fn add(
        &mut self,
        socket: TcpStream,
        layers: (Option<Tls>, Option<Deflate>),
        session: Session,
        stream: u32,
        since_ns: u64,
    ) -> io::Result<usize> {
        let index = self.connections.len();
        let token = EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &socket, token, EventFlags::IN | EventFlags::OUT)?;
        self.recorder.accounts.open(stream);
        self.connections.push(Connection::new(socket, layers, session, since_ns));
        Ok(index)
    }

    /// Connections whose handshake is under way.
    pub(crate) fn opening(&self) -> usize {
        self.connections.len() - self.live - self.closed
    }

    /// Whether the connection's handshake is over and it is still open.
    pub(crate) fn is_live(&self, index: usize) -> bool {
        self.connections[index].is_live()
    }

    /// The counts since the receiver exists.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            received: self.recorder.received_ever(),
            received_since_restart: self.recorder.accounts.received(),
            heartbeats: self.recorder.answered_ever(),
            connections: self.live as u64,
            closed: self.recorder.found.closed.total(),
        }
    }

    /// Waits for events, for at most `timeout_ns` and never longer than a second, and handles them. Fails if epoll
    /// does; what happens to single connections is only counted.
    pub(crate) fn turn(&mut self, timeout_ns: u64) -> io::Result<()> {
        let heartbeat_ns = self.send_heartbeats();
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let wait_ns = timeout_ns.min(WAIT_NS_MAX).min(heartbeat_ns);
        let room = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, room, Some(&timespec(wait_ns))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let index = usize::try_from(event.data.u64()).expect("it was an index");
            let flags = event.flags;
            // A process that is being started has copies of all sockets until it executes its program; meanwhile epoll
            // still reports sockets that were closed here.
            if self.connections[index].socket.is_some() {
                self.handle(index, flags);
            }
        }
        self.events = events;
        Ok(())
    }

    /// Sends a frame, if the connection is live.
    pub(crate) fn send(&mut self, index: usize, operation: i32, body: &[u8]) {
        if self.is_live(index) {
            self.connections[index].session.send(operation, 0, body);
            self.handle(index, EventFlags::empty());
        }
    }

    /// Asks to be in further rooms, if the connection is live.
    pub(crate) fn enter_rooms(&mut self, index: usize, rooms: impl Iterator<Item = String>) {
        if self.is_live(index) {
            for (sequence, room) in (1..).zip(rooms) {
                self.connections[index].session.add_room(sequence, &room, None);
            }
            self.handle(index, EventFlags::empty());
        }
    }

    /// The position of the connection in a room's history.
    pub(crate) fn position(&self, index: usize, room: &str) -> Option<Position> {
        self.connections[index].session.position(room)
    }

    /// The connection that has just begun resumes at the position of an earlier one in the room.
    pub(crate) fn resume(&mut self, index: usize, room: &str, since: Position) {
        self.connections[index].session.resume(room, since);
    }

    /// Whether the connection is live, and not paused.
    pub(crate) fn is_read(&self, index: usize) -> bool {
        self.is_live(index) && !self.connections[index].is_paused
    }

    /// Asks to enter a further room, whose messages are `period_ns` apart.
    pub(crate) fn begin_visit(&mut self, index: usize, room: usize, id: &str, period_ns: u64) {
        let visits = &mut self.recorder.visits;
        if visits.is_none() {
            visits.get_or_insert_default().restart(period_ns);
        }
        self.recorder.found.joins.asked += 1;
        self.connections[index].session.add_room(visit_sequence(room), id, None);
        self.handle(index, EventFlags::empty());
    }

    /// Asks to leave that room; false if the connection is not in it yet.
    pub(crate) fn end_visit(&mut self, index: usize, room: usize, id: &str) -> bool {
        if !self.is_live(index) {
            return true;
        }
        let has_asked = self.connections[index].session.remove_room(visit_sequence(room), id);
        if has_asked {
            self.recorder.found.joins.asked += 1;
            let visits = self.recorder.visits.get_or_insert_default();
            visits.leave(index, StreamId::further(room), now_ns());
            self.handle(index, EventFlags::empty());
        }
        has_asked
    }

    /// Closes the connection from this side; false if it was closed already.
    pub(crate) fn close(&mut self, index: usize) -> bool {
        let was_live = self.is_live(index);
        let was_open = self.connections[index].close();
        self.closed += usize::from(was_open);
        self.live -= usize::from(was_live);
        self.recorder.accounts.unsubscribe(index);
        self.recorder.forget_heartbeats(index);
        was_open
    }

    /// Stops reading from the connection, until [`Receiver::read_some`] or [`Receiver::resume_reading`].
    pub(crate) fn pause_reading(&mut self, index: usize) -> io::Result<()> {
        self.recorder.mark_slow(index);
        let connection = &mut self.connections[index];
        // Removed from epoll altogether, which would otherwise keep reporting a connection that the server has cut.
        if let Some(socket) = connection.socket.as_ref().filter(|_| !connection.is_paused) {
            epoll::delete(&self.epoll, socket)?;
            connection.is_paused = true;
        }
        Ok(())
    }

    /// Reads at most `bytes` of the input of a paused connection.
    pub(crate) fn read_some(&mut self, index: usize, bytes: usize) {
        let connection = &mut self.connections[index];
        if connection.socket.is_some() {
            let buffer = &mut self.buffer[..bytes.clamp(1, READ_BUFFER)];
            if let Err(reason) = connection.receive_once(index, buffer, &mut self.recorder) {
                self.end(index, &reason);
            }
        }
    }

    /// Reads from the connection like from any other again.
    pub(crate) fn resume_reading(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        if let Some(socket) = connection.socket.as_ref().filter(|_| connection.is_paused) {
            let flags = EventFlags::IN | EventFlags::OUT;
            epoll::add(&self.epoll, socket, EventData::new_u64(index as u64), flags)?;
            connection.is_paused = false;
            connection.watches_output = true;
        }
        Ok(())
    }

    /// Sends the heartbeats that are due; returns the time until the next one, in ns.
    fn send_heartbeats(&mut self) -> u64 {
        let now_ns = now_ns();
        while let Some(due_ns) = self.heartbeats.take(self.live, now_ns) {
            let Some(index) = self.next_for_heartbeat() else { break };
            self.recorder.heartbeat_sent(index, due_ns);
            self.connections[index].session.send(OP_HEARTBEAT, 0, &[]);
            self.handle(index, EventFlags::empty());
        }
        self.heartbeats.looked(self.live, now_ns)
    }

    /// The next connection that is live and not paused, from where the last search ended.
    fn next_for_heartbeat(&mut self) -> Option<usize> {
        let connections = self.connections.len();
        let first = self.heartbeats.next;
        let may_send = |index: &usize| {
            let connection = &self.connections[*index];
            connection.is_live() && !connection.is_paused
        };
        let found = (first..first + connections).map(|index| index % connections).find(may_send)?;
        self.heartbeats.next = found + 1;
        Some(found)
    }

    fn handle(&mut self, index: usize, flags: EventFlags) {
        let connection = &mut self.connections[index];
        let was_live = connection.is_live();
        let outcome =
            connection.handle(index, flags, &self.epoll, &mut self.buffer, &mut self.recorder);
        self.live += usize::from(!was_live && connection.stage == ConnectStage::Live);
        if let Err(reason) = outcome {
            self.end(index, &reason);
        }
    }

    /// The connection has ended on the server's side, or must be treated so.
    fn end(&mut self, index: usize, reason: &str) {
        let connection = &mut self.connections[index];
        connection.close();
        self.closed += 1;
        self.live -= usize::from(connection.stage == ConnectStage::Live);
        let is_healthy = !self.recorder.is_slow(index);
        let found = &mut self.recorder.found;
        found.closed.add(reason, 1);
        found.healthy_closed += u64::from(is_healthy);
    }
}

/// The number of a request about a further room.
fn visit_sequence(room: usize) -> i32 {
    i32::try_from(room + 1).expect("rooms are few")
}
