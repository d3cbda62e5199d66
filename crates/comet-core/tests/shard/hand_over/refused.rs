//! Hand-overs that are refused, and bytes that are no hand-over.

use comet_core::{Limits, Logic, Millis, Settings, Shard, ShardId, distribute};
use comet_handover as handed;
use comet_handover::{Fault, Tls};
use proptest::prelude::*;

use super::story::Clients;

/// The state that two shards hand over in the middle of the story.
fn handed_over() -> Vec<(handed::Shard, Vec<usize>)> {
    let mut rig = Clients::amid_everything().rig;
    rig.sealed = Some(20);
    let parts = rig.hand_over().into_iter();
    let decode = |bytes: Vec<u8>| handed::Shard::decode(&bytes).unwrap();
    parts.map(|(bytes, conns)| (decode(bytes), (0..conns.len()).collect())).collect()
}

fn fault(change: impl FnOnce(&mut Vec<(handed::Shard, Vec<usize>)>)) -> String {
    let mut parts = handed_over();
    change(&mut parts);
    match distribute(parts, 2) {
        Ok(_) => panic!("it is taken"),
        Err(fault) => fault.to_string(),
    }
}

#[test]
fn an_inconsistent_hand_over_is_refused() {
    let check = |what: &str, change: fn(&mut Vec<(handed::Shard, Vec<usize>)>)| {
        let fault = fault(change);
        assert!(fault.contains(what), "{fault}");
    };
    check("shard 0 of 2 among 1", |parts| drop(parts.pop()));
    check("shard 0 of 2 among 2", |parts| parts[1].0.shard = 0);
    check("sockets of", |parts| parts[0].1.clear());
    check("no room has the handle 77", |parts| parts[0].0.connections[0].room = Some(77));
    check("frame 99 of", |parts| parts[0].0.connections[0].pending = vec![99]);
    check("more than the first frame", |parts| {
        parts[1].0.connections.iter_mut().for_each(|conn| conn.taken = 1 << 20);
    });
    check("more is sealed than waits", |parts| {
        let mut sealed = Tls::default();
        (sealed.ciphertext, sealed.sealed) = (vec![1], 1 << 20);
        for connection in &mut parts[1].0.connections {
            connection.tls = connection.stalled_ms.map(|_| Box::new(sealed.clone()));
        }
    });
    check("more is sealed than waits", |parts| {
        let mut sealed = Tls::default();
        sealed.sealed = 1;
        parts[0].0.connections[0].tls = Some(Box::new(sealed));
    });
    check("a connection without transport", |parts| parts[0].0.connections[0].transport = 9);
    check("a key of 0 bytes", |parts| parts[0].0.connections[0].key.clear());
    check("two connections hold the key", |parts| {
        let key = parts[0].0.connections[0].key.clone();
        parts[1].0.connections[0].key = key;
    });
    check("two rooms have the handle", |parts| {
        let room = parts[0].0.rooms[0].clone();
        parts[0].0.rooms.push(room);
    });
    check("a frame that is none", |parts| parts[0].0.items[0].tcp_at = 1 << 20);
    check("version 2; this release reads 1 to 1", |parts| parts[0].0.version = 2);
}

#[test]
fn unknown_features_and_versions_of_a_hand_over_are_refused_by_name() {
    let (mut shard, _) = handed_over().remove(0);
    shard.required.push("frames_of_silver".into());
    let fault = handed::Shard::decode(&shard.encode()).unwrap_err();
    assert_eq!(fault, Fault::Feature("frames_of_silver".into()));
    shard.version = 7;
    assert_eq!(handed::Shard::decode(&shard.encode()).unwrap_err(), Fault::Version(7));
    assert!(matches!(handed::Shard::decode(b"\x08"), Err(Fault::Malformed(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// A hand-over with arbitrary changes is refused or taken over, without a panic.
    #[test]
    fn no_bytes_cause_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        shards in 1..4_u16,
    ) {
        let mut parts = Vec::new();
        for (shard, _) in handed_over() {
            let mut bytes = shard.encode();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let Ok(shard) = handed::Shard::decode(&bytes) else { return Ok(()) };
            let sockets = vec![(); shard.connections.len()];
            parts.push((shard, sockets));
        }
        let Ok(parts) = distribute(parts, shards) else { return Ok(()) };
        for (shard, (part, _)) in (0..).map(ShardId).zip(parts) {
            let settings = Settings {
                shard,
                shards,
                limits: Limits { text: true, ..Limits::default() }.into(),
                logic: Logic::Embedded,
                hash_seed: 7,
                has_other_hosts: false,
            };
            let mut shard = Shard::new(&settings, Millis(1_000));
            let mut part = part;
            let tls = part.take_tls();
            for (conn, tls) in shard.take_over(part).into_iter().zip(tls) {
                shard.handle_recv(conn, b"more");
                if let Some(sealed) = tls.map(|tls| tls.sealed as usize).filter(|sealed| *sealed > 0) {
                    shard.handle_sent(conn, sealed);
                }
            }
            while let Some(transmit) = shard.poll_transmit() {
                let (conn, bytes) = (transmit.conn, transmit.slices.map(<[u8]>::len).sum());
                shard.handle_sent(conn, bytes);
            }
            let _ = shard.counters();
        }
    }
}
