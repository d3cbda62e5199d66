//! Clients that come back to their parked sessions, beside clients that come back to nothing.

use super::Record;
use super::goals;
use super::rig;
use crate::Result;
use crate::args::TargetsArgs;
use crate::crowd::Crowd;
use crate::figures::figure;
use crate::scenario::resume::{Absence, absence, crowd, parking};

const CONNECTIONS: usize = 15_000;
/// Pushes to each key while nobody holds it.
const PUSHES: u32 = 100;
const SIZE: u32 = 128;

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    for round in 1..=args.rounds {
        let mut turn = |server_set: Vec<String>| {
            let is_kept = !server_set.is_empty();
            let server_set = [args.server_set.clone(), server_set].concat();
            let args = TargetsArgs { server_set, ..args.clone() };
            let crowd = crowd(Crowd::of_server(&args.server(), CONNECTIONS, 0));
            let mut comet = rig::comet(&args, &args.host, crowd)?;
            comet.place.round = round;
            let absence_of = Absence { pushes: PUSHES, size: SIZE, is_kept, has_logic: false };
            let turn = absence(&mut comet, &absence_of)?;
            record.turns.push(turn.clone());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(turn)
        };
        let (plain, kept) = (turn(Vec::new())?, turn(parking(PUSHES))?);
        let [plain_us, kept_us] =
            [figure(&plain, "CPU of a connection")?, figure(&kept, "CPU of a connection")?];
        let heap = |turn| figure(turn, "heap of one away");
        record.note(&goals::RESUME, kept_us / plain_us);
        record.note(&goals::RESUME_HEAP, heap(&kept)? - heap(&plain)?);
    }
    Ok(())
}
