//! The decisions of a seed before the first step: the number of shards, their limits, and the behaviour of the network,
//! the clients and the control thread.

use comet_core::{
    CallerLimits, ClientRates, CoalesceRule, Deflate, HistoryRule, Limits, Logic, PresenceRule,
    ResumeLimits, SlowConsumer, SourceLimits, Tokens,
};

use crate::logic_faults::ServicesPlan;
use crate::rng::Rng;

/// The rooms of clients. Embedded logic puts a client whose token is only a user id into the first.
pub(crate) const ROOMS: [&str; 4] = ["1", "live://7", "live://8", "chat"];
/// The operations of pushes.
pub(crate) const OPERATIONS: [i32; 4] = [5, 1000, 1001, 1002];
/// The operation of pushes that tell members who enters and leaves.
pub(crate) const PRESENCE_OPERATION: i32 = 900;
/// The keys that tokens name. There are few, so that several shards claim them at once. Two are equal to keys that a
/// home makes for users without a key.
pub(crate) const KEYS: [&str; 6] = ["k0", "k1", "k2", "k3", "1_1", "2_1"];
/// Users are numbered below this; 0 is anonymous.
pub(crate) const USERS: i64 = 5;

/// The token that push callers send first, if one is required.
pub(crate) const CALLER_TOKEN: &str = "open";
/// Valid only after some changes of limits, and before the first change.
pub(crate) const OTHER_CALLER_TOKEN: &str = "other";

/// The ids of states that pushes are about.
pub(crate) const COLLAPSE_IDS: [&str; 3] = ["a", "b", "c"];

/// Limits of outboxes that no run reaches.
pub(crate) const OUTBOX_BYTES_MAX: u32 = 1 << 20;
pub(crate) const OUTBOX_MEMORY_MAX: u64 = 1 << 30;

/// The longest retry time in a close notice.
pub(crate) const RETRY_AFTER_MS_MAX: u32 = 900;
/// The users that are traced after a change of limits.
pub(crate) const OTHER_TRACE_USERS: [i64; 2] = [2, 3];

/// A deadline that no call reaches: a run that does not come to rest fails earlier.
const CALL_MS_LONG: u64 = 3_600_000;

/// The plan of one run.
pub(crate) struct Plan {
    pub(crate) shards: u16,
    pub(crate) limits: Limits,
    /// Where tokens and client messages go.
    pub(crate) logic: Logic,
    /// Limits change while clients are connected.
    pub(crate) is_configured: bool,
    /// The time over which the close notices of the drain are spread.
    pub(crate) drain_over_ms: u32,
    /// The longest retry time in a close notice of the drain.
    pub(crate) retry_after_ms: u32,
    /// Busy phases, each of which ends in a quiet point.
    pub(crate) rounds: u32,
    /// Steps of a busy phase.
    pub(crate) steps: u32,
    /// The reliability of remote logic.
    pub(crate) services: ServicesPlan,
    /// Clients connected at a time.
    pub(crate) clients: usize,
    /// Messages an inbox holds.
    pub(crate) inbox: usize,
    /// Longest delay of a message between two shards.
    pub(crate) delay_ms_max: u64,
    /// How often a shard with work takes a turn.
    pub(crate) turn_percent: u32,
    /// How long the tokens of one user are valid, milliseconds.
    pub(crate) token_ms: Option<u64>,
    /// The longest time until an answer of logic.
    pub(crate) auth_ms_max: u64,
    /// How often control pushes in a step.
    pub(crate) push_percent: u32,
    /// Push callers connected to shards at a time.
    pub(crate) callers: usize,
    /// Their pushes go to other hosts as well.
    pub(crate) has_hosts: bool,
    /// They have to send a token.
    pub(crate) has_caller_tokens: bool,
    /// The deadlines of calls to choose from.
    pub(crate) call_limits_ms: &'static [u64],
    /// How often a caller leaves in a step.
    pub(crate) leave_percent: u32,
    /// How many of a thousand pushes are kicks.
    pub(crate) kick_permille: usize,
    /// How many of a thousand calls ask for a list of connections.
    pub(crate) list_permille: usize,
    /// How often, of a thousand steps, control moves clients off.
    pub(crate) move_off_permille: usize,
    /// How often, of a thousand steps, a live trace begins or ends.
    pub(crate) live_trace_permille: usize,
    /// Changes of limits block a network at times.
    pub(crate) is_blocking: bool,
    /// How often, of a thousand steps, the control thread stalls.
    pub(crate) stall_permille: usize,
    /// How often, of a thousand steps, a core stalls.
    pub(crate) core_stall_permille: usize,
    /// How often, of a thousand steps, another process takes over everything.
    pub(crate) upgrade_permille: usize,
    /// How often, of a thousand steps, the whole process is stopped.
    pub(crate) stop_permille: usize,
    /// Longest stall and stop, milliseconds.
    pub(crate) stall_ms_max: u64,
    /// Longest padding in the body of a push.
    pub(crate) push_body_max: usize,
    /// How often a new client will violate the protocol.
    pub(crate) violation_percent: u32,
    /// How often a new client reads slowly or not at all.
    pub(crate) slow_percent: u32,
    /// The sizes of kernel buffers of clients to choose from.
    pub(crate) socket_bytes: &'static [usize],
}

