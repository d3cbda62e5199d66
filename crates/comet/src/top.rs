//! `comet top`: the activity of a running server, each second.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::args::Top;
use crate::monitor::MonitorClient;
use crate::output::print;
use crate::stat::{count, text, title};
use crate::terminal::Terminal;

/// Time between two screens.
const PAUSE: Duration = Duration::from_secs(1);

/// Rooms and clients on a screen.
const ROWS: usize = 10;

/// The state of the server at one moment.
struct Reading {
    at: Instant,
    stat: Value,
    top: Value,
}

/// Shows the server's activity until q or Ctrl-C is pressed. Shows it once if requested, or without a terminal.
///
/// # Errors
/// If no server answers at the start, it refuses, or the output fails.
pub fn top(top: &Top) -> Result<u8, String> {
    let client = MonitorClient::new(&top.monitored)?;
    let mut before = read(&client)?;
    let terminal = match top.once {
        true => None,
        false => Terminal::open().map_err(|error| format!("the terminal: {error}"))?,
    };
    let Some(mut terminal) = terminal else {
        thread::sleep(PAUSE);
        let now = read(&client)?;
        print(screen(&before, &now).join("\n"))?;
        return Ok(0);
    };
    let gone = |error| format!("the terminal: {error}");
    let mut lines = vec![title(&before.stat)];
    loop {
        terminal.show(&lines).map_err(gone)?;
        if terminal.wait(PAUSE).map_err(gone)? {
            return Ok(0);
        }
        // A server that restarts is reachable again soon.
        match read(&client) {
            Ok(now) => {
                lines = screen(&before, &now);
                before = now;
            }
            Err(error) => lines = vec![error],
        }
    }
}

fn read(client: &MonitorClient) -> Result<Reading, String> {
    let stat = client.get("/stat?top=1")?;
    let at = Instant::now();
    Ok(Reading { at, stat, top: client.get(&format!("/top?limit={ROWS}"))? })
}

/// The lines of a screen.
fn screen(before: &Reading, now: &Reading) -> Vec<String> {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    // A restarted server has lower counters.
    let since = |before: &Value, now: &Value, name: &str| {
        count(now, name).saturating_sub(count(before, name)) as f64 / seconds
    };
    let (was, is) = (&before.stat["totals"], &now.stat["totals"]);
    let drops = |before: &Value, now: &Value| {
        let sum = |of: &Value| -> u64 {
            let reasons = of["dropped"].as_object().into_iter().flatten();
            reasons.filter_map(|(_, count)| count.as_u64()).sum()
        };
        sum(now).saturating_sub(sum(before)) as f64 / seconds
    };
    let mut lines = vec![
        title(&now.stat),
        format!(
            "connections {}  live {}  handshakes {}  users {}  rooms {}  accepted/s {:.0}",
            count(is, "connections"),
            count(is, "live"),
            count(is, "handshakes"),
            count(is, "users"),
            count(is, "rooms"),
            since(was, is, "accepted_tcp") + since(was, is, "accepted_websocket"),
        ),
        format!(
            "pushes/s {:.0}  deliveries/s {:.0}  sent/s {:.0}  drops/s {:.0}  waiting {} ({} bytes)  out {:.0} KB/s",
            since(was, is, "pushes"),
            since(was, is, "queued"),
            since(was, is, "sent"),
            drops(was, is),
            count(is, "waiting"),
            count(is, "waiting_bytes"),
            since(was, is, "bytes_out") / 1e3,
        ),
        String::new(),
        format!(
            "{:>4} {:>6} {:>9} {:>9} {:>12} {:>9} {:>12} {:>9} {:>9} {:>6}",
            "core",
            "load",
            "turns/s",
            "us/turn",
            "connections",
            "pushes/s",
            "deliveries/s",
            "drops/s",
            "waiting",
            "inbox"
        ),
    ];
    let none = Value::Null;
    for (number, core) in now.stat["cores"].as_array().into_iter().flatten().enumerate() {
        let former = before.stat["cores"].get(number).unwrap_or(&none);
        let (turns, micros) = (
            since(&former["turns"], &core["turns"], "count"),
            since(&former["turns"], &core["turns"], "micros"),
        );
        lines.push(format!(
            "{number:>4} {:>5.1}% {turns:>9.0} {:>9.1} {:>12} {:>9.0} {:>12.0} {:>9.0} {:>9} {:>6}",
            micros / 1e4,
            if turns > 0.0 { micros / turns } else { 0.0 },
            count(core, "connections"),
            since(former, core, "pushes"),
            since(former, core, "queued"),
            drops(former, core),
            count(core, "waiting"),
            count(core, "inbox_depth"),
        ));
    }
    let span = (count(&now.top, "span_ms") as f64 / 1e3).max(0.001);
    lines.push(String::new());
    lines.push(format!("{:>12}  busiest rooms of the last {span:.0} s", "deliveries/s"));
    for room in now.top["rooms"].as_array().into_iter().flatten() {
        lines.push(format!(
            "{:>12.1}  {}",
            count(room, "deliveries") as f64 / span,
            text(room, "room")
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:>12} {:>14}  {:<12} slowest clients of the last {span:.0} s",
        "late bytes", "waiting bytes", "id"
    ));
    clients(&mut lines, &now.top["clients"], "late_bytes");
    lines.push(String::new());
    lines.push(format!(
        "{:>12} {:>14}  {:<12} busiest clients of the last {span:.0} s",
        "bytes/s", "waiting bytes", "id"
    ));
    clients(&mut lines, &now.top["busiest"], "bytes_per_second");
    lines
}

