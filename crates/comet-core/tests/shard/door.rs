//! Admission limits: connections by address and subnet, handshakes under way, and the rates of one client.

use std::net::IpAddr;

use comet_core::limits::RATE_WINDOW_MS;
use comet_core::{
    BlockedNetwork, Blocklist, ClientRates, CloseReason, ConnId, Identity, Kick, Limits, Logic,
    Message, Millis, Push, ShardId, SocketShutdown, SourceLimits, Transport,
};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, masked};

fn per_source(per_address: u32, per_subnet: u32) -> Limits {
    let exempt = ["10.0.0.0/8".parse().unwrap()].into();
    let sources = SourceLimits { per_address, per_subnet, exempt, ..SourceLimits::default() };
    Limits { sources, ..Limits::default() }
}

/// A client that has connected to `shard` from `address`.
fn connect(rig: &mut Rig, shard: u16, address: &str) -> ConnId {
    let conn = rig.connect(shard, Transport::Tcp);
    rig.shards[usize::from(shard)].handle_source(conn, address.parse::<IpAddr>().unwrap());
    rig.run();
    conn
}

/// Checks the close reason, and that the client got a retry-after.
#[track_caller]
fn check_turned_away(rig: &mut Rig, conn: ConnId, reason: CloseReason) {
    let notice = String::from_utf8(rig.take(conn).split_off(16)).unwrap();
    let (label, wait) = notice.split_once("; retry_after_ms=").expect("a time to wait");
    assert_eq!(label, reason.label());
    assert!((5_000..=30_000).contains(&wait.parse::<u32>().unwrap()), "{wait}");
    assert_eq!(rig.reason(conn), reason);
}

fn counted(rig: &Rig) -> u64 {
    rig.shards.iter().map(|shard| shard.counters().sources).sum()
}

#[test]
fn connections_of_an_address_are_counted_over_all_shards() {
    let mut rig = Rig::new(3, per_source(4, 0));
    let first: Vec<_> = (0..4).map(|at| connect(&mut rig, at % 3, "192.0.2.1")).collect();
    for shard in 0..3 {
        let conn = connect(&mut rig, shard, "::ffff:192.0.2.1");
        check_turned_away(&mut rig, conn, CloseReason::AddressLimit);
        rig.hang_up(conn);
    }
    assert!(first.iter().all(|&conn| !rig.is_closed(conn)));
    let other = connect(&mut rig, 0, "192.0.2.2");
    assert!(!rig.is_closed(other));
    // After one client has left, another one may connect.
    rig.hang_up(first[1]);
    let next = connect(&mut rig, 2, "192.0.2.1");
    assert!(!rig.is_closed(next));
    let late = connect(&mut rig, 2, "192.0.2.1");
    check_turned_away(&mut rig, late, CloseReason::AddressLimit);
    for conn in first.into_iter().chain([other, next, late]) {
        rig.hang_up(conn);
    }
    assert_eq!(counted(&rig), 0);
}

#[test]
fn connections_of_a_subnet_are_counted() {
    let mut rig = Rig::new(2, per_source(0, 3));
    for host in 1..=3 {
        let conn = connect(&mut rig, host % 2, &format!("192.0.2.{host}"));
        assert!(!rig.is_closed(conn));
        let conn = connect(&mut rig, host % 2, &format!("2001:db8:0:7::{host}"));
        assert!(!rig.is_closed(conn));
    }
    for address in ["192.0.2.255", "2001:db8:0:7:ffff::"] {
        let conn = connect(&mut rig, 0, address);
        check_turned_away(&mut rig, conn, CloseReason::SubnetLimit);
    }
    for address in ["192.0.3.1", "2001:db8:0:8::1"] {
        let conn = connect(&mut rig, 0, address);
        assert!(!rig.is_closed(conn));
    }
}

#[test]
fn exempt_networks_are_not_counted() {
    let mut rig = Rig::new(1, per_source(1, 1));
    for _ in 0..5 {
        let conn = connect(&mut rig, 0, "10.1.2.3");
        assert!(!rig.is_closed(conn));
    }
    assert_eq!(counted(&rig), 0);
    assert!(!SourceLimits::default().is_on());
    let mut off = Rig::new(1, Limits::default());
    connect(&mut off, 0, "192.0.2.1");
    assert_eq!(counted(&off), 0);
}

#[test]
fn an_address_limit_set_by_a_reload_counts_only_later_connections() {
    let mut rig = Rig::new(2, Limits::default());
    let before = connect(&mut rig, 0, "192.0.2.1");
    let limits = std::sync::Arc::new(Limits { goodbye: true, ..per_source(1, 0) });
    rig.send_all(&Message::Configure { limits });
    let counted_one = connect(&mut rig, 0, "192.0.2.1");
    let refused = connect(&mut rig, 1, "192.0.2.1");
    check_turned_away(&mut rig, refused, CloseReason::AddressLimit);
    rig.send_all(&Message::Configure { limits: std::sync::Arc::new(Limits::default()) });
    for conn in [before, counted_one, refused] {
        rig.hang_up(conn);
    }
    assert_eq!(counted(&rig), 0);
}

