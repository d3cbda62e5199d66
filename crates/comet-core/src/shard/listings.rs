//! Lists for operators. A list of connections is made by a walk over the slab in slices, which keeps the first entries
//! in the requested order. The walk that looks for traced networks is here too, because it also needs the driver's
//! help.

use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::budget::{self, Budget};
use crate::heavy_hitters::KEYS_MAX;
use crate::ids::{CallId, Slot};
use crate::limits::{LISTED_MAX, LISTINGS_MAX};
use crate::listing::{ConnOrder, ConnPage, ConnPlace, ConnQuery, ListedConn, SocketInfo};
use crate::message::Report;
use crate::outbox::Load;

use super::Shard;
use super::traffic::ByteRates;

/// A list that is being made.
pub(super) struct Listing {
    call: CallId,
    query: Arc<ConnQuery>,
    rates: ByteRates,
    next: Slot,
    /// One past the last slot of the walk. Connections beyond it are younger than the query.
    end: Slot,
    matched: u64,
    /// The entries that are first in the order so far, with the last of them on top.
    kept: BinaryHeap<ListedConn>,
}

/// A task that needs the driver's help.
pub(super) enum ListingTask {
    List(Listing),
    Top(CallId),
    /// Find the connections from this slot on that belong to a traced network.
    Networks(Slot),
}

/// The tasks, carried out one after the other.
pub(super) type Listings = VecDeque<ListingTask>;

impl Listing {
    fn page(self) -> ConnPage {
        ConnPage { matched: self.matched, listed: self.kept.into_sorted_vec() }
    }

    /// Whether a connection at `place` belongs on the page, as far as the page is known.
    fn wants(&self, place: ConnPlace) -> bool {
        let is_behind = self.query.after.is_none_or(|after| place > after);
        let has_space = self.kept.len() < self.query.limit.min(LISTED_MAX);
        is_behind && (has_space || self.kept.peek().is_some_and(|last| place < last.place))
    }

    fn keep(&mut self, conn: ListedConn) {
        if self.kept.len() >= self.query.limit.min(LISTED_MAX) {
            self.kept.pop();
        }
        self.kept.push(conn);
    }
}

impl Shard {
    /// Begins a list behind those under way, or refuses it if there are too many.
    pub(super) fn begin_listing(&mut self, call: CallId, query: Arc<ConnQuery>) {
        if self.listings.len() >= LISTINGS_MAX {
            return self.reports.push(Report::Connections { call, page: None });
        }
        let (next, end, kept) = (Slot(0), self.conns.end(), BinaryHeap::new());
        let rates = self.traffic.rates(self.context.now);
        let listing = Listing { call, query, rates, next, end, matched: 0, kept };
        self.listings.push_back(ListingTask::List(listing));
    }

    /// Begins a report of the top lists behind the lists under way, or refuses it if there are too many.
    pub(super) fn begin_top(&mut self, call: CallId) {
        if self.listings.len() >= LISTINGS_MAX {
            return self.reports.push(Report::Top { call, top: None });
        }
        self.listings.push_back(ListingTask::Top(call));
    }

    /// The live traces have changed, and some are about networks.
    pub(super) fn begin_tracing_networks(&mut self) {
        self.listings.retain(|task| !matches!(task, ListingTask::Networks(_)));
        self.listings.push_back(ListingTask::Networks(Slot(0)));
    }

    /// Whether [`Shard::handle_listings`] has something to do, in a turn that follows at once.
    #[must_use]
    pub fn has_listings(&self) -> bool {
        !self.listings.is_empty()
    }

    /// Continues lists of connections until the budget is spent. A connection that exists for the whole walk is
    /// examined exactly once.
    pub fn handle_listings(&mut self, budget: &mut Budget, sockets: &mut impl SocketInfo) {
        while budget.is_left()
            && let Some(task) = self.listings.pop_front()
        {
            match task {
                ListingTask::List(listing) => {
                    if let Some(rest) = self.go_on_listing(listing, sockets, budget) {
                        self.listings.push_front(ListingTask::List(rest));
                    }
                }
                ListingTask::Top(call) => {
                    budget.spend(2 * KEYS_MAX * (budget::ADDRESS + budget::ENTRY));
                    self.report_top(call, sockets);
                }
                ListingTask::Networks(next) => {
                    if let Some(rest) = self.trace_networks(next, sockets, budget) {
                        self.listings.push_front(ListingTask::Networks(rest));
                    }
                }
            }
        }
    }

