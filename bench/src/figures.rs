//! Every figure of a measurement: its name, its unit, its place in a result and a sentence for the legend; and the
//! figures that each scenario summarizes over its rounds. The tables of a run, its summary and the comparison of
//! results take their words from here.

use std::ops::Add;

use serde::Deserialize;
use serde_json::Value;

use crate::Result;
use crate::measurements::groups;
use crate::stats::Spread;

/// Symbol of a unit, and the factor by which a value in a result is multiplied.
type Unit = (&'static str, f64);

const COUNT: Unit = ("", 1.0);
const RATIO: Unit = COUNT;
/// For a count divided by nanoseconds.
const A_SECOND: Unit = ("", 1e9);
const NS: Unit = ("ns", 1.0);
const US: Unit = ("us", 1.0);
const NS_AS_US: Unit = ("us", 1e-3);
/// For a share.
const PERCENT: Unit = ("%", 100.0);
const BYTES: Unit = ("B", 1.0);
const BYTES_AS_MB: Unit = ("MB", 1e-6);

/// The description of a value.
pub(crate) struct Figure {
    pub name: String,
    pub unit: &'static str,
    /// The subject of the legend's sentence: the figure, or all percentiles of one kind.
    pub topic: String,
    /// Empty if the name is clear enough.
    pub legend: &'static str,
    /// JSON pointers into a measurement, which has one of them.
    places: Vec<String>,
    /// What the value is divided by, if anything.
    per: &'static str,
    factor: f64,
}

/// Name, places divided by spaces, divisor, unit, legend.
type Declared = (&'static str, &'static str, &'static str, Unit, &'static str);

/// The count of closed connections, which is shown with the reasons.
const CLOSED: &str = "closed";
const LATENCY: &str = "from when a push was due to its delivery; of a ping-pong its round trip";
const LOST: &str = "deliveries that never came";
const CPU_CALL: &str = "CPU time of all threads of the server, over the calls made";
const CPU_KEY: &str = "CPU time of all threads of the server, over the keys that the calls named";
const DATA: &str = "the same without the control thread, which does the gRPC work";
const RESIDENT: &str = "resident memory of the server";

#[rustfmt::skip]
const DECLARED: [Declared; 74] = [
    ("connections", "/connections", "", COUNT, ""),
    ("connections a second", "/per_second", "", COUNT, "connections made, over the time that took"),
    ("guests", "/guests/arrived", "", COUNT, "clients that arrived, to stay for a while"),
    ("turned away", "/guests/turned_away", "", COUNT, "guests that were due when there were as many as open files allow"),
    ("gave up", "/guests/gave_up", "", COUNT, "guests that left before their handshake was over"),
    ("moved", "/guests/moved", "", COUNT, "guests that changed their room"),
    ("guests at once", "/guests/present_max", "", COUNT, "the most there were"),
    ("handshakes", "/handshake/count", "", COUNT, "handshakes completed, of members and guests"),
    ("calls", "/sent/pushes", "", COUNT, "pushes made"),
    ("calls a second", "/sent/pushes", "/sent/elapsed_ns", A_SECOND, ""),
    ("pushes", "/pushes", "", COUNT, ""),
    ("expected", "/deliveries/expected", "", COUNT, "messages of each stream, times its connections"),
    ("received", "/deliveries/received", "", COUNT, "deliveries that came, each counted once"),
    ("lost", "/deliveries/lost", "", COUNT, LOST),
    ("late", "/deliveries/out_of_order", "", COUNT, "deliveries after a later one of their caller and stream"),
    ("doubled", "/deliveries/duplicate", "", COUNT, "deliveries that came again"),
    ("foreign", "/deliveries/foreign", "", COUNT, "deliveries at a connection that they were not for"),
    ("to guests", "/visits/received", "", COUNT, "deliveries to guests"),
    ("lost to guests", "/visits/lost", "", COUNT, "missing between the first and the last message that a guest received of a room"),
    ("healthy expected", "/healthy_expected", "", COUNT, "expected at connections that read at once"),
    ("healthy lost", "/healthy_lost", "", COUNT, "of these, deliveries that never came"),
    ("missing", "/fate/missing", "", COUNT, LOST),
    ("dropped", "/fate/dropped /dropped /sent/dropped", "", COUNT, "deliveries that the server said it did not make"),
    ("superseded", "/fate/superseded", "", COUNT, "queued, and taken out again for a newer one"),
    ("lost in queue", "/fate/lost", "", COUNT, "queued, and lost with the connection"),
    ("closed before", "/fate/closed_before", "", COUNT, "pushed when the connection was closed already"),
    ("in kernel", "/fate/in_kernel", "", COUNT, "handed to the kernel for a connection that was cut before it read them"),
    (CLOSED, "/closed_by_server", "", COUNT, "connections that the server closed"),
    ("absent", "/absent", "", COUNT, "keys that no connection held when they were pushed to"),
    ("heartbeats", "/heartbeats", "", COUNT, "heartbeats sent"),
    ("heartbeats a second", "/heartbeats", "/elapsed_ns", A_SECOND, ""),
    ("heartbeats a core second", "/heartbeats", "/cpu/data_ns", A_SECOND, "heartbeats for a second of the data cores' CPU time"),
    ("unanswered", "/unanswered", "", COUNT, "heartbeats without a reply"),
    ("deliveries a second", "/deliveries/received", "/elapsed_ns", A_SECOND, "from when the first push was due to the last delivery"),
    ("per core second", "/deliveries/received", "/cpu/data_ns", A_SECOND, "deliveries for a second of the data cores' CPU time"),
    ("CPU of a delivery", "/cpu_per_delivery_ns", "", NS, "CPU time of all threads of the server"),
    ("data CPU of a delivery", "/data_cpu_per_delivery_ns", "", NS, DATA),
    ("bytes of a delivery", "/received_bytes", "/deliveries/received", BYTES, "that the clients' sockets gave, replies to heartbeats among them; inside TLS with its records"),
    ("CPU of a call", "/cpu/total_ns", "/sent/pushes", NS_AS_US, CPU_CALL),
    ("data CPU of a call", "/cpu/data_ns", "/sent/pushes", NS_AS_US, DATA),
    ("CPU of a key", "/cpu/total_ns", "/sent/deliveries", NS_AS_US, CPU_KEY),
    ("data CPU of a key", "/cpu/data_ns", "/sent/deliveries", NS_AS_US, DATA),
    ("CPU of a connection", "/cpu_per_connection_ns", "", NS_AS_US, "CPU time of all threads of the server, connect to settled"),
    ("joins", "/joins/joined", "", COUNT, "further rooms that connections entered"),
    ("joins a second", "/joins/joined", "/joins/elapsed_ns", A_SECOND, "all of them at once, over the time to the last reply"),
    ("joins a core second", "/joins/joined", "/joins/cpu/data_ns", A_SECOND, "joins for a second of the data cores' CPU time, until the server has settled"),
    ("heap of a pair", "/joins/heap_bytes", "/joins/joined", BYTES, "growth of what the allocator has given out by the joins, over the pairs of a connection and a room"),
    ("RSS of a pair", "/joins/rss_bytes", "/joins/joined", BYTES, "the same of resident memory, which the allocator gives back late"),
    ("parked", "/parked", "", COUNT, "pushes to keys without a connection that the server kept for their sessions"),
    ("resumed", "/resumed", "", COUNT, "of these, pushes that the next connection of the key was given"),
    ("share dropped", "/share_dropped", "", PERCENT, "of the deliveries, while nobody read"),
    ("repaired", "/repaired", "", COUNT, "deliveries that came from the history of a room after a gap: those dropped, and what waited behind the gap"),
    ("CPU of a repaired delivery", "/repaired_cpu_ns", "", NS_AS_US, "from when all read again until all has come, all threads of the server"),
    ("heap of one away", "/away_heap_bytes", "", BYTES, "what the allocator has given out when all are cut off, over what it had when nobody was there yet, divided"),
    ("heap of a session", "/session_heap_bytes", "", BYTES, "the same less that of a server that parks nothing"),
    ("heap of a parked push", "/parked_heap_bytes", "", BYTES, "growth of what the allocator has given out by the pushes, divided"),
    ("CPU of a heartbeat", "/cpu_per_heartbeat_ns", "", NS_AS_US, "whatever the server does meanwhile included"),
    ("CPU of a round trip", "/cpu_ns", "", NS_AS_US, "CPU time of the echoing side"),
    ("CPU while idle", "/idle_cpu_share", "", PERCENT, "share of one CPU that the server used while nothing was pushed"),
    ("CPU", "/cpu_share", "", PERCENT, "share of one CPU that the server used"),
    ("bench CPU", "/bench_cpu_share", "", PERCENT, "share of one CPU that the bench used; near the number of its CPUs the bench set the pace"),
    ("RSS of a connection", "/rss_per_connection_bytes", "", BYTES, "growth of resident memory, divided; the first connections (200, at most a tenth) are not in it"),
    ("private of a connection", "/anonymous_per_connection_bytes", "", BYTES, "of that, the private (anonymous) part"),
    ("RSS", "/memory/rss_bytes", "", BYTES_AS_MB, RESIDENT),
    ("RSS before", "/memory_before/rss_bytes", "", BYTES_AS_MB, "resident memory of the server before the first guest or slow reader; of an upgrade that of the former process at rest"),
    ("RSS peak", "/memory_peak/rss_bytes", "", BYTES_AS_MB, "the most resident memory there was"),
    ("RSS after", "/memory_after/rss_bytes", "", BYTES_AS_MB, "resident memory of the server after the last guest; of an upgrade that of the new process at rest"),
    ("went on", "/upgrade/went_on", "", COUNT, "connections that the server handed over"),
    ("not moved", "/upgrade/closed", "", COUNT, "connections that it closed because they could not be"),
    ("disconnected", "/disconnected", "", COUNT, "connections that clients have lost"),
    ("server's pause", "/upgrade/pause_us", "", US, "from when the former process froze to when the new one was told to go on, as the server says"),
    ("pause a connection", "/upgrade/pause_us", "/upgrade/went_on", US, "the server's pause, divided"),
    ("failed", "/failed_pushes", "", COUNT, "pushes whose callers had an error instead of an answer; they know that it may not have been made"),
    ("sender behind", "/sent/behind_ns_max", "", NS_AS_US, "how late the bench itself made a push, at most"),
];

/// Kinds of percentiles: name, places, legend.
#[rustfmt::skip]
const PERCENTILES: [(&str, &[&str], &str); 7] = [
    ("latency", &["/latency", ""], LATENCY),
    ("since due", &["/since_due"], "from when a round trip was due to its end"),
    ("healthy", &["/healthy_latency"], "latency of connections that read at once"),
    ("impaired", &["/impaired_latency"], "latency of slow and stalled connections, as far as they read"),
    ("handshake", &["/handshake"], "from connect, or when a guest was due, to the reply to the authentication"),
    ("pause", &["/pause"], "the longest time that a client had no message of its room, less the time between two pushes to it"),
    ("round trip", &["/round_trip"], "from when a heartbeat was due to its reply"),
];
const QUANTILES: [(&str, &str); 5] = [
    ("p50", "p50_us"),
    ("p90", "p90_us"),
    ("p99", "p99_us"),
    ("p99.9", "p999_us"),
    ("max", "max_us"),
];

/// A summary of a scenario over its rounds: scenario, key in the results, name, unit, and a figure of a subject, alone
/// or divided by another one of the same round.
type Summary = (&'static str, &'static str, &'static str, Unit, Of, Option<Of>);
/// Subject and figure.
type Of = (&'static str, &'static str);

const COMET: &str = "comet";
const COALESCED: &str = "coalesced";
const RING: &str = "ring";
const ONE_ROOM: &str = "one room";
const MANY_ROOMS: &str = "many rooms";
const SEND: &str = "send";
const PING_PONG: &str = "ping-pong";
const DELIVERY: &str = "CPU of a delivery";
const DATA_DELIVERY: &str = "data CPU of a delivery";
const CONNECTION: &str = "CPU of a connection";
const PLAIN: &str = "plain";

#[rustfmt::skip]
const SUMMARIES: [Summary; 25] = [
    ("fanout", "comet_to_ring", "CPU of a delivery, comet / ring", RATIO, (COMET, DELIVERY), Some((RING, DELIVERY))),
    ("fanout", "comet_data_to_ring", "CPU of a delivery, comet's data cores / ring", RATIO, (COMET, DATA_DELIVERY), Some((RING, DATA_DELIVERY))),
    ("fanout", "comet_to_send", "CPU of a delivery, comet / send", RATIO, (COMET, DELIVERY), Some((SEND, DELIVERY))),
    ("fanout", "comet_data_to_send", "CPU of a delivery, comet's data cores / send", RATIO, (COMET, DATA_DELIVERY), Some((SEND, DATA_DELIVERY))),
    ("fanout", "comet_to_coalesced", "CPU of a delivery, comet / coalesced", RATIO, (COMET, DELIVERY), Some((COALESCED, DELIVERY))),
    ("rooms", "many_to_one", "CPU of a delivery, members in many rooms / in one", RATIO, (MANY_ROOMS, DELIVERY), Some((ONE_ROOM, DELIVERY))),
    ("rooms", "heap_bytes", "heap of a pair", BYTES, (MANY_ROOMS, "heap of a pair"), None),
    ("resume", "resumed_to_plain", "CPU of a connection, to a parked session / plain", RATIO, (COMET, CONNECTION), Some((PLAIN, CONNECTION))),
    ("resume", "session_heap_bytes", "heap of a parked session", BYTES, (COMET, "heap of a session"), None),
    ("raw", "ring_to_send", "CPU of a delivery, ring / send", RATIO, (RING, DELIVERY), Some((SEND, DELIVERY))),
    ("connect", "comet_to_bare", "CPU of a connection, comet / bare ring", RATIO, (COMET, CONNECTION), Some(("bare", CONNECTION))),
    ("connect", "comet_rss_bytes", "RSS of an idle connection", BYTES, (COMET, "RSS of a connection"), None),
    ("connect", "comet_anonymous_bytes", "private memory of an idle connection", BYTES, (COMET, "private of a connection"), None),
    ("latency", "p50_ratio", "p50, comet / ping-pong", RATIO, (COMET, "latency p50"), Some((PING_PONG, "latency p50"))),
    // Both are measured from when they were due: a stall of the host delays pushes and ping-pongs alike.
    ("latency", "p99_ratio", "p99 from due, comet / ping-pong", RATIO, (COMET, "latency p99"), Some((PING_PONG, "since due p99"))),
    ("latency", "cpu_per_call_us", "CPU of a call", US, (COMET, "CPU of a call"), None),
    ("latency", "data_cpu_per_call_us", "data CPU of a call", US, (COMET, "data CPU of a call"), None),
    ("latency", "cpu_per_key_us", "CPU of a key", US, (COMET, "CPU of a key"), None),
    ("latency", "data_cpu_per_key_us", "data CPU of a key", US, (COMET, "data CPU of a key"), None),
    ("latency", "bare_grpc_cpu_per_call_us", "CPU of a call, bare gRPC server", US, ("bare gRPC", "CPU of a call"), None),
    ("latency", "ping_pong_cpu_us", "CPU of a round trip, ping-pong", US, (PING_PONG, "CPU of a round trip"), None),
    ("idle", "cpu_share", "CPU while idle", PERCENT, (COMET, "CPU while idle"), None),
    ("idle", "cpu_per_heartbeat_ns", "CPU of a heartbeat", NS_AS_US, (COMET, "CPU of a heartbeat"), None),
    ("idle", "heartbeat_to_ring", "CPU of a heartbeat, comet / ring", RATIO, (COMET, "CPU of a heartbeat"), Some((RING, "CPU of a heartbeat"))),
    ("idle", "rss_bytes", "RSS of a connection", BYTES, (COMET, "RSS of a connection"), None),
];

/// All figures that a measurement may have, in the order of a comparison.
pub(crate) fn all() -> Vec<Figure> {
    let declared = DECLARED.iter().map(|&(name, places, per, (unit, factor), legend)| Figure {
        name: name.to_owned(),
        unit,
        topic: name.to_owned(),
        legend,
        places: places.split(' ').map(str::to_owned).collect(),
        per,
        factor,
    });
    let percentiles = PERCENTILES.iter().flat_map(|&(kind, places, legend)| {
        QUANTILES.iter().map(move |(quantile, key)| Figure {
            name: format!("{kind} {quantile}"),
            unit: US.0,
            topic: kind.to_owned(),
            legend,
            places: places.iter().map(|place| format!("{place}/{key}")).collect(),
            per: "",
            factor: US.1,
        })
    });
    declared.chain(percentiles).collect()
}

/// Returns the figure `name` of a measurement. Fails if it was not measured.
pub(crate) fn figure(measurement: &Value, name: &str) -> Result<f64> {
    let figure = all().into_iter().find(|figure| figure.name == name);
    let value = figure.and_then(|figure| figure.of(measurement));
    value.ok_or_else(|| format!("there is no {name}").into())
}

impl Figure {
    /// Its value in a measurement; `None` if it was not measured.
    pub(crate) fn of(&self, measurement: &Value) -> Option<f64> {
        let divisor = if self.per.is_empty() { 1.0 } else { number(measurement, self.per)? };
        let value = self.places.iter().find_map(|place| number(measurement, place))?;
        Some(value * self.factor / divisor).filter(|value| value.is_finite())
    }

    /// Name and unit.
    pub(crate) fn label(&self, separator: &str) -> String {
        labelled(&self.name, self.unit, separator)
    }

    /// Counts by reason, as text; only for the figure that shows reasons.
    pub(crate) fn reasons(&self, measurement: &Value) -> Option<String> {
        let reasons =
            measurement.pointer(&self.places[0]).filter(|_| self.name == CLOSED)?.as_object()?;
        let words: Vec<_> =
            reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        Some(if words.is_empty() { "0".to_owned() } else { words.join(", ") })
    }

    /// The line of a legend.
    pub(crate) fn line(&self) -> Option<String> {
        (!self.legend.is_empty()).then(|| format!("{}: {}", self.topic, self.legend))
    }
}

/// Summarizes the rounds of `scenario`, by key; a summary is left out if a subject was not measured.
pub(crate) fn summarize(
    scenario: &str,
    results: &Value,
) -> impl Iterator<Item = (&'static str, Option<Spread>)> {
    let groups = groups(results);
    let rounds = move |(subject, name): Of| -> Vec<Option<f64>> {
        let rounds = groups.iter().find(|group| group.subject == subject).map(|is| &is.rounds);
        rounds.into_iter().flatten().map(|round| figure(round, name).ok()).collect()
    };
    let of_scenario = SUMMARIES.iter().filter(move |summary| summary.0 == scenario);
    of_scenario.map(move |&(_, key, _, (_, factor), of, to)| {
        let values = rounds(of).into_iter();
        let values: Vec<Option<f64>> = match to {
            None => values.collect(),
            Some(to) => values.zip(rounds(to)).map(|(value, to)| Some(value? / to?)).collect(),
        };
        (key, Spread::of(values.into_iter().flatten().map(|value| value / factor)))
    })
}

/// The summaries of a scenario over its rounds, by name and unit.
pub(crate) fn summaries(results: &Value) -> impl Iterator<Item = (String, Spread)> {
    SUMMARIES.iter().filter_map(|(_, key, name, (unit, factor), ..)| {
        let spread = results.get(key).and_then(spread)?;
        Some((labelled(name, unit, ", "), spread.times(*factor)))
    })
}

/// The lines of the targets, by name and unit.
pub(crate) fn lines(results: &Value) -> impl Iterator<Item = (String, Spread)> {
    let lines = results.get("lines").and_then(Value::as_array).into_iter().flatten();
    lines.filter_map(|line| {
        let text = |key| line.get(key).and_then(Value::as_str).map(str::trim);
        let what = format!("{} {}", line["target"], text("what")?);
        Some((labelled(&what, text("unit")?, ", "), line.get("measured").and_then(spread)?))
    })
}

fn labelled(name: &str, unit: &str, separator: &str) -> String {
    if unit.is_empty() { name.to_owned() } else { [name, separator, unit].concat() }
}

fn spread(value: &Value) -> Option<Spread> {
    Spread::deserialize(value).ok()
}

/// A number in a measurement; the sum for counts by reason. `None` for percentiles without values, and for deliveries
/// if none were expected.
fn number(measurement: &Value, place: &str) -> Option<f64> {
    let (parent, key) = place.rsplit_once('/')?;
    let parent = measurement.pointer(parent)?;
    let is_zero = |key| parent.get(key).and_then(Value::as_u64) == Some(0);
    if (is_zero("count") && key != "count") || is_zero("expected") {
        return None;
    }
    match parent.get(key)? {
        Value::Object(reasons) => {
            Some(reasons.values().filter_map(Value::as_f64).fold(0.0, f64::add))
        }
        value => value.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(measurement: &Value, name: &str, expected: Option<f64>) {
        assert_eq!(figure(measurement, name).ok(), expected, "{name}");
    }

    #[test]
    fn figures_are_scaled_divided_and_summed() {
        let turn = json!({
            "elapsed_ns": 2_000_000_000_u64, "deliveries": {"expected": 9, "received": 8, "lost": 0},
            "cpu_per_delivery_ns": 4.5, "idle_cpu_share": 0.25, "dropped": {"filtered": 2, "closing": 1},
            "sent": {"dropped": 77, "elapsed_ns": 0, "pushes": 4}, "cpu": {"total_ns": 8000},
        });
        check(&turn, "deliveries a second", Some(4.0));
        check(&turn, "CPU of a delivery", Some(4.5));
        check(&turn, "CPU of a call", Some(2.0));
        check(&turn, "calls a second", None);
        check(&turn, "CPU while idle", Some(25.0));
        check(&turn, "dropped", Some(3.0));
        check(&turn, "lost", Some(0.0));
        check(&json!({"dropped": {}}), "dropped", Some(0.0));
        check(&turn, "RSS", None);
    }

    #[test]
    fn figures_without_samples_are_none_and_not_zero() {
        let empty = json!({"latency": {"count": 0, "p50_us": 0.0}, "handshake": {"count": 0}});
        check(&empty, "latency p50", None);
        check(&empty, "handshakes", Some(0.0));
        check(&json!({"deliveries": {"expected": 0, "received": 0}}), "received", None);
        check(&json!({"count": 3, "p50_us": 4.0}), "latency p50", Some(4.0));
    }

    #[test]
    fn a_scenario_takes_its_figures_over_the_rounds() {
        let turn = |subject: &str, round: u32, cpu: Option<f64>| json!({"subject": subject, "round": round, "cpu_per_delivery_ns": cpu});
        let results = json!({"turns": [
            turn("ring", 1, Some(2.0)), turn("comet", 1, Some(6.0)), turn("ring", 2, None),
            turn("comet", 2, Some(9.0)), turn("ring", 3, Some(2.0)), turn("comet", 3, Some(10.0)),
        ]});
        let found: Vec<_> = summarize("fanout", &results).collect();
        assert_eq!(found[0], ("comet_to_ring", Some(Spread { median: 4.0, min: 3.0, max: 5.0 })));
        let others =
            ["comet_data_to_ring", "comet_to_send", "comet_data_to_send", "comet_to_coalesced"];
        assert_eq!(found[1..], others.map(|name| (name, None)));
        let idle = json!({"turns": [{"subject": "comet", "round": 1, "idle_cpu_share": 0.25}]});
        let share = summarize("idle", &idle).next();
        assert_eq!(share, Some(("cpu_share", Spread::of([0.25]))), "as it is, not in percent");
    }

    #[test]
    fn summaries_are_of_figures_that_are_declared() {
        let all = all();
        let is_declared = |(_, name): Of| all.iter().any(|figure| figure.name == name);
        assert!(
            SUMMARIES.iter().all(|&(.., of, to)| is_declared(of) && to.is_none_or(is_declared))
        );
    }

    #[test]
    fn names_are_declared_once() {
        for one in all() {
            assert_eq!(
                all().iter().filter(|other| other.name == one.name).count(),
                1,
                "{}",
                one.name
            );
        }
    }

    #[test]
    fn summaries_have_words_and_units() {
        let spread = |median| json!({"median": median, "min": 1.0, "max": 3.0});
        let results = json!({
            "cpu_share": spread(0.5), "comet_to_ring": null, "turns": [],
            "lines": [
                {"target": 8, "what": "  a call", "unit": "us", "measured": spread(2.0)},
                {"target": 8, "what": "failed", "unit": "us", "measured": null},
            ],
        });
        let check = |mut found: Vec<(String, Spread)>, label: &str, median| {
            let (is, spread) = found.pop().unwrap();
            assert_eq!((is.as_str(), spread.median, found.len()), (label, median, 0));
        };
        check(summaries(&results).collect(), "CPU while idle, %", 50.0);
        check(lines(&results).collect(), "8 a call, us", 2.0);
    }
}
