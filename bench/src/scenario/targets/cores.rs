//! Two data cores compared with one: the same pushes to the same rooms; half of the deliveries are to connections on
//! another core than the room's home.

use super::Record;
use super::goals;
use super::rig::{self, in_one_room};
use crate::Result;
use crate::args::{HostArgs, TargetsArgs};
use crate::crowd::Crowd;
use crate::figures::figure;
use crate::subject::Subject;
use comet_cpus::CpuList;

const CONNECTIONS: usize = 1_000;
const ROOMS: usize = 8;
/// Pushes per second to each room: a load that leaves every CPU half idle, since one of them may be shared with the
/// bench.
const HZ: f64 = 20.0;

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    let host = &args.host;
    let first = host.server_core.first();
    let second = second_core(host);
    // All three have their control thread on the same CPUs, so that only the data cores differ.
    let control = host.control_cores.clone().unwrap_or_else(|| first.clone());
    let start = |cores: CpuList| -> Result<Subject> {
        let control_cores = Some(control.clone());
        let host = HostArgs { server_core: cores, control_cores, ..host.clone() };
        let crowd = Crowd { rooms: ROOMS, ..in_one_room(args, CONNECTIONS) };
        let mut comet = rig::comet(args, &host, crowd)?;
        comet.connect()?;
        Ok(comet)
    };
    let mut one = start(first.clone())?;
    let mut other = start(second.clone())?;
    let mut both = start(first.with(&second))?;
    for round in 1..=args.rounds {
        let mut turn = |comet: &mut Subject| -> Result<[f64; 2]> {
            let turn = record.turn(comet, round, rig::plan(comet, HZ))?;
            Ok([figure(&turn, "data CPU of a delivery")?, figure(&turn, "CPU of a delivery")?])
        };
        let (one, both, other) = (turn(&mut one)?, turn(&mut both)?, turn(&mut other)?);
        for (goal, index) in [(&goals::TWO_CORES, 0), (&goals::TWO_CORES_ALL, 1)] {
            record.note(goal, both[index] / f64::midpoint(one[index], other[index]));
        }
    }
    Ok(())
}

/// A CPU for the second data core: one that is idle, or else the bench's, which is the only choice if there are just
/// two.
fn second_core(host: &HostArgs) -> CpuList {
    let mut taken = host.server_core.with(&host.bench_core);
    if let Some(control) = &host.control_cores {
        taken = taken.with(control);
    }
    CpuList::allowed().without(&taken).unwrap_or_else(|| host.bench_core.clone()).first()
}