impl Plan {
    pub(crate) fn is_remote(&self) -> bool {
        self.logic != Logic::Embedded
    }

    /// All lists of traced users in the run.
    pub(crate) fn trace_lists(&self) -> impl Iterator<Item = &[i64]> {
        [&*self.limits.trace_users, if self.is_configured { &OTHER_TRACE_USERS } else { &[] }]
            .into_iter()
    }

    pub(crate) fn random(rng: &mut Rng) -> Self {
        let large = rng.percent(8);
        let inbox = rng.pick(&[1, 2, 64, 1000]);
        // Through the smallest inboxes the lines of the trace log and many heartbeats would delay everything else
        // without end.
        let trace_lists: &[&[i64]] =
            if inbox < 64 { &[&[]] } else { &[&[], &[1], &[0, 1, 2, 3, 4]] };
        let (coalesce_rules, history_rules) = (coalesce_rules(rng), history_rules(rng));
        // The smallest outboxes have no space for a gathering window.
        let (svr_proto, outbox_bytes): (&[u16], &[u32]) = match coalesce_rules.is_empty() {
            true => (&[1, 2, 5, 80], &[400, 4_000, OUTBOX_BYTES_MAX]),
            false => (&[5, 20, 80], &[4_000, OUTBOX_BYTES_MAX, OUTBOX_BYTES_MAX]),
        };
        let has_caller_tokens = rng.percent(50);
        let limits = Limits {
            connections: if rng.percent(8) { 3 } else { 10_000 },
            body_max: rng.pick(&[256, 1024, 4096]),
            head_max: 1024,
            text: rng.percent(50),
            text_push_max: rng.pick(&[60, 1 << 20]),
            deflate: rng.pick(&[
                None,
                Some(Deflate { level: 1, message_min: 0 }),
                Some(Deflate { level: 6, message_min: 60 }),
            ]),
            svr_proto: rng.pick(svr_proto),
            outbox_bytes: rng.pick(outbox_bytes),
            outbox_memory: rng.pick(&[OUTBOX_MEMORY_MAX, OUTBOX_MEMORY_MAX, 20_000, 2_000]),
            cli_proto: rng.pick(&[16, 24, 64]),
            slow_consumer: rng.pick(&[
                SlowConsumer::DropNewest,
                SlowConsumer::DropOldest,
                SlowConsumer::Close,
            ]),
            filter_rooms: rng.percent(30),
            goodbye: rng.percent(30),
            mesh_backlog: rng.pick(&[0, 1, 3, 1000, 1000, 1000]),
            handshake_ms: rng.between(200, 1500) as u32,
            write_ms: rng.between(100, 800) as u32,
            heartbeat_ms: rng.between(400, 2000) as u32,
            coalesce_ms: rng.pick(&[0, 25, 200]),
            coalesce_after_ms: rng.pick(&[0, 30]),
            coalesce_rules,
            history_rules,
            // A single host has no stream to read.
            history_is_shared: false,
            presence_rules: presence_rules(rng),
            history_memory: rng.pick(&[1_000, 1 << 20]),
            recovery_memory: rng.pick(&[1, 1_000, 16 << 20]),
            resume: ResumeLimits {
                // Logic forgets a session that is not renewed (`logic_faults::expire_ms`), also a parked one.
                window_ms: rng.pick(&[0, 300, 2_000, 4_000]),
                messages: rng.pick(&[1, 3, 80]),
                bytes: rng.pick(&[400, 1 << 20]),
                memory: rng.pick(&[1_000, 3_000, 1 << 20]),
                for_all: rng.percent(40),
            },
            linger_ms: rng.between(50, 400) as u32,
            buckets: rng.pick(&[1, 8]),
            user_memory_ms: rng.pick(&[0, 500]),
            key_memory_ms: rng.pick(&[20, 100, 400, 10_000]),
            handshakes: if rng.percent(10) { rng.pick(&[20, 5]) } else { u32::MAX },
            rates: ClientRates {
                frames: if rng.percent(6) { 3 } else { 0 },
                bytes: if rng.percent(6) { 100 } else { 0 },
                room_changes: if rng.percent(6) { 1 } else { 0 },
            },
            sources: SourceLimits {
                per_address: if rng.percent(6) { 2 } else { 0 },
                per_subnet: if rng.percent(6) { 8 } else { 0 },
                ..SourceLimits::default()
            },
            rooms: rng.pick(&[128, 128, 2, 1]),
            user_sessions: if rng.percent(6) { rng.pick(&[1, 3]) } else { 10_000 },
            trace_users: rng.pick(trace_lists).into(),
            crowd_above: rng.pick(&[1, 3, 1_000]),
            crowd_bytes: rng.pick(&[100, 1_000, 1 << 20]),
            callers: CallerLimits {
                connections: rng.pick(&[2, 64, 64]),
                frame_max: rng.pick(&[200, 4 << 20, 4 << 20]),
                timeout_ms: rng.pick(&[300, 5_000]),
                tokens: if has_caller_tokens { caller_tokens(true) } else { Tokens::default() },
            },
            ..Limits::default()
        };
        let limits = Limits { crowd_slice: limits.crowd_above.min(2), ..limits };
        let shards = rng.between(1, 4) as u16;
        let logic = match rng.percent(50) {
            true => Logic::Embedded,
            false => {
                let least = if inbox < 64 { 600 } else { 100 };
                let most = rng.between(u64::from(least), 800) as u32;
                Logic::Remote { renew_ms: (least, rng.pick(&[most, most, 3_000])) }
            }
        };
        let token_ms = rng.pick(&[None, None, None, Some(0), Some(400), Some(6_000)]);
        let is_reliable = rng.percent(40);
        let services = ServicesPlan::random(rng, is_reliable);
        let mut plan = Self {
            shards,
            limits,
            logic,
            token_ms,
            services,
            is_configured: inbox >= 64 && rng.percent(40),
            drain_over_ms: rng.pick(&[0, 0, 200, 2_000]),
            retry_after_ms: rng.pick(&[0, RETRY_AFTER_MS_MAX]),
            rounds: 3,
            steps: rng.between(100, 350) as u32,
            clients: rng.between(3, 20) as usize,
            inbox,
            delay_ms_max: rng.pick(&[0, 2, 20]),
            turn_percent: rng.pick(&[20, 60, 100]),
            auth_ms_max: rng.pick(&[0, 5, 60]),
            push_percent: rng.pick(&[5, 30, 80]),
            callers: rng.pick(&[0, 0, 1, 4]),
            has_hosts: rng.percent(50),
            has_caller_tokens,
            call_limits_ms: rng.pick(&[
                &[CALL_MS_LONG],
                &[CALL_MS_LONG],
                &[30, CALL_MS_LONG, CALL_MS_LONG, CALL_MS_LONG],
                &[1, 5, 50, 300, CALL_MS_LONG],
            ]),
            leave_percent: rng.pick(&[0, 0, 1, 10]),
            kick_permille: rng.pick(&[0, 2, 20]),
            list_permille: rng.pick(&[0, 10, 100]),
            stall_permille: rng.pick(&[0, 0, 5, 20]),
            core_stall_permille: rng.pick(&[0, 0, 2, 10]),
            stop_permille: rng.pick(&[0, 0, 2, 5]),
            stall_ms_max: rng.pick(&[200, 1_000, 5_000]),
            push_body_max: if large { 40_000 } else { rng.pick(&[0, 60, 300]) },
            violation_percent: rng.pick(&[0, 25, 60]),
            slow_percent: rng.pick(&[0, 20, 60]),
            socket_bytes: if large { &[9_000, 100_000] } else { &[64, 300, 2_000, 100_000] },
            move_off_permille: rng.pick(&[0, 0, 5]),
            is_blocking: rng.percent(30),
            live_trace_permille: if inbox < 64 { 0 } else { rng.pick(&[0, 0, 5, 50]) },
            upgrade_permille: 0,
        };
        // Push callers connect anew after an upgrade, and their unanswered requests are lost with the connection.
        if plan.callers == 0 {
            plan.upgrade_permille = rng.pick(&[0, 10, 20]);
        }
        if rng.percent(20) {
            plan.delay_claims(rng);
        }
        if rng.percent(15) {
            plan.lose_and_keep(rng);
            if rng.percent(50) {
                plan.catch_up_in_parts();
            }
        }
        if !plan.limits.presence_rules.is_empty() && rng.percent(50) {
            // The members of a room are compared at the quiet points.
            plan.rounds = 12;
            plan.steps /= 4;
        }
        plan
    }

