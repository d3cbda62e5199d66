//! Pushes by key next to a crowd: how much later they arrive than in quiet times.

use super::Record;
use super::goals;
use super::rig::{self, in_one_room};
use crate::Result;
use crate::args::TargetsArgs;
use crate::clock::MILLISECOND_NS;
use crate::crowd::{Crowd, Streams};
use crate::figures::figure;
use crate::plan::{Pattern, Plan};
use crate::scenario::fairness::begin_crowd;
use crate::subject::Subject;

/// Members of the crowd's room.
const CROWD: usize = 12_000;
const CLIENTS: usize = 1_000;
/// Pushes by key in a second.
const HZ: f64 = 500.0;
const TURN_NS: u64 = 3_000 * MILLISECOND_NS;

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    let clients = Crowd { streams: Streams::Keys(1), ..in_one_room(args, CLIENTS) };
    let mut comet = rig::comet(args, &args.host, clients)?;
    comet.connect()?;
    let plan = |subject: &Subject| Plan {
        pattern: Pattern::Rotating { first: 0 },
        duration_ns: TURN_NS,
        ..rig::plan(subject, HZ)
    };
    for round in 1..=args.rounds {
        let quiet = plan(&comet);
        let quiet = record.turn(&mut comet, round, quiet)?;
        let crowd = begin_crowd(&mut comet, CROWD)?;
        let beside = plan(&comet);
        let beside = record.turn(&mut comet, round, beside)?;
        crowd.end()?;
        comet.settle()?;
        let (quiet_us, beside_us) =
            (figure(&quiet, "latency p99")?, figure(&beside, "latency p99")?);
        record.note(&goals::BESIDE, (beside_us - quiet_us) / 1e3);
        record.note(&goals::BESIDE_QUIET, quiet_us / 1e3);
    }
    Ok(())
}
