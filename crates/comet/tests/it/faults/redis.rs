//! Redis that does not do its work: killed, or on a wire that is spoilt.

use std::time::Instant;

use comet_client::{Transport, op};

use super::Logic;
use super::wire::{Passage, Wire};
use crate::logic_process::own_address;
use crate::logic_rig::{post, request};
use crate::peer::Peer;
use crate::process::Server;
use crate::redis::RedisServer;
use crate::support::{Metrics, PATIENCE, get, until};

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
            // A second, but for a machine that is busy.
            assert!(begun.elapsed() < PATIENCE / 2, "{passage:?}");
        }
        assert_eq!(get(logic.stat, "/healthz").0, 200);
        wire.set(Passage::Open);
        until("Redis to be used again", || push() == 0);
        until("Redis to be up", || up() == 1);
    }
}

/// Redis comes back without what it knew. Clients stay connected, and each is known again with its next heartbeat to logic.
#[test]
fn clients_stay_while_redis_is_killed_and_are_known_again_when_it_is_back() {
    let Some(mut redis) = RedisServer::start() else { return };
    let grpc = own_address();
    let comets = format!("logic_server.comets=[\"a={grpc}\"]");
    let logic = Logic::start(&redis.sets().into_iter().chain([comets]).collect::<Vec<_>>());
    let server = Server::start(&[
        "server.id=\"a\"",
        &format!("push.grpc=[\"{grpc}\"]"),
        &format!("logic.addrs=[\"{}\"]", logic.grpc),
        "logic.ping=\"100ms\"",
        "logic.heartbeat_min=\"100ms\"",
        "logic.heartbeat_max=\"200ms\"",
    ]);
    let is_up = format!("comet_logic_up{{address=\"{}\"}}", logic.grpc);
    until("logic to be there", || Metrics::read(server.stat).value(&is_up) == 1);
    let mut live = server.live(Transport::Tcp, "41");
    let user = "mids?operation=1000&mids=41";
    let is_known = |live: &mut Peer| {
        live.send(op::HEARTBEAT, 1, b"");
        // A push that logic gave up may come as well.
        while live.recv().operation != op::HEARTBEAT_REPLY {}
        let answer = request(logic.http, "POST", &format!("/goim/push/{user}"), b"known");
        let is_known = answer["data"]["queued"] == 1;
        if is_known {
            while live.recv().body != b"known" {}
        }
        is_known
    };
    until("comets to be there", || is_known(&mut live));
    redis.stop();
    for _ in 0..3 {
        let begun = Instant::now();
        let answer = request(logic.http, "POST", &format!("/goim/push/{user}"), b"hi");
        assert_eq!(answer["code"], -500, "{answer}");
        // A second, but for a machine that is busy.
        assert!(begun.elapsed() < PATIENCE / 2);
        assert_eq!(live.ask(op::HEARTBEAT, 2, b"").operation, op::HEARTBEAT_REPLY);
    }
    // It needs no session.
    assert_eq!(post(logic.http, "all?operation=1000", b"all")["queued"], 1);
    assert_eq!(live.recv().body, b"all");
    let mut refused = Peer::connect(server.tcp, Transport::Tcp);
    refused.send(op::AUTH, 1, b"42");
    let reason = refused.close_notice().reason;
    assert!(reason.contains("; retry_after_ms="), "{reason}");
    redis.restart();
    until("the client to be known again", || is_known(&mut live));
    server.live(Transport::WebSocket, "43");
}
