//! Whether this process is registered in discovery.

use std::sync::{Mutex, PoisonError};

use crate::exposition::{Exposition, Kind};

/// The process is one instance. `None`: it is not to be registered.
static REGISTRATION: Mutex<Option<Registration>> = Mutex::new(None);

#[derive(Clone, Copy, Default)]
struct Registration {
    is_registered: bool,
    failures: u64,
}

/// Counts a request to discovery, which has failed or not, and whether the process is registered after it.
pub fn count_registration(is_registered: bool, has_failed: bool) {
    let mut registration = REGISTRATION.lock().unwrap_or_else(PoisonError::into_inner);
    let registration = registration.get_or_insert_default();
    registration.is_registered = is_registered;
    registration.failures += u64::from(has_failed);
}

/// Adds the families, if discovery was asked.
pub(crate) fn expose(page: &mut Exposition) {
    let registration = *REGISTRATION.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(Registration { is_registered, failures }) = registration else { return };
    let help = "Whether a node of discovery has taken the registration: 1 or 0.";
    page.family("comet_discovery_registered", Kind::Gauge, help).sample(u64::from(is_registered));
    let help = "Requests to a node of discovery that got no answer, or another than they ask for.";
    page.family("comet_discovery_failures_total", Kind::Counter, help).sample(failures);
}
