//! One room and ten thousand: the same pushes, each to one member, to the same room or to another each time.

use super::goals::{GROWTH_ROOMS, GROWTH_ROOMS_DATA};
use super::stand::{Figures, Members, SHORT_NS, Stand, alternate};
use super::{Record, Setup};
use crate::Result;
use crate::clock::SECOND_NS;
use crate::sender::{Pattern, Plan};

const ROOMS: usize = 10_000;
/// Pushes a second.
const HZ: f64 = 2_000.0;
/// Pushes of a turn. With all rooms no room gets two in a round.
const PUSHES: usize = (HZ * SHORT_NS as f64 / SECOND_NS as f64) as usize;

pub(super) fn measure(setup: &Setup<'_>, record: &mut Record) -> Result<()> {
    let host = &setup.args.host;
    for round in 1..=setup.args.rounds {
        // One after the other: together they need more descriptors than a process usually has.
        let mut growth = |one: Stand, all: Stand| growth(round, [one, all], record);
        let members = |rooms| Members { connections: rooms, rooms, ..Members::in_one_room(rooms) };
        let comet = |rooms| Stand::comet(setup, host, members(rooms));
        let comet = growth(comet(1)?, comet(ROOMS)?)?;
        let bare = growth(Stand::ring(host, 1)?, Stand::ring_of_streams(host, ROOMS)?)?;
        record.note(&GROWTH_ROOMS, comet.all_threads / bare.all_threads);
        record.note(&GROWTH_ROOMS_DATA, comet.data / bare.all_threads);
    }
    Ok(())
}

/// How many times as much CPU a delivery takes with all rooms as with one.
fn growth(round: u32, mut stands: [Stand; 2], record: &mut Record) -> Result<Figures> {
    for stand in &mut stands {
        stand.connect()?;
    }
    let plan = |stand: &Stand, turn| Plan {
        interval_ns: Plan::interval_of(HZ),
        pattern: Pattern::Rotating { first: turn * PUSHES },
        ..stand.plan()
    };
    let [one, all] = alternate(round, stands.each_mut(), plan, record)?;
    Ok(Figures { all_threads: all.all_threads / one.all_threads, data: all.data / one.data })
}
