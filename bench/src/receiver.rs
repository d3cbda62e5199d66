//! The receiving side: all connections of a run on one thread and one epoll, each delivery booked as it comes.

mod books;
mod conduct;
mod heartbeats;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use comet_client::Session;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

pub(crate) use self::books::Books;
use self::heartbeats::Heartbeats;
use crate::clock::{SECOND_NS, now_ns, timespec};
use crate::sampler::Counts;
use crate::sender::Progress;
use crate::tls::Tls;

/// Events taken with one system call.
const EVENTS: usize = 1024;
/// Bytes read with one system call, shared by all connections.
const READ_BUFFER: usize = 256 << 10;
/// The longest wait for events: heartbeats are looked at between waits.
const WAIT_NS_MAX: u64 = SECOND_NS;

/// All connections of a run.
pub(crate) struct Receiver {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    books: Books,
    buffer: Box<[u8]>,
    events: Vec<epoll::Event>,
    live: usize,
    closed: usize,
    close_reasons: BTreeMap<String, u64>,
    healthy_closed: u64,
    heartbeats: Heartbeats,
    progress: Arc<Progress>,
}

struct Connection {
    /// None once it is closed.
    socket: Option<OwnedFd>,
    /// Between the socket and the session, where there is any.
    tls: Option<Tls>,
    session: Session,
    stage: Stage,
    /// epoll watches for room to write.
    watches_output: bool,
    /// Bytes that the session still needs of a frame it has the beginning of, where it is one of the run's.
    owed: usize,
    /// epoll does not watch it at all: it is read when its turn comes, or never.
    is_muted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The kernel connects; since when.
    Connecting(u64),
    /// The protocol's handshake is under way; since when the kernel began to connect.
    Shaking(u64),
    Live,
}

impl Receiver {
    /// A receiver that books messages of `run` with `operation` and, nearly all, bodies of `size` bytes.
    ///
    /// # Errors
    ///
    /// The host refuses another descriptor.
    pub(crate) fn new(
        run: u32,
        operation: i32,
        size: usize,
        progress: Arc<Progress>,
    ) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::new(),
            books: Books::new(run, operation, size),
            buffer: vec![0; READ_BUFFER].into(),
            events: Vec::with_capacity(EVENTS),
            live: 0,
            closed: 0,
            close_reasons: BTreeMap::new(),
            healthy_closed: 0,
            heartbeats: Heartbeats::default_from(now_ns()),
            progress,
        })
    }

    /// So many callers take turns at each stream; one unless said.
    pub(crate) fn expect_callers(&mut self, callers: u64) {
        self.books.accounts.callers = callers;
    }

    /// Takes over a socket whose connecting began at `since_ns`, to receive `stream`.
    ///
    /// # Errors
    ///
    /// epoll does not take it.
    pub(crate) fn add(
        &mut self,
        socket: OwnedFd,
        tls: Option<Tls>,
        session: Session,
        stream: u32,
        since_ns: u64,
    ) -> io::Result<()> {
        let token = EventData::new_u64(self.connections.len() as u64);
        epoll::add(&self.epoll, &socket, token, EventFlags::IN | EventFlags::OUT)?;
        self.books.accounts.open(stream);
        self.connections.push(Connection {
            socket: Some(socket),
            tls,
            session,
            stage: Stage::Connecting(since_ns),
            watches_output: true,
            owed: 0,
            is_muted: false,
        });
        Ok(())
    }

    /// Connections whose handshake is over and that are still open.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// What was counted since the receiver is there.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            received: self.books.received_ever(),
            heartbeats: self.books.answered_ever(),
            connections: self.live as u64,
        }
    }

    /// Connections whose handshake is under way.
    pub(crate) fn opening(&self) -> usize {
        self.connections.len() - self.live - self.closed
    }

    /// Why connections closed, and how many for each reason.
    pub(crate) fn close_reasons(&self) -> &BTreeMap<String, u64> {
        &self.close_reasons
    }

    /// Connections of these that read at once.
    pub(crate) fn healthy_closed(&self) -> u64 {
        self.healthy_closed
    }

    /// The books.
    pub(crate) fn books(&self) -> &Books {
        &self.books
    }

    /// Waits for events, at most for `timeout_ns` and never longer than a second, and handles them.
    ///
    /// # Errors
    ///
    /// epoll failed. What happens to single connections is no error but counted.
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
            self.handle(index, flags);
        }
        self.events = events;
        self.progress.report(self.books.received());
        Ok(())
    }

    fn handle(&mut self, index: usize, flags: EventFlags) {
        let outcome = self.handle_connection(index, flags);
        if let Err(reason) = outcome {
            self.end(index, reason);
        }
    }

    /// The server's end of the connection is gone, or as good as gone.
    fn end(&mut self, index: usize, reason: String) {
        let connection = &mut self.connections[index];
        // Closing the descriptor takes it out of epoll.
        connection.socket = None;
        connection.tls = None;
        self.closed += 1;
        self.live -= usize::from(connection.stage == Stage::Live);
        *self.close_reasons.entry(reason).or_default() += 1;
        self.healthy_closed += u64::from(!self.books.is_impaired(index));
    }

    fn handle_connection(&mut self, index: usize, flags: EventFlags) -> Result<(), String> {
        let connection = &mut self.connections[index];
        if let Stage::Connecting(since_ns) = connection.stage {
            let socket = connection.socket.as_ref().expect("closed sockets have no events");
            let connected = sockopt::socket_error(socket).map_err(|error| error.to_string())?;
            connected.map_err(|error| format!("cannot connect: {error}"))?;
            connection.stage = Stage::Shaking(since_ns);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            connection.receive(index, &mut self.buffer, &mut self.books)?;
        }
        if let Stage::Shaking(since_ns) = connection.stage
            && connection.session.is_live()
        {
            connection.stage = Stage::Live;
            self.live += 1;
            self.books.handshakes.saturating_record(now_ns() - since_ns);
        }
        connection.transmit(&self.epoll, index)
    }
}

