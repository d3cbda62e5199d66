//! One connection: its state, what it holds, and where it is registered.

use comet_proto::KeptSession;
use comet_proto::op;
use comet_proto::sse::LastEventId;
use comet_proto::websocket::Fragments;

use crate::canary::Canary;
use crate::ledger::DropReason;
use crate::operation_filter::OperationFilter;
use crate::outbox::Outbox;
use crate::room::Membership;
use crate::state::ConnState;
use crate::time::{Millis, Tick};
use crate::transport::Transport;

/// Input that is not consumed yet. Most connections have none.
#[derive(Default)]
pub(crate) struct Input {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fragments: Option<Box<Fragments>>,
    pub(crate) cookie: Option<Box<str>>,
    /// The token that waits for embedded logic.
    pub(crate) token: Option<Box<[u8]>>,
    /// The body of a message that remote logic is handling, kept if the reply repeats it.
    pub(crate) echo: Option<Box<[u8]>>,
    /// Further rooms to enter once the reply to the token is queued.
    pub(crate) rooms: Box<[Box<str>]>,
    /// Header lines of the response that begins an event stream.
    pub(crate) cors: Option<Box<str>>,
    /// The last event that the client reports to have.
    pub(crate) last_event_id: LastEventId,
    /// What the reply to the token says about the parked session.
    pub(crate) kept: Option<KeptSession>,
    /// The bytes stay unread until a later turn.
    pub(crate) waits_for_turn: bool,
    /// Since when the bytes wait for an answer, if they do.
    pub(crate) held_since: Option<Millis>,
}

impl Input {
    fn is_idle(&self) -> bool {
        let Self {
            bytes,
            fragments,
            cookie,
            token,
            echo,
            rooms,
            cors,
            last_event_id,
            kept,
            waits_for_turn,
            held_since: _,
        } = self;
        bytes.is_empty()
            && fragments.is_none()
            && cookie.is_none()
            && token.is_none()
            && echo.is_none()
            && rooms.is_empty()
            && cors.is_none()
            && *last_event_id == LastEventId::None
            && kept.is_none()
            && !waits_for_turn
    }
}

/// The number of encoded forms of a push: one for each transport, the text form, one each for TCP and WebSocket in
/// protocol 2, and the compressed WebSocket forms.
pub(crate) const FORMS: usize = COMPRESSED_FORMS + COMPRESSED;
/// The form of event streams, the text form, and the first form of either protocol.
pub(crate) const EVENT_FORM: usize = Transport::EventStream as usize;
pub(crate) const TEXT_FORM: usize = 3;
pub(crate) const PROTOCOL_1_FORMS: usize = 0;
pub(crate) const PROTOCOL_2_FORMS: usize = 4;
/// The first compressed form, and the number of them. See [`plain_form`].
pub(crate) const COMPRESSED_FORMS: usize = 6;
pub(crate) const COMPRESSED: usize = 3;

/// The plain form behind the compressed form `COMPRESSED_FORMS + at`: WebSocket in protocol 1, the text form, WebSocket
/// in protocol 2.
pub(crate) const fn plain_form(at: usize) -> usize {
    2 * at + Transport::WebSocket as usize
}

const _: () = assert!(plain_form(1) == TEXT_FORM);
const _: () = assert!(plain_form(2) == PROTOCOL_2_FORMS + Transport::WebSocket as usize);

pub(crate) struct Conn {
    pub(crate) state: ConnState,
    pub(crate) transport: Transport,
    /// A WebSocket whose client speaks the text form.
    pub(crate) is_text: bool,
    /// In the queue of connections with something to send.
    pub(crate) is_ready: bool,
    /// The driver sealed the send in flight for a hand-over. The send does not continue before the driver thaws it.
    pub(crate) is_send_kept: bool,
    /// In the list of connections with a send that began after the last tick.
    pub(crate) is_watched: bool,
    /// The trace log gets its events.
    pub(crate) is_traced: bool,
    /// Its first op 7 asked for protocol 2.
    pub(crate) is_protocol_2: bool,
    /// It is in rooms beside `room`.
    pub(crate) has_further_rooms: bool,
    /// It is a WebSocket that negotiated permessage-deflate.
    pub(crate) is_deflated: bool,
    /// The session is parked if the connection ends without a goodbye. Until the token is identified: the client asked
    /// for that.
    pub(crate) is_kept: bool,
    /// A limit on new connections closes it. It lingers only while few other connections do.
    pub(crate) is_turned_away: bool,
    /// The client has left, and some of its input is not read yet. The shard sends nothing more: the peer would answer
    /// with a reset, and a push that stays in the outbox can be parked.
    pub(crate) has_peer_left: bool,
    pub(crate) outbox: Outbox,
    /// The tick when the kernel last took bytes of the send in flight.
    pub(crate) last_progress: Tick,
    /// Handshake, heartbeat or linger deadline.
    pub(crate) deadline: Tick,
    /// When it was accepted, in elapsed time that includes stalls.
    pub(crate) accepted: Millis,
    /// The heartbeat interval that logic set, or the limits when the client authenticated. 0: not authenticated yet.
    pub(crate) heartbeat_ms: u32,
    /// The first heartbeat at or after this tick renews the session at logic.
    pub(crate) renew_at: Tick,
    /// Number among the user's sessions, once registered.
    pub(crate) session: i32,
    pub(crate) user: i64,
    /// Empty until registered.
    pub(crate) key: Box<str>,
    /// The room that operation 12 changes.
    pub(crate) room: Membership,
    pub(crate) accepts: OperationFilter,
    pub(crate) input: Option<Box<Input>>,
}

