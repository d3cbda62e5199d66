//! How good the logic services of a run are, and what goes wrong with them.

use crate::rng::Rng;

/// How good the services of a run are, and how they are called.
#[derive(Clone, Debug)]
pub(crate) struct ServicesPlan {
    pub(crate) seed: u64,
    pub(crate) addresses: usize,
    pub(crate) timeout_ms: u64,
    /// Permits.
    pub(crate) calls: usize,
    pub(crate) ping_ms: u64,
    pub(crate) renew_ms: u64,
    pub(crate) retry_after_ms: u32,
    /// Nothing goes wrong, and what logic believes is right whenever the world is at rest.
    pub(crate) is_reliable: bool,
    /// How often an attempt or a ping goes wrong.
    pub(crate) fault_percent: u32,
    /// Addresses go down and come back.
    pub(crate) has_outages: bool,
    /// Of five renewals of a key it takes one.
    pub(crate) refuses_renewals: bool,
    /// A session ends so long after its last renewal.
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

/// What logic says of a message that it does not take.
pub(crate) const FAILURE: &str = "logic refuses the message";

/// What a client may get instead, where services have faults.
pub(crate) const EXCUSES: [&str; 4] = [
    "logic is not there",
    "logic has failed",
    "logic did not answer in time",
    "logic has too much to do",
];

/// It takes no message of an odd length.
pub(crate) fn fails(body: &[u8]) -> bool {
    body.len() % 2 == 1
}

/// What went wrong with an attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fault {
    /// The service refuses to serve.
    Refuses,
    /// It could not be sent.
    NotSent,
    /// The connection is cut before the deed.
    CutBefore,
    /// The deed is done, and the answer gets lost: whoever tries again has it done twice.
    CutAfter,
    /// The deed is done in time, the answer comes after the deadline.
    LateAnswer,
    /// The deed is done after the deadline.
    LateDeed,
    /// Nothing comes of it.
    Silence,
    /// The transport gives up waiting by itself.
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
