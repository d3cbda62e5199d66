//! `resume`: clients miss pushes, and recover them.
//!
//! Normally all connections are cut off at once, are pushed to while they are away, and return: to parked sessions of
//! their keys, or to rooms with a history. This is compared with the same return to a server that keeps nothing. With
//! `--drop` they stay connected, but their outboxes are too full for a share of the pushes to their rooms.

mod absence;
mod repair;

use std::path;

use serde_json::{Value, json};

pub(super) use self::absence::{Absence, absence};

use super::logic::Logic;
use super::{each_turn, prepare};
use crate::Result;
use crate::args::{ResumeArgs, SetupArgs};
use crate::crowd::{Crowd, Streams};
use crate::report::{self, Table};
use crate::subject::{COMET, Place, Subject};

/// The subject for the figures of a server that keeps nothing.
pub(crate) const PLAIN: &str = "plain";

const RETURNS: &str = "connections, expected, parked, resumed, absent, dropped, received, lost, doubled, late, \
    connections a second, CPU of a connection, handshake p50, handshake p99, heap of one away, heap of a session, heap of a parked push";
const REPAIRS: &str = "connections, expected, dropped, share dropped, repaired, received, lost, doubled, late, CPU of a repaired delivery";

/// Runs it; returns whether each push arrived once and in order, or was counted.
pub(crate) fn run(args: &ResumeArgs) -> Result<bool> {
    prepare(&args.setup, 0)?;
    let (turns, figures) = match args.drop {
        Some(share) => (repairs(args, share)?, REPAIRS),
        None => (returns(args)?, RETURNS),
    };
    let text = Table::of_turns(&turns, figures).text();
    report::finish("resume", args, args.setup.sides(), json!({ "turns": turns }), &text)
}

fn returns(args: &ResumeArgs) -> Result<Vec<Value>> {
    let mut plain = None;
    each_turn(args.rounds, &[PLAIN, COMET], |place| {
        let (program, cpus) = (args.setup.server.program()?, args.setup.host.bench_core.clone());
        let logic = args.logic.then(|| Logic::start(path::absolute(program)?, cpus));
        let logic = logic.transpose()?;
        let mut setup = args.setup.clone();
        let server_set = &mut setup.server.server_set;
        if place.subject == COMET {
            server_set.extend(match args.rooms {
                0 => parking(args.messages.unwrap_or(args.pushes)),
                _ => with_history(args.pushes),
            });
        }
        if let Some(logic) = &logic {
            server_set.extend(logic.settings());
            // It sends a renewal for each connection from time to time, which must not be measured.
            server_set.push("logic.renew=\"2m\"".to_owned());
        }
        let mut subject = subject(place, &setup, args.rooms)?;
        if logic.is_some() {
            subject.await_logic()?;
        }
        let absence = Absence {
            pushes: args.pushes,
            size: args.size,
            is_kept: place.subject == COMET,
            has_logic: logic.is_some(),
        };
        let mut turn = self::absence(&mut subject, &absence)?;
        let heap = turn["away_heap_bytes"].as_f64();
        if place.subject == PLAIN {
            plain = heap;
        } else {
            // A server keeps its tables when connections leave, with sessions and without.
            turn["session_heap_bytes"] = json!(heap.zip(plain).map(|(kept, plain)| kept - plain));
        }
        Ok(turn)
    })
}

fn repairs(args: &ResumeArgs, share: f64) -> Result<Vec<Value>> {
    each_turn(args.rounds, &[COMET], |place| {
        let mut setup = args.setup.clone();
        setup.server.server_set.extend(with_history(repair::PUSHES_MAX));
        setup.server.server_set.extend(repair::settings());
        let crowd = repair::crowd(crowd(Crowd::of(&setup, args.rooms)));
        repair::repair(&mut Subject::server(place, &setup, crowd)?, args.size, share)
    })
}

/// The settings of a server that parks `messages` pushes for each session.
pub(super) fn parking(messages: u32) -> Vec<String> {
    vec![
        "resume.window=\"10m\"".to_owned(),
        "resume.all=true".to_owned(),
        "resume.memory=\"4GiB\"".to_owned(),
        "resume.bytes=\"8MiB\"".to_owned(),
        format!("resume.messages={messages}"),
    ]
}

/// The settings of a server that keeps `pushes` pushes of each room.
pub(super) fn with_history(pushes: u32) -> Vec<String> {
    vec![
        format!("history.rules=[{{ rooms = \"\", pushes = {pushes}, bytes = \"1MiB\" }}]"),
        "limits.history_memory=\"4GiB\"".to_owned(),
    ]
}

fn subject(place: Place, setup: &SetupArgs, rooms: u32) -> Result<Subject> {
    Subject::server(place, setup, crowd(Crowd::of(setup, rooms)))
}

/// The connections, each with its own stream, or with that of its room.
pub(super) fn crowd(crowd: Crowd) -> Crowd {
    match crowd.rooms {
        0 => Crowd { streams: Streams::Keys(1), ..crowd },
        _ => Crowd { keeps_positions: true, ..crowd },
    }
}