    /// Makes it likely that a core stalls between logic's answer to a token and the claim of its key, while the key's
    /// home reports an end of the key and then forgets it. By chance one run in a thousand has that.
    fn delay_claims(&mut self, rng: &mut Rng) {
        self.shards = self.shards.max(2);
        self.clients = self.clients.max(15);
        self.limits.key_memory_ms = 20;
        self.core_stall_permille = 10;
        self.stall_ms_max = 1_000;
        // No renewal repairs it, and no fault explains it.
        self.logic = Logic::Remote { renew_ms: (3_000, 3_000) };
        self.services = ServicesPlan::random(rng, true);
    }

    /// Makes it likely that clients lose pushes of rooms with a history, and ask for them on the same connection.
    fn lose_and_keep(&mut self, rng: &mut Rng) {
        let limits = &mut self.limits;
        let prefix = rng.pick(&["", "live://"]).into();
        let rule = HistoryRule { prefix, pushes: 100, bytes: 100_000, age_ms: 10_000 };
        limits.history_rules = [rule].into();
        limits.history_memory = 1 << 20;
        limits.svr_proto = 5;
        limits.outbox_bytes = rng.pick(&[4_000, OUTBOX_BYTES_MAX]);
        limits.outbox_memory = OUTBOX_MEMORY_MAX;
        limits.slow_consumer = rng.pick(&[SlowConsumer::DropNewest, SlowConsumer::DropOldest]);
        limits.filter_rooms = false;
        limits.rooms = 128;
        self.push_body_max = 60;
        self.push_percent = 80;
        self.slow_percent = 60;
        self.socket_bytes = &[64, 300, 2_000, 100_000];
    }