/// A limit that a reload sets does not count earlier connections. After an upgrade the next process counts them, and closes none.
#[test]
fn after_an_upgrade_all_connections_count_by_address_and_none_is_closed() {
    for shards in [1, 2] {
        let mut rig = Rig::new(2, Limits::default());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let before: Vec<_> = (0..3).map(|at| rig.join(at % 2, &format!("/k{at}//"))).collect();
        rig.addresses.extend(before.iter().map(|&conn| (conn, address)));
        let renamed = rig.upgrade_with(shards, |limits| Limits {
            sources: SourceLimits { per_address: 2, ..SourceLimits::default() },
            ..limits
        });
        let mut after: Vec<_> = before.iter().map(|conn| renamed[conn]).collect();
        assert!(after.iter().all(|&conn| !rig.is_closed(conn)));
        // The next connection exceeds the limit, until others have left.
        let late = connect(&mut rig, 0, "192.0.2.1");
        check_turned_away(&mut rig, late, CloseReason::AddressLimit);
        rig.hang_up(late);
        after.drain(..2).for_each(|conn| rig.hang_up(conn));
        let next = connect(&mut rig, 0, "192.0.2.1");
        assert!(!rig.is_closed(next));
        [after[0], next].into_iter().for_each(|conn| rig.hang_up(conn));
        assert_eq!(counted(&rig), 0);
    }
}

/// Clients that linger are not counted by address, so they must not take the slots of others.
#[test]
fn the_number_of_refused_clients_that_linger_is_bounded() {
    let limits = Limits { connections: 64, ..per_source(1, 0) };
    let mut rig = Rig::new(1, limits);
    connect(&mut rig, 0, "192.0.2.1");
    let refused: Vec<_> = (0..10).map(|_| connect(&mut rig, 0, "192.0.2.1")).collect();
    for (at, &conn) in refused.iter().enumerate() {
        check_turned_away(&mut rig, conn, CloseReason::AddressLimit);
        let how = if at < 4 { SocketShutdown::Write } else { SocketShutdown::Both };
        assert_eq!(rig.shut(conn), Some(how), "{at}");
    }
    // One of them has left, so one may linger.
    rig.hang_up(refused[1]);
    for how in [SocketShutdown::Write, SocketShutdown::Both] {
        let conn = connect(&mut rig, 0, "192.0.2.1");
        check_turned_away(&mut rig, conn, CloseReason::AddressLimit);
        assert_eq!(rig.shut(conn), Some(how));
    }
    // All refused clients are gone after the linger timeout.
    rig.pass(u64::from(Limits::default().linger_ms) + 100);
    assert_eq!(rig.shards[0].counters().connections, 1);
    let conn = connect(&mut rig, 0, "192.0.2.1");
    assert_eq!(rig.shut(conn), Some(SocketShutdown::Write));
}

