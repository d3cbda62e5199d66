//! Checks what a client receives: replies in the order of the requests, each push at most once and in order, nothing
//! too early and nothing after the close notice.

mod rooms;

use std::collections::{BTreeMap, VecDeque};

use comet_core::ClientRates;
use comet_core::limits::TURNED_AWAY_MS;
use comet_proto::{
    AuthReply, JoinReply, LeaveReply, NotRenewed, Position, RoomGap, RoomHandle, op,
};

use crate::logic_faults::{EXCUSES, FAILURE};
use crate::plan::{PRESENCE_OPERATION, Plan, RETRY_AFTER_MS_MAX, ROOMS};
use crate::positions::{Place, Positions};
use crate::presence::Rosters;
use crate::profile::{Accepted, ClientProfile};
use crate::wire::{self, Kind, ServerMessage, Stamp};

/// The expected reply to a request, and what the client knows after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    Auth,
    /// `not_renewed`: why the token will not replace the last one.
    Renewal {
        not_renewed: Option<NotRenewed>,
    },
    Heartbeat,
    Room(Option<u8>),
    /// Enters a further room.
    Join(u8, Option<Position>),
    /// Leaves the room that has the handle at that time.
    Leave(RoomHandle),
    Accepts {
        accept: bool,
        operations: Vec<i32>,
    },
    Echo {
        operation: i32,
        fails: bool,
        body: Box<[u8]>,
    },
    Pong(Box<[u8]>),
}

pub(crate) struct ReceivedStream {
    /// The expected replies, with their sequences.
    pub(crate) expected: VecDeque<(i32, Expected)>,
    /// The expected status of the upgrade.
    pub(crate) status: u16,
    pub(crate) is_live: bool,
    /// Limits on clients are set.
    may_be_turned_away: bool,
    /// The server has announced that it closes.
    pub(crate) is_closing: bool,
    is_closed: bool,
    /// It asked for protocol 2, which the server knows once it has read the token.
    is_protocol_2: bool,
    /// Clients of protocol 1 also get an operation 6.
    gives_goodbye: bool,
    /// It has closed its WebSocket itself.
    pub(crate) has_closed: bool,
    /// The room after the last reply. A request under way changes it with its reply.
    pub(crate) room: Option<u8>,
    /// In protocol 2: all its rooms, each with the first call that was made after it had read that it is in the room.
    pub(crate) rooms: BTreeMap<RoomHandle, (u8, u64)>,
    primary: Option<RoomHandle>,
    pub(crate) positions: Positions,
    pub(crate) rosters: Rosters,
    /// The most connections that a push about presence names.
    names: u32,
    rooms_max: usize,
    pub(crate) accepts: Accepted,
    filters_rooms: bool,
    is_remote: bool,
    is_text: bool,
    /// Logic may fail to answer.
    has_faults: bool,
    /// The first call that was made after the client had read that it is authenticated, in `room`, and accepts
    /// `accepts`.
    pub(crate) live_since: u64,
    pub(crate) room_since: u64,
    pub(crate) accepts_since: u64,
    /// The calls whose push the client has read since the last quiet point.
    pub(crate) pushes: Vec<u64>,
    paced: Vec<u64>,
    /// By source (control or a push caller): the last push to the key, to the user, to all connections, and to each
    /// room.
    last: BTreeMap<u64, [u64; 3 + ROOMS.len()]>,
    batch: Option<Stamp>,
    /// The first and the last push to its key, by source.
    pub(crate) to_key: BTreeMap<u64, [u64; 2]>,
    /// Pushes to its key and user may come that the filter of an earlier connection of its key has accepted.
    may_be_parked: bool,
    /// How many of these are still to come, according to the server.
    pub(crate) parked_due: u32,
    /// A digest of everything received, so that two runs can be compared.
    pub(crate) digest: u64,
}

