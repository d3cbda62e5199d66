//! A fake socket: two byte streams with small buffers, as the driver and the client see them.

use std::collections::VecDeque;

use comet_core::{CloseHow, Hangup, Millis, Transport};

use crate::plan::Dice;
use crate::wire::{Decoder, Says};

/// Broken pipe and connection reset, as Linux numbers them; the shard only repeats them.
const EPIPE: i32 = 32;
const ECONNRESET: i32 = 104;

/// What a receive gave.
pub(crate) enum Received {
    Bytes(Vec<u8>),
    Hangup(Hangup),
}

pub(crate) struct Socket {
    // Client to server.
    written: VecDeque<u8>,
    written_total: u64,
    /// Bytes the server was given.
    pub(crate) received: u64,
    /// Where in the stream each heartbeat frame ends.
    heartbeats: VecDeque<u64>,
    /// When the server had the last heartbeat in whole.
    pub(crate) heartbeat_at: Option<Millis>,
    /// How the client ended its side.
    client_end: Option<Hangup>,
    is_hangup_told: bool,

    // Server to client.
    in_flight: Option<Vec<u8>>,
    /// When the kernel last took something of the transmit in flight.
    pub(crate) moved_at: Millis,
    /// The same, if the transmit goes on with one that was cut and had to wait for a turn.
    pub(crate) moved_at_least: Millis,
    /// Bytes the kernel took.
    pub(crate) taken: u64,
    /// Pushes of which the kernel took the last byte.
    pub(crate) pushes_taken: u64,
    read: u64,
    capacity: usize,
    decoder: Decoder,
    says: VecDeque<(u64, Says)>,

    pub(crate) shut: Option<CloseHow>,
    /// The server holds it no longer, or never took it.
    pub(crate) is_gone: bool,
}

impl Socket {
    pub(crate) fn new(transport: Transport, capacity: usize) -> Self {
        Self {
            written: VecDeque::new(),
            written_total: 0,
            received: 0,
            heartbeats: VecDeque::new(),
            heartbeat_at: None,
            client_end: None,
            is_hangup_told: false,
            in_flight: None,
            moved_at: Millis(0),
            moved_at_least: Millis(0),
            taken: 0,
            pushes_taken: 0,
            read: 0,
            capacity,
            decoder: Decoder::new(transport),
            says: VecDeque::new(),
            shut: None,
            is_gone: false,
        }
    }

