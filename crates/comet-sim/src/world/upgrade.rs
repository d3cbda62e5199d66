//! Upgrades: all shards are frozen and handed over to those of another process, perhaps with another number of shards.
//! All checks continue.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use comet_core::{ShardId, distribute};
use comet_handover as handed;

use crate::check;
use crate::driver::{Driver, FrozenShard};
use crate::env::{Env, SocketTotals};
use crate::mesh::Mesh;
use crate::release::Release;
use crate::stall_log::StallLog;
use crate::trace::trace;

use super::{Phase, World};

/// Simulated time in which the shards must become quiescent, milliseconds.
const FREEZE_MS_MAX: u64 = 600_000;

impl World {
    pub(super) fn begins_upgrade(&mut self) -> bool {
        let Env { rng, plan, .. } = &mut self.env;
        plan.upgrade_permille > 0 && rng.below(1000) < plan.upgrade_permille
    }

    pub(super) fn upgrade(&mut self) -> Result<(), String> {
        self.freeze()?;
        let env = &mut self.env;
        let offers = self.drivers.iter_mut().map(|driver| driver.offer(env));
        let offers = offers.collect::<Result<Vec<_>, _>>()?;
        let release = Release::random(&mut env.rng);
        trace!(env, "{} shards are handed over: {release:?}", offers.len());
        match release.pass(&mut env.rng, &offers)? {
            Some(shards) => self.hand_over(offers, shards),
            None => self.thaw(offers),
        }
    }

    /// The other process has refused, and this one continues.
    fn thaw(&mut self, offers: Vec<FrozenShard>) -> Result<(), String> {
        self.upgrades.refused += 1;
        for (driver, offer) in self.drivers.iter_mut().zip(offers) {
            driver.thaw(&mut self.env, offer)?;
        }
        self.env.note_activity();
        Ok(())
    }

    fn hand_over(
        &mut self,
        offers: Vec<FrozenShard>,
        handed: Vec<handed::Shard>,
    ) -> Result<(), String> {
        let env = &mut self.env;
        let former = env.plan.shards;
        // Remote logic counts rooms by home, so the number must stay the same.
        let shards = match env.plan.is_remote() {
            true => former,
            false => {
                let other = env.rng.between(1, 4) as u16;
                env.rng.pick(&[former, other])
            }
        };
        trace!(env, "{former} shards are handed over to {shards}");
        self.upgrades.done += 1;
        self.upgrades.resized += u64::from(shards != former);
        let mut totals = vec![SocketTotals::default(); shards.into()];
        let mut backlog = VecDeque::new();
        let (mut parts, mut formers) = (Vec::new(), std::mem::take(&mut self.drivers));
        for (index, ((driver, offer), shard)) in formers.iter().zip(offers).zip(handed).enumerate()
        {
            let of = driver.release_sockets(env, &offer.peers)?;
            totals[index % usize::from(shards)].add_totals(of);
            backlog.extend(driver.backlog.iter().copied());
            parts.push((shard, offer.peers));
        }
        env.plan.shards = shards;
        env.mesh = Mesh::new(shards, env.plan.inbox, env.plan.delay_ms_max);
        env.control.upgrade(shards);
        if !env.plan.is_remote() {
            // Nothing tells the new process about members on other hosts.
            env.control.remote_members.clear();
        }
        env.upgraded_at.push(env.now);
        let parts = distribute(parts, shards).map_err(|fault| fault.to_string())?;
        env.control.paced.upgrade(parts.iter().flat_map(|(part, _)| part.paced()))?;
        let stalls: Rc<[StallLog]> =
            formers.iter_mut().map(|former| std::mem::take(&mut former.stalls)).collect();
        let mut renamed = BTreeMap::new();
        for (shard, (part, totals)) in (0..).map(ShardId).zip(parts.into_iter().zip(totals)) {
            let limits = Arc::clone(env.control.limits());
            let mut driver = Driver::new(shard, &env.plan, limits, env.now);
            renamed.append(&mut driver.take_over(env, part, (totals, Rc::clone(&stalls))));
            self.drivers.push(driver);
        }
        for former in &formers {
            self.drivers[0].add_counts(former);
            self.drivers.iter_mut().for_each(|driver| driver.keep_waiting(former));
        }
        // Peers that were connecting are accepted by one of the new shards.
        for peer in backlog {
            let at = env.rng.below(self.drivers.len());
            self.drivers[at].backlog.push_back(peer);
        }
        env.control.trace_log.rename(&renamed);
        env.note_activity();
        for driver in &self.drivers {
            check::turn(driver, env)?;
        }
        Ok(())
    }

    /// Waits until the shards can be handed over.
    fn freeze(&mut self) -> Result<(), String> {
        trace!(self.env, "an upgrade begins");
        let begin = self.env.now;
        let closes_at = begin.after(self.env.rng.between(0, 300));
        self.env.has_upgraded = true;
        self.env.control.logic.services.is_calm = true;
        let holds_input = self.env.rng.percent(50);
        self.drivers.iter_mut().for_each(|driver| driver.freeze(holds_input));
        loop {
            self.step(Phase::Frozen)?;
            let now = self.env.now;
            let is_stopped = now < self.stopped_until
                || self.drivers.iter().any(|driver| now < driver.stalled_until);
            if !is_stopped && self.env.now >= closes_at {
                for driver in &mut self.drivers {
                    driver.close_left_behind();
                }
            }
            let may_stop =
                self.drivers.iter_mut().map(Driver::may_stop).filter(|may_stop| !may_stop).count()
                    == 0;
            let control = &self.env.control;
            let is_control_idle = control.is_idle();
            if !is_stopped && may_stop && is_control_idle && self.env.mesh.is_empty() {
                self.env.control.logic.services.is_calm = false;
                return Ok(());
            }
            if self.env.now
                > begin.after(FREEZE_MS_MAX).max(self.stopped_until.after(FREEZE_MS_MAX))
            {
                let obstacles: Vec<_> = self
                    .drivers
                    .iter()
                    .map(|driver| driver.shard.obstacles().to_string())
                    .collect();
                return Err(format!(
                    "not quiescent: {obstacles:?}, control idle {is_control_idle}, mesh empty {}",
                    self.env.mesh.is_empty()
                ));
            }
        }
    }
}
