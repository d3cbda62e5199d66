//! Push callers that are connected to shards. They push by frames, as control does by calls, and the replies must agree
//! with what clients get.

mod account;
mod caller;
mod caller_listener;
mod socket;

use comet_core::Millis;

use crate::plan::Plan;
use crate::rng::Rng;

pub(crate) use account::{Account, MadePush};
use caller::PushCaller;
pub(crate) use caller_listener::CallerListener;

#[derive(Default)]
pub(crate) struct PushCallers {
    all: Vec<PushCaller>,
    /// Those that have not ended.
    active: Vec<usize>,
    pub(crate) account: Account,
}

impl PushCallers {
    /// Connects a new caller at `listener` at times.
    pub(crate) fn connect(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        now: Millis,
        listener: &mut CallerListener,
    ) {
        if self.active.len() < plan.callers && rng.percent(10) {
            let caller = self.all.len();
            self.all.push(PushCaller::new(rng, plan, caller as u64 + 1, now));
            self.active.push(caller);
            listener.backlog.push_back(caller);
        }
    }

    /// Callers read and write. `next_call` is the next call of control. Returns whether some were active.
    pub(crate) fn turn(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        (next_call, now): (u64, Millis),
        is_quiet: bool,
    ) -> Result<bool, String> {
        let Self { all, active, account } = self;
        for &number in &*active {
            if !is_quiet && rng.percent(50) {
                continue;
            }
            let caller = &mut all[number];
            caller
                .read(rng, account, now, is_quiet)
                .map_err(|what| format!("push caller {number}: {what}"))?;
            if !caller.is_over {
                caller.write(rng, plan, (next_call, now), is_quiet);
            }
        }
        let before = active.len();
        active.retain(|number| !all[*number].is_over);
        Ok(before > active.len() || !self.is_idle())
    }

    /// Whether no request is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.iter().all(|caller| self.all[*caller].is_idle())
    }

    /// The process is about to end: callers make some last requests.
    pub(crate) fn begin_end(&mut self, rng: &mut Rng, plan: &Plan, moment: (u64, Millis)) {
        for &caller in &self.active {
            let caller = &mut self.all[caller];
            caller.is_finished = true;
            caller.write(rng, plan, moment, false);
        }
    }
}