/// A line for each of `clients`, beginning with its number named `number`.
fn clients(lines: &mut Vec<String>, clients: &Value, number: &str) {
    for client in clients.as_array().into_iter().flatten() {
        lines.push(format!(
            "{:>12} {:>14}  {:<12} key={} mid={} {} {}",
            count(client, number),
            count(client, "waiting_bytes"),
            text(client, "id"),
            text(client, "key"),
            client["mid"].as_i64().unwrap_or_default(),
            text(client, "address"),
            text(client, "state"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_differences_by_time() {
        let at = Instant::now();
        let reading = |seconds: u64, scale: u64| {
            let core = json!({
                "core": 0, "connections": 5, "pushes": 10 * scale, "queued": 40 * scale,
                "dropped": { "filtered": 2 * scale, "closing": 0 },
                "turns": { "count": 100 * scale, "micros": 500_000 * scale },
            });
            let stat =
                json!({ "server_id": "edge", "phase": "ready", "totals": core, "cores": [core] });
            let top = json!({
                "span_ms": 10_000,
                "rooms": [{ "room": "live://1\u{1b}", "deliveries": 25 }],
                "clients": [{ "id": "0/1.2", "key": "k", "mid": 7, "late_bytes": 9, "waiting_bytes": 3 }],
                "busiest": [{ "id": "0/3.1", "key": "b", "mid": 8, "bytes_per_second": 70, "waiting_bytes": 0 }],
            });
            Reading { at: at + Duration::from_secs(seconds), stat, top }
        };
        let lines = screen(&reading(0, 1), &reading(2, 3));
        let has = |text: &str| {
            assert!(lines.iter().any(|line| line.contains(text)), "{text}: {lines:#?}");
        };
        has("pushes/s 10  deliveries/s 40  sent/s 0  drops/s 2");
        has("   0  50.0%       100    5000.0            5        10           40         2");
        has("         2.5  live://1\\u{1b}");
        has("           9              3  0/1.2        key=k mid=7");
        has("          70              0  0/3.1        key=b mid=8");
        // A restarted server has lower counters.
        let lines = screen(&reading(0, 3), &reading(2, 1));
        assert!(lines[2].starts_with("pushes/s 0  deliveries/s 0"), "{lines:#?}");
    }
}
