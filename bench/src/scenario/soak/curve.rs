//! Memory and descriptors over the time of a soak.

use serde_json::{Value, json};

use super::faults::Fault;
use super::quiet::Rest;
use crate::args::SoakArgs;
use crate::clock::{SECOND_NS, now_ns};

pub(super) struct Curve {
    started_ns: u64,
    /// A point for each phase.
    pub points: Vec<Value>,
    /// The rest that growth is counted from, and the last.
    from: Option<Rest>,
    last: Option<Rest>,
}

impl Curve {
    /// It begins now.
    pub(super) fn begin() -> Self {
        Self { started_ns: now_ns(), points: Vec::new(), from: None, last: None }
    }

    /// Prints and keeps the rest after a phase. Growth is counted from the first that is `settled`: every fault was
    /// there once.
    pub(super) fn add(&mut self, fault: Fault, pushes: u64, rest: &Rest, settled: bool) {
        let at_s = (now_ns() - self.started_ns) as f64 / SECOND_NS as f64;
        let name = format!("{fault:?}");
        println!(
            "{at_s:7.1} s  {name:<14} {pushes:>5} pushes {:>9} KiB heap {:>9} KiB resident {:>5} descriptors",
            rest.heap_bytes >> 10,
            rest.resident_bytes >> 10,
            rest.descriptors,
        );
        self.points.push(json!({ "at_s": at_s, "fault": name, "pushes": pushes, "rest": rest }));
        self.last = Some(rest.clone());
        if settled {
            self.from.get_or_insert_with(|| rest.clone());
        }
    }

    /// What has grown by more than is allowed.
    pub(super) fn faults(&self, args: &SoakArgs) -> Vec<String> {
        let ends = self.from.as_ref().zip(self.last.as_ref());
        ends.map_or_else(Vec::new, |(from, last)| last.growth_faults(from, args))
    }

    /// Deliveries and growth over the whole run, in a sentence.
    pub(super) fn summary(&self) -> String {
        let Some(last) = &self.last else { return "no phase has ended\n".to_owned() };
        let growth = self.from.as_ref().map_or_else(
            || "it was too short to say what grows".to_owned(),
            |from| {
                let kib = |is: u64, was: u64| (is.cast_signed() - was.cast_signed()) / 1024;
                format!(
                    "since every fault was there once, the heap has grown by {} KiB and resident memory by {} KiB",
                    kib(last.heap_bytes, from.heap_bytes),
                    kib(last.resident_bytes, from.resident_bytes)
                )
            },
        );
        let (phases, sums) = (self.points.len(), &last.counted);
        format!(
            "{phases} phases; {} deliveries matched: {} dropped, {} sent, {} lost, {} superseded; {growth}\n",
            sums.matched, sums.dropped, sums.sent, sums.lost, sums.superseded
        )
    }
}
