//! The events of other hosts, taken in turns.

use comet_hub::cluster::Event;
use tokio::sync::mpsc;

/// Pushes taken in one turn. After a full turn the cores are notified of them before the next one, so that a burst
/// waits in the queue, which is longer than the table of calls.
pub(super) const PUSHES_A_TURN: usize = 128;
const NOTICES_A_TURN: usize = 256;

/// The events of other hosts.
pub(crate) struct ClusterEvents {
    pushes: mpsc::Receiver<Event>,
    notices: mpsc::Receiver<Event>,
    /// Whether the latest turn was one of notices.
    has_taken_notices: bool,
}

/// The number of events taken. 0: the engine has ended.
pub(super) enum Turn {
    Pushes(usize),
    Notices(usize),
}

impl ClusterEvents {
    pub(super) fn new(pushes: mpsc::Receiver<Event>, notices: mpsc::Receiver<Event>) -> Self {
        Self { pushes, notices, has_taken_notices: false }
    }

    /// Waits for the next turn. Announcements of hosts go first: if they were late, their hosts would be considered
    /// dead. There may be more of them than can be handled in time, so a turn of them is followed by one of the waiting
    /// pushes.
    pub(super) async fn take(&mut self, pushes: &mut Vec<Event>, notices: &mut Vec<Event>) -> Turn {
        let of_pushes = self.pushes.recv_many(pushes, PUSHES_A_TURN);
        let of_notices = self.notices.recv_many(notices, NOTICES_A_TURN);
        let turn = if self.has_taken_notices {
            tokio::select! {
                biased;
                taken = of_pushes => Turn::Pushes(taken),
                taken = of_notices => Turn::Notices(taken),
            }
        } else {
            tokio::select! {
                biased;
                taken = of_notices => Turn::Notices(taken),
                taken = of_pushes => Turn::Pushes(taken),
            }
        };
        self.has_taken_notices = matches!(turn, Turn::Notices(_));
        turn
    }
}
