//! What other hosts tell, by turns.

use comet_hub::cluster::Event;
use tokio::sync::mpsc;

/// Events that are taken in one turn, which costs as much as a push by itself. After a full turn of pushes the cores are told of them before
/// the next one, so that a burst waits in the queue, which is longer than the table of calls.
pub(super) const PUSHES_A_TURN: usize = 128;
const NOTICES_A_TURN: usize = 256;

/// What others tell.
pub(crate) struct ClusterEvents {
    pushes: mpsc::Receiver<Event>,
    notices: mpsc::Receiver<Event>,
    /// The latest turn was one of notices.
    has_taken_notices: bool,
}

/// How many events were taken. 0: the engine has ended.
pub(super) enum Turn {
    Pushes(usize),
    Notices(usize),
}

impl ClusterEvents {
    pub(super) fn new(pushes: mpsc::Receiver<Event>, notices: mpsc::Receiver<Event>) -> Self {
        Self { pushes, notices, has_taken_notices: false }
    }

    /// Waits for the next turn. What hosts say of themselves goes first, or they would be taken for dead. But there may be more of it than is
    /// taken in time, so a turn of it is followed by one of the pushes that are there.
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