#[test]
fn a_websocket_client_is_answered_in_http() {
    let mut rig = Rig::new(1, per_source(1, 0));
    connect(&mut rig, 0, "192.0.2.1");
    let conn = rig.connect(0, Transport::WebSocket);
    rig.shards[0].handle_source(conn, "192.0.2.1".parse().unwrap());
    rig.run();
    let answer = String::from_utf8(rig.ask(conn, UPGRADE)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answer}");
    let wait = answer.split("Retry-After: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    assert!((5..=30).contains(&wait.unwrap().parse::<u32>().unwrap()), "{answer}");
    assert!(answer.ends_with("Content-Length: 0\r\n\r\n"), "{answer}");
    assert_eq!(rig.shut(conn), Some(SocketShutdown::Write));
    assert_eq!(rig.reason(conn), CloseReason::AddressLimit);
}

/// The claim reaches the home after the connection has closed.
#[test]
fn a_connection_that_closes_first_is_not_counted_for_ever() {
    for shard in 0..2 {
        let mut rig = Rig::new(2, per_source(1, 1));
        rig.held.extend([(0, 1), (1, 0)]);
        let conn = connect(&mut rig, shard, "192.0.2.1");
        rig.hang_up(conn);
        rig.held.clear();
        rig.run();
        assert_eq!(counted(&rig), 0);
    }
}

#[test]
fn the_oldest_handshake_makes_room() {
    let mut rig = Rig::new(1, Limits { handshakes: 3, ..Limits::default() });
    let silent: Vec<_> = (0..3).map(|_| rig.connect(0, Transport::Tcp)).collect();
    // Clients that authenticate at once do not count as handshakes, however many there are.
    for user in 0..200 {
        rig.join(0, &format!("{user}///"));
    }
    let closed: Vec<_> = silent.iter().map(|&conn| rig.is_closed(conn)).collect();
    assert_eq!(closed, [true, false, false], "one made room, and the rest came one at a time");
    check_turned_away(&mut rig, silent[0], CloseReason::HandshakeOverflow);
    assert_eq!(rig.shards[0].counters().handshakes, 2);

    let newest: Vec<_> = (0..3).map(|_| rig.connect(0, Transport::Tcp)).collect();
    rig.run();
    assert!(silent.iter().all(|&conn| rig.is_closed(conn)));
    rig.pass(u64::from(Limits::default().handshake_ms) + 100);
    assert!(newest.iter().all(|&conn| rig.reason(conn) == CloseReason::HandshakeTimeout));
    assert_eq!(rig.shards[0].counters().handshakes, 0);
    assert_eq!(rig.shards[0].counters().live, 200);
}

fn rates(rates: ClientRates) -> Rig {
    Rig::new(1, Limits { rates, ..Limits::default() })
}

const WINDOW_S: u32 = (RATE_WINDOW_MS / 1_000) as u32;

#[test]
fn a_client_may_send_a_burst_and_no_more() {
    let mut rig = rates(ClientRates { frames: 2, ..ClientRates::default() });
    let conn = rig.join(0, "7/k//");
    let other = rig.join(0, "8/o//");
    // The token was a frame as well.
    for _ in 1..2 * WINDOW_S {
        assert_eq!(rig.ask(conn, &frame(op::SEND, 1, b"x")), frame(op::SEND, 1, b""));
    }
    rig.feed(conn, &frame(op::SEND, 2, b"x"));
    check_turned_away(&mut rig, conn, CloseReason::FrameRate);
    assert_eq!(rig.ask(other, &frame(op::SEND, 1, b"x")), frame(op::SEND, 1, b""));

    // The next window counts anew. A frame is one, in however many pieces it comes.
    rig.pass(RATE_WINDOW_MS);
    let pieces = frame(op::SEND, 1, &[b'x'; 100]);
    pieces.chunks(2).for_each(|piece| rig.feed(other, piece));
    assert_eq!(rig.take(other), frame(op::SEND, 1, b""));
    rig.pass(RATE_WINDOW_MS);
    let many = frame(op::SEND, 1, b"x").repeat(2 * WINDOW_S as usize);
    let replies = frame(op::SEND, 1, b"").repeat(2 * WINDOW_S as usize);
    assert_eq!(rig.ask(other, &many), replies);
    assert!(!rig.is_closed(other));
}

/// A late server reads the frames of two windows in one. A client that keeps to the rate is not closed for that.
#[test]
fn time_in_which_the_server_is_late_is_added_to_the_window() {
    #[derive(PartialEq, Debug)]
    enum Late {
        Client,
        Logic,
        Process,
    }
    let rates = ClientRates { frames: 2, ..ClientRates::default() };
    let limits = Limits { rates, ..Limits::default() };
    for late in [Late::Client, Late::Logic, Late::Process] {
        let remote = Logic::Remote { renew_ms: (600_000, 600_000) };
        let mut rig = Rig::with_logic(1, limits.clone(), remote);
        let conn = rig.connect(0, Transport::Tcp);
        rig.feed(conn, &frame(op::AUTH, 1, b""));
        let identity = Identity { key: Some("k".into()), ..Identity::default() };
        rig.send(conn.shard, Message::Identified { conn, answer: Ok(identity) });
        rig.pass(RATE_WINDOW_MS - rig.now() % RATE_WINDOW_MS);

        // It sends a message 2 s before the window ends, then two frames a second. All are read 8 s into the next window.
        rig.pass(RATE_WINDOW_MS - 2_000);
        let receipt = Message::Receipt { conn, outcome: Ok(()) };
        rig.feed(conn, &frame(op::SEND, 1, b""));
        let frames = frame(op::HEARTBEAT, 1, b"").repeat(20);
        match late {
            Late::Client => {
                rig.send(conn.shard, receipt);
                rig.pass(10_000);
                rig.feed(conn, &frames);
            }
            Late::Logic => {
                rig.feed(conn, &frames);
                rig.pass(10_000);
                rig.send(conn.shard, receipt);
            }
            Late::Process => {
                rig.send(conn.shard, receipt);
                rig.stall(10_000);
                rig.feed(conn, &frames);
            }
        }
        assert!(!rig.is_closed(conn), "{late:?}");
        rig.feed(conn, &frame(op::HEARTBEAT, 1, b"").repeat(4));
        assert_eq!(rig.is_closed(conn), late == Late::Client, "{late:?}");
        // No more than that.
        rig.feed(conn, &frames);
        assert_eq!(rig.reason(conn), CloseReason::FrameRate);
    }
}

#[test]
fn websocket_control_frames_are_frames() {
    let mut rig = rates(ClientRates { frames: 1, ..ClientRates::default() });
    let conn = rig.connect(0, Transport::WebSocket);
    rig.ask(conn, &[UPGRADE, &masked(0x82, &frame(op::AUTH, 1, b"7/k//"))].concat());
    rig.feed(conn, &masked(0x89, b"ping").repeat(WINDOW_S as usize));
    assert_eq!(rig.reason(conn), CloseReason::FrameRate);
}

#[test]
fn bytes_and_room_changes_have_rates_of_their_own() {
    let mut rig = rates(ClientRates { bytes: 100, ..ClientRates::default() });
    let conn = rig.join(0, "7/k//");
    rig.feed(conn, &frame(op::SEND, 1, &[0; 900]));
    assert!(!rig.is_closed(conn));
    rig.take(conn);
    rig.feed(conn, &frame(op::SEND, 1, &[0; 100]));
    check_turned_away(&mut rig, conn, CloseReason::ByteRate);

    let mut rig = rates(ClientRates { room_changes: 1, ..ClientRates::default() });
    let conn = rig.join(0, "7/k//");
    for room in 0..WINDOW_S {
        rig.ask(conn, &frame(op::CHANGE_ROOM, 1, format!("r{room}").as_bytes()));
        assert_eq!(rig.ask(conn, &frame(op::SEND, 1, b"")), frame(op::SEND, 1, b""));
    }
    rig.feed(conn, &frame(op::CHANGE_ROOM, 1, b"one more"));
    check_turned_away(&mut rig, conn, CloseReason::RoomRate);
    assert_eq!(rig.shards[0].id(), ShardId(0));
    assert!(rig.shards[0].home_rooms().is_empty());
}

fn blocking(network: &str, until: u64) -> Limits {
    let network = network.parse().unwrap();
    let block = BlockedNetwork { network, until: Millis(until) };
    let blocklist = Blocklist::default().with(Millis(0), block).unwrap();
    Limits { blocklist, ..Limits::default() }
}

#[test]
fn a_blocked_network_is_closed_without_a_word_until_its_time_is_over() {
    assert!(!Limits::default().needs_addresses());
    let mut rig = Rig::new(2, blocking("192.0.2.0/24", 1_000));
    assert!(rig.shards[0].limits().needs_addresses());
    for shard in 0..2 {
        for address in ["192.0.2.1", "::ffff:192.0.2.255"] {
            let conn = connect(&mut rig, shard, address);
            assert_eq!(rig.reason(conn), CloseReason::Blocked);
            assert_eq!((rig.take(conn), rig.shut(conn)), (Vec::new(), Some(SocketShutdown::Both)));
        }
        let other = connect(&mut rig, shard, "192.0.3.1");
        assert!(!rig.is_closed(other));
    }
    rig.pass(1_000);
    let conn = connect(&mut rig, 0, "192.0.2.1");
    assert!(!rig.is_closed(conn));
    let closed: u64 =
        rig.shards.iter().map(|shard| shard.counters().closed[CloseReason::Blocked as usize]).sum();
    assert_eq!(closed, 4);
}

#[test]
fn clients_of_a_network_are_kicked_behind_the_pushes_before() {
    let mut rig = Rig::new(2, Limits::default());
    let mut conns = Vec::new();
    for at in 0..600_u32 {
        let shard = (at % 2) as u16;
        let conn = match at % 3 {
            0 => rig.connect(shard, Transport::Tcp),
            _ => rig.join(shard, &format!("/k{at}//")),
        };
        let host = if at % 4 < 2 { 1 } else { 2 };
        rig.addresses.insert(conn, format!("192.0.{host}.1").parse().unwrap());
        conns.push((conn, host));
    }
    let stranger = rig.join(0, "/stranger//");
    let call = rig.call();
    let sentence = "out".into();
    let push = Push::kick(Kick { sentence, retry_after_ms: None });
    let network = "192.0.2.1".parse().unwrap();
    rig.send_all(&Message::KickNetwork { call, network, push });
    let tally = rig.tally(call);
    assert_eq!((tally.matched, tally.queued), (300, 300));
    for (conn, host) in conns {
        assert_eq!(rig.is_closed(conn), host == 2);
    }
    assert!(!rig.is_closed(stranger), "its address is not known");
    let kicked = |rig: &Rig| -> u64 {
        rig.shards.iter().map(|shard| shard.counters().closed[CloseReason::Kicked as usize]).sum()
    };
    assert_eq!(kicked(&rig), 300);
}
