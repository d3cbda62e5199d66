//! `comet stat`: the content of `/stat`, formatted or as JSON.

use serde_json::Value;

use crate::args::Stat;
use crate::monitor::{MonitorClient, printable};
use crate::output::print;

/// Prints the numbers of a running server.
///
/// # Errors
/// If no server answers, it refuses, or standard output fails.
pub fn stat(stat: &Stat) -> Result<u8, String> {
    let answer = MonitorClient::new(&stat.monitored)?.get("/stat")?;
    if stat.json {
        print(serde_json::to_string_pretty(&answer).expect("JSON is text"))?;
    } else {
        print(lines(&answer).join("\n"))?;
    }
    Ok(0)
}

fn lines(stat: &Value) -> Vec<String> {
    let mut lines = vec![title(stat), String::new()];
    let totals = stat["totals"].as_object().into_iter().flatten();
    for (name, value) in totals {
        match value {
            Value::Number(number) => lines.push(line(name, number.as_u64().unwrap_or_default())),
            Value::Object(by_reason) => {
                let some = by_reason.iter().filter(|(_, count)| count.as_u64() != Some(0));
                lines.extend(some.map(|(reason, count)| {
                    line(&format!("{name} {reason}"), count.as_u64().unwrap_or_default())
                }));
            }
            _ => {}
        }
    }
    lines.push(String::new());
    lines.push(format!(
        "{:>4} {:>12} {:>12} {:>12} {:>10} {:>8}",
        "core", "connections", "live", "queued", "waiting", "inbox"
    ));
    for core in stat["cores"].as_array().into_iter().flatten() {
        let [number, connections, live, queued, waiting, inbox] =
            ["core", "connections", "live", "queued", "waiting", "inbox_depth"]
                .map(|name| count(core, name));
        lines.push(format!(
            "{number:>4} {connections:>12} {live:>12} {queued:>12} {waiting:>10} {inbox:>8}"
        ));
    }
    let rooms = &stat["rooms"];
    lines.push(String::new());
    lines.push(format!("{} rooms; the fullest:", count(rooms, "count")));
    for room in rooms["fullest"].as_array().into_iter().flatten() {
        lines.push(format!("{:>8}  {}", count(room, "online"), text(room, "room")));
    }
    lines
}

/// The line of a total.
fn line(name: &str, count: u64) -> String {
    format!("{name:<32} {count:>14}")
}

/// The identity and state of the server.
pub(crate) fn title(stat: &Value) -> String {
    let seconds = count(stat, "uptime_seconds");
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    format!(
        "comet {} {}  {}  up {days}d {hours}h {minutes}m {}s",
        text(stat, "version"),
        text(stat, "server_id"),
        text(stat, "phase"),
        seconds % 60
    )
}

/// The number named `name`; 0 if missing.
pub(crate) fn count(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or_default()
}

/// The text named `name`, for a terminal.
pub(crate) fn text(object: &Value, name: &str) -> String {
    printable(object[name].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_reasons_are_lines() {
        let stat = json!({
            "version": "1.2", "server_id": "edge\u{7}", "phase": "ready", "uptime_seconds": 90_061,
            "totals": { "deflated_connections": 7, "dropped": { "filtered": 3, "closing": 0 } },
            "cores": [{ "core": 0, "connections": 7 }],
            "rooms": { "count": 1, "fullest": [{ "room": "a\n", "online": 7 }] },
        });
        let lines = lines(&stat);
        assert_eq!(lines[0], "comet 1.2 edge\\u{7}  ready  up 1d 1h 1m 1s");
        for (name, count) in [("deflated_connections", "7"), ("dropped filtered", "3")] {
            let end = format!(" {count}");
            let line = lines.iter().find(|line| line.starts_with(name) && line.ends_with(&end));
            assert_eq!(line.map(String::len), Some(47), "{lines:?}");
        }
        assert!(!lines.iter().any(|line| line.contains("closing")), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "       7  a\\u{a}");
    }
}
