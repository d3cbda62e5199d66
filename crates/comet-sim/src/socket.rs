//! A fake socket: two byte streams with small buffers, as the driver and the client see them.

use std::collections::VecDeque;
use std::ops::Range;

use comet_core::{Hangup, Millis, SocketShutdown, Transport};

use crate::rng::Rng;
use crate::wire::{Decoder, ServerMessage};

/// The error numbers of a broken pipe and a connection reset on Linux. The shard only repeats them.
const EPIPE: i32 = 32;
const ECONNRESET: i32 = 104;

/// The result of a receive.
pub(crate) enum ReceiveCompletion {
    Bytes(Vec<u8>),
    Hangup(Hangup),
}

pub(crate) struct Socket {
    // Client to server.
    written: VecDeque<u8>,
    written_total: u64,
    /// The number of bytes that the server has received.
    pub(crate) received: u64,
    /// The positions in the stream of the heartbeats that the server has not received.
    heartbeats: VecDeque<Range<u64>>,
    /// When the server received the last byte of the last heartbeat.
    pub(crate) heartbeat_at: Option<Millis>,
    /// The position in the stream at which the token ends.
    token_end: Option<u64>,
    /// When the server received the last byte of the token.
    pub(crate) token_at: Option<Millis>,
    /// How the client ended its side.
    client_end: Option<Hangup>,
    is_hangup_reported: bool,

    // Server to client.
    in_flight: Option<Vec<u8>>,
    /// When the kernel last took bytes of the transmit in flight.
    pub(crate) last_progress_at: Millis,
    /// A lower bound of that time: a transmit that continues a cut one had to wait for a turn.
    pub(crate) last_progress_at_least: Millis,
    /// The two times above, of a transmit that was taken back.
    taken_back: Option<[Millis; 2]>,
    /// The number of bytes that the kernel took.
    pub(crate) taken: u64,
    /// The number of pushes of which the kernel took the last byte.
    pub(crate) pushes_taken: u64,
    read: u64,
    capacity: usize,
    decoder: Decoder,
    messages: VecDeque<(u64, ServerMessage)>,

    pub(crate) shut: Option<SocketShutdown>,
    /// The server has released it, or refused it at accept.
    pub(crate) is_released: bool,
}

impl Socket {
    pub(crate) fn new(transport: Transport, capacity: usize) -> Self {
        Self {
            written: VecDeque::new(),
            written_total: 0,
            received: 0,
            heartbeats: VecDeque::new(),
            heartbeat_at: None,
            token_end: None,
            token_at: None,
            client_end: None,
            is_hangup_reported: false,
            in_flight: None,
            last_progress_at: Millis(0),
            last_progress_at_least: Millis(0),
            taken_back: None,
            taken: 0,
            pushes_taken: 0,
            read: 0,
            capacity,
            decoder: Decoder::new(transport),
            messages: VecDeque::new(),
            shut: None,
            is_released: false,
        }
    }

