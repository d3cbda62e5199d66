//! Clients that return to the histories of their rooms, or to their parked sessions, compared with clients for which
//! nothing was kept.

use serde_json::Value;

use super::Record;
use super::goals;
use super::rig;
use crate::Result;
use crate::args::TargetsArgs;
use crate::crowd::Crowd;
use crate::figures::figure;
use crate::scenario::resume::{Absence, absence, crowd, parking, with_history};

const CONNECTIONS: usize = 15_000;
const ROOMS: usize = 15;
/// Pushes to each room, or to each key, while no client is connected.
const PUSHES: u32 = 100;
const SIZE: u32 = 128;

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    for round in 1..=args.rounds {
        let mut turn = |rooms: usize, server_set: Vec<String>| {
            let is_kept = !server_set.is_empty();
            let server_set = [args.server_set.clone(), server_set].concat();
            let args = TargetsArgs { server_set, ..args.clone() };
            let crowd = crowd(Crowd::of_server(&args.server(), CONNECTIONS, rooms));
            let mut comet = rig::comet(&args, &args.host, crowd)?;
            comet.place.round = round;
            let absence_of = Absence { pushes: PUSHES, size: SIZE, is_kept, has_logic: false };
            let turn = absence(&mut comet, &absence_of)?;
            record.turns.push(turn.clone());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(turn)
        };
        let rooms = [turn(ROOMS, Vec::new())?, turn(ROOMS, with_history(PUSHES))?];
        let keys = [turn(0, Vec::new())?, turn(0, parking(PUSHES))?];
        let ratio = |[plain, kept]: &[Value; 2]| -> Result<f64> {
            Ok(figure(kept, "CPU of a connection")? / figure(plain, "CPU of a connection")?)
        };
        record.note(&goals::RETURN_TO_ROOMS, ratio(&rooms)?);
        record.note(&goals::RETURN_TO_SESSIONS, ratio(&keys)?);
        let [plain, kept] = keys.each_ref().map(|turn| figure(turn, "heap of one away"));
        record.note(&goals::SESSION_HEAP, kept? - plain?);
    }
    Ok(())
}
