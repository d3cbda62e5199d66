//! One push on its way into the outboxes of one shard.

use comet_proto::{RoomHandle, count_frames};

use crate::budget;
use crate::conn::{
    COMPRESSED, COMPRESSED_FORMS, Conn, EVENT_FORM, FORMS, PROTOCOL_1_FORMS, PROTOCOL_2_FORMS,
    TEXT_FORM, plain_form,
};
use crate::deflate::Deflate;
use crate::gaps::{LostRange, Offsets};
use crate::ids::{Generation, LocalConnId, Slot};
use crate::ledger::{DropReason, Tally};
use crate::limits::{DEFLATE_MAX, Limits, SlowConsumer};
use crate::message::Push;
use crate::outbox::{AppendMemo, Item, Load, Superseded};

use super::connections::Connections;
use super::departures::Departures;
use super::outboxes::Outboxes;
use super::push_forms::{PushForms, lengths};
use super::trace::Offered;

#[cfg(test)]
mod tests;

/// A walk should end when it has this many connections to close.
const CLOSED_MAX: usize = 256;

/// The memory that a frame in an outbox takes at most in addition to its bytes.
const HELD_BESIDE: u32 = 128;

/// What a walk does at each connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryMode {
    /// It offers the push.
    Offer,
    /// It offers the push if the connection accepts the operation.
    OfferFiltered,
    /// It has the connection closed ([`Push::kick`]).
    Kick,
}

/// The index of the connection's memo. Clients that keep up have no send under way; clients that do not read have one.
/// In a room with both kinds these alternate, and with a common memo each would replace that of the other.
#[inline]
fn memo_of(conn: &Conn) -> usize {
    2 * conn.form() + usize::from(conn.outbox.is_sending())
}

/// A walk over connections that offers each of them the same push.
pub(super) struct Delivery<'a> {
    conns: &'a mut Connections,
    outboxes: &'a mut Outboxes,
    limits: &'a Limits,
    items: &'a mut PushForms,
    operation: i32,
    /// [`Push::offset`].
    offset: u64,
    mode: DeliveryMode,
    /// Sessions that have left their connections. `None`: the push is not to keys or users.
    departures: Option<&'a Departures>,
    /// Connections of the push that such sessions have left.
    departed: Vec<LocalConnId>,
    /// The room that the push is to.
    room: Option<(RoomHandle, &'a str)>,
    /// The length of the frame in each form; 0 while that form is not encoded.
    bytes: [u32; FORMS],
    /// The latest append of each form, without and with a send under way.
    memos: [AppendMemo; 2 * FORMS],
    /// The number of outboxes that took the push, by form.
    queued: [u64; FORMS],
    /// The connections that did not get it, by reason.
    tally: Tally,
    superseded: u64,
    displaced: u64,
    /// The units of work spent on encoding the push.
    encoding: usize,
    /// Connections to close after the walk: too slow for the push, or kicked.
    to_close: Vec<Slot>,
    /// What became of the push at traced connections.
    traced: Vec<(Slot, Offered)>,
    /// The pushes of rooms with a history that the latest append of each form dropped.
    cuts: [Vec<LostRange>; 2 * FORMS],
    /// The losses of connections whose clients are told about gaps.
    lost: Vec<(Slot, LostRange)>,
}

/// The result of a [`Delivery`].
#[derive(Default)]
pub(super) struct Delivered {
    pub(super) tally: Tally,
    /// Older pushes that were dropped for this one.
    pub(super) superseded: u64,
    /// Of these, pushes that are about another state, or about none.
    pub(super) displaced: u64,
    /// Units of work in addition to those of the deliveries.
    pub(super) encoding: usize,
    /// Connections to close: slow consumers, or all that are kicked.
    pub(super) to_close: Vec<Slot>,
    /// What became of the push at traced connections.
    pub(super) traced: Vec<(Slot, Offered)>,
    /// The losses of connections, in rooms with a history.
    pub(super) lost: Vec<(Slot, LostRange)>,
    /// Former connections whose sessions the push is for.
    pub(super) departed: Vec<LocalConnId>,
}

