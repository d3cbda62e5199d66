//! The hand-over: what a shard has under way, and its state for another process.
//!
//! Steps before the hand-over only do usual work earlier, and [`Shard::hand_over`] changes nothing. So if the other
//! process fails, the shard continues.

use std::collections::HashMap;

use comet_handover as handed;
use comet_handover::{VERSION, feature};
use comet_proto::Encoded;
use comet_proto::websocket::FragmentParts;

use crate::budget::Budget;
use crate::conn::{Conn, Input};
use crate::hand_over::{LeftBehind, Obstacles, counters_to, paced_to, parked_to};
use crate::home::Home;
use crate::home::parking::Session;
use crate::ids::{ConnId, Slot};
use crate::ledger::CloseReason;
use crate::operation_filter::OperationFilter;
use crate::outbox::PushMeta;
use crate::outbox::chains::hand_over::ItemParts;
use crate::settings::Logic;
use crate::state::ConnState;
use crate::time::Tick;
use crate::transport::Transport;

use super::Shard;
use super::pacing::DrainPhase;

impl Shard {
    /// Prepares for a hand-over. Pushes that wait in windows begin. Windows of joins and leaves end. Connections that
    /// wait for a room that was joined become members. Push callers stop waiting for other hosts. Lists of rooms
    /// continue by a slice. Call this until the shard [may be handed over](Obstacles::may_hand_over), because more work
    /// may arrive. The driver knows about messages in the mesh. The shards may be handed over only if all of them may
    /// be at the same time.
    pub fn begin_hand_over(&mut self) {
        self.end_all_windows();
        self.end_presence_windows();
        self.callers.give_up_hosts();
        self.answer_joined(&mut Budget::new(usize::MAX));
        self.walk_rooms(&mut Budget::slice());
        self.answer_recoveries(&mut Budget::slice());
        self.dispatch_local();
    }

    /// The work that is under way.
    #[must_use]
    pub fn obstacles(&self) -> Obstacles {
        let (mut transmits, mut answers) = (0, 0);
        for slot in self.taken_slots() {
            let conn = &self.conns[slot];
            // A send whose completion has not come. After that the connection would be ready to send the rest.
            transmits +=
                usize::from(conn.outbox.is_sending() && !conn.is_ready && !conn.is_send_kept);
            answers += usize::from(conn.is_live() && !matches!(conn.state, ConnState::Live));
        }
        let is_begun = usize::from(self.crowds_under_way() > 0);
        Obstacles {
            pushes: self.pushes.len()
                + is_begun
                + self.gathering.pushes()
                + self.home.presence.len(),
            orders: usize::from(self.pacing.notices.is_some()),
            transmits,
            messages: self.messages.len() + self.reports.len() + self.home.recoveries.len(),
            answers,
            joins: self.room_orders.len() + self.joined.len(),
            calls: self.callers.calls(),
            lists: self.listings.len() + usize::from(self.home.rooms.has_scans()),
            closes: self.closes.len() + self.closed.len(),
            sessions: self.departures.len() + self.home.parking.under_way(),
            is_draining: self.drain != DrainPhase::Serving,
        }
    }

    fn crowds_under_way(&self) -> usize {
        usize::from(!self.crowds.is_empty())
    }

    /// The last transmit of `conn` was cancelled, and the kernel took nothing of it. [`Shard::poll_transmit`] returns
    /// it again, and its write deadline is not extended. In a shard that is about to be handed over the driver also
    /// calls this for a send that failed: the other process will find the failure.
    pub fn handle_send_cancelled(&mut self, conn: ConnId) {
        let slot = self.conns.find(conn).expect("a slot is not reused while a send is in flight");
        let conn = &mut self.conns[slot];
        if matches!(conn.state, ConnState::Closed) {
            self.abort_after_send(slot);
        } else {
            self.outboxes.mark_ready(slot, conn);
        }
    }

