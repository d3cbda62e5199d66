//! One connection: what it is, how far it has come, and what it holds.

use comet_proto::websocket::Fragments;
use comet_proto::{Encoded, op};

use crate::ledger::DropReason;
use crate::message::{Accepts, Identity};
use crate::outbox::Outbox;
use crate::room::Membership;
use crate::wheel::Tick;

/// How frames travel on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Transport {
    /// Frames back to back.
    Tcp = 0,
    /// An HTTP upgrade, then one binary message a frame.
    WebSocket = 1,
}

impl Transport {
    /// The bytes of `frame` on this transport.
    #[inline]
    #[must_use]
    pub fn bytes(self, frame: &Encoded) -> &[u8] {
        match self {
            Self::Tcp => frame.for_tcp(),
            Self::WebSocket => frame.for_websocket(),
        }
    }
}

/// How far a connection has come. Input is read in `Upgrading`, `Authing` and `Live`; in the states
/// that wait for an answer it is held, after `Goodbye` it is thrown away.
pub(crate) enum Life {
    /// WebSocket: the HTTP request is not complete.
    Upgrading,
    /// Waiting for the first op 7.
    Authing,
    /// Logic is asked who this is.
    Identifying { sequence: i32 },
    /// The homes are asked for a place.
    Registering(Box<Registering>),
    /// Authenticated; the room's home is asked. The reply waits.
    Joining { reply: Reply },
    /// Authenticated and registered.
    Live,
    /// As live; logic has a message of its, and the reply waits.
    Receiving { reply: Reply },
    /// A reason was given; what is queued is being flushed.
    Goodbye,
    /// Our side is shut; waiting for the peer to close, or for the linger deadline.
    Lingering,
    /// Both sides are shut; waiting for the driver's last word.
    Closed,
}

/// What is known between logic's answer and the homes' answer.
pub(crate) struct Registering {
    pub(crate) sequence: i32,
    /// Without its key, which is with the homes.
    pub(crate) identity: Identity,
}

/// The reply a client waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reply {
    pub(crate) operation: i32,
    pub(crate) sequence: i32,
}

/// Input that is not consumed yet; most connections have none.
#[derive(Default)]
pub(crate) struct Input {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fragments: Option<Box<Fragments>>,
    pub(crate) cookie: Option<Box<str>>,
}

impl Input {
    fn is_idle(&self) -> bool {
        self.bytes.is_empty() && self.fragments.is_none() && self.cookie.is_none()
    }
}

pub(crate) struct Conn {
    pub(crate) life: Life,
    pub(crate) transport: Transport,
    /// In the queue of connections with something to send.
    pub(crate) is_ready: bool,
    /// In the list of connections whose send may be stuck.
    pub(crate) is_watched: bool,
    /// What happens to it goes to the trace log.
    pub(crate) is_traced: bool,
    pub(crate) outbox: Outbox,
    /// When the kernel last took something of the send in flight.
    pub(crate) moved: Tick,
    /// Handshake, heartbeat or linger deadline.
    pub(crate) deadline: Tick,
    /// As logic says; 0: as the limits say.
    pub(crate) heartbeat_ms: u32,
    /// From then on a heartbeat renews its session at logic.
    pub(crate) renew_at: Tick,
    /// Number among the user's sessions, once registered.
    pub(crate) session: i32,
    pub(crate) user: i64,
    /// Empty until registered.
    pub(crate) key: Box<str>,
    pub(crate) room: Membership,
    pub(crate) accepts: Accepts,
    pub(crate) input: Option<Box<Input>>,
}

