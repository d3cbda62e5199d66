//! Paced broadcasts go on in the process that has taken over.

use comet_client::Transport;
use serde_json::{Value, json};

use crate::process::run;
use crate::support::{BOTH, To, two_cores, until};

use super::{Line, file, start_with_file, token};

const CLIENTS: usize = 40;

/// An object a line.
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

/// Each upgrade is to a process with another number of cores.
#[test]
fn a_paced_broadcast_goes_on_in_another_process() {
    const NAME: &str = "upgrade-paced.toml";
    let cores = two_cores();
    let first = cores.split(',').next().unwrap();
    let mut line = start_with_file(&file(NAME, first, ""));
    let mut clients: Vec<_> = (0..)
        .zip(BOTH.iter().cycle())
        .take(CLIENTS)
        .map(|(user, transport)| line.server.live(*transport, &token(user)))
        .collect();
    begin(&line, 30, b"paced");
    let [begun] = &list(&line)[..] else { panic!("one is under way") };
    let id = begun["id"].clone();
    let queued = |line: &Line| line.metrics().value("comet_queued_total");
    let mut before = 0;
    for cores in [&cores, first] {
        until("it to go on", || queued(&line) > before);
        file(NAME, cores, "");
        line.upgrade();
        before = queued(&line);
        assert!(before < CLIENTS as u64, "it was over before the upgrade");
        let [moved] = &list(&line)[..] else { panic!("it does not go on") };
        assert_eq!((&moved["id"], &moved["speed"]), (&id, &json!(30)));
        assert!(moved["since_ms"].as_u64() > Some(0), "{moved}");
    }
    until("it to end", || list(&line).is_empty());
    let metrics = line.metrics();
    assert_eq!(metrics.value("comet_queued_total"), CLIENTS as u64);
    metrics.assert_balanced();
    // Each has it once: the next push comes right behind.
    line.push(To::All, b"next");
    for client in &mut clients {
        assert_eq!(client.recv().body, b"paced");
        assert_eq!(client.recv().body, b"next");
    }
}

#[test]
fn a_paced_broadcast_that_has_moved_is_cancelled_by_its_id() {
    let mut line = Line::start(&[], &[]);
    let clients: Vec<_> =
        (0..40).map(|user| line.server.live(Transport::Tcp, &token(user))).collect();
    begin(&line, 2, b"slow");
    let id = list(&line)[0]["id"].clone();
    until("it to begin", || line.metrics().value("comet_queued_total") > 0);
    line.upgrade();
    let id = id.to_string();
    let ledger = ctl(&line, &["cancel", &id]).unwrap().remove(0);
    let queued = line.metrics().value("comet_queued_total");
    assert_eq!((&ledger["matched"], &ledger["queued"]), (&json!(queued), &json!(queued)));
    assert!(list(&line).is_empty());
    let again = ctl(&line, &["cancel", &id]).unwrap_err();
    assert!(again.contains("is under way"), "{again}");
    drop(clients);
}

/// The new process has ended before it took over.
#[test]
fn a_paced_broadcast_goes_on_where_an_upgrade_fails() {
    let line = Line::start(&[], &[]);
    let mut clients: Vec<_> =
        (0..40).map(|user| line.server.live(Transport::Tcp, &token(user))).collect();
    begin(&line, 40, b"paced");
    let id = list(&line)[0]["id"].clone();
    line.fail(&["--binary", "/bin/false"], "");
    assert_eq!(list(&line)[0]["id"], id);
    for client in &mut clients {
        assert_eq!(client.recv().body, b"paced");
    }
    until("it to end", || list(&line).is_empty());
}
