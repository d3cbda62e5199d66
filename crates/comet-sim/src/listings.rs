//! Checks lists of connections under way on a shard against the connections that its driver knows.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use std::sync::Arc;

use comet_core::{
    CallId, ConnFilter, ConnId, ConnPage, ConnQuery, HistoryPage, HistoryQuery, ListedConn,
    Message, Report, SlowClient, SocketInfo, Transport,
};
use comet_proto::Frame;

use crate::plan::{PRESENCE_OPERATION, ROOMS};
use crate::presence::Presence;
use crate::wire::{Kind, Stamp};

/// What a list must say about a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) transport: Transport,
    pub(crate) address: IpAddr,
    pub(crate) is_tls: bool,
}

/// The open connections of a shard, and the lists that it makes of them.
#[derive(Default)]
pub(crate) struct Listings {
    open: BTreeMap<ConnId, Known>,
    under_way: BTreeMap<CallId, UnderWay>,
    pages_under_way: BTreeMap<CallId, Arc<HistoryQuery>>,
    /// The number of lists that were checked, and of connections on them.
    pub(crate) lists: u64,
    pub(crate) listed: u64,
    /// The number of clients in top lists.
    pub(crate) slow: u64,
    /// The number of pushes on pages of histories.
    pub(crate) kept: u64,
}

struct UnderWay {
    query: ConnQuery,
    /// Connections that were open at some time since it began, and whether they have been open for all of it.
    seen: BTreeMap<ConnId, (Known, bool)>,
}

impl Listings {
    pub(crate) fn open(&mut self, conn: ConnId, known: Known) {
        self.open.insert(conn, known);
        for list in self.under_way.values_mut() {
            list.seen.insert(conn, (known, false));
        }
    }

    pub(crate) fn close(&mut self, conn: ConnId) {
        self.open.remove(&conn);
        for list in self.under_way.values_mut() {
            if let Some((_, is_always_open)) = list.seen.get_mut(&conn) {
                *is_always_open = false;
            }
        }
    }

    /// Notes a message if it requests a list.
    pub(crate) fn note(&mut self, message: &Message) {
        match message {
            Message::Connections { call, query } => self.begin(*call, query),
            Message::Top { call } => self.begin(*call, &ConnQuery::default()),
            Message::History { call, query } => {
                self.pages_under_way.insert(*call, Arc::clone(query));
            }
            _ => {}
        }
    }

    fn begin(&mut self, call: CallId, query: &ConnQuery) {
        let seen = self.open.iter().map(|(&conn, &known)| (conn, (known, true))).collect();
        self.under_way.insert(call, UnderWay { query: query.clone(), seen });
    }

    /// Checks a report if it is a list. A report that is offered again is checked once.
    pub(crate) fn check(&mut self, report: &Report) -> Result<(), String> {
        if let Report::Top { call, top: Some(top) } = report
            && let Some(list) = self.under_way.remove(call)
        {
            let slow = top.clients.iter().map(|SlowClient { conn, .. }| conn);
            let holds =
                slow.chain(&top.busiest).all(|conn| list.seen.contains_key(&conn.place.conn));
            self.slow += top.clients.len() as u64;
            return holds.then_some(()).ok_or_else(|| format!("a client that had left: {top:?}"));
        }
        if let Report::History { call, page: Some(page) } = report
            && let Some(query) = self.pages_under_way.remove(call)
        {
            self.kept += check_page(page, &query).map_err(|what| format!("{what}: {page:?}"))?;
            return Ok(());
        }
        let Report::Connections { call, page } = report else { return Ok(()) };
        let Some(list) = self.under_way.remove(call) else { return Ok(()) };
        let Some(page) = page else { return Ok(()) };
        self.lists += 1;
        self.listed += page.listed.len() as u64;
        list.check(page).map_err(|what| format!("{what}: {page:?} of {:?}", list.query))
    }
}