    /// The driver keeps the last transmit of `conn`, which it has sealed. It hands the transmit over with the
    /// connection, or continues and completes it when it thaws.
    pub fn handle_send_kept(&mut self, conn: ConnId) {
        let slot = self.conns.find(conn).expect("a slot is not reused while a send is in flight");
        self.conns[slot].is_send_kept = true;
    }

    /// The connections that [`Shard::hand_over`] leaves out, and why.
    pub fn left_behind(&self) -> impl Iterator<Item = (ConnId, LeftBehind)> {
        self.taken_slots().filter_map(|slot| {
            let why = left_behind(&self.conns[slot])?;
            Some((self.conns.id(slot), why))
        })
    }

    /// The features that the reader of [`Shard::hand_over`] needs because of the present connections. Further ones are
    /// known only when the state is made.
    #[must_use]
    pub fn required_by_connections(&self) -> Vec<&'static str> {
        let moved = || {
            let conns = self.taken_slots().map(|slot| &self.conns[slot]);
            conns.filter(|conn| left_behind(conn).is_none())
        };
        let required = [
            (moved().any(|conn| conn.is_kept), feature::PARKED),
            (moved().any(|conn| conn.is_deflated), feature::DEFLATE),
            (moved().any(|conn| conn.transport == Transport::EventStream), feature::EVENT_STREAMS),
            (!self.pacing.broadcasts.is_empty(), feature::PACED),
            (self.context.limits.history_is_shared, feature::SHARED_HISTORIES),
        ];
        required.into_iter().filter_map(|(is, name)| is.then_some(name)).collect()
    }

    /// Closes the connections that would be left behind, unless they are closing already. Each close notice names a
    /// random time to wait, up to `retry_after_ms`, so that these clients do not come back at once. Their homes are
    /// told as usual.
    pub fn close_left_behind(&mut self, retry_after_ms: u32) {
        let slots: Vec<Slot> = self.taken_slots().collect();
        for slot in slots {
            if left_behind(&self.conns[slot]).is_some() && self.conns[slot].is_open() {
                let hint = self.jitter.within(0..=retry_after_ms);
                self.refuse_upgrade(slot, hint);
                self.close_with_hint(slot, CloseReason::Draining, "", Some(hint));
            }
        }
        self.dispatch_local();
    }

    /// The state of the shard, and its connections in the order of [`comet_handover::Shard::connections`]. Its times
    /// count from the last [`Shard::handle_time`], so the driver calls that first.
    ///
    /// # Panics
    /// If work is under way that would be lost; see [`Obstacles::may_hand_over`].
    #[must_use]
    pub fn hand_over(&self) -> (handed::Shard, Vec<ConnId>) {
        let obstacles = self.obstacles();
        assert!(obstacles.may_hand_over(), "under way: {obstacles}");
        let mut items = Items::default();
        let mut counters = self.counters();
        let mut home = self.hand_over_home();
        // All memory is allocated in one piece, because clients wait for each page that the kernel has to find.
        let taken = self.taken_slots().count();
        let (mut connections, mut ids) = (Vec::with_capacity(taken), Vec::with_capacity(taken));
        for slot in self.taken_slots() {
            let conn = &self.conns[slot];
            if left_behind(conn).is_some() {
                if conn.is_open() {
                    counters.closed[CloseReason::Draining as usize] += 1;
                }
                let load = self.outboxes.chains.load(&conn.outbox, conn.transport);
                counters.lost += u64::from(load.pushes);
                let is_known = matches!(self.context.logic, Logic::Remote { .. });
                if is_known && !conn.key.is_empty() {
                    let (user, key) = (conn.user, conn.key.as_ref().into());
                    home.left_behind.push(handed::LeftBehindKey { user, key });
                }
                continue;
            }
            connections.push(self.hand_over_conn(slot, conn, &mut items));
            ids.push(self.conns.id(slot));
        }
        let slots: Vec<Slot> = ids.iter().map(|id| id.slot).collect();
        let broadcasts = self.pacing.broadcasts.iter();
        let paced: Vec<_> =
            broadcasts.map(|broadcast| paced_to(&broadcast.departing(&slots))).collect();
        let has_streams =
            connections.iter().any(|conn| conn.transport() == handed::Transport::EventStream);
        let has_deflate = connections.iter().any(|conn| conn.is_deflated);
        let has_kept = connections.iter().any(|conn| conn.is_kept);
        let has_gaps = connections.iter().any(|conn| !conn.gaps.is_empty());
        let required = [
            (has_gaps, feature::GAPS),
            (has_kept || !home.parked.is_empty(), feature::PARKED),
            (has_deflate, feature::DEFLATE),
            (has_streams, feature::EVENT_STREAMS),
            (!home.histories.is_empty(), feature::HISTORIES),
            (home.stream_epoch != 0, feature::SHARED_HISTORIES),
            (self.home.keys.is_watched(), feature::HOSTS),
            (!paced.is_empty(), feature::PACED),
        ];
        let shard = handed::Shard {
            version: VERSION,
            required: required
                .iter()
                .filter(|(is, _)| *is)
                .map(|(_, name)| (*name).into())
                .collect(),
            shard: self.context.shard.0.into(),
            shards: self.context.shards.into(),
            clock_ms: self.context.now.0,
            connections,
            items: items.all,
            rooms: self.hand_over_rooms(),
            home: Some(home),
            counters: Some(counters_to(counters)),
            ticket_keys: None,
            paced,
        };
        (shard, ids)
    }

    pub(super) fn taken_slots(&self) -> impl Iterator<Item = Slot> {
        self.conns.slots().filter(|&slot| self.conns.is_taken(slot))
    }

    fn hand_over_conn(&self, slot: Slot, conn: &Conn, items: &mut Items) -> handed::Connection {
        // All fields are named, so that a new field is either handed over or has a reason why not.
        let Conn {
            state: _,
            transport,
            is_text,
            // Known from the outbox.
            is_ready: _,
            // The driver tells how many bytes are sealed.
            is_send_kept: _,
            // In the new process the wheel is armed for it.
            is_watched: _,
            // The new process decides by its configuration.
            is_traced: _,
            is_protocol_2,
            is_deflated,
            is_kept,
            // Only set with a close reason.
            is_turned_away: _,
            has_peer_left: _,
            has_further_rooms: _,
            outbox,
            last_progress,
            deadline,
            accepted: _,
            heartbeat_ms,
            renew_at,
            session,
            user,
            key,
            room,
            accepts,
            input,
        } = conn;
        let (frames, taken) = self.outboxes.chains.hand_over(outbox, *transport);
        let pending = frames.into_iter().map(|parts| items.index_of(parts)).collect();
        let id = self.conns.id(slot);
        let active = self.context.clock.active().0;
        let left = |at: &Tick| at.begin().0.saturating_sub(active);
        let handle = |room: &crate::room::Membership| room.id().handle().0;
        handed::Connection {
            id: Some(handed::ConnId {
                shard: id.shard.0.into(),
                slot: id.slot.0,
                generation: id.generation.0,
            }),
            transport: match transport {
                Transport::Tcp => handed::Transport::Tcp,
                Transport::WebSocket => handed::Transport::WebSocket,
                Transport::EventStream => handed::Transport::EventStream,
            }
            .into(),
            is_text: *is_text,
            is_protocol_2: *is_protocol_2,
            is_deflated: *is_deflated,
            is_kept: *is_kept,
            gaps: self.gaps.hand_over(slot),
            user: *user,
            key: key.as_ref().into(),
            session: *session,
            address: String::new(),
            age_ms: conn.age_ms(self.context.now),
            heartbeat_ms: *heartbeat_ms,
            deadline_ms: left(deadline),
            renew_ms: left(renew_at),
            token_ms: self
                .token_expiries
                .deadline(slot)
                .map(|at| at.begin().0.saturating_sub(self.context.now.0)),
            room: room.room().map(|id| id.handle().0),
            further_rooms: self.further_rooms.of(slot).iter().map(handle).collect(),
            accepts: accepts_of(accepts),
            input: input.as_deref().map(|input| Box::new(input_of(input))),
            sent: self.rate_limiter.hand_over(id.local(), self.context.now),
            pending,
            taken,
            stalled_ms: outbox.is_sending().then(|| active.saturating_sub(last_progress.begin().0)),
            tls: None,
        }
    }

    /// The rooms that handed-over connections name.
    fn hand_over_rooms(&self) -> Vec<handed::Room> {
        let rooms = self.rooms.iter().filter(|(_, room)| !room.members.is_empty());
        rooms
            .map(|(id, room)| handed::Room {
                handle: id.handle().0,
                name: room.name.as_ref().into(),
                // With epoch 0 the room's position in its history is not known yet.
                offered: room
                    .watermark
                    .filter(|watermark| watermark.position.epoch != 0)
                    .map(|watermark| watermark.position.offset),
            })
            .collect()
    }

    fn hand_over_home(&self) -> handed::Home {
        // Owners of keys, members of rooms and counts of addresses are derived from the connections. Windows of joins
        // and leaves have ended, and requests for missed pushes are answered.
        let Home {
            keys,
            users,
            parking,
            rooms,
            histories,
            recoveries: _,
            kept_users: _,
            presence: _,
            sources: _,
        } = &self.home;
        let now = self.context.clock.active().0;
        let limits = &self.context.limits;
        let with_rule =
            rooms.names().filter(|room| limits.history_rule(room).is_some()).map(|room| &**room);
        let stream = histories.stream().unwrap_or_default();
        handed::Home {
            users: users.last_numbers().map(|(user, last)| handed::User { user, last }).collect(),
            departed_users: users
                .retained_numbers()
                .map(|(since, user, last)| {
                    let age_ms = now.saturating_sub(since.0);
                    handed::DepartedUser { user, last, age_ms }
                })
                .collect(),
            disconnected_keys: keys
                .disconnected()
                .map(|(since, key)| {
                    let age_ms = now.saturating_sub(since.0);
                    handed::DisconnectedKey { key: key.into(), age_ms }
                })
                .collect(),
            anonymous: keys.anonymous_most(),
            remote_rooms: rooms
                .remote_counts()
                .map(|(room, members)| handed::RemoteRoom { name: room.as_ref().into(), members })
                .collect(),
            histories: histories.hand_over(with_rule, self.context.now),
            forgotten_rooms: histories.forgotten(),
            stream_epoch: stream.epoch,
            stream_floor: stream.floor,
            stream_seen: stream.seen,
            stream_forgotten: histories.forgotten_in_stream(),
            key_ages: keys
                .owners_of_given()
                .map(|(key, since)| {
                    let age_ms = self.context.now.0.saturating_sub(since.0);
                    handed::KeyAge { key: key.into(), age_ms }
                })
                .collect(),
            parked: parking
                .iter()
                .map(|(session, end)| parked_session(session, end, now))
                .collect(),
            // Derived from the connections.
            left_behind: Vec::new(),
        }
    }
}

