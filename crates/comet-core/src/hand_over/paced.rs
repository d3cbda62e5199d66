//! The hand-over of paced broadcasts to another process.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use comet_handover as handed;
use comet_handover::{Fault, Visited};
use comet_proto::Encoded;

use crate::ids::CallId;
use crate::ledger::{DropReason, Tally};
use crate::limits::PACED_MAX;
use crate::message::Push;

/// The limit of connections that a paced broadcast can have met: more than all shards have slots.
const MET_MAX: u64 = 1 << 48;

/// A paced broadcast on one shard.
pub(crate) struct ArrivedPaced {
    pub(crate) call: CallId,
    pub(crate) push: Push,
    /// At least 1.
    pub(crate) connections_per_second: u32,
    /// The credit in thousandths of a connection, at most that of one second.
    pub(crate) credit: u64,
    /// The indices of the connections that were visited, in ascending order.
    pub(crate) visited: Vec<Range<u32>>,
    pub(crate) tally: Tally,
}

/// Appends a range that begins at or after the end of the last one.
pub(crate) fn append_range(ranges: &mut Vec<Range<u32>>, next: Range<u32>) {
    match ranges.last_mut() {
        _ if next.is_empty() => {}
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}

pub(crate) fn to_message(broadcast: &ArrivedPaced) -> handed::PacedBroadcast {
    let ArrivedPaced { call, push, connections_per_second, credit, visited, tally } = broadcast;
    // Paced broadcasts are not collapsed, are in no history, and are no orders.
    let Push { operation, frame, collapse_id: _, offset: _, order: _, number: _ } = push;
    let (bytes, tcp_at) = frame.parts();
    // Broadcasts name no keys or rooms.
    let Tally { matched: _, queued, dropped, absent: _, parked: _, unchanged: _, refused: _ } =
        tally;
    let reasons = DropReason::ALL.iter().zip(dropped).filter(|(_, count)| **count > 0);
    let visited =
        visited.iter().map(|range| Visited { first: range.start, count: range.end - range.start });
    handed::PacedBroadcast {
        call: call.0,
        operation: *operation,
        bytes: bytes.to_vec(),
        tcp_at: tcp_at as u32,
        connections_per_second: *connections_per_second,
        credit: *credit,
        visited: visited.collect(),
        queued: *queued,
        dropped: reasons.map(|(reason, count)| (reason.label().to_owned(), *count)).collect(),
    }
}

/// Checks a broadcast of a shard with `connections` connections.
fn arrive(broadcast: handed::PacedBroadcast, connections: usize) -> Result<ArrivedPaced, Fault> {
    let fault = |what| Err(Fault::Inconsistent(format!("a paced broadcast {what}")));
    let handed::PacedBroadcast {
        call,
        operation,
        bytes,
        tcp_at,
        connections_per_second,
        credit,
        visited,
        queued,
        dropped,
    } = broadcast;
    let Some(frame) = Encoded::from_parts(&bytes, tcp_at as usize) else {
        return fault("whose frame is none");
    };
    if connections_per_second == 0 {
        return fault("without speed");
    }
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for Visited { first, count } in visited {
        let before = ranges.last().map_or(0, |last| last.end);
        match first.checked_add(count) {
            Some(end) if before <= first && end as usize <= connections => {
                append_range(&mut ranges, first..end);
            }
            _ => return fault("that went to connections that are none"),
        }
    }
    let mut tally = Tally { matched: queued, queued, ..Tally::default() };
    for (reason, count) in DropReason::ALL.iter().zip(&mut tally.dropped) {
        *count = dropped.get(reason.label()).copied().unwrap_or(0);
        tally.matched = tally.matched.saturating_add(*count);
    }
    if tally.matched > MET_MAX {
        return fault("that went to more connections than there can be");
    }
    Ok(ArrivedPaced {
        call: CallId(call),
        push: Push::new(operation, frame),
        connections_per_second,
        credit: credit.min(1000 * u64::from(connections_per_second)),
        visited: ranges,
        tally,
    })
}

/// The paced broadcasts of all shards of the former process.
#[derive(Default)]
pub(super) struct Paced {
    /// For each shard its broadcasts, oldest first.
    former: Vec<Vec<ArrivedPaced>>,
    /// The number of connections that each shard has handed over.
    lengths: Vec<usize>,
    calls: BTreeSet<CallId>,
}

impl Paced {
    /// Adds the broadcasts of a former shard with `connections` connections.
    pub(super) fn add(
        &mut self,
        broadcasts: Vec<handed::PacedBroadcast>,
        connections: usize,
    ) -> Result<(), Fault> {
        let mut here = BTreeSet::new();
        let mut arrived = Vec::new();
        for broadcast in broadcasts {
            let broadcast = arrive(broadcast, connections)?;
            self.calls.insert(broadcast.call);
            if !here.insert(broadcast.call) {
                let what = format!("a shard has the paced broadcast {} twice", broadcast.call.0);
                return Err(Fault::Inconsistent(what));
            }
            arrived.push(broadcast);
        }
        if self.calls.len() > PACED_MAX {
            return Err(Fault::Inconsistent("too many paced broadcasts".into()));
        }
        self.former.push(arrived);
        self.lengths.push(connections);
        Ok(())
    }

    /// The broadcasts of each shard if all connections stay on their shards.
    pub(super) fn keep(self) -> Vec<Vec<ArrivedPaced>> {
        self.former
    }

    /// The broadcasts of each shard if the connections, in order, are divided into runs of these `lengths`. A broadcast
    /// continues on every shard, at a speed in proportion to the connections that it still has to reach there.
    pub(super) fn divide(self, lengths: &[usize]) -> Vec<Vec<ArrivedPaced>> {
        let mut parts: BTreeMap<CallId, Vec<Option<ArrivedPaced>>> = BTreeMap::new();
        let former = self.former.len();
        for (shard, broadcasts) in self.former.into_iter().enumerate() {
            for broadcast in broadcasts {
                let of_call = parts.entry(broadcast.call);
                let of_call = of_call.or_insert_with(|| (0..former).map(|_| None).collect());
                of_call[shard] = Some(broadcast);
            }
        }
        let mut divided: Vec<Vec<_>> = lengths.iter().map(|_| Vec::new()).collect();
        for parts in parts.into_values() {
            for (shard, part) in
                divided.iter_mut().zip(join_and_divide(parts, &self.lengths, lengths))
            {
                shard.push(part);
            }
        }
        divided
    }
}

/// The parts of one broadcast, by former shard; `None` if it has ended there. At least one part is present.
fn join_and_divide(
    parts: Vec<Option<ArrivedPaced>>,
    former: &[usize],
    lengths: &[usize],
) -> Vec<ArrivedPaced> {
    let (mut visited, mut tally, mut speed, mut begin) = (Vec::new(), Tally::default(), 0, 0);
    let mut push = None;
    for (part, &length) in parts.into_iter().zip(former) {
        let length = length as u32;
        match part {
            None => append_range(&mut visited, begin..begin + length),
            Some(part) => {
                for range in part.visited {
                    append_range(&mut visited, begin + range.start..begin + range.end);
                }
                tally += part.tally;
                speed += u64::from(part.connections_per_second);
                push.get_or_insert((part.call, part.push));
            }
        }
        begin += length;
    }
    let (call, push) = push.expect("it is under way on a shard");
    let gone: u64 = visited.iter().map(|range| u64::from(range.end - range.start)).sum();
    let left = u64::from(begin) - gone;
    let mut begin = 0;
    let part = |&length: &usize| {
        let run = begin..begin + length as u32;
        begin = run.end;
        let mut here = Vec::new();
        for range in &visited {
            let clip = |place: u32| place.clamp(run.start, run.end) - run.start;
            append_range(&mut here, clip(range.start)..clip(range.end));
        }
        let gone: u64 = here.iter().map(|range| u64::from(range.end - range.start)).sum();
        let left_here = length as u64 - gone;
        let share = (u128::from(speed) * u128::from(left_here)).div_ceil(u128::from(left.max(1)));
        ArrivedPaced {
            call,
            push: push.clone(),
            connections_per_second: u32::try_from(share).unwrap_or(u32::MAX).max(1),
            credit: 0,
            visited: here,
            // The connections met so far are counted on one shard only.
            tally: std::mem::take(&mut tally),
        }
    };
    lengths.iter().map(part).collect()
}
