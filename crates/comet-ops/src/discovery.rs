//! The state of this process in discovery: its registration, or the comets that it looks for.

use std::sync::{Mutex, PoisonError};

use crate::exposition::{Exposition, Kind};

static DISCOVERY: Mutex<Discovery> = Mutex::new(Discovery::NOT_ASKED);

#[derive(Clone, Copy)]
struct Discovery {
    /// `None`: this process does not register.
    is_registered: Option<bool>,
    /// Whether the last poll was answered. `None`: this process does not look for comets.
    is_answered: Option<bool>,
    failures: u64,
}

impl Discovery {
    const NOT_ASKED: Self = Self { is_registered: None, is_answered: None, failures: 0 };
}

/// Counts a request to discovery, with its failure if it failed, and notes whether the process is registered after it.
pub fn count_registration(is_registered: bool, has_failed: bool) {
    let mut discovery = DISCOVERY.lock().unwrap_or_else(PoisonError::into_inner);
    discovery.is_registered = Some(is_registered);
    discovery.failures += u64::from(has_failed);
}

/// Counts a poll of discovery, and whether it was answered.
pub fn count_poll(is_answered: bool) {
    let mut discovery = DISCOVERY.lock().unwrap_or_else(PoisonError::into_inner);
    discovery.is_answered = Some(is_answered);
    discovery.failures += u64::from(!is_answered);
}

/// Adds the families, if discovery was used.
pub(crate) fn expose(page: &mut Exposition) {
    let discovery = *DISCOVERY.lock().unwrap_or_else(PoisonError::into_inner);
    let Discovery { is_registered, is_answered, failures } = discovery;
    if let Some(is_registered) = is_registered {
        let help = "Whether a node of discovery has taken the registration: 1 or 0.";
        let mut family = page.family("comet_discovery_registered", Kind::Gauge, help);
        family.sample(u64::from(is_registered));
    }
    if let Some(is_answered) = is_answered {
        let help = "Whether a node of discovery has answered the last poll for comets: 1 or 0.";
        let mut family = page.family("comet_logic_discovery_up", Kind::Gauge, help);
        family.sample(u64::from(is_answered));
    }
    if is_registered.or(is_answered).is_some() {
        let help =
            "Requests to a node of discovery that got no answer, or another than they ask for.";
        page.family("comet_discovery_failures_total", Kind::Counter, help).sample(failures);
    }
}
