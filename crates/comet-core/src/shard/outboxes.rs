//! The chains behind the outboxes, and the connections that can send.

use std::collections::VecDeque;

use comet_proto::{
    Encoded, Frame, JoinReply, RoomGap, RoomHandle, VERSION, VERSION_2, decode, op, sse,
};

use crate::conn::Conn;
use crate::deflate::Deflater;
use crate::gaps::{Gaps, Offsets, Telling, is_same_room};
use crate::ids::Slot;
use crate::limits::{Limits, WINDOW};
use crate::outbox::chains::Chains;
use crate::outbox::{Item, Load, Remains};
use crate::parking::ParkedFrames;
use crate::room::{RoomId, Rooms};
use crate::time::Millis;
use crate::transport::Transport;

use super::top::SlowClients;

pub(super) struct Outboxes {
    pub(super) chains: Chains,
    /// Connections with something to send and nothing in flight.
    ready: VecDeque<Slot>,
    /// The latest reply of this turn. If the next client gets an equal one, it shares this item.
    latest_reply: Option<Item>,
    /// The same for bytes that are not a frame: close frames of a WebSocket.
    latest_bytes: Option<Item>,
    /// The number of bytes that ever entered an outbox.
    pub(super) bytes_queued: u64,
    /// The number of bytes that left an outbox without being taken by the kernel.
    pub(super) bytes_dropped: u64,
    pub(super) slow: SlowClients,
    pub(super) deflater: Deflater,
}

impl Outboxes {
    pub(super) fn new(seed: u64, now: Millis) -> Self {
        Self {
            chains: Chains::new(),
            ready: VecDeque::new(),
            latest_reply: None,
            latest_bytes: None,
            bytes_queued: 0,
            bytes_dropped: 0,
            slow: SlowClients::new(seed, now),
            deflater: Deflater::default(),
        }
    }

    /// Begins a turn. Replies of the last turn are not shared any more.
    pub(super) fn begin_turn(&mut self, now: Millis) {
        self.slow.begin_turn(now);
        self.latest_reply = None;
        self.latest_bytes = None;
    }

    /// `frame` as a reply. If it equals the latest reply, that item is returned instead of a new one. The caller gives
    /// it to [`Outboxes::keep_reply`] after use.
    pub(super) fn take_reply(&mut self, frame: &Frame<'_>) -> Item {
        match self.latest_reply.take() {
            Some(latest) if latest.frame().is_frame(frame) => latest,
            _ => self.reply(Encoded::frame(frame)),
        }
    }

    pub(super) fn keep_reply(&mut self, reply: Item) {
        self.latest_reply = Some(reply);
    }

    /// `bytes` as a reply. If they equal the latest ones, that item is returned.
    pub(super) fn bytes_reply(&mut self, bytes: Encoded) -> Item {
        let is_latest = |latest: &Item| {
            let latest = latest.frame();
            (latest.for_tcp(), latest.for_websocket()) == (bytes.for_tcp(), bytes.for_websocket())
        };
        if !self.latest_bytes.as_ref().is_some_and(is_latest) {
            self.latest_bytes = Some(self.reply(bytes));
        }
        self.latest_bytes.clone().expect("set above")
    }

    fn reply(&mut self, frame: Encoded) -> Item {
        self.chains.item(frame, false)
    }

    /// Appends a reply to the outbox of `conn`. Returns the load of the outbox with it.
    pub(super) fn append_reply(&mut self, slot: Slot, conn: &mut Conn, reply: &Item) -> Load {
        self.bytes_queued += conn.transport.bytes(reply.frame()).len() as u64;
        self.chains.append(&mut conn.outbox, reply);
        if !conn.outbox.is_sending() {
            self.mark_ready(slot, conn);
        }
        self.chains.load(&conn.outbox, conn.transport)
    }

    /// Whether the outbox of `conn` has space for all of `pushes` in one send.
    pub(super) fn has_space_for_parcel(
        &self,
        conn: &Conn,
        pushes: &ParkedFrames,
        limits: &Limits,
    ) -> bool {
        let load = self.chains.load(&conn.outbox, conn.transport);
        // In the TCP form they are a little shorter.
        let bytes = pushes.bytes();
        let held = self.chains.held_bytes() as u64 + 2 * bytes as u64;
        bytes <= WINDOW
            && load.pushes as usize + pushes.len() <= usize::from(limits.svr_proto)
            && load.bytes as usize + bytes <= limits.outbox_bytes as usize
            && held <= limits.outbox_memory
    }

    /// Appends `pushes` to the outbox of `conn`, which has space for them.
    pub(super) fn append_parcel(&mut self, slot: Slot, conn: &mut Conn, pushes: ParkedFrames) {
        let item = self.chains.parcel(pushes, conn.transport);
        self.bytes_queued += item.frame().for_tcp().len() as u64;
        self.chains.append(&mut conn.outbox, &item);
        if !conn.outbox.is_sending() {
            self.mark_ready(slot, conn);
        }
    }

