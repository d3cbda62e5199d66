//! Flat out into one room: the maximum for one data core when everything else is on other CPUs.

use super::Record;
use super::goals;
use super::rig::{self, FLAT_OUT, in_one_room};
use crate::Result;
use crate::args::{HostArgs, TargetsArgs};
use crate::clock::MILLISECOND_NS;
use crate::figures::figure;
use crate::plan::Plan;
use crate::sink::PushMethod;

const MEMBERS: usize = 1_000;
/// Bytes of a body, as in `{"test":1}`.
const SIZE: usize = 10;
const BATCH: u64 = 20;
/// Pushes under way: as many as fit in one write, and fewer than an outbox holds (`protocol.svr_proto`, 512).
const BATCHES_WINDOW: u64 = 64;
const SINGLE_WINDOW: u64 = 256;
const DURATION_NS: u64 = 1_500 * MILLISECOND_NS;

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    let host = &args.host;
    let control = host.control_cores.as_ref().unwrap_or(&host.bench_core);
    let host = HostArgs { control_cores: Some(control.clone()), ..host.clone() };
    let mut comet = rig::comet(args, &host, in_one_room(args, MEMBERS))?;
    // Many pushes to one room are under way, and only a stream keeps them in order.
    comet.method = PushMethod::OneStream;
    comet.connect()?;
    for round in 1..=args.rounds {
        for (batch, window, goal, core) in [
            (BATCH, BATCHES_WINDOW, &goals::FLOOD_BATCHES, &goals::FLOOD_BATCHES_CORE),
            (1, SINGLE_WINDOW, &goals::FLOOD_SINGLE, &goals::FLOOD_SINGLE_CORE),
        ] {
            let plan = Plan {
                size: SIZE,
                batch,
                window,
                duration_ns: DURATION_NS,
                ..rig::plan(&comet, FLAT_OUT)
            };
            let turn = record.turn(&mut comet, round, plan)?;
            record.note(goal, figure(&turn, "deliveries a second")? / 1e6);
            record.note(core, figure(&turn, "per core second")? / 1e6);
        }
    }
    Ok(())
}
