//! The comets that pushes should reach, by their source.

use std::collections::BTreeSet;

use tokio::sync::watch;

use crate::comet::{CometOptions, Origin};

/// The comets of both sources.
#[derive(Clone, Default, Debug)]
pub(crate) struct DesiredComets {
    pub(crate) configured: Vec<CometOptions>,
    pub(crate) discovered: Vec<CometOptions>,
}

impl DesiredComets {
    /// Each id and each address once; the configuration takes precedence.
    pub(crate) fn comets(self) -> impl Iterator<Item = (CometOptions, Origin)> {
        let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let configured = self.configured.into_iter().map(|comet| (comet, Origin::Configured));
        let discovered = self.discovered.into_iter().map(|comet| (comet, Origin::Discovered));
        configured.chain(discovered).filter(move |(comet, origin)| {
            // Otherwise a push to a room would reach the same clients twice.
            let is_other = ids.insert(comet.id.clone()) & addresses.insert(comet.address.clone());
            is_other || *origin == Origin::Configured
        })
    }

    /// Whether one of them has the same id or the same address.
    pub(crate) fn has(&self, CometOptions { id, address, .. }: &CometOptions) -> bool {
        let mut comets = self.configured.iter().chain(&self.discovered);
        comets.any(|comet| comet.id == *id || comet.address == *address)
    }
}

/// The handle that sets the comets found in discovery.
#[derive(Clone, Debug)]
pub struct DiscoveredComets(pub(crate) watch::Sender<DesiredComets>);

impl DiscoveredComets {
    /// Replaces the comets registered in discovery. One that was registered before stays until it does not answer.
    pub fn set(&self, comets: Vec<CometOptions>) {
        self.0.send_modify(|desired| desired.discovered = comets);
    }

    /// Whether `comet logic` is running.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.0.is_closed()
    }
}
