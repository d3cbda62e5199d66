//! Redis that does not do its work, on a wire that is spoilt.

use std::time::{Duration, Instant};

use super::Logic;
use super::wire::{Passage, Wire};
use crate::logic_rig::request;
use crate::redis::RedisServer;
use crate::support::{Metrics, get, until};

#[test]
fn redis_behind_a_bad_wire_fails_pushes_in_time_and_is_used_again() {
    let Some(redis) = RedisServer::start() else { return };
    let wire = Wire::to(redis.address());
    let logic = Logic::start(&[
        "logic_server.store=\"redis\"".to_owned(),
        format!("logic_server.redis=[\"redis://{}\"]", wire.address),
        "push.timeout=\"1s\"".to_owned(),
    ]);
    let push =
        || request(logic.http, "POST", "/goim/push/keys?operation=5&keys=k", b"hi")["code"].clone();
    let up = || Metrics::read(logic.stat).by_label("comet_logic_redis_up").len();
    until("Redis to be used", || push() == 0);
    for passage in [Passage::Cut, Passage::Slow, Passage::Garbage] {
        wire.set(passage);
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(push(), -500, "{passage:?}");
            // Ten times the deadline, for a machine that is busy.
            assert!(begun.elapsed() < Duration::from_secs(10), "{passage:?}");
        }
        assert_eq!(get(logic.stat, "/healthz").0, 200);
        wire.set(Passage::Open);
        until("Redis to be used again", || push() == 0);
        until("Redis to be up", || up() == 1);
    }
}
