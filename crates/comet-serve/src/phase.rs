//! The phases of a process, and how servers follow them.

use tokio::sync::watch;

/// The phase of a process's life; the order is that of time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Not everything is bound yet: health answers no.
    Starting,
    /// Everything is served: health answers yes.
    Ready,
    /// Clients are being closed: health answers no, calls are still taken.
    Draining,
    /// Another process serves the callers: no caller is accepted, and connected ones leave after their calls. The
    /// former process of a live upgrade leaves this phase if the upgrade fails; the new process begins in it.
    Upgrading,
    /// The servers end.
    Stopped,
}

/// Moves `phase` forward to `to`. No effect if it is there or beyond.
pub fn advance(phase: &watch::Sender<Phase>, to: Phase) {
    phase.send_if_modified(|phase| {
        let is_later = to > *phase;
        if is_later {
            *phase = to;
        }
        is_later
    });
}

/// Ends [`Phase::Draining`], for a process that continues. No effect in any other phase.
pub fn undrain(phase: &watch::Sender<Phase>) {
    phase.send_if_modified(|phase| {
        let is_draining = *phase == Phase::Draining;
        if is_draining {
            *phase = Phase::Ready;
        }
        is_draining
    });
}

/// Moves `phase` to [`Phase::Upgrading`], if the process is [`Phase::Ready`]. Returns whether it was.
pub fn begin_upgrade(phase: &watch::Sender<Phase>) -> bool {
    phase.send_if_modified(|phase| {
        let is_ready = *phase == Phase::Ready;
        if is_ready {
            *phase = Phase::Upgrading;
        }
        is_ready
    })
}

/// Ends [`Phase::Upgrading`]: this process serves the callers.
pub fn end_upgrade(phase: &watch::Sender<Phase>) {
    phase.send_if_modified(|phase| {
        let is_upgrading = *phase == Phase::Upgrading;
        if is_upgrading {
            *phase = Phase::Ready;
        }
        is_upgrading
    });
}

/// Resolves at [`Phase::Stopped`], and when the sender is dropped.
pub async fn stopped(mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Stopped).await;
}

/// Resolves when callers have to leave: at [`Phase::Upgrading`], and as [`stopped`].
pub async fn leaving(mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::Upgrading).await;
}

/// Resolves when callers are accepted, or never will be.
pub(crate) async fn accepting(mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase != Phase::Upgrading).await;
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
    async fn an_upgrade_is_taken_back() {
        for (from, has_begun) in [(Phase::Ready, true), (Phase::Draining, false)] {
            let (sender, receiver) = watch::channel(from);
            assert_eq!(begin_upgrade(&sender), has_begun);
            if has_begun {
                leaving(receiver.clone()).await;
            }
            end_upgrade(&sender);
            assert_eq!(*receiver.borrow(), from);
            accepting(receiver).await;
        }
    }

    #[tokio::test]
    async fn a_dropped_sender_stops_the_servers() {
        let (sender, receiver) = watch::channel(Phase::Ready);
        drop(sender);
        stopped(receiver).await;
    }
}