    // ---- the client's side ---------------------------------------------------------------------

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if self.client_end.is_none() {
            self.written.extend(bytes);
            self.written_total += bytes.len() as u64;
        }
    }

    /// The number of bytes that the client has written.
    pub(crate) fn written_total(&self) -> u64 {
        self.written_total
    }

    /// The bytes written from `start` on are a heartbeat.
    pub(crate) fn mark_heartbeat(&mut self, start: u64) {
        self.heartbeats.push_back(start..self.written_total);
    }

    /// The token ends with the last byte written.
    pub(crate) fn mark_token(&mut self) {
        self.token_end = Some(self.written_total);
    }

    /// The client writes no more. After an error it also reads no more.
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

    /// The next message whose last byte the client has read.
    pub(crate) fn next_message(&mut self) -> Option<ServerMessage> {
        let (end, _) = self.messages.front()?;
        (*end <= self.read).then(|| self.messages.pop_front().expect("looked at").1)
    }

    /// Whether the client has read everything and no more will come.
    pub(crate) fn is_at_end(&self) -> bool {
        (self.shut.is_some() || self.is_released)
            && self.in_flight.is_none()
            && self.read == self.taken
    }

    /// Whether nothing except heartbeats is on its way in either direction.
    pub(crate) fn is_idle(&self) -> bool {
        let mut end = self.written_total;
        for heartbeat in self.heartbeats.iter().rev() {
            if heartbeat.end != end {
                break;
            }
            end = heartbeat.start;
        }
        let has_said_more = end > self.written_total - self.written.len() as u64;
        !has_said_more && self.in_flight.is_none() && self.read == self.taken
    }

    pub(crate) fn is_drained_by_server(&self) -> bool {
        self.written.is_empty()
    }

    // ---- the server's side ---------------------------------------------------------------------

    /// Whether a receive would complete.
    pub(crate) fn can_receive(&self) -> bool {
        !self.is_hangup_reported
            && self.shut != Some(SocketShutdown::Both)
            && (!self.written.is_empty() || self.client_end.is_some())
    }

    /// The result of a receive, in pieces of random size.
    pub(crate) fn receive(&mut self, rng: &mut Rng, now: Millis) -> Option<ReceiveCompletion> {
        if !self.can_receive() {
            return None;
        }
        if let Some(end) = self.client_end.clone().filter(|_| self.written.is_empty()) {
            self.is_hangup_reported = true;
            return Some(ReceiveCompletion::Hangup(end));
        }
        let most = rng.pick(&[1, 7, 100, 1024, 20_000]).min(self.written.len());
        let bytes: Vec<u8> = self.written.drain(..most).collect();
        self.received += bytes.len() as u64;
        while self.heartbeats.front().is_some_and(|heartbeat| heartbeat.end <= self.received) {
            self.heartbeats.pop_front();
            self.heartbeat_at = Some(now);
        }
        if self.token_end.is_some_and(|end| end <= self.received) {
            self.token_at.get_or_insert(now);
        }
        Some(ReceiveCompletion::Bytes(bytes))
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether the transmit in flight would complete.
    pub(crate) fn can_send(&self) -> bool {
        self.in_flight.is_some() && (self.is_broken() || self.free_space() > 0)
    }

    /// Takes a transmit. Its bytes are copied at once, whenever the kernel sends them.
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
        [self.last_progress_at, self.last_progress_at_least] =
            self.taken_back.take().unwrap_or([now, ready_since]);
        Ok(())
    }

    pub(crate) fn bytes_in_flight(&self) -> usize {
        self.in_flight.as_ref().map_or(0, Vec::len)
    }

    /// Takes back the transmit in flight, if there is one. Its time for the write deadline continues.
    pub(crate) fn take_back(&mut self) -> bool {
        let was_sending = self.in_flight.take().is_some();
        if was_sending {
            self.taken_back = Some([self.last_progress_at, self.last_progress_at_least]);
        }
        was_sending
    }

    /// The process ends, and no other process takes over the socket.
    pub(crate) fn abandon(&mut self) {
        self.in_flight = None;
        self.shut = Some(SocketShutdown::Both);
        self.release();
    }

    /// The result of the transmit in flight; `None` if it does not complete yet.
    pub(crate) fn send(
        &mut self,
        rng: &mut Rng,
        now: Millis,
    ) -> Result<Option<Result<usize, i32>>, String> {
        if !self.can_send() {
            return Ok(None);
        }
        let bytes = self.in_flight.take().expect("can_send");
        let most = bytes.len().min(self.free_space());
        if self.is_broken() && (most == 0 || rng.percent(50)) {
            return Ok(Some(Err(if self.is_reset() { ECONNRESET } else { EPIPE })));
        }
        let taken = if rng.percent(25) { 1 + rng.below(most) } else { most };
        let known = self.messages.len();
        self.decoder.feed(&bytes[..taken], &mut self.messages)?;
        self.taken += taken as u64;
        self.last_progress_at = now;
        self.last_progress_at_least = now;
        let mut last_end = 0;
        for (end, message) in self.messages.iter().skip(known) {
            // A push to a room in protocol 2 is one frame, even if it contains a batch.
            self.pushes_taken += u64::from(match message {
                ServerMessage::Push(_, Some(_)) | ServerMessage::Presence(_, Some(_)) => {
                    *end != last_end
                }
                ServerMessage::Presence(_, None) => true,
                ServerMessage::Push(stamp, None) => stamp.part + 1 == stamp.parts,
                _ => false,
            });
            last_end = *end;
        }
        Ok(Some(Ok(taken)))
    }

    /// Whether both sides were shut and the last operations have completed.
    pub(crate) fn can_release(&self) -> bool {
        self.shut == Some(SocketShutdown::Both) && self.in_flight.is_none()
    }

    /// Whether the driver has not reported the end of the receiving side yet.
    pub(crate) fn owes_hangup(&self) -> bool {
        !self.is_hangup_reported
    }

    pub(crate) fn release(&mut self) {
        self.is_released = true;
        self.written = VecDeque::new();
    }

    /// Whether the client reset it, or the server shut both sides.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_reset() || self.shut == Some(SocketShutdown::Both)
    }

    fn free_space(&self) -> usize {
        self.capacity.saturating_sub((self.taken - self.read) as usize)
    }
}