impl ReceivedStream {
    pub(crate) fn new(profile: &ClientProfile, plan: &Plan) -> Self {
        Self {
            expected: VecDeque::new(),
            status: 101,
            is_live: false,
            is_closing: false,
            is_closed: false,
            is_protocol_2: profile.is_protocol_2,
            gives_goodbye: plan.limits.goodbye,
            has_closed: false,
            room: profile.room,
            rooms: BTreeMap::new(),
            primary: None,
            positions: Positions::new(plan.limits.filter_rooms),
            rosters: Rosters::default(),
            names: plan.limits.presence_rules.iter().map(|rule| rule.names).max().unwrap_or(0),
            rooms_max: plan.limits.rooms.into(),
            accepts: profile.accepts.clone(),
            filters_rooms: plan.limits.filter_rooms,
            is_remote: plan.is_remote(),
            is_text: profile.is_text,
            may_be_turned_away: plan.limits.handshakes < u32::MAX
                || plan.limits.sources.is_on()
                || plan.is_blocking
                || plan.limits.rates != ClientRates::default()
                || plan.upgrade_permille > 0,
            has_faults: plan.is_remote() && !plan.services.is_reliable,
            live_since: 0,
            room_since: 0,
            accepts_since: 0,
            pushes: Vec::new(),
            paced: Vec::new(),
            last: BTreeMap::new(),
            batch: None,
            to_key: BTreeMap::new(),
            may_be_parked: plan.limits.resume.for_all && plan.limits.resume.is_on(),
            parked_due: 0,
            digest: 0,
        }
    }

    /// Whether a token, a change of rooms or a message to logic is unanswered. The answer comes from another shard or
    /// from logic, and the client's input is held until then.
    pub(crate) fn waits_for_others(&self) -> bool {
        let asks = |(_, expected): &(_, Expected)| match expected {
            Expected::Auth | Expected::Renewal { .. } | Expected::Room(_) | Expected::Join(..) => {
                true
            }
            Expected::Echo { .. } => self.is_remote,
            _ => false,
        };
        self.expected.iter().any(asks)
    }

    /// Whether the server reads none of its input: it [waits](ReceivedStream::waits_for_others), or gets a history in
    /// parts.
    pub(crate) fn is_input_held(&self) -> bool {
        self.waits_for_others() || self.is_catching_up()
    }

