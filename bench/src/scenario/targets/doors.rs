//! The cost of a push through each push API: to rooms of ten, compared with a bare ring that receives one message and
//! sends ten; and to a key, compared with the ping-pong, and with a bare ring that passes a message on and answers it.

use super::Record;
use super::goal::Goal;
use super::goals;
use super::rig::{self, SHORT_NS, SIZE, in_one_room};
use crate::Result;
use crate::args::TargetsArgs;
use crate::crowd::{Crowd, Streams};
use crate::figures::figure;
use crate::message::HEADER_LEN;
use crate::pingpong::PingPong;
use crate::plan::{Pattern, Plan};
use crate::sink::PushMethod;
use crate::subject::Subject;
use crate::yardstick::{FAN, Mode};

const ROOMS: usize = 1_000;
/// Pushes a second to rooms, and to keys.
const ROOMS_HZ: f64 = 1_000.0;
const KEYS_HZ: f64 = 2_000.0;
const KEYS: usize = 1_000;

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    let comet = |crowd| -> Result<Subject> {
        let mut comet = rig::comet_with_frames(args, &args.host, crowd)?;
        comet.connect()?;
        Ok(comet)
    };
    let of_rooms = Crowd { rooms: ROOMS, ..in_one_room(args, ROOMS * FAN) };
    let room = of_rooms.room.clone();
    let of_groups = Crowd { rooms: ROOMS, room, ..Crowd::of_yardstick(ROOMS * FAN) };
    for round in 1..=args.rounds {
        // One after the other: together they need more descriptors than a process usually may have.
        let mut bare = rig::yardstick(args, Mode::Fan, of_groups.clone())?;
        bare.connect()?;
        let floor = cost(&mut bare, round, ROOMS_HZ, record)?;
        drop(bare);
        record.note(&goals::TENS_RING, floor);
        let mut bare = rig::yardstick(args, Mode::FanGrpc, of_groups.clone())?;
        bare.connect()?;
        for (goal, method) in [
            (&goals::TENS_STREAM_FLOOR, PushMethod::OneStream),
            (&goals::TENS_CALLS_FLOOR, PushMethod::Calls { callers: 1 }),
        ] {
            bare.method = method;
            let cost = cost(&mut bare, round, ROOMS_HZ, record)?;
            record.note(goal, cost / floor);
        }
        drop(bare);
        let doors = [&goals::TENS_CALLS, &goals::TENS_STREAM, &goals::TENS_FRAMES];
        each_door(&mut comet(of_rooms.clone())?, doors, round, ROOMS_HZ, floor, record)?;
    }
    let streams = Streams::Keys(1);
    let mut comet = comet(Crowd { streams, ..in_one_room(args, KEYS) })?;
    let of_keys = Crowd { streams, ..Crowd::of_yardstick(KEYS) };
    for round in 1..=args.rounds {
        let (bytes, seconds) = (HEADER_LEN + SIZE as usize, SHORT_NS as f64 / 1e9);
        let interval_ns = Plan::interval_of(KEYS_HZ);
        let echo = PingPong::measure(bytes, interval_ns, seconds, &args.host)?;
        let mut bare = rig::yardstick(args, Mode::One, of_keys.clone())?;
        bare.connect()?;
        let (echo, floor) = (echo.cpu_ns / 1e3, cost(&mut bare, round, KEYS_HZ, record)?);
        drop(bare);
        record.note(&goals::ONES_ECHO, echo);
        record.note(&goals::ONES_RING, floor);
        let doors = [&goals::ONES_CALLS, &goals::ONES_STREAM, &goals::ONES_FRAMES];
        let frames = each_door(&mut comet, doors, round, KEYS_HZ, echo, record)?;
        record.note(&goals::ONES_FRAMES_RING, frames / floor);
    }
    Ok(())
}

/// Records the CPU time of a push through each push API, as a multiple of `floor`, in us: calls, one stream, push
/// frames. Returns that of the last, in us.
fn each_door(
    comet: &mut Subject,
    doors: [&Goal; 3],
    round: u32,
    hertz: f64,
    floor: f64,
    record: &mut Record,
) -> Result<f64> {
    let frames = comet.method;
    let mut last = 0.0;
    let methods = [PushMethod::Calls { callers: 1 }, PushMethod::OneStream, frames];
    for (goal, method) in doors.into_iter().zip(methods) {
        comet.method = method;
        let cost = cost(comet, round, hertz, record);
        comet.method = frames;
        last = cost?;
        record.note(goal, last / floor);
    }
    Ok(last)
}

/// CPU time of a push, all threads, in us.
fn cost(subject: &mut Subject, round: u32, hertz: f64, record: &mut Record) -> Result<f64> {
    let pattern = Pattern::Rotating { first: 0 };
    let plan = Plan { pattern, duration_ns: SHORT_NS, ..rig::plan(subject, hertz) };
    let turn = record.turn(subject, round, plan)?;
    figure(&turn, "CPU of a call")
}