    /// Returns the list if it is not complete yet.
    fn go_on_listing(
        &mut self,
        mut listing: Listing,
        sockets: &mut impl SocketInfo,
        budget: &mut Budget,
    ) -> Option<Listing> {
        let room = listing.query.filter.room.as_deref().map(|name| self.rooms.find(name));
        if room == Some(None) {
            // The room has no members here at this moment, so none was in it for the whole walk.
            listing.next = listing.end;
        }
        while listing.next < listing.end && budget.is_left() {
            let slot = listing.next;
            listing.next = slot.next();
            budget.spend(budget::LOOK);
            if self.conns.is_taken(slot)
                && room.is_none_or(|room| room.is_some_and(|room| self.is_in(slot, room)))
            {
                self.look_at(slot, &mut listing, sockets, budget);
            }
        }
        if listing.next < listing.end {
            return Some(listing);
        }
        let call = listing.call;
        self.reports.push(Report::Connections { call, page: Some(Box::new(listing.page())) });
        None
    }

    /// Lists the connection in `slot` if the filter admits it. The caller has checked its room.
    fn look_at(
        &self,
        slot: Slot,
        listing: &mut Listing,
        sockets: &mut impl SocketInfo,
        budget: &mut Budget,
    ) {
        let (conn, id) = (&self.conns[slot], self.conns.id(slot));
        let filter = &listing.query.filter;
        if filter.user.is_some_and(|user| user != conn.user)
            || filter.key.as_ref().is_some_and(|key| *key != conn.key)
            || filter.transport.is_some_and(|transport| transport != conn.transport)
            || filter.is_tls.is_some_and(|is_tls| is_tls != sockets.is_tls(id))
        {
            return;
        }
        if let Some(network) = filter.network {
            budget.spend(budget::ADDRESS);
            if !sockets.address(id).is_some_and(|address| network.contains(address.ip())) {
                return;
            }
        }
        listing.matched += 1;
        let (place, load) = self.place(slot, listing.query.order, &listing.rates);
        if listing.wants(place) {
            budget.spend(budget::ADDRESS + budget::ENTRY);
            listing.keep(self.listed(place, load, &listing.rates, sockets));
        }
    }

    /// The place of the connection in `slot` in an order, and the load of its outbox.
    pub(super) fn place(
        &self,
        slot: Slot,
        order: ConnOrder,
        rates: &ByteRates,
    ) -> (ConnPlace, Load) {
        let (conn, id) = (&self.conns[slot], self.conns.id(slot));
        let load = self.outboxes.chains.load(&conn.outbox, conn.transport);
        let rank = match order {
            ConnOrder::Waiting => u32::MAX - load.bytes,
            ConnOrder::Age => conn.accepted.tick().0,
            ConnOrder::Rate => u32::MAX - u32::try_from(rates.of(id.local())).unwrap_or(u32::MAX),
        };
        (ConnPlace { rank, conn: id }, load)
    }

    /// The entry of a list about a connection of this shard.
    pub(super) fn listed(
        &self,
        place: ConnPlace,
        load: Load,
        rates: &ByteRates,
        sockets: &mut impl SocketInfo,
    ) -> ListedConn {
        let conn = &self.conns[place.conn.slot];
        ListedConn {
            place,
            key: conn.key.clone(),
            user: conn.user,
            room: conn.room.room().map(|id| Arc::clone(&self.rooms[id].name)),
            further_rooms: self.further_rooms.of(place.conn.slot).len(),
            address: sockets.address(place.conn),
            transport: conn.transport,
            is_tls: sockets.is_tls(place.conn),
            age_ms: conn.age_ms(self.context.now),
            waiting_bytes: load.bytes,
            waiting_frames: load.pushes + load.replies,
            bytes_per_second: rates.of(place.conn.local()),
            accepts: conn.accepts.clone(),
            state: conn.state.label(),
        }
    }
}
