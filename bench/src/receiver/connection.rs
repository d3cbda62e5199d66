//! One connection of a receiver: its socket, TLS and session.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use comet_client::Session;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::clock::now_ns;
use crate::deflate::Deflate;
use crate::recorder::Recorder;
use crate::tls::Tls;

pub(super) struct Connection {
    /// None once it is closed.
    pub socket: Option<TcpStream>,
    /// Between the socket and the session, if used.
    tls: Option<Tls>,
    deflate: Option<Deflate>,
    pub session: Session,
    pub stage: ConnectStage,
    /// Whether epoll watches for room to write.
    pub watches_output: bool,
    /// Bytes that the session still needs of a frame of the run whose beginning it has.
    owed: usize,
    /// Whether epoll does not watch it at all: it is only read when its turn comes, or never.
    pub is_paused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectStage {
    /// The kernel is connecting, since this time.
    Connecting(u64),
    /// The protocol's handshake is under way; the time is when the kernel began to connect.
    Handshaking(u64),
    Live,
}

impl Connection {
    /// A connection that epoll watches for input and output, connecting since `since_ns`.
    pub(super) fn new(
        socket: TcpStream,
        (tls, deflate): (Option<Tls>, Option<Deflate>),
        session: Session,
        since_ns: u64,
    ) -> Self {
        Self {
            socket: Some(socket),
            tls,
            deflate,
            session,
            stage: ConnectStage::Connecting(since_ns),
            watches_output: true,
            owed: 0,
            is_paused: false,
        }
    }

    /// Whether the handshake is over and the connection is still open.
    pub(super) fn is_live(&self) -> bool {
        self.stage == ConnectStage::Live && self.socket.is_some()
    }

    /// Closes the socket; false if that was already done.
    pub(super) fn close(&mut self) -> bool {
        self.tls = None;
        // Closing the descriptor removes it from epoll.
        self.socket.take().is_some()
    }

    /// Does what the events ask for. Fails with the reason if the connection ends.
    pub(super) fn handle(
        &mut self,
        index: usize,
        flags: EventFlags,
        epoll: &OwnedFd,
        buffer: &mut [u8],
        recorder: &mut Recorder,
    ) -> Result<(), String> {
        if let ConnectStage::Connecting(since_ns) = self.stage {
            let socket = self.socket.as_ref().expect("closed sockets have no events");
            let refused = socket.take_error().map_err(|error| error.to_string())?;
            refused.map_or(Ok(()), |error| Err(format!("cannot connect: {error}")))?;
            self.stage = ConnectStage::Handshaking(since_ns);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            while self.receive_once(index, buffer, recorder)? == buffer.len() {}
        }
        if let ConnectStage::Handshaking(since_ns) = self.stage
            && self.session.is_live()
        {
            self.stage = ConnectStage::Live;
            recorder.found.handshakes.saturating_record(now_ns() - since_ns);
        }
        self.transmit(epoll, index)
    }

    /// Reads once and records the input; returns the number of bytes.
    pub(super) fn receive_once(
        &mut self,
        index: usize,
        buffer: &mut [u8],
        recorder: &mut Recorder,
    ) -> Result<usize, String> {
        let mut socket = self.socket.as_ref().expect("closed sockets have no events");
        let read = loop {
            match socket.read(buffer) {
                Ok(0) => return Err("the server ended the connection".to_owned()),
                Ok(read) => break read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        };
        recorder.found.received_bytes += read as u64;
        let now_ns = now_ns();
        let (session, owed) = (&mut self.session, &mut self.owed);
        let mut take = |bytes: &[u8]| recorder.handle_input(index, session, owed, bytes, now_ns);
        match (&mut self.tls, &mut self.deflate) {
            (Some(tls), _) => tls.receive(&buffer[..read], take)?,
            (None, Some(deflate)) => deflate.receive(&buffer[..read], take)?,
            (None, None) => take(&buffer[..read])?,
        }
        Ok(read)
    }

    /// Writes the output of the session, and watches for room to write only while there is none.
    fn transmit(&mut self, epoll: &OwnedFd, index: usize) -> Result<(), String> {
        let socket = self.socket.as_ref().expect("the caller has an open connection");
        let sent = match (&mut self.tls, &mut self.deflate) {
            (Some(tls), _) => tls.transmit(&mut self.session, socket),
            (None, Some(deflate)) => deflate.transmit(&mut self.session, socket),
            (None, None) => send_all(&mut self.session, socket),
        };
        let watches_output = !sent.map_err(|error| error.to_string())?;
        if watches_output != self.watches_output && !self.is_paused {
            self.watches_output = watches_output;
            let mut flags = EventFlags::IN;
            flags.set(EventFlags::OUT, watches_output);
            let token = EventData::new_u64(index as u64);
            epoll::modify(epoll, socket, token, flags).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Writes the output of the session as far as the socket takes it; returns whether that was all.
fn send_all(session: &mut Session, mut socket: &TcpStream) -> io::Result<bool> {
    while !session.output().is_empty() {
        match socket.write(session.output()) {
            Ok(written) => session.consume_output(written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
