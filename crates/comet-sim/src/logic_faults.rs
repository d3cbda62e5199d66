//! The reliability of the logic services of a run, and their faults.

use crate::rng::Rng;

/// The reliability of the services of a run, and how they are called.
#[derive(Clone, Debug)]
pub(crate) struct ServicesPlan {
    pub(crate) seed: u64,
    pub(crate) addresses: usize,
    pub(crate) timeout_ms: u64,
    /// The number of permits.
    pub(crate) calls: usize,
    pub(crate) ping_ms: u64,
    pub(crate) renew_ms: u64,
    pub(crate) retry_after_ms: u32,
    /// There are no faults, and what logic knows is right whenever the world is at rest.
    pub(crate) is_reliable: bool,
    /// How often an attempt or a ping fails.
    pub(crate) fault_percent: u32,
    /// Addresses go down and come back.
    pub(crate) has_outages: bool,
    /// It takes only one of five renewals of a key.
    pub(crate) refuses_renewals: bool,
    /// How long after its last renewal a session expires.
    pub(crate) expire_ms: u64,
}

impl ServicesPlan {
    pub(crate) fn random(rng: &mut Rng, is_reliable: bool) -> Self {
        Self {
            seed: rng.between(0, u64::MAX - 1),
            addresses: rng.pick(&[1, 2, 3]),
            timeout_ms: if is_reliable { 2_000 } else { rng.pick(&[60, 300, 1_000]) },
            calls: if is_reliable { 1_000 } else { rng.pick(&[1, 2, 5, 1_000]) },
            ping_ms: rng.pick(&[50, 500]),
            renew_ms: rng.between(1_000, 3_000),
            retry_after_ms: rng.pick(&[0, 700]),
            is_reliable,
            fault_percent: if is_reliable { 0 } else { rng.pick(&[0, 10, 40]) },
            has_outages: !is_reliable && rng.percent(60),
            refuses_renewals: !is_reliable && rng.percent(50),
            expire_ms: if is_reliable { u64::MAX } else { 6_000 },
        }
    }
}

/// The sentence of logic about a message that it refuses.
pub(crate) const FAILURE: &str = "logic refuses the message";

/// The sentences that a client may get instead if services have faults.
pub(crate) const EXCUSES: [&str; 4] = [
    "logic is not there",
    "logic has failed",
    "logic did not answer in time",
    "logic has too much to do",
];

/// Logic refuses messages of odd length.
pub(crate) fn fails(body: &[u8]) -> bool {
    body.len() % 2 == 1
}

/// The fault of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fault {
    /// The service refuses the call.
    Refuses,
    /// The call could not be sent.
    NotSent,
    /// The connection is cut before the call is carried out.
    CutBefore,
    /// The call is carried out and the answer is lost. With a retry it is carried out twice.
    CutAfter,
    /// The call is carried out in time. The answer comes after the deadline.
    LateAnswer,
    /// The call is carried out after the deadline.
    LateDeed,
    /// The call has no effect.
    Silence,
    /// The transport itself times out.
    TimesOut,
    /// The address is down.
    Down,
}

impl Fault {
    pub(crate) const RANDOM: [Self; 8] = [
        Self::Refuses,
        Self::NotSent,
        Self::CutBefore,
        Self::CutAfter,
        Self::LateAnswer,
        Self::LateDeed,
        Self::Silence,
        Self::TimesOut,
    ];
}
