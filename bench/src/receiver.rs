//! The receiving side: all connections of a run on one thread and one epoll, each delivery booked as it comes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use comet_client::Session;
use hdrhistogram::Histogram;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

use crate::accounting::Accounts;
use crate::clock::{SECOND_NS, now_ns, timespec};
use crate::message::{OP_HEARTBEAT, Stamp};
use crate::sender::Progress;
use crate::stats::latency_histogram;
use crate::tls::Tls;

/// Events taken with one system call.
const EVENTS: usize = 1024;
/// Bytes read with one system call, shared by all connections.
const READ_BUFFER: usize = 256 << 10;
/// Time between heartbeats of a connection, below goim's five minutes by half; the first of all is sent
/// after a minute, so that short runs have none.
const HEARTBEAT_NS: u64 = 120 * SECOND_NS;
const HEARTBEAT_FIRST_NS: u64 = 60 * SECOND_NS;
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
    heartbeats_sent: u64,
    started_ns: u64,
    progress: Arc<Progress>,
}

/// What is known about the deliveries; apart from the sessions, since both change at once.
struct Books {
    run: u32,
    operation: i32,
    accounts: Accounts,
    latencies: Histogram<u64>,
    handshakes: Histogram<u64>,
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
    /// A receiver that books messages of `run` with `operation`.
    ///
    /// # Errors
    ///
    /// The host refuses another descriptor.
    pub(crate) fn new(run: u32, operation: i32, progress: Arc<Progress>) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::new(),
            books: Books {
                run,
                operation,
                accounts: Accounts::default(),
                latencies: latency_histogram(),
                handshakes: latency_histogram(),
            },
            buffer: vec![0; READ_BUFFER].into(),
            events: Vec::with_capacity(EVENTS),
            live: 0,
            closed: 0,
            close_reasons: BTreeMap::new(),
            heartbeats_sent: 0,
            started_ns: now_ns(),
            progress,
        })
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
        });
        Ok(())
    }

    /// Connections whose handshake is over and that are still open.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Connections whose handshake is under way.
    pub(crate) fn opening(&self) -> usize {
        self.connections.len() - self.live - self.closed
    }

    /// Why connections closed, and how many for each reason.
    pub(crate) fn close_reasons(&self) -> &BTreeMap<String, u64> {
        &self.close_reasons
    }

    /// The books.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.books.accounts
    }

    /// Time from the intended send to the read that brought it, in ns.
    pub(crate) fn latencies(&self) -> &Histogram<u64> {
        &self.books.latencies
    }

    /// Time from connect(2) to the reply to the authentication, in ns.
    pub(crate) fn handshakes(&self) -> &Histogram<u64> {
        &self.books.handshakes
    }

    /// Waits for events, at most for `timeout_ns` and never longer than a second, and handles them.
    ///
    /// # Errors
    ///
    /// epoll failed. What happens to single connections is no error but counted.
    pub(crate) fn turn(&mut self, timeout_ns: u64) -> io::Result<()> {
        self.send_heartbeats();
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let room = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, room, Some(&timespec(timeout_ns.min(WAIT_NS_MAX)))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let index = usize::try_from(event.data.u64()).expect("it was an index");
            let flags = event.flags;
            self.handle(index, flags);
        }
        self.events = events;
        self.progress.report(self.books.accounts.received());
        Ok(())
    }

    fn handle(&mut self, index: usize, flags: EventFlags) {
        let outcome = self.handle_connection(index, flags);
        if let Err(reason) = outcome {
            let connection = &mut self.connections[index];
            // Closing the descriptor takes it out of epoll.
            connection.socket = None;
            self.closed += 1;
            self.live -= usize::from(connection.stage == Stage::Live);
            *self.close_reasons.entry(reason).or_default() += 1;
        }
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

    /// Spreads the heartbeats of all connections evenly over their interval.
    fn send_heartbeats(&mut self) {
        let connections = self.connections.len() as u64;
        let since_first_ns = now_ns().saturating_sub(self.started_ns + HEARTBEAT_FIRST_NS);
        let due = u128::from(since_first_ns) * u128::from(connections) / u128::from(HEARTBEAT_NS);
        while u128::from(self.heartbeats_sent) < due {
            let index = usize::try_from(self.heartbeats_sent % connections).expect("an index");
            self.heartbeats_sent += 1;
            let connection = &mut self.connections[index];
            if connection.stage == Stage::Live && connection.socket.is_some() {
                connection.session.send(OP_HEARTBEAT, 0, &[]);
                self.handle(index, EventFlags::empty());
            }
        }
    }
}

impl Connection {
    fn receive(
        &mut self,
        index: usize,
        buffer: &mut [u8],
        books: &mut Books,
    ) -> Result<(), String> {
        let socket = self.socket.as_ref().expect("closed sockets have no events");
        loop {
            let read = match recv(socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Err("the server ended the connection".to_owned()),
                Ok((read, _)) => read,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.to_string()),
            };
            let now_ns = now_ns();
            let session = &mut self.session;
            let mut take = |bytes: &[u8]| {
                let handled = session.handle_input(bytes, |frame| {
                    if frame.operation == books.operation {
                        books.book(index, frame.body, now_ns);
                    }
                });
                handled.map_err(|error| error.to_string())
            };
            match &mut self.tls {
                None => take(&buffer[..read])?,
                Some(tls) => tls.receive(&buffer[..read], take)?,
            }
            if read < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Writes what the session has to say, and watches for room only while there is none.
    fn transmit(&mut self, epoll: &OwnedFd, index: usize) -> Result<(), String> {
        let socket = self.socket.as_ref().expect("the caller has an open connection");
        let sent = match &mut self.tls {
            None => send_all(&mut self.session, socket),
            Some(tls) => tls.transmit(&mut self.session, socket),
        };
        let watches_output = !sent.map_err(|error| error.to_string())?;
        if watches_output != self.watches_output {
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

impl Books {
    fn book(&mut self, connection: usize, body: &[u8], now_ns: u64) {
        match Stamp::decode(body) {
            Some(stamp) if stamp.run == self.run => {
                self.accounts.record(connection, stamp.stream, stamp.sequence);
                self.latencies.saturating_record(now_ns.saturating_sub(stamp.intended_ns));
            }
            _ => self.accounts.record_foreign(),
        }
    }
}