impl<'a> Delivery<'a> {
    /// `items` are the forms of the frame of `push`, the same in all walks of it. A kick has a `mode` of its own.
    pub(super) fn new(
        conns: &'a mut Connections,
        outboxes: &'a mut Outboxes,
        limits: &'a Limits,
        push: &Push,
        items: &'a mut PushForms,
        mode: DeliveryMode,
    ) -> Self {
        let mut bytes = [0; FORMS];
        bytes[PROTOCOL_1_FORMS..][..2].copy_from_slice(&lengths(&push.frame));
        bytes[PROTOCOL_2_FORMS..][..2].copy_from_slice(&lengths(&push.frame));
        for (form, item) in [(TEXT_FORM, &items.text), (EVENT_FORM, &items.event)] {
            bytes[form] = item.as_ref().map_or(0, |item| lengths(item.frame())[1]);
        }
        for (bytes, item) in bytes[COMPRESSED_FORMS..].iter_mut().zip(&items.compressed) {
            *bytes = item.as_ref().map_or(0, |item| lengths(item.frame())[1]);
        }
        Self {
            conns,
            outboxes,
            limits,
            items,
            operation: push.operation,
            offset: push.offset,
            mode: if push.is_kick() { DeliveryMode::Kick } else { mode },
            departures: None,
            departed: Vec::new(),
            room: None,
            bytes,
            memos: [AppendMemo::NONE; 2 * FORMS],
            queued: [0; FORMS],
            tally: Tally::default(),
            superseded: 0,
            displaced: 0,
            encoding: 0,
            to_close: Vec::new(),
            traced: Vec::new(),
            cuts: Default::default(),
            lost: Vec::new(),
        }
    }

    /// The push is to the members of the room `name`.
    pub(super) fn in_room(
        mut self,
        (room, generation): (RoomHandle, Generation),
        name: &'a str,
    ) -> Self {
        self.room = Some((room, name));
        if self.offset > 0 && self.items.binary.offsets().is_none() {
            let pushes = count_frames(self.items.binary.frame().for_tcp()).unwrap_or(1) as u32;
            let (last, generation) = (self.offset, Some(generation));
            self.items.set_offsets(Offsets { room, last, pushes, sent_as: room, generation });
        }
        let lengths = self.items.room_push.as_ref().map_or([0; 2], |item| lengths(item.frame()));
        self.bytes[PROTOCOL_2_FORMS..][..2].copy_from_slice(&lengths);
        self
    }

    /// The push is to keys or users. Some of their sessions may have just left their connections.
    pub(super) fn for_sessions(mut self, departures: &'a Departures) -> Self {
        self.departures = (!departures.is_empty()).then_some(departures);
        self
    }

