//! `targets`: the project's targets, each figure next to what it is compared with, in a few minutes.
//!
//! A stage keeps its servers and yardsticks for many turns and alternates between them, so that a figure and what it is
//! compared with are measured in the same minute of the host. If a stage fails, its lines have no figures, and the
//! others are not affected.

mod beside;
mod cores;
mod doors;
mod flood;
mod goal;
#[rustfmt::skip]
mod goals;
mod keys;
mod pairs;
mod parked;
mod rig;
mod rooms;
mod sizes;
mod stalled;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::goal::{Goal, Line, render};
use super::pin;
use crate::Result;
use crate::args::TargetsArgs;
use crate::clock::now_ns;
use crate::dial::ensure_descriptors;
use crate::report;

/// The most connections that any stage needs at once.
const CONNECTIONS_MAX: usize = 17_000;

/// Goals that are measured together.
struct Stage {
    name: &'static str,
    goals: &'static [Goal],
    measure: fn(&TargetsArgs, &mut Record) -> Result<()>,
}

const STAGES: [Stage; 10] = [
    Stage { name: "sizes", goals: &goals::SIZES, measure: sizes::measure },
    Stage { name: "flood", goals: &goals::FLOODS, measure: flood::measure },
    Stage { name: "keys", goals: &goals::KEYS, measure: keys::measure },
    Stage { name: "cores", goals: &goals::CORES, measure: cores::measure },
    Stage { name: "rooms", goals: &goals::ROOMS, measure: rooms::measure },
    Stage { name: "doors", goals: &goals::DOORS, measure: doors::measure },
    Stage { name: "beside", goals: &goals::BESIDES, measure: beside::measure },
    Stage { name: "pairs", goals: &goals::PAIRS, measure: pairs::measure },
    Stage { name: "parked", goals: &goals::PARKED, measure: parked::measure },
    Stage { name: "stalled", goals: &goals::STALLEDS, measure: stalled::measure },
];

/// The measurements of the stages.
#[derive(Default)]
struct Record {
    rounds: BTreeMap<&'static str, Vec<f64>>,
    turns: Vec<Value>,
    storms: Vec<Value>,
    faults: Vec<String>,
}

/// Runs it; returns whether everything could be measured, and with `--strict` whether all targets were reached. Fails
/// if the host is not suitable, or the result cannot be written.
pub(crate) fn run(args: &TargetsArgs) -> Result<bool> {
    let started_ns = now_ns();
    ensure_descriptors(CONNECTIONS_MAX, 1)?;
    pin(&args.host)?;
    let mut record = Record::default();
    let mut lines = Vec::new();
    for (number, stage) in (1..).zip(&STAGES) {
        let asked: Vec<&Goal> = stage.goals.iter().filter(|goal| args.asks(goal.target)).collect();
        if asked.is_empty() {
            continue;
        }
        let begun_ns = now_ns();
        let outcome = (stage.measure)(args, &mut record);
        let (name, count, took_s) = (stage.name, STAGES.len(), seconds_since(begun_ns));
        eprintln!("{name}, stage {number} of {count}: {took_s:.0} s");
        let failure = outcome.err().map(|error| error.to_string());
        for goal in asked {
            lines.push(record.judge(goal, failure.as_deref()));
        }
    }
    lines.sort_by_key(|line| line.goal.target);
    let elapsed_s = seconds_since(started_ns);
    let text = format!("{}\ntook {elapsed_s:.0} s\n", render(&lines));
    record.faults.extend(lines.iter().filter_map(Line::failure));
    let missed = lines.iter().any(|line| line.reached == Some(false));
    let results = json!({
        "lines": lines,
        "elapsed_s": elapsed_s,
        "turns": record.turns,
        "storms": record.storms,
        "faults": record.faults,
    });
    let where_to = (&args.host, Some(&args.server()));
    let measured = report::finish("targets", args, where_to, results, &text)?;
    Ok(measured && !(args.strict && missed))
}

impl Record {
    /// Stores one round's figure, in the goal's unit.
    fn note(&mut self, goal: &Goal, figure: f64) {
        self.rounds.entry(goal.name).or_default().push(figure);
    }

    fn judge(&mut self, goal: &Goal, failure: Option<&str>) -> Line {
        let rounds = self.rounds.remove(goal.name).unwrap_or_default();
        Line::judge(goal, rounds, failure.map(str::to_owned))
    }
}

fn seconds_since(ns: u64) -> f64 {
    (now_ns() - ns) as f64 / 1e9
}
