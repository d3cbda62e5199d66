//! The world of one run: shards with their drivers, the mesh, control, clients, and the clock.

mod upgrade;

use std::sync::Arc;

use comet_core::limits::ROOM_COUNT_MS;
use comet_core::{Millis, ShardId};

use crate::check::{self, Baseline};
use crate::client::{Client, Reads};
use crate::control::Control;
use crate::driver::Driver;
use crate::env::{Env, Peer};
use crate::plan::Plan;
use crate::positions::Positions;
use crate::profile::ClientProfile;
use crate::rng::Rng;
use crate::socket::Socket;
use crate::summary::{self, Summary};
use crate::trace::{Trace, trace};

pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) drivers: Vec<Driver>,
    /// Peers that have not ended on both sides.
    pub(crate) active: Vec<usize>,
    /// The profiles of earlier clients, some of which come back.
    profiles: Vec<ClientProfile>,
    pub(crate) baseline: Baseline,
    /// The process is stopped until then: only clients act.
    stopped_until: Millis,
    jumps: Jumps,
    stops: u64,
    core_stalls: u64,
    upgrades: Upgrades,
}

/// Jumps of the clock, as in a machine that was suspended: for everybody at once.
struct Jumps {
    rng: Rng,
    /// How often, of a thousand steps.
    permille: usize,
    count: u64,
}

/// Longest jump, milliseconds.
const JUMP_MS_MAX: u64 = 3_600_000;

impl Jumps {
    fn new(mut rng: Rng) -> Self {
        Self { permille: rng.pick(&[0, 0, 0, 5]), rng, count: 0 }
    }

    /// How far the clock jumps now, in milliseconds, if it does.
    fn next(&mut self) -> Option<u64> {
        if self.rng.below(1000) >= self.permille {
            return None;
        }
        self.count += 1;
        Some(self.rng.between(1_000, JUMP_MS_MAX))
    }
}

/// The results of upgrades.
#[derive(Default)]
struct Upgrades {
    done: u64,
    /// Those of them to another number of shards.
    resized: u64,
    refused: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Busy,
    Quiet,
    /// Clients act, but nothing new begins, because an upgrade is near.
    Frozen,
}

/// Simulated time in which everything must come to rest, milliseconds. Clients with slow sockets that send heartbeats
/// every few hundred milliseconds are rarely all idle at once; some seeds need a minute.
const QUIET_MS_MAX: u64 = 600_000;

impl World {
    pub(crate) fn new(mut rng: Rng, trace: Trace) -> Self {
        let jumps = Jumps::new(rng.independent());
        let plan = Plan::random(&mut rng);
        let limits = Arc::new(plan.limits.clone());
        let drivers = (0..plan.shards)
            .map(|shard| Driver::new(ShardId(shard), &plan, Arc::clone(&limits), Millis(0)))
            .collect();
        Self {
            env: Env::new(plan, rng, trace),
            drivers,
            active: Vec::new(),
            profiles: Vec::new(),
            baseline: Baseline::default(),
            stopped_until: Millis(0),
            jumps,
            stops: 0,
            core_stalls: 0,
            upgrades: Upgrades::default(),
        }
    }

    /// Runs busy phases, each with a quiet point at the end, and then the drain.
    pub(crate) fn run(&mut self) -> Result<Summary, String> {
        for _ in 0..self.env.plan.rounds {
            for _ in 0..self.env.plan.steps {
                self.step(Phase::Busy)?;
                if self.begins_upgrade() {
                    self.upgrade()?;
                }
            }
            self.rest(|_| true)?;
            check::quiet_point(&mut self.env, &mut self.drivers, &mut self.baseline)?;
        }
        for _ in 0..self.env.rng.between(0, 50) {
            self.step(Phase::Busy)?;
        }
        self.env.is_draining = true;
        let (control, context) = self.env.control();
        control.drain(context)?;
        for _ in 0..self.env.rng.between(0, 50) {
            self.step(Phase::Busy)?;
        }
        self.rest(|control| control.drained.iter().all(|times| *times > 0))?;
        let summary = check::end(&mut self.env, &mut self.drivers)?;
        let Self { stops, core_stalls, jumps: Jumps { count: jumps, .. }, .. } = *self;
        let Upgrades { done, resized, refused, .. } = self.upgrades;
        let upgrades = [done, resized, refused, self.env.control.paced.moved];
        let postponed = self.drivers.iter().map(|driver| driver.postponed).sum();
        let mut crowd_slices = [0; 3];
        for driver in &self.drivers {
            summary::add_each(&mut crowd_slices, &driver.crowds.counts());
        }
        let (socket_faults, reloads) = (self.env.socket_faults, self.env.control.reloads);
        let summary = Summary { socket_faults, reloads, crowd_slices, ..summary };
        Ok(Summary { stops, core_stalls, jumps, upgrades, postponed, ..summary })
    }

