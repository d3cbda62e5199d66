//! The wake-up of the control thread, as the mesh requires it.

use comet_mesh::Wake;
use tokio::sync::Notify;

/// Wakes the control thread. Made first, because the inbox of reports needs it.
#[derive(Debug, Default)]
pub struct ControlWake(Notify);

impl ControlWake {
    /// Waits for the next wake-up, or takes one that came since the last call.
    pub(crate) async fn notified(&self) {
        self.0.notified().await;
    }
}

impl Wake for ControlWake {
    fn wake(&self) {
        self.0.notify_one();
    }
}
