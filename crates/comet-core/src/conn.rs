//! One connection: its state, what it holds, and where it is registered.

use comet_proto::KeptSession;
use comet_proto::op;
use comet_proto::sse::LastEventId;
use comet_proto::websocket::Fragments;

use crate::accepts::Accepts;
use crate::canary::Canary;
use crate::ledger::DropReason;
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
    /// The body of a message that remote logic has, if the reply is to have it.
    pub(crate) echo: Option<Box<[u8]>>,
    /// Further rooms to enter once the reply to the token is queued.
    pub(crate) rooms: Box<[Box<str>]>,
    /// Header lines of the response that begins an event stream.
    pub(crate) cors: Option<Box<str>>,
    /// The last event that its client has.
    pub(crate) last_event_id: LastEventId,
    /// What the reply to the token says of its session.
    pub(crate) kept: Option<KeptSession>,
    /// The bytes wait for another turn.
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

/// Number of forms that the frame of a push has: one for each transport, the text form, one for TCP and WebSocket in
/// protocol 2, and those of a WebSocket compressed.
pub(crate) const FORMS: usize = COMPRESSED_FORMS + COMPRESSED;
/// Events and the text form, and the first ones of either protocol.
pub(crate) const EVENT_FORM: usize = Transport::EventStream as usize;
pub(crate) const TEXT_FORM: usize = 3;
pub(crate) const PROTOCOL_1_FORMS: usize = 0;
pub(crate) const PROTOCOL_2_FORMS: usize = 4;
/// The first of the compressed forms, and how many there are. See [`plain_form`].
pub(crate) const COMPRESSED_FORMS: usize = 6;
pub(crate) const COMPRESSED: usize = 3;

/// The form that is compressed to the form `COMPRESSED_FORMS + at`: that of protocol 1, the text form, that of protocol 2.
pub(crate) const fn plain_form(at: usize) -> usize {
    2 * at + Transport::WebSocket as usize
}

const _: () = assert!(plain_form(1) == TEXT_FORM);
const _: () = assert!(plain_form(2) == PROTOCOL_2_FORMS + Transport::WebSocket as usize);

pub(crate) struct Conn {
    pub(crate) state: ConnState,
    pub(crate) transport: Transport,
    /// It is a WebSocket whose client speaks the text form.
    pub(crate) is_text: bool,
    /// In the queue of connections with something to send.
    pub(crate) is_ready: bool,
    /// The driver keeps the send in flight, sealed, and does not go on with it before it thaws.
    pub(crate) is_send_kept: bool,
    /// In the list of connections with a send that began after the last tick.
    pub(crate) is_watched: bool,
    /// Its events go to the trace log.
    pub(crate) is_traced: bool,
    /// Its first op 7 asked for protocol 2.
    pub(crate) is_protocol_2: bool,
    /// It is in rooms beside `room`.
    pub(crate) has_further_rooms: bool,
    /// It is a WebSocket that negotiated permessage-deflate.
    pub(crate) is_deflated: bool,
    /// Its session is parked if it ends without a goodbye. Before its token: it asked for that.
    pub(crate) is_kept: bool,
    /// A limit at the door closes it. So it lingers only while few others do.
    pub(crate) is_turned_away: bool,
    /// The client has left, and something that it sent before is not read yet. Nothing is sent any more: the answer to that would be a
    /// reset, and a push in the outbox can be parked.
    pub(crate) has_ended: bool,
    pub(crate) outbox: Outbox,
    /// When the kernel last took bytes of the send in flight.
    pub(crate) moved: Tick,
    /// Handshake, heartbeat or linger deadline.
    pub(crate) deadline: Tick,
    /// When it was accepted, by the time itself: stalls count.
    pub(crate) accepted: Millis,
    /// Time between heartbeats, by logic or else by the limits of when it authenticated. 0: not authenticated yet.
    pub(crate) heartbeat_ms: u32,
    /// The first heartbeat from then on renews its session at logic.
    pub(crate) renew_at: Tick,
    /// Number among the user's sessions, once registered.
    pub(crate) session: i32,
    pub(crate) user: i64,
    /// Empty until registered.
    pub(crate) key: Box<str>,
    /// The room that operation 12 changes.
    pub(crate) room: Membership,
    pub(crate) accepts: Accepts,
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
            has_ended: false,
            outbox: Outbox::EMPTY,
            moved: Tick(0),
            deadline,
            accepted,
            heartbeat_ms: 0,
            renew_at: Tick(0),
            session: 0,
            user: 0,
            key: Box::default(),
            room: Membership::NONE,
            accepts: Accepts::All,
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

    /// Whether its client knows of several rooms.
    pub(crate) fn knows_rooms(&self) -> bool {
        self.is_protocol_2 || self.transport == Transport::EventStream
    }

    /// Whether its client is told of pushes that it has lost of rooms that keep a history. One that speaks the text form asks for
    /// it by naming the operation: goim's clients do not know it.
    pub(crate) fn hears_gaps(&self) -> bool {
        let names_it =
            |accepts: &Accepts| matches!(accepts, Accepts::Only(all) if all.contains(&op::GAP));
        self.knows_rooms() || (self.is_text && names_it(&self.accepts))
    }

    /// Whether it has sent its token and has no answer to that.
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

    /// Whether a push may be queued, or why not. No push overtakes the reply to op 7.
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

    /// Frees the input once nothing is in it: an idle connection owns none.
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
