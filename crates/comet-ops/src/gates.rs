//! Metrics of the gates of the APIs, and of the duration of their calls.

use comet_serve::{CallCounts, GateReading, Gates};

use crate::exposition::{Exposition, Kind};

/// Adds connections, refused requests and bytes of requests to a page. `other` is a further gate.
pub fn expose_gates(page: &mut Exposition, gates: &Gates, other: Option<GateReading>) {
    let readings: Vec<GateReading> = gates.read().into_iter().chain(other).collect();
    let mut single = |name, kind, help, read: fn(&GateReading) -> u64| {
        let mut family = page.family(name, kind, help);
        for reading in &readings {
            family.labelled(&[("listener", &reading.setting)], read(reading));
        }
    };
    let help = "Connections of callers, by the key that names the listener.";
    single("comet_api_connections", Kind::Gauge, help, |reading| reading.connections as u64);
    let help = "Connections of callers at once at most.";
    single("comet_api_connections_max", Kind::Gauge, help, |gate| gate.connections_max as u64);
    let help = "Connections of callers accepted.";
    single("comet_api_accepted_total", Kind::Counter, help, |reading| reading.accepted);
    let help = "Accepts that the system refused, such as for want of descriptors.";
    single("comet_api_accept_errors_total", Kind::Counter, help, |gate| gate.accept_errors);
    let mut reasons = |name, help, read: fn(&GateReading) -> &[(&'static str, u64)]| {
        let mut family = page.family(name, Kind::Counter, help);
        for reading in &readings {
            for (reason, count) in read(reading) {
                family.labelled(&[("listener", &reading.setting), ("reason", reason)], *count);
            }
        }
    };
    let help = "Connections of callers that a bound ended, by reason.";
    reasons("comet_api_closed_total", help, |reading| &reading.closed);
    let help = "Requests that were not taken, by reason.";
    reasons("comet_api_refused_total", help, |reading| &reading.refused);
    let (bytes, bytes_max) = gates.request_bytes();
    let help = "Bytes of requests that are coming in or being answered.";
    page.family("comet_api_request_bytes", Kind::Gauge, help).sample(bytes as u64);
    let help = "Bytes of such requests at most.";
    page.family("comet_api_request_bytes_max", Kind::Gauge, help).sample(bytes_max as u64);
}

/// Adds the durations of calls to a page.
pub fn expose_call_times(page: &mut Exposition, counts: &CallCounts) {
    let help = "Calls, from the arrival of the request to the answer, by name or path.";
    let mut family = page.family("comet_call_seconds", Kind::Histogram, help);
    for (rpc, times) in counts.times() {
        family.times(("rpc", &rpc), &times);
    }
}
