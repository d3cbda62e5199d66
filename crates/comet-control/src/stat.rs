//! The answers of `/stat` and `/stat/rooms`: the numbers of the metrics as JSON, in total and by core, and the rooms
//! with the most members.

use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comet_core::{CloseReason, Counters, DropReason};
use comet_push::fullest;
use comet_serve::Phase;
use serde_json::{Map, Value, json};

use crate::logic::LogicStats;
use crate::monitor::{FIELDS, Reading};

impl Reading<'_> {
    /// The whole answer; `rooms` comes from [`top_rooms`].
    pub(crate) fn stat(&self, rooms: &Value) -> Value {
        let monitor = self.monitor;
        let mut totals = numbers(|read| self.sum(read));
        totals.insert("turns".to_owned(), turns(self.counters.values()));
        let by_core = self.counters.iter().zip(&self.inbox_depths);
        let cores: Vec<Value> = by_core
            .map(|((core, counters), inbox_depth)| {
                let mut numbers = numbers(|read| read(counters));
                numbers.insert("turns".to_owned(), turns(iter::once(counters)));
                numbers.insert("core".to_owned(), (*core).into());
                numbers.insert("inbox_depth".to_owned(), (*inbox_depth).into());
                Value::Object(numbers)
            })
            .collect();
        json!({
            "server_id": monitor.server_id,
            "version": monitor.version,
            "phase": phase_name(*monitor.phase.borrow()),
            "drain": monitor.node.drain_stat(self.sum(|counters| counters.connections)),
            "uptime_seconds": Instant::now().duration_since(monitor.started).as_secs(),
            "calls_under_way": self.calls_under_way,
            "totals": totals,
            "cores": cores,
            "rooms": rooms,
            "logic": self.logic.as_ref().map(logic),
        })
    }
}

/// The phase in JSON.
fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Draining => "draining",
        Phase::Upgrading => "moving",
        Phase::Stopped => "stopped",
    }
}

/// The `top` rooms with the most members, and how many rooms there are in all.
pub(crate) fn top_rooms(rooms: &[(Arc<str>, u32)], top: usize) -> Value {
    let fullest = fullest(rooms.iter().map(|(name, online)| (&**name, *online)).collect(), top);
    let fullest: Vec<Value> =
        fullest.iter().map(|(name, online)| json!({ "room": name, "online": online })).collect();
    json!({ "count": rooms.len(), "fullest": fullest })
}

/// Every number by its name. `read` sums a field over the selected shards.
fn numbers(read: impl Fn(&dyn Fn(&Counters) -> u64) -> u64) -> Map<String, Value> {
    let mut numbers: Map<String, Value> =
        FIELDS.iter().map(|field| (field.name.to_owned(), read(&field.read).into())).collect();
    let closed: Map<String, Value> = CloseReason::ALL
        .iter()
        .map(|&reason| (reason.label().to_owned(), read(&|c| c.closed[reason as usize]).into()))
        .collect();
    numbers.insert("closed".to_owned(), closed.into());
    let dropped: Map<String, Value> = DropReason::ALL
        .iter()
        .map(|&reason| {
            (reason.label().to_owned(), read(&|c| c.deliveries.dropped[reason as usize]).into())
        })
        .collect();
    numbers.insert("dropped".to_owned(), dropped.into());
    numbers
}

/// With remote logic: which addresses are available, and the notices that wait for them.
fn logic(stats: &LogicStats) -> Value {
    let addresses: Map<String, Value> =
        stats.addresses.iter().map(|(address, is_up)| (address.clone(), (*is_up).into())).collect();
    json!({
        "up": addresses,
        "calls_under_way": stats.calls_under_way,
        "notices_waiting": stats.notices_waiting,
        "notices_dropped": stats.notices_dropped,
    })
}

/// The driver's turns on some cores, times in microseconds.
fn turns<'a>(cores: impl Iterator<Item = &'a Counters> + Clone) -> Value {
    let count: u64 = cores.clone().map(|core| core.turn_times.count()).sum();
    let micros =
        cores.clone().map(|core| core.turn_times.sum()).sum::<Duration>().as_micros() as u64;
    json!({
        "count": count,
        "micros": micros,
        "micros_mean": micros.checked_div(count).unwrap_or_default(),
        "micros_max": cores.map(|core| core.turn_micros_max).max(),
    })
}
