//! Paced broadcasts continue in the new process.

use serde_json::{Value, json};

use crate::peer::{Peer, receivers_before_next};
use crate::process::run;
use crate::support::{BOTH, To, two_cores, until};

use super::{Line, file, start_with_file, token};

/// So many clients that a slow broadcast lasts longer than upgrades and calls of `comet ctl` on a slow machine.
const CLIENTS: usize = 200;

/// The JSON objects that `comet ctl` prints, one a line.
fn ctl(line: &Line, order: &[&str]) -> Result<Vec<Value>, String> {
    let grpc = line.server.grpc.to_string();
    let (code, said, error) = run(&[&["ctl", "--grpc", &grpc], order, &["--json"]].concat());
    let objects = said.lines().map(|object| serde_json::from_str(object).unwrap());
    if code == 0 { Ok(objects.collect()) } else { Err(error) }
}

fn list(line: &Line) -> Vec<Value> {
    ctl(line, &["broadcasts"]).unwrap()
}

fn begin(line: &Line, speed: u32, body: &[u8]) {
    let ledger = line.caller().broadcast(5, body, Some(speed)).unwrap().unwrap();
    assert_eq!(ledger.scheduled, CLIENTS as u64);
}

fn cancel(line: &Line, id: &Value) -> Result<Vec<Value>, String> {
    ctl(line, &["cancel", &id.to_string()])
}

fn queued(line: &Line) -> u64 {
    line.metrics().value("comet_queued_total")
}

fn clients(line: &Line) -> Vec<Peer> {
    let transports = BOTH.iter().cycle();
    (0..)
        .zip(transports)
        .take(CLIENTS)
        .map(|(user, t)| line.server.live(*t, &token(user)))
        .collect()
}

/// How many clients got the broadcast, each once. The next push shows that no more of it comes.
fn receivers(line: &Line, clients: &mut [Peer], paced: &[u8]) -> u64 {
    line.push(To::All, b"next");
    receivers_before_next(clients, paced)
}

/// Each upgrade is to a process with another number of cores. The broadcast would take 100 seconds, longer than the upgrades,
/// and is cancelled after them.
#[test]
fn a_paced_broadcast_continues_in_the_new_process() {
    const NAME: &str = "upgrade-paced.toml";
    let cores = two_cores();
    let first = cores.split(',').next().unwrap();
    let mut line = start_with_file(&file(NAME, first, ""));
    let mut clients = clients(&line);
    begin(&line, 2, b"paced");
    let [begun] = &list(&line)[..] else { panic!("one broadcast is under way") };
    let id = begun["id"].clone();
    let mut before = 0;
    for cores in [&cores, first] {
        until("the broadcast to continue", || queued(&line) > before);
        file(NAME, cores, "");
        line.upgrade();
        before = queued(&line);
        let [moved] = &list(&line)[..] else { panic!("the broadcast does not continue") };
        assert_eq!((&moved["id"], &moved["speed"]), (&id, &json!(2)));
        assert!(moved["since_ms"].as_u64() > Some(0), "{moved}");
    }
    until("the broadcast to continue", || queued(&line) > before);
    let ledger = cancel(&line, &id).unwrap().remove(0);
    let metrics = line.metrics();
    let queued = metrics.value("comet_queued_total");
    assert_eq!((&ledger["matched"], &ledger["queued"]), (&json!(queued), &json!(queued)));
    assert!(list(&line).is_empty());
    let again = cancel(&line, &id).unwrap_err();
    assert!(again.contains("is under way"), "{again}");
    metrics.assert_balanced();
    assert_eq!(receivers(&line, &mut clients, b"paced"), queued);
}

/// On a slow machine the broadcast may end before the upgrades.
#[test]
fn a_paced_broadcast_reaches_every_client_once_across_upgrades() {
    let mut line = Line::start(&[], &[]);
    let mut clients = clients(&line);
    begin(&line, 75, b"paced");
    for _ in 0..2 {
        line.upgrade();
    }
    until("the broadcast to end", || list(&line).is_empty());
    assert_eq!(queued(&line), CLIENTS as u64);
    line.metrics().assert_balanced();
    assert_eq!(receivers(&line, &mut clients, b"paced"), CLIENTS as u64);
}

/// The new process ends before it has taken over.
#[test]
fn a_paced_broadcast_continues_after_a_failed_upgrade() {
    let line = Line::start(&[], &[]);
    let mut clients = clients(&line);
    begin(&line, 2, b"slow");
    let id = list(&line)[0]["id"].clone();
    line.fail(&["--binary", "/bin/false"], "");
    let before = queued(&line);
    assert_eq!(list(&line)[0]["id"], id);
    until("the broadcast to continue", || queued(&line) > before);
    let ledger = cancel(&line, &id).unwrap().remove(0);
    assert_eq!(ledger["queued"], json!(queued(&line)));
    assert_eq!(json!(receivers(&line, &mut clients, b"slow")), ledger["queued"]);

    begin(&line, 200, b"fast");
    line.fail(&["--binary", "/bin/false"], "");
    until("the broadcast to end", || list(&line).is_empty());
    assert_eq!(receivers(&line, &mut clients, b"fast"), CLIENTS as u64);
}
