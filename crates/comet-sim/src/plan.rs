//! What a seed decides before the first step: how many shards, how tight their limits, how bad the
//! network and the clients.

use comet_core::{Limits, Logic, SlowConsumer};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Rooms clients are in; the first is where the embedded logic puts the seed's tokens.
pub(crate) const ROOMS: [&str; 4] = ["1", "live://7", "live://8", "chat"];
/// Operations pushes carry.
pub(crate) const OPERATIONS: [i32; 4] = [5, 1000, 1001, 1002];
/// Keys that tokens name. Few, so that they are claimed at once on several shards; two are what a home
/// hands out to users without a key.
pub(crate) const KEYS: [&str; 6] = ["k0", "k1", "k2", "k3", "1_1", "2_1"];
/// Users are numbered below this; 0 is anonymous.
pub(crate) const USERS: i64 = 5;

/// Longest time a client is told to wait.
pub(crate) const RETRY_AFTER_MS_MAX: u32 = 900;
/// Who is traced after a change of limits.
pub(crate) const OTHER_TRACE_USERS: [i64; 2] = [2, 3];

/// Every random decision of a run, in the order it is made.
pub(crate) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0.random_range(least..=most)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    pub(crate) fn percent(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

/// One run.
pub(crate) struct Plan {
    pub(crate) shards: u16,
    pub(crate) limits: Limits,
    /// Where tokens and client messages go.
    pub(crate) logic: Logic,
    /// Limits change while clients are there.
    pub(crate) is_configured: bool,
    /// Time the goodbyes of the drain are spread over.
    pub(crate) drain_over_ms: u32,
    /// Longest time a client is told to wait after the drain.
    pub(crate) retry_after_ms: u32,
    /// Busy stretches, each of which ends in a quiet point.
    pub(crate) rounds: u32,
    /// Steps of a busy stretch.
    pub(crate) steps: u32,
    /// Clients connected at a time.
    pub(crate) clients: usize,
    /// Messages an inbox holds.
    pub(crate) inbox: usize,
    /// Longest way of a message between two shards.
    pub(crate) delay_ms_max: u64,
    /// How often a shard with work takes a turn.
    pub(crate) turn_percent: u32,
    /// Longest time logic takes for an answer.
    pub(crate) auth_ms_max: u64,
    /// How often control pushes in a step.
    pub(crate) push_percent: u32,
    /// Longest padding of a pushed frame.
    pub(crate) push_body_max: usize,
    /// How often a new client has a misdeed in mind.
    pub(crate) misdeed_percent: u32,
    /// How often a new client reads slowly or not at all.
    pub(crate) slow_percent: u32,
    /// What a kernel buffers for a client, as choices.
    pub(crate) socket_bytes: &'static [usize],
}

impl Plan {
    pub(crate) fn is_remote(&self) -> bool {
        self.logic != Logic::Embedded
    }

    /// The lists of traced users there are at one time or another.
    pub(crate) fn trace_lists(&self) -> impl Iterator<Item = &[i64]> {
        [&*self.limits.trace_users, if self.is_configured { &OTHER_TRACE_USERS } else { &[] }]
            .into_iter()
    }

    pub(crate) fn roll(dice: &mut Dice) -> Self {
        let large = dice.percent(8);
        let inbox = dice.pick(&[1, 2, 8, 1000]);
        // Through the smallest inboxes the lines of the trace log would never come to rest.
        let trace_lists: &[&[i64]] =
            if inbox < 8 { &[&[]] } else { &[&[], &[1], &[0, 1, 2, 3, 4]] };
        let limits = Limits {
            connections: if dice.percent(8) { 3 } else { 10_000 },
            body_max: dice.pick(&[256, 1024, 4096]),
            head_max: 1024,
            svr_proto: dice.pick(&[1, 2, 5, 80]),
            outbox_bytes: dice.pick(&[400, 4_000, 1 << 20]),
            cli_proto: dice.pick(&[16, 24, 64]),
            slow_consumer: dice.pick(&[
                SlowConsumer::DropNewest,
                SlowConsumer::DropOldest,
                SlowConsumer::Close,
            ]),
            filter_rooms: dice.percent(30),
            mesh_backlog: dice.pick(&[0, 1, 3, 1000, 1000, 1000]),
            handshake_ms: dice.between(200, 1500) as u32,
            write_ms: dice.between(100, 800) as u32,
            heartbeat_ms: dice.between(400, 2000) as u32,
            coalesce_ms: dice.pick(&[0, 25, 200]),
            coalesce_after_ms: dice.pick(&[0, 30]),
            linger_ms: dice.between(50, 400) as u32,
            buckets: dice.pick(&[1, 8]),
            user_memory_ms: dice.pick(&[0, 500]),
            trace_users: dice.pick(trace_lists).into(),
            ..Limits::default()
        };
        Self {
            shards: dice.between(1, 4) as u16,
            limits,
            logic: match dice.percent(50) {
                true => Logic::Embedded,
                false => Logic::Remote { renew_ms: (100, dice.between(100, 800) as u32) },
            },
            is_configured: inbox >= 8 && dice.percent(40),
            drain_over_ms: dice.pick(&[0, 0, 200, 2_000]),
            retry_after_ms: dice.pick(&[0, RETRY_AFTER_MS_MAX]),
            rounds: 3,
            steps: dice.between(100, 350) as u32,
            clients: dice.between(3, 20) as usize,
            inbox,
            delay_ms_max: dice.pick(&[0, 2, 20]),
            turn_percent: dice.pick(&[20, 60, 100]),
            auth_ms_max: dice.pick(&[0, 5, 60]),
            push_percent: dice.pick(&[5, 30, 80]),
            push_body_max: if large { 40_000 } else { dice.pick(&[0, 60, 300]) },
            misdeed_percent: dice.pick(&[0, 25, 60]),
            slow_percent: dice.pick(&[0, 20, 60]),
            socket_bytes: if large { &[9_000, 100_000] } else { &[64, 300, 2_000, 100_000] },
        }
    }
}
