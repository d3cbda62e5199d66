//! Memory and descriptors in the course of a soak.

use serde_json::{Value, json};

use super::faults::Fault;
use super::quiet::Rest;
use crate::args::SoakArgs;
use crate::clock::{SECOND_NS, now_ns};

/// The number of rests at each end whose lowest values are compared. Each rest still shows a part of the peak in the
/// phase before: memory that was freed is not always returned, and some work ends a little later.
const WINDOW: usize = 20;

pub(super) struct Curve {
    started_ns: u64,
    /// A point for each phase.
    pub points: Vec<Value>,
    /// Heap and resident memory, in bytes, from when every fault had occurred once.
    settled: Vec<[u64; 2]>,
    last: Option<Rest>,
}

impl Curve {
    /// A curve that begins now.
    pub(super) fn begin() -> Self {
        Self { started_ns: now_ns(), points: Vec::new(), settled: Vec::new(), last: None }
    }

    /// Prints and keeps the rest after a phase. Growth is only measured between those that are `settled`: every fault
    /// has occurred once.
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
            self.settled.push([rest.heap_bytes, rest.resident_bytes]);
        }
    }

    /// The lowest heap and resident memory of the first rests, and of the last ones; `None` if there are too few.
    fn ends(&self) -> Option<[[u64; 2]; 2]> {
        let window = WINDOW.min(self.settled.len() / 2);
        let lowest = |rests: &[[u64; 2]]| {
            rests.iter().copied().reduce(|[a, b], [c, d]| [a.min(c), b.min(d)])
        };
        let (first, last) = (&self.settled[..window], &self.settled[self.settled.len() - window..]);
        Some([lowest(first)?, lowest(last)?])
    }

    /// The values that have grown by more than is allowed.
    pub(super) fn faults(&self, args: &SoakArgs) -> Vec<String> {
        let Some([[heap_was, resident_was], [heap, resident]]) = self.ends() else {
            return Vec::new();
        };
        let check = |what, is: u64, was: u64, kib: u64| {
            let (is_kib, was_kib) = (is >> 10, was >> 10);
            let words =
                || format!("{what} has grown from {was_kib} to {is_kib} KiB, by more than {kib}");
            (is > was + (kib << 10)).then(words)
        };
        let heap = check("the heap", heap, heap_was, args.heap_growth);
        let resident = check("resident memory", resident, resident_was, args.resident_growth);
        heap.into_iter().chain(resident).collect()
    }

    /// Deliveries and growth over the whole run, as a sentence.
    pub(super) fn summary(&self) -> String {
        let Some(last) = &self.last else { return "no phase has ended\n".to_owned() };
        let growth = self.ends().map_or_else(
            || "it was too short to say what grows".to_owned(),
            |[[heap_was, resident_was], [heap, resident]]| {
                let kib = |is: u64, was: u64| (is.cast_signed() - was.cast_signed()) / 1024;
                format!(
                    "since every fault was there once, the heap has grown by {} KiB and resident memory by {} KiB",
                    kib(heap, heap_was),
                    kib(resident, resident_was)
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: SoakArgs,
    }

    #[test]
    fn a_peak_is_no_growth_and_a_leak_is() {
        let Alone { args } = Alone::parse_from(["soak", "--heap-growth", "10"]);
        let faults = |heap_kib: &dyn Fn(u64) -> u64, rests| {
            let mut curve = Curve::begin();
            curve.settled = (0..rests).map(|at| [heap_kib(at) << 10, 1 << 20]).collect();
            curve.faults(&args)
        };
        let peaks = |at: u64| if at % 7 == 3 { 200 } else { 100 };
        let leak = |at: u64| 100 + at;
        for rests in [2, 3, 50, 500] {
            assert_eq!(faults(&peaks, rests), [""; 0], "{rests}");
            assert_eq!(faults(&leak, rests).len(), usize::from(rests > 10), "{rests}");
        }
    }
}