/// Why a connection is not handed over. `None`: it is.
fn left_behind(conn: &Conn) -> Option<LeftBehind> {
    match conn.state {
        // It is closed in a turn, once its input is read.
        ConnState::Live if conn.has_peer_left => Some(LeftBehind::AwaitsAnswer),
        ConnState::Live => None,
        ConnState::Upgrading | ConnState::AwaitingAuth => Some(LeftBehind::Handshake),
        ConnState::Identifying { .. }
        | ConnState::Registering(_)
        | ConnState::Joining { .. }
        | ConnState::Receiving { .. }
        | ConnState::Renewing { .. } => Some(LeftBehind::AwaitsAnswer),
        ConnState::Closing | ConnState::Lingering | ConnState::Closed => Some(LeftBehind::Closing),
    }
}

fn accepts_of(accepts: &OperationFilter) -> Option<handed::Accepts> {
    let (kind, operations) = match accepts {
        OperationFilter::All => return None,
        OperationFilter::Only(operations) => (handed::AcceptsKind::Only, operations),
        OperationFilter::AllBut(operations) => (handed::AcceptsKind::AllBut, operations),
    };
    Some(handed::Accepts { kind: kind.into(), operations: operations.to_vec() })
}

fn input_of(input: &Input) -> handed::Input {
    let Input {
        bytes,
        fragments,
        cookie,
        // These fields belong to connections that wait for an answer.
        token: _,
        echo: _,
        rooms: _,
        cors: _,
        last_event_id: _,
        kept: _,
        // The new process makes the list anew.
        waits_for_turn: _,
        held_since: _,
    } = input;
    let fragments = fragments.as_ref().map(|fragments| {
        let FragmentParts { payload, is_text, is_compressed } = fragments.parts();
        handed::Fragments { payload: payload.to_vec(), is_text, is_compressed }
    });
    handed::Input { bytes: bytes.clone(), fragments, cookie: cookie.as_deref().map(Into::into) }
}