    /// Whether it gets the history of a room in parts.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.positions.is_catching_up()
    }

    /// Checks one message of the server. `next_call` is the next call of control.
    pub(crate) fn receive(&mut self, message: ServerMessage, next_call: u64) -> Result<(), String> {
        if self.is_closed {
            return Err(format!("after the close: {message:?}"));
        }
        if self.is_closing && !matches!(message, ServerMessage::Close { .. }) {
            return Err(format!("after the close notice: {message:?}"));
        }
        if let Some(stamp) = self.batch
            && !matches!(message, ServerMessage::Push(..))
        {
            return Err(format!("in the middle of batch {}: {message:?}", stamp.id));
        }
        match message {
            ServerMessage::Http(status) if status == self.status => self.is_closing = status != 101,
            ServerMessage::Http(429) if self.may_be_turned_away => self.is_closing = true,
            ServerMessage::Http(status) => {
                return Err(format!("status {status} instead of {}", self.status));
            }
            ServerMessage::Close { text } => {
                self.is_closed = true;
                let is_due = self.gives_goodbye || (self.is_protocol_2 && self.is_live);
                if is_due && !self.is_closing && !self.has_closed {
                    return Err(format!("a close without an operation 6: {text:?}"));
                }
                if !text.is_empty() {
                    return check_close_notice(text.as_bytes());
                }
            }
            ServerMessage::Push(stamp, place) => {
                self.mix(stamp.id);
                self.note_recovered(place, next_call);
                return self.push(stamp, place);
            }
            ServerMessage::Presence(presence, place) => {
                self.note_recovered(place, next_call);
                return self.presence(&presence, place);
            }
            ServerMessage::Pong(payload) => match self.expected.pop_front() {
                Some((_, Expected::Pong(asked))) if asked == payload => {}
                other => return Err(format!("a pong instead of {other:?}")),
            },
            ServerMessage::Reply { operation: op::DISCONNECT_REPLY, sequence: 0, body } => {
                self.is_closing = true;
                if !self.gives_goodbye && !self.is_protocol_2 {
                    return Err("an operation 6 to a client of protocol 1".to_owned());
                }
                return check_close_notice(&body);
            }
            ServerMessage::Reply { operation: op::JOIN_REPLY, sequence: 0, body } => {
                return match self.former_handle(&body) {
                    Some(former) => self.given_handle(former, &body),
                    None => self.told_room(&body, next_call),
                };
            }
            ServerMessage::Reply { operation: op::GAP, sequence: 0, body } => {
                let gap = RoomGap::decode(&body).ok_or("a gap marker without its fields")?;
                let room = self.rooms.get(&gap.handle).map(|(room, _)| *room);
                return self.positions.lost(room.ok_or(format!("{gap:?} of no room"))?, gap);
            }
            ServerMessage::Reply { operation, sequence, body } => {
                self.mix(operation as u64);
                return self.reply(operation, sequence, &body, next_call);
            }
        }
        Ok(())
    }

    fn reply(
        &mut self,
        operation: i32,
        sequence: i32,
        body: &[u8],
        next_call: u64,
    ) -> Result<(), String> {
        let Some((asked, expected)) = self.expected.pop_front() else {
            return Err(format!("a reply {operation} that nothing asked for"));
        };
        let wrong = |what: &str| {
            Err(format!("{what}: reply {operation} {sequence} {body:?} to {asked} {expected:?}"))
        };
        let right = match &expected {
            Expected::Auth | Expected::Renewal { .. } => op::AUTH_REPLY,
            Expected::Heartbeat => op::HEARTBEAT_REPLY,
            Expected::Room(_) => op::CHANGE_ROOM_REPLY,
            Expected::Join(..) => op::JOIN_REPLY,
            Expected::Leave(_) => op::LEAVE_REPLY,
            Expected::Accepts { accept: true, .. } => op::SUBSCRIBE_REPLY,
            Expected::Accepts { accept: false, .. } => op::UNSUBSCRIBE_REPLY,
            Expected::Echo { operation, .. } => *operation,
            Expected::Pong(_) => return wrong("not a pong"),
        };
        if (operation, sequence) != (right, asked) {
            return wrong("out of turn");
        }
        let is_body_right = match &expected {
            Expected::Heartbeat => body.is_empty() == self.is_text,
            Expected::Auth if self.is_protocol_2 => {
                AuthReply::decode(body).is_some_and(|reply| reply.not_renewed.is_none())
            }
            Expected::Renewal { not_renewed } => {
                let said = AuthReply::decode(body).map(|reply| reply.not_renewed);
                said == Some(*not_renewed)
                    || (self.is_remote && said == Some(Some(NotRenewed::Unavailable)))
            }
            Expected::Echo { .. } if self.has_faults && is_excuse(body) => true,
            Expected::Echo { fails: true, .. } => body == FAILURE.as_bytes(),
            Expected::Echo { body: echo, .. } => body == &**echo,
            Expected::Room(room) => {
                body == room.map_or("", |room| ROOMS[usize::from(room)]).as_bytes()
            }
            Expected::Join(room, _) => {
                let reply = JoinReply::decode(body);
                let is_of_room = |reply: &JoinReply<'_>| {
                    reply.room == ROOMS[usize::from(*room)].as_bytes() && !reply.is_unasked
                };
                reply.is_some_and(|reply| is_of_room(&reply) && self.may_be(*room, reply.outcome))
            }
            Expected::Leave(handle) => LeaveReply::decode(body).is_some_and(|reply| {
                reply.handle == *handle && reply.outcome.is_ok() == self.rooms.contains_key(handle)
            }),
            Expected::Accepts { operations, .. } => body == wire::list(operations).as_bytes(),
            _ => body.is_empty(),
        };
        if !is_body_right {
            return wrong("a wrong body");
        }
        match expected {
            Expected::Auth => {
                let kept = AuthReply::decode(body).and_then(|reply| reply.kept);
                if let Some(resumed) = kept.and_then(|kept| kept.resumed) {
                    self.may_be_parked = true;
                    self.parked_due = resumed.parked;
                }
                self.is_live = true;
                self.live_since = next_call;
                self.room_since = next_call;
                self.accepts_since = next_call;
            }
            Expected::Heartbeat if self.is_text => {}
            Expected::Heartbeat => {
                let online = body.try_into().map(i32::from_be_bytes).unwrap_or(-1);
                let least = i32::from(self.room.is_some());
                let most = if self.room.is_some() { i32::MAX } else { 0 };
                if !(least..=most).contains(&online) {
                    return Err(format!("{online} online in room {:?}", self.room));
                }
            }
            Expected::Room(room) => {
                self.room.into_iter().chain(room).for_each(|room| self.rosters.forget(room));
                self.room = room;
                self.room_since = next_call;
                if let Some(former) = self.primary.take() {
                    // The next message tells whether it is still in that room.
                    let left = self.rooms.remove(&former).map(|(left, _)| left);
                    if let Some(left) = left.filter(|left| room != Some(*left)) {
                        self.positions.left(left);
                    }
                }
            }
            Expected::Join(room, since) => {
                self.rosters.forget(room);
                if let Some(reply) = JoinReply::decode(body) {
                    let Ok(handle) = reply.outcome else {
                        self.positions.refused(room);
                        return Ok(());
                    };
                    self.positions.joined(room, since, &reply)?;
                    let known = self.rooms.entry(handle).or_insert((room, next_call));
                    if since.is_some() {
                        // It may have been out of the room until then.
                        known.1 = next_call;
                    }
                }
            }
            Expected::Leave(handle) => {
                if let Some((room, _)) = self.rooms.remove(&handle) {
                    self.rosters.forget(room);
                    self.positions.left(room);
                }
                if self.primary.take_if(|primary| *primary == handle).is_some() {
                    self.room = None;
                }
            }
            Expected::Accepts { accept, operations } => {
                if operations.contains(&PRESENCE_OPERATION) {
                    // It may have been told nothing in between.
                    self.rosters = Rosters::default();
                }
                for operation in operations {
                    self.accepts.set(operation, accept);
                }
                self.accepts_since = next_call;
            }
            Expected::Renewal { .. } | Expected::Echo { .. } | Expected::Pong(_) => {}
        }
        Ok(())
    }

    fn push(&mut self, stamp: Stamp, place: Option<Place>) -> Result<(), String> {
        if !self.is_live {
            return Err(format!("{stamp:?} before the reply to op 7"));
        }
        let is_taken = self.is_taken(place)?;
        match self.batch {
            None if stamp.part == 0 => self.first_part(stamp, place, is_taken)?,
            Some(before) if Stamp { part: before.part + 1, ..before } == stamp => {}
            before => return Err(format!("{stamp:?} after {before:?}")),
        }
        let is_last = stamp.part + 1 == stamp.parts;
        self.batch = (!is_last).then_some(stamp);
        // A push from the history is not a delivery of its call.
        if is_last && !place.is_some_and(|place| place.is_recovered) {
            self.pushes.push(stamp.id);
        }
        // A batch that was cut off with its connection comes again as a whole.
        if is_last && stamp.kind == Kind::Keys {
            self.to_key.entry(stamp.source()).or_insert([stamp.id; 2])[1] = stamp.id;
        }
        Ok(())
    }

    fn first_part(
        &mut self,
        stamp: Stamp,
        place: Option<Place>,
        is_taken: bool,
    ) -> Result<(), String> {
        let handle = place.map(|place| place.handle);
        let is_recovered = place.is_some_and(|place| place.is_recovered);
        let is_filtered = match stamp.kind {
            Kind::Room(_) => self.filters_rooms && !is_recovered,
            Kind::Keys | Kind::Users if self.may_be_parked => false,
            _ => true,
        };
        if is_filtered && !self.accepts.contains(stamp.operation) {
            return Err(format!("{stamp:?} is not accepted: {:?}", self.accepts));
        }
        let kind = match stamp.kind {
            Kind::Paced if self.paced.contains(&stamp.id) => {
                return Err(format!("{stamp:?} came twice"));
            }
            Kind::Paced => {
                self.paced.push(stamp.id);
                return Ok(());
            }
            Kind::Room(room) => {
                if !self.is_in(room, handle) {
                    return Err(format!(
                        "{stamp:?} by {handle:?} in {:?} {:?}",
                        self.room, self.rooms
                    ));
                }
                3 + usize::from(room)
            }
            _ if handle.is_some() => return Err(format!("{stamp:?} by {handle:?}")),
            Kind::Keys | Kind::Users => {
                self.parked_due = self.parked_due.saturating_sub(1);
                usize::from(stamp.kind == Kind::Users)
            }
            Kind::All => 2,
        };
        if !is_taken {
            return Ok(());
        }
        let last = &mut self.last.entry(stamp.source()).or_default()[kind];
        if stamp.id <= *last {
            return Err(format!("{stamp:?} after {last}"));
        }
        *last = stamp.id;
        Ok(())
    }

    fn mix(&mut self, value: u64) {
        self.digest = (self.digest.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A close notice is a sentence, and optionally a retry time.
fn check_close_notice(body: &[u8]) -> Result<(), String> {
    let wrong = || format!("a close notice of {:?}", body.escape_ascii().to_string());
    let text = std::str::from_utf8(body).map_err(|_| wrong())?;
    let (sentence, hint) = text.split_once("; retry_after_ms=").unwrap_or((text, "0"));
    let millis: u32 = hint.parse().map_err(|_| wrong())?;
    let longest = RETRY_AFTER_MS_MAX.max(*TURNED_AWAY_MS.end());
    (!sentence.is_empty() && millis <= longest).then_some(()).ok_or_else(wrong)
}

/// Whether the body says that logic did not answer the message.
fn is_excuse(body: &[u8]) -> bool {
    EXCUSES.iter().any(|excuse| body == excuse.as_bytes())
}