    // ---- the client's side ---------------------------------------------------------------------

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if self.client_end.is_none() {
            self.written.extend(bytes);
            self.written_total += bytes.len() as u64;
        }
    }

    /// What was written last ends a heartbeat.
    pub(crate) fn mark_heartbeat(&mut self) {
        self.heartbeats.push_back(self.written_total);
    }

    /// The client writes no more; after an error it reads no more either.
    pub(crate) fn end(&mut self, how: Hangup) {
        if how != Hangup::Eof {
            self.written.clear();
        }
        self.client_end = Some(how);
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.client_end.as_ref().is_some_and(|how| *how != Hangup::Eof)
    }

    /// Reads up to `most` bytes.
    pub(crate) fn read(&mut self, most: u64) {
        self.read = self.taken.min(self.read.saturating_add(most));
    }

    /// The next thing of which the client has read the last byte.
    pub(crate) fn next_said(&mut self) -> Option<Says> {
        let (end, _) = self.says.front()?;
        (*end <= self.read).then(|| self.says.pop_front().expect("looked at").1)
    }

    /// The client has read all there was and ever will be.
    pub(crate) fn is_at_end(&self) -> bool {
        (self.shut.is_some() || self.is_gone) && self.in_flight.is_none() && self.read == self.taken
    }

    /// Nothing is on its way in either direction.
    pub(crate) fn is_calm(&self) -> bool {
        self.written.is_empty() && self.in_flight.is_none() && self.read == self.taken
    }

    pub(crate) fn is_drained_by_server(&self) -> bool {
        self.written.is_empty()
    }

    // ---- the server's side ---------------------------------------------------------------------

    /// Whether a receive would complete.
    pub(crate) fn can_receive(&self) -> bool {
        !self.is_hangup_told
            && self.shut != Some(CloseHow::Both)
            && (!self.written.is_empty() || self.client_end.is_some())
    }

    /// What a receive completes with, in pieces as the kernel likes.
    pub(crate) fn receive(&mut self, dice: &mut Dice, now: Millis) -> Option<Received> {
        if !self.can_receive() {
            return None;
        }
        if let Some(end) = self.client_end.clone().filter(|_| self.written.is_empty()) {
            self.is_hangup_told = true;
            return Some(Received::Hangup(end));
        }
        let most = dice.pick(&[1, 7, 100, 1024, 20_000]).min(self.written.len());
        let bytes: Vec<u8> = self.written.drain(..most).collect();
        self.received += bytes.len() as u64;
        while self.heartbeats.front().is_some_and(|end| *end <= self.received) {
            self.heartbeats.pop_front();
            self.heartbeat_at = Some(now);
        }
        Some(Received::Bytes(bytes))
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether the transmit in flight would complete.
    pub(crate) fn can_send(&self) -> bool {
        self.in_flight.is_some() && (self.is_broken() || self.room() > 0)
    }

    /// Takes a transmit; the bytes are what they are now, whenever the kernel comes to them.
    pub(crate) fn transmit(
        &mut self,
        bytes: &[u8],
        ready_since: Millis,
        now: Millis,
    ) -> Result<(), String> {
        if self.in_flight.is_some() {
            return Err("a transmit while another one is under way".to_owned());
        }
        if bytes.is_empty() {
            return Err("a transmit of nothing".to_owned());
        }
        if let Some(how) = self.shut {
            return Err(format!("a transmit after the socket was shut ({how:?})"));
        }
        self.in_flight = Some(bytes.to_vec());
        self.moved_at = now;
        self.moved_at_least = ready_since;
        Ok(())
    }

    /// What the transmit in flight completes with; `None` if it does not yet.
    pub(crate) fn send(
        &mut self,
        dice: &mut Dice,
        now: Millis,
    ) -> Result<Option<Result<usize, i32>>, String> {
        if !self.can_send() {
            return Ok(None);
        }
        let bytes = self.in_flight.take().expect("can_send");
        let most = bytes.len().min(self.room());
        if self.is_broken() && (most == 0 || dice.percent(50)) {
            return Ok(Some(Err(if self.is_reset() { ECONNRESET } else { EPIPE })));
        }
        let taken = if dice.percent(25) { 1 + dice.below(most) } else { most };
        let known = self.says.len();
        self.decoder.feed(&bytes[..taken], &mut self.says)?;
        self.taken += taken as u64;
        self.moved_at = now;
        self.moved_at_least = now;
        let is_last = |(_, says): &&(u64, Says)| matches!(says, Says::Push(stamp) if stamp.part + 1 == stamp.parts);
        self.pushes_taken += self.says.iter().skip(known).filter(is_last).count() as u64;
        Ok(Some(Ok(taken)))
    }

    /// After both sides were shut: the last operations are done.
    pub(crate) fn can_go(&self) -> bool {
        self.shut == Some(CloseHow::Both) && self.in_flight.is_none()
    }

    /// The driver has not told the end of the receiving side.
    pub(crate) fn owes_hangup(&self) -> bool {
        !self.is_hangup_told
    }

    pub(crate) fn go(&mut self) {
        self.is_gone = true;
        self.written = VecDeque::new();
    }

    /// The client reset it, or the server shut it under a transmit.
    fn is_broken(&self) -> bool {
        self.is_reset() || self.shut == Some(CloseHow::Both)
    }

    fn room(&self) -> usize {
        self.capacity.saturating_sub((self.taken - self.read) as usize)
    }
}
