//! Lists of connections: only matching ones, in order, each once, made in slices.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use comet_core::limits::{LISTED_MAX, LISTINGS_MAX, SLICE_UNITS};
use comet_core::{
    Budget, CallId, ConnFilter, ConnId, ConnOrder, ConnPage, ConnQuery, Limits, ListedConn,
    Message, Report, Shard, ShardId, SlowConsumer, SocketInfo, Top, Transport,
};
use comet_proto::op;

use crate::rig::{Rig, frame};

/// Each slot has an address of its own; connections in odd slots use TLS.
pub(crate) struct Fake;

impl SocketInfo for Fake {
    fn address(&mut self, conn: ConnId) -> Option<SocketAddr> {
        let slot = conn.slot.0;
        Some(SocketAddr::from(([10, 0, (slot >> 8) as u8, slot as u8], 1_000)))
    }

    fn is_tls(&mut self, conn: ConnId) -> bool {
        conn.slot.0 % 2 == 1
    }
}

const CALL: CallId = CallId(1_000);

fn begin(shard: &mut Shard, query: &ConnQuery) {
    shard.handle_message(Message::Connections { call: CALL, query: Arc::new(query.clone()) });
}

fn answer(shard: &mut Shard) -> Option<ConnPage> {
    while shard.has_listings() {
        shard.handle_listings(&mut Budget::new(100), &mut Fake);
    }
    match shard.poll_report() {
        Some(Report::Connections { call: CALL, page }) => page.map(|page| *page),
        other => panic!("{other:?}"),
    }
}

fn page(shard: &mut Shard, query: &ConnQuery) -> ConnPage {
    begin(shard, query);
    answer(shard).expect("not refused")
}

fn keys(page: &ConnPage) -> Vec<&str> {
    page.listed.iter().map(|conn| &*conn.key).collect()
}

#[test]
fn a_filter_lists_only_matching_connections() {
    let mut rig = Rig::new(1, Limits::default());
    for token in ["1/a/r/", "1/b/s/5", "2/c/r/", "2/d//"] {
        rig.join(0, token);
    }
    rig.connect(0, Transport::WebSocket);
    rig.pass(1_234);
    let shard = &mut rig.shards[0];
    let mut check = |filter: ConnFilter, expected: &[&str]| {
        let query = ConnQuery { filter, order: ConnOrder::Age, limit: 10, after: None };
        let page = page(shard, &query);
        assert_eq!((keys(&page), page.matched), (expected.to_vec(), expected.len() as u64));
        page
    };
    let all = check(ConnFilter::default(), &["a", "b", "c", "d", ""]);
    let ListedConn { room, accepts, age_ms, state, is_tls, .. } = &all.listed[1];
    assert_eq!((room.as_deref(), accepts.listed(), *state, *is_tls), (Some("s"), 1, "live", true));
    assert_eq!((*age_ms, all.listed[4].state), (1_234, "upgrading"));
    check(ConnFilter { user: Some(1), ..ConnFilter::default() }, &["a", "b"]);
    check(ConnFilter { key: Some("c".into()), ..ConnFilter::default() }, &["c"]);
    check(ConnFilter { room: Some("r".into()), ..ConnFilter::default() }, &["a", "c"]);
    check(ConnFilter { room: Some("none".into()), ..ConnFilter::default() }, &[]);
    check(ConnFilter { is_tls: Some(false), ..ConnFilter::default() }, &["a", "c", ""]);
    let transport = Some(Transport::WebSocket);
    check(ConnFilter { transport, ..ConnFilter::default() }, &[""]);
    let network = |text: &str| Some(text.parse().unwrap());
    check(ConnFilter { network: network("10.0.0.1"), ..ConnFilter::default() }, &["b"]);
    check(ConnFilter { network: network("10.0.0.2/31"), ..ConnFilter::default() }, &["c", "d"]);
    check(
        ConnFilter { user: Some(2), network: network("10.0.0.0/31"), ..ConnFilter::default() },
        &[],
    );
}