impl Conn {
    pub(crate) fn new(transport: Transport, accepted: Millis, deadline: Tick) -> Self {
        Self {
            state: match transport {
                Transport::Tcp => ConnState::AwaitingAuth,
                Transport::WebSocket | Transport::EventStream => ConnState::Upgrading,
            },
            transport,
            is_text: false,
            is_ready: false,
            is_send_kept: false,
            is_watched: false,
            is_traced: false,
            is_protocol_2: false,
            has_further_rooms: false,
            is_deflated: false,
            is_kept: false,
            is_turned_away: false,
            has_peer_left: false,
            outbox: Outbox::EMPTY,
            last_progress: Tick(0),
            deadline,
            accepted,
            heartbeat_ms: 0,
            renew_at: Tick(0),
            session: 0,
            user: 0,
            key: Box::default(),
            room: Membership::NONE,
            accepts: OperationFilter::All,
            input: None,
        }
    }

    /// The time since it was accepted, milliseconds.
    pub(crate) fn age_ms(&self, now: Millis) -> u64 {
        now.0.saturating_sub(self.accepted.0)
    }

    /// The form of its frames, below [`FORMS`].
    #[inline]
    pub(crate) fn form(&self) -> usize {
        let plain = self.transport as usize
            + (TEXT_FORM - Transport::WebSocket as usize) * usize::from(self.is_text)
            + PROTOCOL_2_FORMS * usize::from(self.is_protocol_2);
        if self.is_deflated { COMPRESSED_FORMS + plain / 2 } else { plain }
    }

    /// Whether the client knows that a connection can be in several rooms.
    pub(crate) fn knows_rooms(&self) -> bool {
        self.is_protocol_2 || self.transport == Transport::EventStream
    }

    /// Whether the client is told about pushes that it lost, in rooms with a history. A client of the text form asks
    /// for it by naming the operation in what it accepts, because goim's clients do not know the operation.
    pub(crate) fn hears_gaps(&self) -> bool {
        let names_it =
            || matches!(&self.accepts, OperationFilter::Only(all) if all.contains(&op::GAP));
        self.knows_rooms() || (self.is_text && names_it())
    }

    /// Whether its token was sent and is not answered yet.
    pub(crate) fn awaits_auth_reply(&self) -> bool {
        match self.state {
            ConnState::Identifying { .. } | ConnState::Registering(_) => true,
            ConnState::Joining { reply } => reply.operation == op::AUTH_REPLY,
            _ => false,
        }
    }

    /// Whether logic or a home has to answer before more of its input is read.
    pub(crate) fn awaits_answer(&self) -> bool {
        matches!(
            self.state,
            ConnState::Identifying { .. }
                | ConnState::Registering(_)
                | ConnState::Joining { .. }
                | ConnState::Receiving { .. }
                | ConnState::Renewing { .. }
        )
    }

    /// Whether it is authenticated and registered, and has no close reason.
    pub(crate) fn is_live(&self) -> bool {
        matches!(
            self.state,
            ConnState::Live
                | ConnState::Receiving { .. }
                | ConnState::Renewing { .. }
                | ConnState::Joining { .. }
        )
    }

    /// Whether it is not authenticated and registered yet, and has no close reason.
    pub(crate) fn is_in_handshake(&self) -> bool {
        self.is_open() && !self.is_live()
    }

    /// Whether it has no close reason.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, ConnState::Closing | ConnState::Lingering | ConnState::Closed)
    }

    /// Whether a push may be queued; if not, why. No push overtakes the reply to op 7.
    #[inline]
    pub(crate) fn takes_pushes(&self) -> Result<(), DropReason> {
        match self.state {
            ConnState::Live | ConnState::Receiving { .. } | ConnState::Renewing { .. } => Ok(()),
            ConnState::Joining { reply }
                if reply.operation != op::AUTH_REPLY || Canary::EarlyPush.is_released() =>
            {
                Ok(())
            }
            ConnState::Closing | ConnState::Lingering | ConnState::Closed => {
                Err(DropReason::Closing)
            }
            _ => Err(DropReason::NotReady),
        }
    }

    pub(crate) fn input_mut(&mut self) -> &mut Input {
        self.input.get_or_insert_default()
    }

    /// Frees the input once it is empty, so that an idle connection owns none.
    pub(crate) fn shed_input(&mut self) {
        if self.input.as_ref().is_some_and(|input| input.is_idle()) {
            self.input = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_fits_its_budget() {
        // The budget is 512 bytes of user memory. The rest of it is for the key's text, the homes' maps, the
        // room's member list, the wheel's links and the driver's socket entry.
        assert!(size_of::<Conn>() <= 144, "{} bytes", size_of::<Conn>());
    }
}