    /// Waits until everything is at rest: everything is delivered, and room counts have been exchanged.
    fn rest(&mut self, is_done: impl Fn(&Control) -> bool) -> Result<(), String> {
        let begin = self.env.now;
        self.env.note_activity();
        self.env.control.logic.services.is_calm = true;
        loop {
            self.step(Phase::Quiet)?;
            let Env { now, control, .. } = &self.env;
            // While the process is stopped nothing happens, but that is not rest.
            let active_at = self.env.active_at().max(self.stopped_until);
            let is_still = *now > active_at.after(2 * ROOM_COUNT_MS + 100)
                && control.paced.is_idle()
                && control.is_idle()
                && is_done(control);
            if is_still && self.is_idle() && check::check_logic(&mut self.env, &self.drivers)? {
                self.env.control.logic.services.is_calm = false;
                return Ok(());
            }
            let Env { now, control, .. } = &self.env;
            if *now > begin.after(QUIET_MS_MAX) {
                return Err(format!(
                    "no rest: calls {:?} are open, last activity at {active_at:?}, drained {:?}, control \
                     idle {}, mesh idle {}, cores quiet {:?}, busy peers {:?}",
                    control.calls.open(),
                    control.drained,
                    control.is_idle(),
                    self.env.mesh.is_idle(),
                    self.drivers.iter().map(Driver::is_quiet).collect::<Vec<_>>(),
                    self.active
                        .iter()
                        .filter(|peer| !self.is_peer_idle(**peer))
                        .collect::<Vec<_>>(),
                ));
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.env.mesh.is_idle()
            && self.drivers.iter().all(Driver::is_quiet)
            && self.env.push_callers.is_idle()
            && self.active.iter().all(|peer| self.is_peer_idle(*peer))
    }

    fn is_peer_idle(&self, peer: usize) -> bool {
        let Peer { client, socket, .. } = &self.env.peers[peer];
        client.reads == Reads::NoMore && client.received.is_live
            || socket.is_reset()
            || socket.is_idle()
    }

    fn step(&mut self, phase: Phase) -> Result<(), String> {
        let env = &mut self.env;
        env.trace.step += 1;
        let is_stopped = env.now < self.stopped_until;
        let pause = match phase {
            _ if is_stopped => env.rng.between(1, 50),
            Phase::Quiet | Phase::Frozen => env.rng.between(1, 8),
            Phase::Busy if env.rng.percent(1) => env.rng.between(50, 400),
            Phase::Busy => env.rng.between(0, 3),
        };
        env.now = env.now.after(pause);
        if is_stopped {
            return self.turn_clients(phase);
        }
        if phase == Phase::Busy {
            if let Some(ms) = self.jumps.next() {
                trace!(env, "the clock jumps by {ms} ms");
                env.now = env.now.after(ms);
            }
            self.hold_up();
            self.connect();
            self.connect_caller();
            let (control, context) = self.env.control();
            control.act(context)?;
        }
        self.turn_control()?;
        self.turn_clients(phase)?;
        self.turn_shards()
    }

    /// Stops the process, or stalls one core.
    fn hold_up(&mut self) {
        let env = &mut self.env;
        if env.rng.below(1000) < env.plan.stop_permille {
            self.stops += 1;
            self.stopped_until = env.now.after(env.rng.between(5, env.plan.stall_ms_max));
            trace!(env, "the process is stopped until {:?}", self.stopped_until);
        }
        if env.rng.below(1000) < env.plan.core_stall_permille {
            let shard = env.rng.below(self.drivers.len());
            self.core_stalls += 1;
            let driver = &mut self.drivers[shard];
            driver.stalled_until = env.now.after(env.rng.between(5, env.plan.stall_ms_max));
            trace!(env, "shard {shard} stalls until {:?}", driver.stalled_until);
        }
    }

    /// Connects a new client, or an earlier one again.
    fn connect(&mut self) {
        let env = &mut self.env;
        if self.active.len() >= env.plan.clients || !env.rng.percent(30) {
            return;
        }
        let mut positions = Positions::new(env.plan.limits.filter_rooms);
        let profile = if !self.profiles.is_empty() && env.rng.percent(40) {
            let former = env.rng.below(self.profiles.len());
            positions = env.peers[former].client.received.positions.of_next_connection();
            self.profiles[former].clone()
        } else {
            ClientProfile::random(&mut env.rng, &env.plan)
        };
        self.profiles.push(profile.clone());
        let shard = env.rng.below(self.drivers.len());
        let (capacity, transport) = (env.rng.pick(env.plan.socket_bytes), profile.transport);
        let peer = env.peers.len();
        trace!(env, "peer {peer} connects to shard {shard}: {}", profile.token.escape_ascii());
        let mut client = Client::new(&mut env.rng, &env.plan, profile);
        client.received.positions = positions;
        env.peers.push(Peer {
            client,
            socket: Socket::new(transport, capacity),
            conn: None,
            accepted_at: Millis(0),
            received_at: Millis(0),
            has_backlog: false,
            postponed_at: None,
            token_expires_at: None,
            live_at: None,
            closed: None,
        });
        self.active.push(peer);
        self.drivers[shard].backlog.push_back(peer);
    }

    fn connect_caller(&mut self) {
        let Env { rng, plan, push_callers, now, .. } = &mut self.env;
        let shard = rng.below(self.drivers.len());
        push_callers.connect(rng, plan, *now, &mut self.drivers[shard].caller_listener);
    }

    fn turn_control(&mut self) -> Result<(), String> {
        let (control, context) = self.env.control();
        if control.turn(context)? {
            self.env.note_activity();
        }
        Ok(())
    }

    fn turn_clients(&mut self, phase: Phase) -> Result<(), String> {
        let is_quiet = phase == Phase::Quiet;
        let env = &mut self.env;
        let next_call = env.control.calls.next_id();
        let mut is_active = false;
        for &peer in &self.active {
            if !is_quiet && env.rng.percent(50) {
                continue;
            }
            let Peer { client, socket, .. } = &mut env.peers[peer];
            client
                .read((socket, &mut env.rng), next_call, is_quiet)
                .map_err(|what| format!("peer {peer} read something wrong: {what}"))?;
            client.write((socket, &mut env.rng), &env.plan, env.now, is_quiet);
            // Few clients receive a history at any time.
            let leaves_amid_history = client.received.is_catching_up() && env.rng.percent(20);
            if !is_quiet && (leaves_amid_history || env.rng.below(1000) == 0) {
                client.disconnect(socket, &mut env.rng);
            }
            is_active |= client.received.waits_for_others() && !socket.is_drained_by_server();
        }
        let Env { rng, plan, push_callers, now, .. } = env;
        is_active |= push_callers.turn(rng, plan, (next_call, *now), is_quiet)?;
        if is_active {
            env.note_activity();
        }
        self.active
            .retain(|&peer| !env.peers[peer].client.is_over || !env.peers[peer].socket.is_released);
        Ok(())
    }

    fn turn_shards(&mut self) -> Result<(), String> {
        let env = &mut self.env;
        let shards = self.drivers.len();
        let first = env.rng.below(shards);
        for shard in first..first + shards {
            let driver = &mut self.drivers[shard % shards];
            if env.now < driver.stalled_until {
                continue;
            }
            if !driver.is_awake(env) {
                driver.check_overdue(env)?;
            } else if env.rng.percent(env.plan.turn_percent) {
                driver.turn(env)?;
                check::turn(driver, env)?;
            }
        }
        Ok(())
    }
}