impl Connection {
    fn receive(
        &mut self,
        index: usize,
        buffer: &mut [u8],
        books: &mut Books,
    ) -> Result<(), String> {
        while self.receive_once(index, buffer, books)? == buffer.len() {}
        Ok(())
    }

    /// Reads once and books what it brings; says how many bytes that were.
    fn receive_once(
        &mut self,
        index: usize,
        buffer: &mut [u8],
        books: &mut Books,
    ) -> Result<usize, String> {
        let socket = self.socket.as_ref().expect("closed sockets have no events");
        let read = loop {
            match recv(socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Err("the server ended the connection".to_owned()),
                Ok((read, _)) => break read,
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.to_string()),
            }
        };
        let now_ns = now_ns();
        let (session, owed) = (&mut self.session, &mut self.owed);
        let mut take = |bytes: &[u8]| books.take(index, session, owed, bytes, now_ns);
        match &mut self.tls {
            None => take(&buffer[..read])?,
            Some(tls) => tls.receive(&buffer[..read], take)?,
        }
        Ok(read)
    }

    /// Writes what the session has to say, and watches for room only while there is none.
    fn transmit(&mut self, epoll: &OwnedFd, index: usize) -> Result<(), String> {
        let socket = self.socket.as_ref().expect("the caller has an open connection");
        let sent = match &mut self.tls {
            None => send_all(&mut self.session, socket),
            Some(tls) => tls.transmit(&mut self.session, socket),
        };
        let watches_output = !sent.map_err(|error| error.to_string())?;
        if watches_output != self.watches_output && !self.is_muted {
            self.watches_output = watches_output;
            let mut flags = EventFlags::IN;
            flags.set(EventFlags::OUT, watches_output);
            let token = EventData::new_u64(index as u64);
            epoll::modify(epoll, socket, token, flags).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Writes what the session has to say as far as the socket takes it; says whether that was all.
fn send_all(session: &mut Session, socket: &OwnedFd) -> io::Result<bool> {
    while !session.output().is_empty() {
        match send(socket, session.output(), SendFlags::NOSIGNAL) {
            Ok(written) => session.consume_output(written),
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