#[test]
fn connections_with_the_most_waiting_bytes_are_listed_first() {
    let mut rig = Rig::new(1, Limits::default());
    let [_, slow, slower] = ["1/a//", "1/b//", "1/c//"].map(|token| rig.join(0, token));
    rig.allow(slower, Some(0));
    rig.push_keys(&["c"], 5, &[b'x'; 100]);
    rig.allow(slow, Some(20));
    rig.push_keys(&["b", "c"], 5, &[b'x'; 100]);
    let query = ConnQuery { limit: 2, ..ConnQuery::default() };
    let page = page(&mut rig.shards[0], &query);
    assert_eq!((keys(&page), page.matched), (vec!["c", "b"], 3));
    let waiting: Vec<_> =
        page.listed.iter().map(|conn| (conn.waiting_bytes, conn.waiting_frames)).collect();
    assert_eq!(waiting, [(232, 2), (96, 1)]);
}

#[test]
fn pages_have_each_connection_once() {
    const COUNT: usize = 2_500;
    let mut rig = Rig::new(1, Limits { handshakes: u32::MAX, ..Limits::default() });
    let conns: BTreeSet<ConnId> = (0..COUNT).map(|_| rig.connect(0, Transport::Tcp)).collect();
    for order in [ConnOrder::Waiting, ConnOrder::Age, ConnOrder::Rate] {
        let mut query = ConnQuery { order, limit: usize::MAX, ..ConnQuery::default() };
        let mut listed = BTreeSet::new();
        for expected in [LISTED_MAX, LISTED_MAX, COUNT - 2 * LISTED_MAX, 0] {
            let page = page(&mut rig.shards[0], &query);
            assert_eq!((page.listed.len(), page.matched), (expected, COUNT as u64));
            assert!(page.listed.is_sorted());
            query.after = page.listed.last().map(|last| last.place);
            for conn in page.listed {
                assert!(listed.insert(conn.place.conn), "twice");
            }
        }
        assert_eq!(listed, conns);
    }
}

/// A slice looks at a bounded number of connections. Connections that come and go meanwhile do not affect the others
/// in the list.
#[test]
fn a_list_is_made_in_slices() {
    const COUNT: usize = 100_000;
    let mut rig = Rig::new(1, Limits { handshakes: u32::MAX, ..Limits::default() });
    let shard = &mut rig.shards[0];
    let all: Vec<ConnId> =
        (0..COUNT).map(|_| shard.handle_accept(Transport::Tcp).expect("has space")).collect();
    let query = ConnQuery {
        filter: ConnFilter { network: Some("10.0.7.7".parse().unwrap()), ..Default::default() },
        limit: 10,
        ..ConnQuery::default()
    };
    begin(shard, &query);
    let mut slices = 0;
    while shard.has_listings() {
        shard.handle_listings(&mut Budget::slice(), &mut Fake);
        slices += 1;
        shard.handle_accept(Transport::Tcp).expect("has space");
    }
    // Looking at a connection and at its address takes more than four units.
    assert!(slices > COUNT * 4 / SLICE_UNITS, "{slices} slices");
    let page = answer(shard).expect("not refused");
    let listed: Vec<ConnId> = page.listed.iter().map(|conn| conn.place.conn).collect();
    let expected = all.iter().filter(|conn| conn.slot.0 & 0xffff == 0x707);
    assert_eq!(listed, expected.copied().collect::<Vec<_>>());
}

#[test]
fn lists_beyond_the_bound_of_a_shard_are_refused() {
    let mut rig = Rig::new(1, Limits::default());
    rig.join(0, "1/a//");
    let query = ConnQuery { limit: 1, ..ConnQuery::default() };
    for _ in 0..=LISTINGS_MAX {
        begin(&mut rig.shards[0], &query);
    }
    rig.send(ShardId(0), Message::CancelBroadcast { call: CALL });
    let refused = |report: &Report| matches!(report, Report::Connections { page: None, .. });
    assert_eq!(rig.take_reports().iter().filter(|report| refused(report)).count(), 1);
    let shard = &mut rig.shards[0];
    while shard.has_listings() {
        shard.handle_listings(&mut Budget::slice(), &mut Fake);
    }
    assert_eq!(std::iter::from_fn(|| shard.poll_report()).count(), LISTINGS_MAX);
}

fn top(shard: &mut Shard) -> Top {
    shard.handle_message(Message::Top { call: CALL });
    shard.handle_listings(&mut Budget::slice(), &mut Fake);
    match std::iter::from_fn(|| shard.poll_report()).last() {
        Some(Report::Top { call: CALL, top: Some(top) }) => *top,
        other => panic!("{other:?}"),
    }
}

