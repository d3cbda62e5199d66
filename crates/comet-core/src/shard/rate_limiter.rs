//! What one client may send. What it sent is counted for a window at a time, and only while a limit is set, so
//! an idle connection pays nothing.
//!
//! Frames are counted when they are read, bytes when they arrive. If the server is late, because logic has not answered or
//! the process was stopped, it reads the frames of several windows in one. The time of the delay is added to that window.

use ahash::{AHashMap, RandomState};
use comet_handover as handed;

use crate::ids::{LocalConnId, Slot};
use crate::ledger::CloseReason;
use crate::limits::{ClientRates, RATE_WINDOW_MS};
use crate::time::Millis;
use crate::transport::Transport;

use super::Shard;

/// What the clients of a shard have sent in the present window.
pub(super) struct RateLimiter {
    clients: AHashMap<LocalConnId, ClientUsage>,
    /// Number of the window since the epoch.
    window: u64,
    /// The last window in which a stall of the process ended, and the total length of the stalls that ended in it, milliseconds.
    stalled: (u64, u64),
}

#[derive(Default)]
struct ClientUsage {
    frames: u32,
    bytes: u64,
    room_changes: u32,
    /// The part of the time before this window in which its input was held, milliseconds.
    held_ms: u64,
}

/// What a client sent, to be counted.
#[derive(Clone, Copy)]
pub(super) enum RateEvent {
    /// Some of a frame, of which it is not known yet whether it is whole. Nothing is counted.
    PartOfFrame,
    Frame,
    Bytes(usize),
    RoomChange,
}

impl RateLimiter {
    pub(super) fn new(seed: u64) -> Self {
        let hasher = RandomState::with_seeds(seed, 13, 14, 15);
        Self { clients: AHashMap::with_hasher(hasher), window: 0, stalled: (0, 0) }
    }

    /// A stall of the process, `millis` long, has ended at `now`. Input that arrived during the stall is read from now on.
    pub(super) fn note_stall(&mut self, millis: u64, now: Millis) {
        let window = now.0 / RATE_WINDOW_MS;
        let (last, former) = self.stalled;
        self.stalled = (window, if last == window { former + millis } else { millis });
    }

    /// The length of the stalls whose input is read in the present window. Reading it may last into the window after the one in
    /// which a stall ended.
    fn stalled_ms(&self) -> u64 {
        let (last, millis) = self.stalled;
        if self.window <= last + 1 { millis } else { 0 }
    }

    /// What `conn` has sent in the present window, if anything.
    pub(super) fn hand_over(&self, conn: LocalConnId, now: Millis) -> Option<handed::Sent> {
        let Self { clients, window, stalled: _ } = self;
        let &ClientUsage { frames, bytes, room_changes, held_ms: _ } =
            clients.get(&conn).filter(|_| *window == now.0 / RATE_WINDOW_MS)?;
        Some(handed::Sent { frames, bytes, room_changes, window_ms: window_left(now) })
    }

    /// Goes on from what `conn` has sent in the present window of another process. If that ends earlier than the present one
    /// here, the client begins anew: nobody is closed for what it sent in two windows.
    pub(super) fn take_over(&mut self, conn: LocalConnId, sent: &handed::Sent, now: Millis) {
        let handed::Sent { frames, bytes, room_changes, window_ms } = *sent;
        self.turn_to(now);
        if window_left(now) <= window_ms {
            self.clients.insert(conn, ClientUsage { frames, bytes, room_changes, held_ms: 0 });
        }
    }

    /// Begins another window, if the present one is over.
    fn turn_to(&mut self, now: Millis) {
        let window = now.0 / RATE_WINDOW_MS;
        if self.window != window {
            self.window = window;
            self.clients.clear();
        }
    }

    /// Input of `conn` that was held since `since` is read now.
    fn note_held(&mut self, conn: LocalConnId, since: Millis, now: Millis) {
        self.turn_to(now);
        let begin = self.window * RATE_WINDOW_MS;
        if since.0 < begin {
            let sent = self.clients.entry(conn).or_default();
            // The same input may be looked at several times.
            sent.held_ms = sent.held_ms.max(begin - since.0);
        }
    }

    /// Counts `input`; `Some`: it is beyond the limit.
    fn exceeded(
        &mut self,
        conn: LocalConnId,
        input: RateEvent,
        limits: ClientRates,
        now: Millis,
    ) -> Option<CloseReason> {
        self.turn_to(now);
        let stalled_ms = self.stalled_ms();
        let sent = self.clients.entry(conn).or_default();
        // Bytes do not wait for an answer to be counted.
        let (total, rate, held_ms, reason) = match input {
            RateEvent::PartOfFrame => {
                (u64::from(sent.frames) + 1, limits.frames, sent.held_ms, CloseReason::FrameRate)
            }
            RateEvent::Frame => {
                sent.frames += 1;
                (sent.frames.into(), limits.frames, sent.held_ms, CloseReason::FrameRate)
            }
            RateEvent::Bytes(bytes) => {
                sent.bytes += bytes as u64;
                (sent.bytes, limits.bytes, 0, CloseReason::ByteRate)
            }
            RateEvent::RoomChange => {
                sent.room_changes += 1;
                let held_ms = sent.held_ms;
                (sent.room_changes.into(), limits.room_changes, held_ms, CloseReason::RoomRate)
            }
        };
        let most = u64::from(rate) * (RATE_WINDOW_MS + stalled_ms + held_ms) / 1_000;
        (rate > 0 && total > most).then_some(reason)
    }
}

/// Until the present window ends, milliseconds.
fn window_left(now: Millis) -> u64 {
    RATE_WINDOW_MS - now.0 % RATE_WINDOW_MS
}

impl Shard {
    /// Counts what the client in `slot` sent, and closes it if that is too much. Returns whether it is open.
    #[inline]
    pub(super) fn may_send(&mut self, slot: Slot, input: RateEvent) -> bool {
        let limits = self.context.limits.rates;
        limits == ClientRates::default() || self.count_input(slot, input, limits)
    }

    /// The input of `slot`, which was held since `since`, is read.
    pub(super) fn note_held_input(&mut self, slot: Slot, since: Millis) {
        if self.context.limits.rates != ClientRates::default() {
            let conn = self.conns.id(slot).local();
            self.rate_limiter.note_held(conn, since, self.context.now);
        }
    }

    fn count_input(&mut self, slot: Slot, input: RateEvent, limits: ClientRates) -> bool {
        // What an event stream asks for is its one request and rooms of its token, both bounded by the number of rooms.
        let is_stream = self.conns[slot].transport == Transport::EventStream;
        if is_stream && !matches!(input, RateEvent::Bytes(_)) {
            return true;
        }
        let conn = self.conns.id(slot).local();
        let exceeded = self.rate_limiter.exceeded(conn, input, limits, self.context.now);
        if let Some(reason) = exceeded {
            self.turn_away(slot, reason);
        }
        exceeded.is_none()
    }
}
