//! The environment of the shards: the clock, the mesh, control, and the connections of the clients.

use comet_core::{CloseReason, ConnId, Millis};

use crate::client::Client;
use crate::control::Control;
use crate::mesh::Mesh;
use crate::plan::Plan;
use crate::posts::Context;
use crate::push_callers::PushCallers;
use crate::rng::Rng;
use crate::socket::Socket;
use crate::socket_faults::SocketFaults;
use crate::trace::Trace;

/// A connection of a fake client, from its connect to its end on both sides.
pub(crate) struct Peer {
    pub(crate) client: Client,
    pub(crate) socket: Socket,
    /// Set once accepted.
    pub(crate) conn: Option<ConnId>,
    pub(crate) accepted_at: Millis,
    pub(crate) received_at: Millis,
    /// When its shard last checked deadlines, unread input or progress of a send was under way.
    pub(crate) has_backlog: bool,
    /// When a deadline was last postponed for that.
    pub(crate) postponed_at: Option<Millis>,
    /// When its token expires. Set once its shard has logic's answer.
    pub(crate) token_expires_at: Option<Millis>,
    /// When it was first seen to be authenticated.
    pub(crate) live_at: Option<Millis>,
    /// Why its shard closed it, and when.
    pub(crate) closed: Option<(CloseReason, Millis)>,
}

pub(crate) struct Env {
    pub(crate) now: Millis,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) mesh: Mesh,
    pub(crate) control: Control,
    pub(crate) peers: Vec<Peer>,
    pub(crate) push_callers: PushCallers,
    pub(crate) is_draining: bool,
    pub(crate) socket_faults: SocketFaults,
    /// There was an upgrade that closed connections.
    pub(crate) has_upgraded: bool,
    /// How many times what a client was told about a room's members was compared with them.
    pub(crate) rosters: u64,
    /// The times at which other processes have taken over.
    pub(crate) upgraded_at: Vec<Millis>,
    pub(crate) trace: Trace,
    /// The time of the last event after which other parts may have something to do.
    active_at: Millis,
}

impl Env {
    pub(crate) fn new(plan: Plan, rng: Rng, trace: Trace) -> Self {
        Self {
            now: Millis(0),
            mesh: Mesh::new(plan.shards, plan.inbox, plan.delay_ms_max),
            control: Control::new(&plan),
            rng,
            plan,
            peers: Vec::new(),
            push_callers: PushCallers::default(),
            is_draining: false,
            socket_faults: SocketFaults::default(),
            has_upgraded: false,
            rosters: 0,
            upgraded_at: Vec::new(),
            trace,
            active_at: Millis(0),
        }
    }

    pub(crate) fn note_activity(&mut self) {
        self.active_at = self.now;
    }

    pub(crate) fn active_at(&self) -> Millis {
        self.active_at
    }

    /// Control, with the context that it works in.
    pub(crate) fn control(&mut self) -> (&mut Control, Context<'_>) {
        let Self { now, rng, plan, mesh, control, trace, .. } = self;
        (control, Context { now: *now, rng, plan, mesh, trace })
    }
}

/// Totals of the sockets of a shard.
#[derive(Clone, Copy, Default)]
pub(crate) struct SocketTotals {
    pub(crate) pushes_taken: u64,
    pub(crate) bytes_taken: u64,
    pub(crate) bytes_received: u64,
}

impl SocketTotals {
    pub(crate) fn add(&mut self, peer: &Peer) {
        self.add_totals(Self {
            pushes_taken: peer.socket.pushes_taken,
            bytes_taken: peer.socket.taken,
            bytes_received: peer.socket.received,
        });
    }

    /// The sums wrap: if sockets move between shards, the released totals of a shard may be negative.
    pub(crate) fn add_totals(&mut self, other: Self) {
        self.pushes_taken = self.pushes_taken.wrapping_add(other.pushes_taken);
        self.bytes_taken = self.bytes_taken.wrapping_add(other.bytes_taken);
        self.bytes_received = self.bytes_received.wrapping_add(other.bytes_received);
    }

    pub(crate) fn subtract(&mut self, other: Self) {
        self.pushes_taken = self.pushes_taken.wrapping_sub(other.pushes_taken);
        self.bytes_taken = self.bytes_taken.wrapping_sub(other.bytes_taken);
        self.bytes_received = self.bytes_received.wrapping_sub(other.bytes_received);
    }
}