fn parked_session(session: &Session, end: Option<Tick>, now: u64) -> handed::ParkedSession {
    let [lost_full, lost_memory] = session.lost();
    handed::ParkedSession {
        key: session.key.as_ref().into(),
        user: session.user,
        left_ms: end.map_or(0, |end| end.begin().0.saturating_sub(now)),
        has_accepts: session.accepts.is_some(),
        accepts: session.accepts.as_ref().and_then(accepts_of),
        pushes: session.pushes().iter().map(parked_to).collect(),
        lost_full,
        lost_memory,
    }
}

/// The frames that wait for connections, each once.
#[derive(Default)]
struct Items {
    all: Vec<handed::Item>,
    /// The index in `all`, by serial.
    known: HashMap<u32, u32, ahash::RandomState>,
}

impl Items {
    fn index(&mut self, serial: u32, item: impl FnOnce() -> handed::Item) -> u32 {
        *self.known.entry(serial).or_insert_with(|| {
            self.all.push(item());
            (self.all.len() - 1) as u32
        })
    }

    fn index_of(&mut self, parts: ItemParts<'_>) -> u32 {
        match parts {
            ItemParts::Shared { serial, frame, is_push, meta } => {
                self.index(serial, || item_to(frame, is_push, meta))
            }
            ItemParts::Parked(push) => {
                self.all.push(handed::Item {
                    bytes: push.bytes.to_vec(),
                    tcp_at: push.tcp_at as u32,
                    is_push: true,
                    state: None,
                    offsets: None,
                    direct: Some(parked_to(push)),
                });
                (self.all.len() - 1) as u32
            }
        }
    }
}

fn item_to(frame: &Encoded, is_push: bool, meta: Option<&PushMeta>) -> handed::Item {
    let (bytes, tcp_at) = frame.parts();
    let collapse_key = meta.and_then(|meta| meta.collapse_key.as_ref());
    let offsets = meta.and_then(|meta| meta.offsets);
    let direct = meta.and_then(|meta| meta.direct.as_ref());
    handed::Item {
        bytes: bytes.to_vec(),
        tcp_at: tcp_at as u32,
        is_push,
        state: collapse_key.map(|key| handed::State {
            room: key.room.as_deref().map(Into::into),
            id: key.id.as_ref().into(),
        }),
        offsets: offsets.map(|offsets| handed::Offsets {
            room: offsets.room.0,
            last: offsets.last,
            pushes: offsets.pushes,
            sent_as: (offsets.sent_as != offsets.room).then_some(offsets.sent_as.0),
        }),
        direct: direct.map(|direct| parked_to(direct.view())),
    }
}