    /// Begins a send for `conn`, with markers for its gaps. `false`: there is nothing to send.
    pub(super) fn start(
        &mut self,
        slot: Slot,
        conn: &mut Conn,
        gaps: &mut Gaps,
        rooms: &Rooms,
    ) -> bool {
        let has_begun = self.chains.start(&mut conn.outbox);
        if !gaps.has_untold(slot) {
            return has_begun;
        }
        let [sent, rest] = self.chains.waiting_frames(&conn.outbox);
        let [sent, rest] = [sent, rest]
            .map(|items| items.into_iter().map(About::of).collect::<Vec<Option<About>>>());
        let markers = gaps.take_untold(slot, |lost, is_left| {
            let is_of_room = |push: Offsets| {
                push.room == lost.room && is_same_room(push.generation, lost.generation)
            };
            // In front of the first push behind the gap. That is behind the reply that tells the handle.
            let is_behind = |about: &Option<About>| {
                let is = |about: About| matches!(about, About::Push(push) if is_of_room(push) && push.last >= lost.first);
                about.is_some_and(is)
            };
            let is_entry = |about: &Option<About>| *about == Some(About::Entered(lost.room));
            let is_joined = |about: &Option<About>| {
                is_entry(about) || *about == Some(About::Renamed(lost.room))
            };
            // When a client enters a room again, it forgets what it was told about the room. So the marker goes behind
            // the entry, and in front of it as well if pushes from the client's former time in the room were not sent
            // yet.
            let entry = sent.iter().rposition(is_entry).filter(|_| !is_left).unwrap_or(0);
            let before = sent[..entry].iter().position(is_behind);
            let place = sent[entry..].iter().position(is_behind).map(|place| entry + place);
            if !is_left && rest.iter().any(is_entry) {
                return before.or(place).map_or(Telling::Later, Telling::NowAndLater);
            }
            match (before, place) {
                (Some(before), place) => return Telling::Twice(before, place.unwrap_or(sent.len())),
                (None, Some(place)) => return Telling::Now(place),
                (None, None) => {}
            }
            let is_later = rest.iter().any(|about| is_behind(about) || (!is_left && is_joined(about)));
            match (is_later, is_left) {
                (true, _) => Telling::Later,
                // The position in the reply is before the gap.
                (false, true) => Telling::Never,
                (false, false) => Telling::Now(sent.len()),
            }
        });
        let mut replies: Vec<(usize, Item)> = Vec::with_capacity(markers.len());
        for (marker, place) in markers {
            // A client may not know the present handle yet in front of a push that came from another process.
            let handle = match sent.get(place) {
                Some(&Some(About::Push(push))) if push.room == marker.handle => push.sent_as,
                _ => marker.handle,
            };
            let Some(marker) = marker_for(conn, marker, handle, rooms) else { continue };
            let reply = self.reply(marker);
            self.bytes_queued += conn.transport.bytes(reply.frame()).len() as u64;
            replies.push((place, reply));
        }
        replies.sort_by_key(|(place, _)| *place);
        self.chains.insert(&mut conn.outbox, &replies);
        conn.outbox.is_sending()
    }

    /// Appends to the next send of `conn`, which has left the queue of ready connections.
    pub(super) fn append_to_send(&mut self, conn: &mut Conn, item: &Item) {
        self.bytes_queued += conn.transport.bytes(item.frame()).len() as u64;
        self.chains.append(&mut conn.outbox, item);
    }

    /// Whether some connection has something to send and nothing in flight.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The connection has something to send and nothing in flight. Queues it.
    #[inline]
    pub(super) fn mark_ready(&mut self, slot: Slot, conn: &mut Conn) {
        if !conn.is_ready {
            conn.is_ready = true;
            self.ready.push_back(slot);
        }
    }

    /// The next slot that was marked ready. Its connection may have closed since.
    pub(super) fn pop_ready(&mut self) -> Option<Slot> {
        self.ready.pop_front()
    }

    /// Drops what `conn` has pending, but not what is in flight.
    pub(super) fn drop_pending(&mut self, conn: &mut Conn) -> Remains {
        let remains = self.chains.clear_pending(&mut conn.outbox, conn.transport);
        self.bytes_dropped += u64::from(remains.bytes);
        remains
    }

    /// Drops what `conn` has in flight, after its last completion.
    pub(super) fn drop_in_flight(&mut self, conn: &mut Conn) -> Remains {
        let remains = self.chains.clear_in_flight(&mut conn.outbox, conn.transport);
        self.bytes_dropped += u64::from(remains.bytes);
        remains
    }
}

/// A gap marker in the form of `conn`, which knows the room as `known_as`. `None`: the client knows the room by its
/// name, and the room does not exist any more.
fn marker_for(conn: &Conn, gap: RoomGap, known_as: RoomHandle, rooms: &Rooms) -> Option<Encoded> {
    let RoomGap { handle, is_outdated, first, last } = gap;
    let frame = |version, body: &[u8]| {
        Encoded::frame(&Frame { version, operation: op::GAP, sequence: 0, body })
    };
    if conn.is_protocol_2 {
        return Some(frame(VERSION_2, &RoomGap { handle: known_as, ..gap }.encode()));
    }
    let room = rooms.name_of(RoomId::of_handle(handle))?;
    Some(match conn.transport {
        Transport::EventStream => {
            Encoded::verbatim(&sse::gap_event(room, first, last, is_outdated))
        }
        _ => frame(VERSION, &sse::gap_data(room, first, last, is_outdated)).to_text(),
    })
}

/// The subject of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// The reply that tells the client the handle of a room that it has entered, and its position there.
    Entered(RoomHandle),
    /// Tells the handle of a room in which the client may have been for long.
    Renamed(RoomHandle),
    /// A push to a room that keeps a history.
    Push(Offsets),
}

impl About {
    fn of(item: &Item) -> Option<Self> {
        if item.is_push() {
            return item.offsets().map(Self::Push);
        }
        let (Frame { operation, body, .. }, _) =
            decode(item.frame().for_tcp(), usize::MAX).ok()??;
        let reply = (operation == op::JOIN_REPLY).then(|| JoinReply::decode(body))??;
        let is_entry = reply.position.is_some();
        reply.outcome.ok().map(if is_entry { Self::Entered } else { Self::Renamed })
    }
}