impl Conn {
    pub(crate) fn new(transport: Transport, deadline: Tick) -> Self {
        Self {
            life: match transport {
                Transport::Tcp => Life::Authing,
                Transport::WebSocket => Life::Upgrading,
            },
            transport,
            is_ready: false,
            is_watched: false,
            is_traced: false,
            outbox: Outbox::EMPTY,
            moved: Tick(0),
            deadline,
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

    /// Input must wait until logic or a home has answered.
    pub(crate) fn holds_input(&self) -> bool {
        matches!(
            self.life,
            Life::Identifying { .. }
                | Life::Registering(_)
                | Life::Joining { .. }
                | Life::Receiving { .. }
        )
    }

    /// It is authenticated and registered, and no goodbye was said yet.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.life, Life::Live | Life::Receiving { .. } | Life::Joining { .. })
    }

    /// No goodbye was said yet.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.life, Life::Goodbye | Life::Lingering | Life::Closed)
    }

    /// Whether a push may be queued, or why not. Nothing overtakes the reply to op 7.
    #[inline]
    pub(crate) fn takes_pushes(&self) -> Result<(), DropReason> {
        match self.life {
            Life::Live | Life::Receiving { .. } => Ok(()),
            Life::Joining { reply } if reply.operation != op::AUTH_REPLY => Ok(()),
            Life::Goodbye | Life::Lingering | Life::Closed => Err(DropReason::Closing),
            _ => Err(DropReason::NotReady),
        }
    }

    pub(crate) fn input_mut(&mut self) -> &mut Input {
        self.input.get_or_insert_default()
    }

    /// Gives the input buffer back once nothing is in it: an idle connection owns none.
    pub(crate) fn shed_input(&mut self) {
        if self.input.as_ref().is_some_and(|input| input.is_idle()) {
            self.input = None;
        }
    }
}

impl Accepts {
    /// Whether `operation` passes.
    #[must_use]
    pub fn contains(&self, operation: i32) -> bool {
        match self {
            Self::All => true,
            Self::Only(operations) => operations.contains(&operation),
            Self::AllBut(operations) => !operations.contains(&operation),
        }
    }

    /// How many operations are listed.
    #[must_use]
    pub fn listed(&self) -> usize {
        match self {
            Self::All => 0,
            Self::Only(operations) | Self::AllBut(operations) => operations.len(),
        }
    }

    /// Accepts `operations` too (op 14).
    pub(crate) fn subscribe(&mut self, operations: &[i32]) {
        match self {
            Self::All => {}
            Self::Only(listed) => *listed = union(listed, operations),
            Self::AllBut(listed) => *listed = difference(listed, operations),
        }
    }

    /// Accepts `operations` no longer (op 16).
    pub(crate) fn unsubscribe(&mut self, operations: &[i32]) {
        match self {
            Self::All => *self = Self::AllBut(union(&[], operations)),
            Self::Only(listed) => *listed = difference(listed, operations),
            Self::AllBut(listed) => *listed = union(listed, operations),
        }
    }
}

fn union(listed: &[i32], added: &[i32]) -> Box<[i32]> {
    let mut all = [listed, added].concat();
    all.sort_unstable();
    all.dedup();
    all.into()
}

fn difference(listed: &[i32], removed: &[i32]) -> Box<[i32]> {
    listed.iter().copied().filter(|operation| !removed.contains(operation)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_fits_its_budget() {
        // 512 bytes of user memory all in; the rest is for the key's text, the homes' maps, the room's
        // member list, the wheel's links and the driver's descriptor.
        assert!(size_of::<Conn>() <= 144, "{} bytes", size_of::<Conn>());
    }

    #[test]
    fn accepts_follows_ops_14_and_16() {
        let mut only = Accepts::Only([1].into());
        only.subscribe(&[2, 3, 2]);
        assert_eq!(only, Accepts::Only([1, 2, 3].into()));
        only.unsubscribe(&[1, 9]);
        assert!(only.contains(2) && !only.contains(1) && !only.contains(9));

        let mut all = Accepts::All;
        all.subscribe(&[5]);
        assert_eq!(all, Accepts::All);
        all.unsubscribe(&[5, 6]);
        assert!(all.contains(4) && !all.contains(5) && !all.contains(6));
        all.subscribe(&[5]);
        assert!(all.contains(5) && !all.contains(6));
    }
}
