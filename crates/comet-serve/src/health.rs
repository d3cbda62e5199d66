//! The answer of health checks: the phase of the process, and what is wrong with it while it is ready.

use std::borrow::Cow;
use std::future::pending;

use tokio::sync::watch;

use crate::phase::Phase;

/// The health of a process, and its changes.
#[derive(Clone, Debug)]
pub struct Health {
    phase: watch::Receiver<Phase>,
    trouble: Option<watch::Receiver<Option<String>>>,
}

impl Health {
    /// Healthy in [`Phase::Ready`] while `trouble` is `None`; otherwise `trouble` is a sentence about what is wrong.
    #[must_use]
    pub fn new(phase: watch::Receiver<Phase>, trouble: watch::Receiver<Option<String>>) -> Self {
        Self { phase, trouble: Some(trouble) }
    }

    /// Waits until [`Health::check`] may answer differently. May also return for a phase that changes nothing.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            () = changed(&mut self.phase) => {}
            () = async {
                match &mut self.trouble {
                    Some(trouble) => changed(trouble).await,
                    None => pending().await,
                }
            } => {}
        }
    }

    /// # Errors
    /// Why the process is not to be used, in a word or a sentence.
    pub(crate) fn check(&self) -> Result<(), Cow<'static, str>> {
        match *self.phase.borrow() {
            Phase::Ready => {}
            Phase::Starting => return Err("starting".into()),
            Phase::Upgrading => return Err("moving".into()),
            Phase::Draining | Phase::Stopped => return Err("draining".into()),
        }
        match &self.trouble {
            Some(trouble) => trouble.borrow().clone().map_or(Ok(()), |trouble| Err(trouble.into())),
            None => Ok(()),
        }
    }

    /// The phase alone.
    pub(crate) fn phase(&self) -> &watch::Receiver<Phase> {
        &self.phase
    }
}

/// For a process that only its phase can make unhealthy.
impl From<watch::Receiver<Phase>> for Health {
    fn from(phase: watch::Receiver<Phase>) -> Self {
        Self { phase, trouble: None }
    }
}

/// Never resolves once the sender is gone.
async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        pending::<()>().await;
    }
}
