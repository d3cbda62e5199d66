//! What control does in a live upgrade: callers are held back while another process takes over.

use comet_core::{Blocks, CallId, Limits};
use comet_serve::{NamedSocket, begin_move, end_move};

use super::Control;

impl Control {
    /// The listening sockets, for another process.
    #[must_use]
    pub fn sockets(&self) -> &[NamedSocket] {
        &self.sockets
    }

    /// Has the callers leave, each after its calls, because another process is to take them over. Returns at once, and
    /// [`Control::callers`] says how many are left.
    ///
    /// # Errors
    /// Why another process cannot go on, in words. Nothing has changed then.
    pub fn begin_move(&self) -> Result<(), String> {
        self.check_move()?;
        match begin_move(&self.phase) {
            true => Ok(()),
            false => Err("it is starting, draining or ending".to_owned()),
        }
    }

    /// Whether another process could go on now.
    ///
    /// # Errors
    /// Why it could not, in words.
    pub fn check_move(&self) -> Result<(), String> {
        if self.has_cluster {
            return Err("it has other hosts (nats.servers), which are not handed over yet".into());
        }
        if self.node.is_draining() {
            return Err("it drains".into());
        }
        match self.hub.paced().len() {
            0 => Ok(()),
            paced => Err(format!("paced broadcasts are under way: {paced}")),
        }
    }

    /// Callers are accepted: after [`Control::begin_move`] again, and in a process that has taken over from another one from now
    /// on.
    pub fn end_move(&self) {
        end_move(&self.phase);
    }

    /// Connections of callers, at all addresses.
    #[must_use]
    pub fn callers(&self) -> usize {
        self.gates.read().iter().map(|gate| gate.connections).sum()
    }

    /// Calls to shards that have not ended.
    #[must_use]
    pub fn calls_under_way(&self) -> usize {
        self.hub.calls_under_way()
    }

    /// Messages on their way to the shards.
    #[must_use]
    pub fn messages_under_way(&self) -> usize {
        self.hub.depths().into_iter().sum()
    }

    /// Goes on with what another process had: the ids of its calls up to `last_call`, and the networks that it has blocked.
    pub fn take_over(&self, last_call: u64, blocks: Blocks) {
        self.hub.go_on_after(CallId(last_call));
        if !blocks.is_empty() {
            self.hub.configure(|limits| Limits { blocks, ..limits });
            self.node.look_at_blocks();
        }
    }

    /// The networks that are blocked, for the process that goes on.
    #[must_use]
    pub fn blocks(&self) -> Blocks {
        self.hub.limits().blocks.clone()
    }

    /// The latest call, for the process that goes on.
    #[must_use]
    pub fn last_call(&self) -> u64 {
        self.hub.last_call().0
    }
}
