//! One room and ten thousand: the same pushes, each to one member, always to the same room or each time to another.

use super::Record;
use super::goals;
use super::rig::{self, Figures, SHORT_NS, alternate, in_one_room};
use crate::Result;
use crate::args::TargetsArgs;
use crate::clock::SECOND_NS;
use crate::crowd::{Crowd, Streams};
use crate::plan::{Pattern, Plan};
use crate::subject::Subject;
use crate::yardstick::Mode;

const ROOMS: usize = 10_000;
/// Pushes a second.
const HZ: f64 = 2_000.0;
/// Pushes of a turn. With all rooms, no room gets two pushes in a round.
const PUSHES: usize = (HZ * SHORT_NS as f64 / SECOND_NS as f64) as usize;

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    for round in 1..=args.rounds {
        // One after the other: together they need more descriptors than a process usually may have.
        let mut growth = |one, all| growth(round, [one, all], record);
        let crowd = |rooms| Crowd { rooms, ..in_one_room(args, rooms) };
        let comet = |rooms| rig::comet(args, &args.host, crowd(rooms));
        let comet = growth(comet(1)?, comet(ROOMS)?)?;
        let bare = |streams, count| {
            rig::yardstick(args, Mode::Ring, Crowd { streams, ..Crowd::of_yardstick(count) })
        };
        let bare = growth(bare(Streams::Rooms, 1)?, bare(Streams::Keys(1), ROOMS)?)?;
        record.note(&goals::GROWTH_ROOMS, comet.all_threads / bare.all_threads);
        record.note(&goals::GROWTH_ROOMS_DATA, comet.data / bare.all_threads);
    }
    Ok(())
}

/// The CPU time of a delivery with all rooms, as a multiple of that with one.
fn growth(round: u32, mut subjects: [Subject; 2], record: &mut Record) -> Result<Figures> {
    for subject in &mut subjects {
        subject.connect()?;
    }
    let plan = |subject: &Subject, turn| Plan {
        pattern: Pattern::Rotating { first: turn * PUSHES },
        ..rig::plan(subject, HZ)
    };
    let [one, all] = alternate(round, subjects.each_mut(), plan, record)?;
    Ok(Figures { all_threads: all.all_threads / one.all_threads, data: all.data / one.data })
}