fn slowest(top: &Top) -> Vec<(&str, u64)> {
    top.clients.iter().map(|client| (&*client.conn.key, client.late_bytes)).collect()
}

#[test]
fn rooms_are_in_the_order_of_their_deliveries() {
    let mut rig = Rig::new(1, Limits::default());
    for token in ["1/a/r/", "1/b/r/", "1/c/s/", "1/d/t/"] {
        rig.join(0, token);
    }
    rig.push_room("s", 5, b"x");
    for _ in 0..2 {
        rig.push_room("r", 5, b"x");
    }
    let top = top(&mut rig.shards[0]);
    let rooms: Vec<_> = top.rooms.iter().map(|(room, count)| (&**room, *count)).collect();
    assert_eq!((rooms, top.clients), (vec![("r", 4), ("s", 1)], vec![]));
}

/// A rate counts bytes in both directions. It ends with the connection.
#[test]
fn connections_with_the_most_traffic_are_listed_first() {
    let mut rig = Rig::new(1, Limits::default());
    let [busy, loud, _] = ["1/busy//", "1/loud//", "1/calm//"].map(|token| rig.join(0, token));
    rig.pass(30_000);
    for _ in 0..100 {
        rig.push_keys(&["busy"], 5, &[b'x'; 984]);
        rig.ask(loud, &frame(op::HEARTBEAT, 1, b""));
    }
    rig.pass(5_000);
    let query = ConnQuery { order: ConnOrder::Rate, limit: 10, ..ConnQuery::default() };
    let page = page(&mut rig.shards[0], &query);
    assert_eq!(keys(&page), ["busy", "loud", "calm"]);
    let rates: Vec<u64> = page.listed.iter().map(|conn| conn.bytes_per_second).collect();
    // Over 15 to 20 seconds: 100,000 bytes and 3,600 bytes, estimated.
    assert!((4_000..=8_000).contains(&rates[0]), "{rates:?}");
    assert!((90..=480).contains(&rates[1]) && rates[2] == 0, "{rates:?}");
    let busiest = |shard: &mut Shard| -> Vec<Box<str>> {
        top(shard).busiest.into_iter().map(|conn| conn.key).collect()
    };
    assert_eq!(busiest(&mut rig.shards[0]), ["busy".into(), "loud".into()]);
    rig.hang_up(busy);
    rig.shards[0].handle_gone(busy);
    assert_eq!(busiest(&mut rig.shards[0]), ["loud".into()]);
}

/// Each client has a frame of 26 bytes in flight for longer than a tick, and one client is sent more than its outbox
/// holds.
#[test]
fn slow_clients_are_known_by_late_and_dropped_bytes() {
    for slow_consumer in [SlowConsumer::DropNewest, SlowConsumer::DropOldest] {
        let mut rig = Rig::new(1, Limits { svr_proto: 2, slow_consumer, ..Limits::default() });
        let [full, late, fast] =
            ["1/full//", "1/late//", "1/fast//"].map(|token| rig.join(0, token));
        for slow in [full, late] {
            rig.allow(slow, Some(0));
        }
        for number in 0..4 {
            let keys = if number == 0 { &["full", "late", "fast"][..] } else { &["full", "fast"] };
            rig.push_keys(keys, 5, &[b'x'; 10]);
        }
        assert_eq!(slowest(&top(&mut rig.shards[0])), [("full", 2 * 26)], "{slow_consumer:?}");
        rig.pass(200);
        let now = top(&mut rig.shards[0]);
        assert_eq!(slowest(&now), [("full", 4 * 26), ("late", 26)], "{slow_consumer:?}");
        assert_eq!(now.clients[0].conn.waiting_bytes, 2 * 26);
        // A client that has left is not listed any more.
        rig.hang_up(full);
        rig.take(fast);
        assert_eq!(slowest(&top(&mut rig.shards[0])), [("late", 26)], "{slow_consumer:?}");
    }
}

#[test]
fn a_client_is_not_slow_for_want_of_memory() {
    let mut rig = Rig::new(1, Limits { outbox_memory: 0, ..Limits::default() });
    let holding = rig.join(0, "1/a//");
    rig.join(0, "1/b//");
    rig.allow(holding, Some(0));
    rig.push_keys(&["a"], 5, &[b'x'; 100]);
    rig.push_keys(&["b"], 5, &[b'x'; 100]);
    assert_eq!(slowest(&top(&mut rig.shards[0])), []);
}
