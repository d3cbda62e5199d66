//! Push frames at a host that is upgraded: each push is made once on both hosts, or the caller learns that it was not made.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use comet::blocking_client::PushClient;
use comet_client::{PushLedger, PushTarget, Pusher};

use crate::support::{PATIENCE, To, until, until_reaches};
use crate::unix_sockets::Folder;

use super::nats::{CLIENTS, END, Hosts, ROOM, read};

/// Pushes without a reply.
const WINDOW: u32 = 200;
const UPGRADES: usize = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const UNAVAILABLE: u32 = 14;

/// Ends the caller at the end of the test, even if an assertion fails.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Pushes numbers by one connection after the other. Each begins with the first number without a ledger: that push was not made.
/// Returns the ledgers, and the number of connections.
fn call(
    path: PathBuf,
    (is_over, made): (Arc<AtomicBool>, Arc<AtomicU64>),
) -> JoinHandle<(Vec<PushLedger>, u64)> {
    thread::spawn(move || {
        let (mut ledgers, mut connections) = (Vec::new(), 0);
        while !is_over.load(SeqCst) {
            let Ok(mut pusher) = Pusher::unix(&path, PATIENCE) else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            connections += 1;
            let mut begun = ledgers.len();
            let mut has_ended = false;
            while !has_ended && !is_over.load(SeqCst) || pusher.under_way() > 0 {
                while pusher.under_way() < WINDOW && !has_ended && !is_over.load(SeqCst) {
                    let body = format!("frame {begun}");
                    pusher.begin(PushTarget::Room(ROOM), 5, body.as_bytes());
                    begun += 1;
                }
                // The host has closed its side. Replies may still follow.
                has_ended |= pusher.flush().is_err();
                match pusher.next() {
                    Ok(Ok(ledger)) => {
                        ledgers.push(ledger);
                        made.fetch_add(1, SeqCst);
                    }
                    // The push was made, but the hosts reported it too late.
                    Ok(Err(refused)) if refused.status == DEADLINE_EXCEEDED => {
                        ledgers.push(PushLedger { unanswered: 1, ..PushLedger::default() });
                    }
                    // All later pushes get the same reply, or none.
                    Ok(Err(refused)) => {
                        assert_eq!(refused.status, UNAVAILABLE, "{refused}");
                        assert!(refused.message.contains("was not made"), "{refused}");
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
        (ledgers, connections)
    })
}

#[test]
fn push_frames_are_made_once_on_both_hosts_while_one_is_upgraded() {
    let folder = Folder::new();
    let frames = format!("push.frames=[\"{}\"]", folder.address("frames"));
    let Some(mut hosts) = Hosts::start_with(&[], &["protocol.svr_proto=1000"], &[&frames]) else {
        return;
    };
    let readers: Vec<_> = hosts.clients().into_iter().map(read).collect();
    let other = PushClient::connect(&hosts.other.grpc.to_string()).unwrap();
    let all = 2 * CLIENTS as u64;
    until_reaches(all, &other, To::Room(ROOM), b"");
    let (over, made) = (Over(Arc::default()), Arc::new(AtomicU64::new(0)));
    let caller = call(folder.file("frames"), (Arc::clone(&over.0), Arc::clone(&made)));
    let until_more = || {
        let before = made.load(SeqCst);
        until("pushes to go on", || made.load(SeqCst) > before + 2 * u64::from(WINDOW));
    };
    for _ in 0..UPGRADES {
        until_more();
        hosts.line.upgrade();
        hosts.until_joined();
    }
    until_more();
    drop(over);
    let (ledgers, connections) = caller.join().unwrap();
    assert!(connections > UPGRADES as u64, "{connections} connections");
    let last = hosts.line.caller();
    until_reaches(all, &last, To::Room(ROOM), END.as_bytes());
    let mut delivered: HashMap<usize, [u64; 2]> = HashMap::new();
    let mut peers = Vec::new();
    for (client, reader) in readers.into_iter().enumerate() {
        let (peer, bodies) = reader.join().unwrap();
        peers.push(peer);
        let numbers: Vec<usize> =
            bodies.iter().filter_map(|body| body.strip_prefix("frame ")?.parse().ok()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "client {client}: twice, or out of order");
        for number in numbers {
            delivered.entry(number).or_default()[client / CLIENTS] += 1;
        }
    }
    let (mut named, mut missed) = (0, 0);
    for (number, ledger) in ledgers.iter().enumerate() {
        let [here, there] = delivered.remove(&number).unwrap_or_default();
        let dropped: u64 = ledger.dropped.iter().map(|(_, count)| count).sum();
        named += u64::from(ledger.unanswered > 0);
        missed += u64::from(there != here);
        assert_eq!(dropped, 0, "{number}: {ledger:?}");
        assert_eq!(here, CLIENTS as u64, "{number}: {ledger:?}");
        assert!(there == here || ledger.unanswered > 0, "{number}: {there}, {ledger:?}");
        assert!(here + there >= ledger.queued, "{number}: {there}, {ledger:?}");
    }
    assert!(delivered.is_empty(), "made without an answer: {delivered:?}");
    // Before and after each upgrade all ledgers are complete, except those of pushes under way.
    let unnamed = ledgers.len() as u64 - named;
    assert!(unnamed >= (UPGRADES as u64 + 1) * u64::from(WINDOW), "{unnamed} of {}", ledgers.len());
    eprintln!(
        "{} pushes by {connections} connections, {named} name a host, {missed} missed by the other host",
        ledgers.len()
    );
    hosts.line.metrics().assert_balanced();
}
