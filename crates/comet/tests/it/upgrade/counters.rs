//! Counters across upgrades: those of clients and pushes belong to the shards, those of callers and logic to the process.

use super::{Line, token};
use crate::support::{BOTH, To, get, queued};

#[test]
fn no_counter_decreases_in_an_upgrade() {
    let mut line = Line::start(&[], &[]);
    let mut clients = [0, 1].map(|user| line.server.live(BOTH[user as usize], &token(user)));
    let mut before = line.metrics();
    for round in 1..=3 {
        assert_eq!(line.push(To::Room("live://1"), b"here"), queued(2));
        for client in &mut clients {
            assert_eq!(client.recv().body, b"here");
        }
        assert_eq!(get(line.server.stat, "/nowhere").0, 404);
        let now = line.metrics();
        assert_eq!(before.fallen(&now), [""; 0], "{round}");
        let pushes = "comet_calls_total{rpc=\"BroadcastRoom\",code=\"Ok\"}";
        let times = "comet_call_seconds_count{rpc=\"BroadcastRoom\"}";
        assert_eq!([pushes, times].map(|sample| now.value(sample)), [round; 2]);
        line.upgrade();
        before = now;
    }
}
