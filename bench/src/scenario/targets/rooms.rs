//! One room and ten thousand: the same pushes, each to one member, to the same room or to all in turn.

use super::goal::{Goal, Reach};
use super::stand::{Guests, Stand};
use super::{Findings, Setup};
use crate::Result;
use crate::sender::{Pattern, Plan};

const ROOMS: usize = 10_000;
/// Pushes a second.
const HZ: f64 = 2_000.0;

const GROWTH: Goal = Goal {
    target: 11,
    name: "growth_rooms",
    what: "cost growth, 1 to 10,000 rooms of one",
    reach: Some(Reach::AtMost(1.25)),
    unit: "",
    decimals: 2,
    compared: "growth of CPU of a push, all threads / the bare ring loop's, one socket to all in turn",
};
const GROWTH_DATA: Goal = Goal {
    name: "growth_rooms_data",
    what: "the same, data core",
    reach: None,
    compared: "without the control thread",
    ..GROWTH
};

pub(super) const GOALS: [Goal; 2] = [GROWTH, GROWTH_DATA];

/// # Errors
///
/// A server or a yardstick did not start, or ended.
pub(super) fn measure(setup: &Setup<'_>, findings: &mut Findings) -> Result<()> {
    let host = &setup.args.host;
    for round in 1..=setup.args.rounds {
        // One after the other: together they need more descriptors than a process usually has.
        let mut cost = |mut stand: Stand| -> Result<[f64; 2]> {
            stand.connect()?;
            let interval_ns = Plan::interval_of(HZ);
            let plan = Plan { interval_ns, pattern: Pattern::Rotating, ..stand.plan() };
            let turn = stand.turn(round, plan, findings)?;
            Ok([turn.cpu_ns()?, turn.data_cpu_ns()?])
        };
        let guests = |rooms| Guests { connections: rooms, rooms, ..Guests::in_one_room(rooms) };
        let one = cost(Stand::comet(setup, host, guests(1))?)?;
        let all = cost(Stand::comet(setup, host, guests(ROOMS))?)?;
        let [bare_one, _] = cost(Stand::ring(host, 1)?)?;
        let [bare_all, _] = cost(Stand::ring_of_streams(host, ROOMS)?)?;
        for (goal, index) in [(&GROWTH, 0), (&GROWTH_DATA, 1)] {
            findings.note(goal, (all[index] / one[index]) / (bare_all / bare_one));
        }
    }
    Ok(())
}