    /// Makes outboxes so small that a client gets missed pushes in many parts.
    fn catch_up_in_parts(&mut self) {
        let limits = &mut self.limits;
        limits.coalesce_rules = [].into();
        limits.svr_proto = 80;
        limits.outbox_bytes = 400;
    }
}

/// The valid tokens of push callers.
pub(crate) fn caller_tokens(has_other: bool) -> Tokens {
    Tokens::new([CALLER_TOKEN].into_iter().chain(has_other.then_some(OTHER_CALLER_TOKEN)))
}

/// None in half of all runs.
fn history_rules(rng: &mut Rng) -> Box<[HistoryRule]> {
    let rules = rng.pick(&[0, 1]);
    (0..rules)
        .map(|_| HistoryRule {
            prefix: rng.pick(&["", "live://", ROOMS[0]]).into(),
            pushes: rng.pick(&[1, 5, 100]),
            bytes: rng.pick(&[500, 100_000]),
            age_ms: rng.pick(&[100, 10_000]),
        })
        .collect()
}

/// None in half of all runs.
fn presence_rules(rng: &mut Rng) -> Box<[PresenceRule]> {
    let rules = rng.pick(&[0, 1]);
    (0..rules)
        .map(|_| PresenceRule {
            prefix: rng.pick(&["", "live://", ROOMS[0]]).into(),
            operation: PRESENCE_OPERATION,
            window_ms: rng.pick(&[1, 50, 300]),
            names: rng.pick(&[0, 1, 100, 100]),
        })
        .collect()
}

/// None in half of all runs.
fn coalesce_rules(rng: &mut Rng) -> Box<[CoalesceRule]> {
    let rules = rng.pick(&[0, 0, 1, 3]);
    (0..rules)
        .map(|_| CoalesceRule {
            rooms: rng.pick(&[None, Some("live://"), Some(ROOMS[0])]).map(Into::into),
            operations: OPERATIONS.into_iter().filter(|_| rng.percent(30)).collect(),
            window_ms: rng.pick(&[1, 20, 50, 200]),
            keep_latest: rng.percent(60),
        })
        .collect()
}
