//! Connections in a hundred rooms each: the memory for each pair of a connection and a room, and the effect on a push.

use super::Record;
use super::goals;
use super::rig::{self, in_one_room};
use crate::Result;
use crate::args::TargetsArgs;
use crate::crowd::Crowd;
use crate::figures::figure;
use crate::scenario::rooms::{in_further_rooms, round};

const CONNECTIONS: usize = 10_000;
/// Rooms with 1,000 members each, which get pushes.
const ROOMS: usize = 10;
/// Further rooms of each connection, and the number of all further rooms.
const FURTHER: usize = 99;
const FURTHER_OF: usize = 10_000;
/// Pushes a second to each room.
const HZ: f64 = 5.0;

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    for number in 1..=args.rounds {
        let crowd = Crowd { rooms: ROOMS, ..in_one_room(args, CONNECTIONS) };
        let crowd = in_further_rooms(crowd, FURTHER, FURTHER_OF);
        let mut comet = rig::comet(args, &args.host, crowd)?;
        comet.connect()?;
        comet.place.round = number;
        let [one, many] = round(&mut comet, |comet| rig::plan(comet, HZ))?;
        let ratio = figure(&many, "CPU of a delivery")? / figure(&one, "CPU of a delivery")?;
        record.note(&goals::PAIR_HEAP, figure(&many, "heap of a pair")?);
        record.note(&goals::PAIR_RSS, figure(&many, "RSS of a pair")?);
        record.note(&goals::JOINS, figure(&many, "joins a core second")? / 1e6);
        record.note(&goals::JOINS_RATE, figure(&many, "joins a second")? / 1e6);
        record.note(&goals::MANY_ROOMS, ratio);
        record.turns.extend([one, many]);
    }
    Ok(())
}