    /// Puts the push into the outbox of a connection that takes pushes, or counts the reason why not.
    #[inline]
    pub(super) fn offer(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot];
        match self.mode {
            DeliveryMode::Offer => {}
            DeliveryMode::OfferFiltered if conn.accepts.contains(self.operation) => {}
            DeliveryMode::OfferFiltered => return self.drop_for(slot, DropReason::Filtered),
            DeliveryMode::Kick => return self.to_close.push(slot),
        }
        debug_assert!(conn.takes_pushes().is_ok());
        let (form, memo) = (conn.form(), memo_of(conn));
        // Members of a room mostly have the same frames pending. Then the result of the latest append is repeated for
        // the next outbox, without a look at the chains.
        if !self.memos[memo].repeat(&mut conn.outbox)
            && let Err(reason) = self.append(slot)
        {
            self.note_lost(slot);
            return self.drop_for(slot, reason);
        }
        self.queued[form] += 1;
        if self.memos[memo].superseded().pushes > 0 && self.conns[slot].hears_gaps() {
            self.lost.extend(self.cuts[memo].iter().map(|&lost| (slot, lost)));
        }
        let conn = &mut self.conns[slot];
        if conn.is_traced {
            let Superseded { pushes, .. } = self.memos[memo].superseded();
            let offered = Offered::Queued { bytes: self.bytes[form], superseded: pushes };
            self.traced.push((slot, offered));
        }
        if !conn.outbox.is_sending() {
            self.outboxes.mark_ready(slot, conn);
        }
    }

    /// The outbox in `slot` did not take the push.
    fn note_lost(&mut self, slot: Slot) {
        if let Some(offsets) = self.items.binary.offsets()
            && self.conns[slot].hears_gaps()
        {
            let lost = LostRange::of(offsets, false);
            self.lost.extend(lost.map(|lost| (slot, lost)));
        }
    }

    /// The connection in `slot` does not get the push.
    fn drop_for(&mut self, slot: Slot, reason: DropReason) {
        self.tally.drop_as(reason, 1);
        if self.conns[slot].is_traced {
            self.traced.push((slot, Offered::Dropped(reason)));
        }
    }

    /// Offers the push to `conn`, or counts the reason why it takes none.
    pub(super) fn offer_to(&mut self, conn: LocalConnId) {
        if self.departures.is_some_and(|departures| departures.has(conn)) {
            return self.departed.push(conn);
        }
        let is_kick = self.mode == DeliveryMode::Kick;
        let check = |conn: &mut Conn| match conn.is_open() && is_kick {
            // A kick also closes a connection that waits for its homes.
            true => Ok(()),
            false => conn.takes_pushes(),
        };
        match self.conns.get(conn).map(check) {
            Some(Ok(())) => self.offer(conn.slot),
            Some(Err(reason)) => self.drop_for(conn.slot, reason),
            None => self.tally.drop_as(DropReason::Closing, 1),
        }
    }

    /// Offers the push to the connection in `slot`, whatever its generation. `false`: there is none that takes pushes,
    /// and nothing is counted.
    pub(super) fn offer_in_slot(&mut self, slot: Slot) -> bool {
        let takes_pushes = self.conns.in_slot(slot).is_some_and(|conn| conn.takes_pushes().is_ok());
        if takes_pushes {
            self.offer(slot);
        }
        takes_pushes
    }

    /// Whether so many connections are to be closed that the walk should end.
    pub(super) fn is_strained(&self) -> bool {
        self.to_close.len() >= CLOSED_MAX
    }

    /// Ends the walk.
    pub(super) fn finish(mut self) -> Delivered {
        self.settle_memos();
        let Self { queued, bytes, mut tally, superseded, displaced, encoding, .. } = self;
        let Self { to_close, traced, lost, departed, .. } = self;
        for (queued, bytes) in queued.into_iter().zip(bytes) {
            tally.matched += queued;
            tally.queued += queued;
            self.outboxes.bytes_queued += queued * u64::from(bytes);
        }
        for at in 0..COMPRESSED {
            let form = COMPRESSED_FORMS + at;
            let saved = bytes[plain_form(at)].saturating_sub(bytes[form]);
            self.outboxes.deflater.saved_bytes += queued[form] * u64::from(saved);
        }
        Delivered { tally, superseded, displaced, encoding, to_close, traced, lost, departed }
    }

    /// Appends the push to one outbox.
    ///
    /// # Errors The reason why the outbox does not take it.
    fn append(&mut self, slot: Slot) -> Result<(), DropReason> {
        let form = self.conns[slot].form();
        self.encode(form)?;
        self.settle_memos();
        let superseded = self.make_space(slot).ok_or(DropReason::OutboxFull)?;
        let conn = &mut self.conns[slot];
        let memo = &mut self.memos[memo_of(conn)];
        let item = self.items.of(form);
        if superseded.pushes > 0 && !self.limits.history_rules.is_empty() {
            let cut = self.outboxes.chains.cut_pushes(&conn.outbox, item, superseded);
            let lost =
                cut.filter_map(|(item, is_outdated)| LostRange::of(item.offsets()?, is_outdated));
            let cuts = &mut self.cuts[memo_of(conn)];
            cuts.clear();
            cuts.extend(lost);
        }
        self.outboxes.chains.append_and_note(memo, &mut conn.outbox, item, superseded);
        self.count_superseded(superseded, 1);
        Ok(())
    }

    /// Encodes the frame in the form `form`, if no earlier client had that form.
    fn encode(&mut self, form: usize) -> Result<(), DropReason> {
        match form {
            TEXT_FORM | EVENT_FORM => self.encode_json(form),
            COMPRESSED_FORMS.. => self.compress(form - COMPRESSED_FORMS),
            PROTOCOL_2_FORMS.. => {
                self.encode_room_push();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Compresses one of the WebSocket forms, after encoding that form. If compression does not help, the plain item
    /// takes its place.
    #[cold]
    fn compress(&mut self, at: usize) -> Result<(), DropReason> {
        if self.items.compressed[at].is_some() {
            return Ok(());
        }
        let plain_form = plain_form(at);
        self.encode(plain_form)?;
        // Outside rooms both protocols have the same binary frame.
        let is_binary = at > 0 && plain_form != TEXT_FORM && self.items.room_push.is_none();
        let item = if is_binary {
            self.compress(0)?;
            self.items.of(COMPRESSED_FORMS).clone()
        } else {
            let plain = self.items.of(plain_form).clone();
            self.compressed(&plain).unwrap_or(plain)
        };
        self.bytes[COMPRESSED_FORMS + at] = lengths(item.frame())[1];
        self.items.compressed[at] = Some(item);
        Ok(())
    }

    /// `plain` compressed, if that is shorter. `None` also if compression was switched off after the client negotiated
    /// it.
    fn compressed(&mut self, plain: &Item) -> Option<Item> {
        let Deflate { level, message_min } = self.limits.deflate?;
        let message = plain.frame().message();
        if !(message_min..=DEFLATE_MAX).contains(&message.len()) {
            return None;
        }
        self.encoding += budget::DEFLATE + message.len() / budget::DEFLATE_BYTES;
        let deflated = self.outboxes.deflater.deflate(message, level)?;
        let mut item = self.outboxes.chains.item(plain.frame().to_compressed(deflated), true);
        item.set_meta(plain.meta().cloned());
        Some(item)
    }

    /// Encodes the push in the text form or as an event, if no earlier client had that `form`. This is done in one go,
    /// so a long push is refused.
    #[cold]
    fn encode_json(&mut self, form: usize) -> Result<(), DropReason> {
        let PushForms { binary, text, event, .. } = &mut *self.items;
        let encoded = if form == EVENT_FORM { event } else { text };
        if encoded.is_some() {
            return Ok(());
        }
        let length = binary.frame().for_tcp().len();
        if length > self.limits.text_push_max {
            return Err(DropReason::TextTooLong);
        }
        self.encoding += length / budget::TEXT_BYTES;
        let frame = match form {
            EVENT_FORM => binary.frame().to_event(self.room.map(|(_, name)| name), self.offset),
            _ => binary.frame().to_text(),
        };
        let mut item = self.outboxes.chains.item(frame, true);
        item.set_meta(binary.meta().cloned());
        self.bytes[form] = lengths(item.frame())[1];
        *encoded = Some(item);
        Ok(())
    }

    /// Encodes a push to a room for members of protocol 2, if there was none of them before.
    fn encode_room_push(&mut self) {
        let Some((room, _)) = self.room else { return };
        let PushForms { binary, room_push, .. } = &mut *self.items;
        let (chains, offset) = (&mut self.outboxes.chains, self.offset);
        let encode = || {
            let mut item = chains.item(binary.frame().to_room_push(room, offset), true);
            item.set_meta(binary.meta().cloned());
            item
        };
        let item = room_push.get_or_insert_with(encode);
        self.bytes[PROTOCOL_2_FORMS..][..2].copy_from_slice(&lengths(item.frame()));
    }

    /// Adds the outboxes that took the push by memo to the chains' reference counts. Must be called before the chains
    /// are changed.
    fn settle_memos(&mut self) {
        for memo in &mut self.memos {
            let outboxes = self.outboxes.chains.settle(memo);
            if outboxes == 0 {
                continue;
            }
            let superseded = memo.superseded();
            self.superseded += u64::from(superseded.pushes) * u64::from(outboxes);
            self.displaced += u64::from(superseded.displaced()) * u64::from(outboxes);
            self.outboxes.bytes_dropped += u64::from(superseded.bytes) * u64::from(outboxes);
        }
    }

    /// Counts the pushes that each of `outboxes` outboxes dropped for this one.
    fn count_superseded(&mut self, superseded: Superseded, outboxes: u32) {
        self.superseded += u64::from(superseded.pushes) * u64::from(outboxes);
        self.displaced += u64::from(superseded.displaced()) * u64::from(outboxes);
        self.outboxes.bytes_dropped += u64::from(superseded.bytes) * u64::from(outboxes);
    }

    /// The older pushes that an outbox drops for this one; none if it is not full. `None`: this push is dropped. A push
    /// about a state is never dropped in favour of older pushes about the same state.
    fn make_space(&mut self, slot: Slot) -> Option<Superseded> {
        let conn = &self.conns[slot];
        let load = self.outboxes.chains.load(&conn.outbox, conn.transport);
        let form = conn.form();
        if self.fits(form, load) {
            return Some(Superseded::default());
        }
        // A client that has taken everything is not slow, even if there is no memory for its push.
        let is_slow = load.bytes > 0;
        if is_slow {
            let bytes = self.bytes[form];
            self.outboxes.slow.note_dropped(self.conns.id(slot).local(), bytes);
        }
        let newer = &self.items.binary;
        match self.limits.slow_consumer {
            SlowConsumer::DropNewest | SlowConsumer::DropOldest
                if newer.collapse_key().is_some() =>
            {
                let fits = |load| self.fits(form, load);
                self.outboxes.chains.outdated(&conn.outbox, conn.transport, newer, fits)
            }
            SlowConsumer::DropNewest => None,
            SlowConsumer::Close => {
                if is_slow {
                    self.to_close.push(slot);
                }
                None
            }
            // What is in flight cannot be taken back. If that alone fills the outbox, the newest push waits behind it.
            SlowConsumer::DropOldest => self.fits(form, Load::default()).then(|| {
                let fits = |load| self.fits(form, load);
                self.outboxes.chains.oldest(&conn.outbox, conn.transport, fits)
            }),
        }
    }

    /// Whether the outbox of a connection has space for the push behind `beside` bytes that it does not hold yet.
    pub(super) fn has_space(&self, slot: Slot, beside: u32) -> bool {
        let conn = &self.conns[slot];
        let mut load = self.outboxes.chains.load(&conn.outbox, conn.transport);
        load.bytes = load.bytes.saturating_add(beside);
        let held = if beside > 0 { beside + HELD_BESIDE } else { 0 };
        self.fits_beside(conn.form(), load, held)
    }

    /// Whether an outbox with this load has space for the push.
    fn fits(&self, form: usize, load: Load) -> bool {
        self.fits_beside(form, load, 0)
    }

    fn fits_beside(&self, form: usize, load: Load, beside: u32) -> bool {
        let bytes = load.bytes.saturating_add(self.bytes[form]);
        let is_short = load.pushes < u32::from(self.limits.svr_proto);
        is_short && bytes <= self.limits.outbox_bytes && self.has_memory(load, beside)
    }

    /// Whether an outbox with this load may hold more, given what all outboxes of the shard hold and what comes
    /// `beside` it. The reserve above the bound is for clients that keep up.
    fn has_memory(&self, load: Load, beside: u32) -> bool {
        let held = self.outboxes.chains.held_bytes() as u64 + u64::from(beside);
        let bound = self.limits.outbox_memory;
        held <= bound || (load.bytes == 0 && held <= bound + bound / 8)
    }
}
