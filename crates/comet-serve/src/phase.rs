//! The phases of a process, and how servers follow them.

use tokio::sync::watch;

/// Where the process is in its life; the order is that of time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Not everything is bound yet: health answers no.
    Starting,
    /// Everything is served: health answers yes.
    Ready,
    /// Clients are being closed: health answers no, calls are still taken.
    Draining,
    /// The servers end.
    Stopped,
}

/// Moves `phase` forward to `to`; without effect where it is there or beyond.
pub fn advance(phase: &watch::Sender<Phase>, to: Phase) {
    phase.send_if_modified(|phase| {
        let is_later = to > *phase;
        if is_later {
            *phase = to;
        }
        is_later
    });
}

/// Ends [`Phase::Draining`], for a process that goes on; without effect in any other phase.
pub fn undrain(phase: &watch::Sender<Phase>) {
    phase.send_if_modified(|phase| {
        let is_draining = *phase == Phase::Draining;
        if is_draining {
            *phase = Phase::Ready;
        }
        is_draining
    });
}

/// Resolves at [`Phase::Stopped`], and when the sender is dropped.
pub async fn stopped(mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Stopped).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_phase_moves_forward_only() {
        let (sender, receiver) = watch::channel(Phase::Starting);
        advance(&sender, Phase::Draining);
        advance(&sender, Phase::Ready);
        assert_eq!(*receiver.borrow(), Phase::Draining);
        advance(&sender, Phase::Stopped);
        stopped(receiver).await;
    }

    #[test]
    fn a_drain_alone_is_taken_back() {
        for (from, to) in [
            (Phase::Starting, Phase::Starting),
            (Phase::Draining, Phase::Ready),
            (Phase::Stopped, Phase::Stopped),
        ] {
            let (sender, receiver) = watch::channel(from);
            undrain(&sender);
            assert_eq!(*receiver.borrow(), to);
        }
    }

    #[tokio::test]
    async fn a_dropped_sender_stops_the_servers() {
        let (sender, receiver) = watch::channel(Phase::Ready);
        drop(sender);
        stopped(receiver).await;
    }
}