impl UnderWay {
    fn check(&self, ConnPage { matched, listed }: &ConnPage) -> Result<(), String> {
        let holds = |holds: bool, law: &str| holds.then_some(()).ok_or_else(|| law.to_owned());
        let ConnQuery { filter, limit, after, .. } = &self.query;
        let places = listed.windows(2);
        holds(listed.len() <= *limit, "more than the limit")?;
        holds(places.into_iter().all(|pair| pair[0].place < pair[1].place), "no order, or twice")?;
        let is_behind = |conn: &ListedConn| after.is_none_or(|after| conn.place > after);
        holds(listed.iter().all(is_behind), "before the page")?;
        for conn in listed {
            let known = self.seen.get(&conn.place.conn).ok_or("listed, and never open")?.0;
            let is_right = conn.transport == known.transport
                && conn.is_tls == known.is_tls
                && conn.address.is_some_and(|address| address.ip() == known.address);
            holds(is_right, "another connection")?;
            holds(passes(filter, known) && passes_dynamic(filter, conn), "filtered")?;
        }
        let passing = self.seen.values().filter(|(known, _)| passes(filter, *known));
        holds(*matched <= passing.count() as u64, "more than there were")?;
        let is_static = filter.key.is_none() && filter.user.is_none() && filter.room.is_none();
        if !is_static {
            return Ok(());
        }
        let always = self
            .seen
            .iter()
            .filter(|(_, (known, is_always_open))| *is_always_open && passes(filter, *known));
        holds(*matched >= always.clone().count() as u64, "fewer than there are")?;
        let is_whole = after.is_none() && *matched <= *limit as u64;
        let is_listed = |conn: ConnId| listed.iter().any(|listed| listed.place.conn == conn);
        let has_all = !is_whole || always.clone().all(|(conn, _)| is_listed(*conn));
        holds(has_all, "a connection is missing")?;
        let is_full = after.is_some() || listed.len() as u64 == (*limit as u64).min(*matched);
        holds(is_full, "a page with a gap")
    }
}

/// Checks a page of a room's history. Returns the number of its pushes.
fn check_page(page: &HistoryPage, query: &HistoryQuery) -> Result<u64, &'static str> {
    let entries = page.entries(query);
    let holds = |holds: bool, law| holds.then_some(()).ok_or(law);
    let (top, oldest) = (page.position.map_or(0, |top| top.offset), page.oldest.unwrap_or(0));
    holds(entries.len() <= query.limit as usize, "more than the limit")?;
    holds(entries.windows(2).all(|two| two[0].offset == two[1].offset + 1), "a page with a gap")?;
    let end = query.before.map_or(top, |before| top.min(before.saturating_sub(1)));
    let first = entries.first().map_or(oldest.saturating_sub(1), |entry| entry.offset);
    // A page is empty if no push before its end is stored.
    holds(if entries.is_empty() { oldest == 0 || first >= end } else { first == end }, "an end")?;
    let room = ROOMS.iter().position(|room| **room == *query.room);
    for entry in &entries {
        if entry.operation == PRESENCE_OPERATION {
            let presence = Presence::read(entry.body).ok_or("a push that nobody made")?;
            holds(Some(usize::from(presence.room)) == room, "who is in another room")?;
            continue;
        }
        let frame = Frame { version: 1, operation: entry.operation, sequence: 0, body: entry.body };
        let stamp = Stamp::read(&frame).map_err(|_| "a push that nobody made")?;
        let is_to_room = matches!(stamp.kind, Kind::Room(to) if Some(usize::from(to)) == room);
        holds(is_to_room, "a push to another room")?;
        holds(entry.offset >= oldest && entry.offset <= top, "an offset that is not kept")?;
    }
    Ok(entries.len() as u64)
}

/// Whether `known` passes the part of a filter about properties that do not change.
fn passes(filter: &ConnFilter, known: Known) -> bool {
    filter.transport.is_none_or(|transport| transport == known.transport)
        && filter.is_tls.is_none_or(|is_tls| is_tls == known.is_tls)
        && filter.network.is_none_or(|network| network.contains(known.address))
}

/// Whether `conn`, as it was listed, passes the rest of the filter.
fn passes_dynamic(filter: &ConnFilter, conn: &ListedConn) -> bool {
    filter.key.as_ref().is_none_or(|key| *key == conn.key)
        && filter.user.is_none_or(|user| user == conn.user)
        && filter
            .room
            .as_deref()
            .is_none_or(|room| conn.room.as_deref() == Some(room) || conn.further_rooms > 0)
}

impl SocketInfo for &Listings {
    fn address(&mut self, conn: ConnId) -> Option<SocketAddr> {
        self.open.get(&conn).map(|known| SocketAddr::new(known.address, 1))
    }

    fn is_tls(&mut self, conn: ConnId) -> bool {
        self.open.get(&conn).is_some_and(|known| known.is_tls)
    }
}
