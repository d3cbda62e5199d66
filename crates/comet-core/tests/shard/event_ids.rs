//! Event ids of rooms that keep a history, and what a stream with a last event id receives.

use comet_core::{Budget, ClientRates, ConnId, HistoryRule, Limits, Message, Transport};
use comet_proto::op;

use crate::event_streams::{HEAD, ask, event, open, request, take};
use crate::rig::{Rig, frame, push as push_of, room_at};

fn rig(pushes: u32) -> Rig {
    let rule = HistoryRule { prefix: "r".into(), pushes, bytes: 1 << 20, age_ms: 60_000 };
    Rig::new(2, Limits { history_rules: [rule].into(), ..Limits::default() })
}

/// The events sent to a stream, without their ids, and the last id.
pub(crate) fn split(told: &str) -> (String, Option<String>) {
    let (mut events, mut id) = (String::new(), None);
    for block in told.split_inclusive("\n\n") {
        match block.strip_prefix("id: ") {
            Some(block) => id = Some(block.trim_end().to_owned()),
            None => events += block,
        }
    }
    (events, id)
}

fn in_room(room: &str, recovered: &str) -> String {
    format!("event: room\ndata: {{\"room\":\"{room}\"{recovered}}}\n\n")
}

fn push_event(room: &str, offset: u64) -> String {
    event(&object(room, offset))
}

fn object(room: &str, offset: u64) -> String {
    format!(r#"{{"ver":1,"op":5,"seq":0,"room":"{room}","offset":{offset},"body":{offset}}}"#)
}

/// Pushes whose bodies are their offsets.
fn push(rig: &mut Rig, room: &str, offsets: std::ops::RangeInclusive<u64>) {
    offsets.for_each(|offset| _ = rig.push_room(room, 5, offset.to_string().as_bytes()));
}

fn reopen(rig: &mut Rig, shard: u16, query: &str, id: &str) -> (String, Option<String>) {
    let conn = rig.connect(shard, Transport::WebSocket);
    let header = format!("Last-Event-ID: {id}\r\n");
    split(&ask(rig, conn, &request(query, &header)))
}

#[test]
fn an_event_stream_that_reconnects_recovers_each_room() {
    let mut rig = rig(3);
    let (one, other) = (room_at(0), room_at(1));
    let query = format!("?token=7/k//&rooms={one},{other},plain");
    let (conn, told) = open(&mut rig, 0, &query);
    let lost = ",\"recovered\":false";
    let rooms = [in_room(&one, lost), in_room(&other, lost), in_room("plain", "")].concat();
    // There is no id before all rooms are entered.
    let (events, start) = split(&told);
    assert!(
        told.matches("id: ").count() == 1
            && told.ends_with(&format!("{}\n\n", start.as_ref().unwrap()))
    );
    assert_eq!(events, format!("{HEAD}{rooms}"));
    push(&mut rig, &one, 1..=1);
    let (events, id) = split(&take(&mut rig, conn));
    assert_eq!(events, push_event(&one, 1));
    assert_ne!(id, start);
    rig.hang_up(conn);
    push(&mut rig, &one, 2..=3);
    let run = [frame(5, 0, b"1"), frame(5, 0, b"2")].concat();
    rig.push_room(&other, op::RAW, &run);

    let missed = [
        HEAD.to_owned(),
        in_room(&one, ",\"recovered\":2"),
        event(&format!("{},{}", object(&one, 2), object(&one, 3))),
        in_room(&other, ",\"recovered\":2"),
        event(&format!("{},{}", object(&other, 1), object(&other, 2))),
        in_room("plain", ""),
    ]
    .concat();
    let (events, last) = reopen(&mut rig, 1, &query, id.as_deref().unwrap());
    assert_eq!(events, missed);
    // No push is missing after this id. A page that cannot set the header sends it in the query.
    let by_query = format!("{query}&last_event_id={}", last.unwrap());
    let (_, told) = open(&mut rig, 0, &by_query);
    let nothing = [in_room(&one, ",\"recovered\":0"), in_room(&other, ",\"recovered\":0")].concat();
    assert_eq!(split(&told).0, format!("{HEAD}{nothing}{}", in_room("plain", "")));
    // The header of a browser is newer than the query of its first connect. The room no longer keeps all pushes since then.
    push(&mut rig, &one, 4..=4);
    let (events, _) = reopen(&mut rig, 0, &by_query, &start.unwrap());
    assert!(events.starts_with(&format!("{HEAD}{}", in_room(&one, lost))), "{events}");
    let recoveries = rig.shards.iter().map(|shard| shard.counters().recoveries);
    let [lost, recovered] =
        recoveries.reduce(|one, other| [one[0] + other[0], one[1] + other[1]]).unwrap();
    assert_eq!((lost, recovered), (1, 5));
}

/// This holds for the first room of the token and for the further ones. Naming them in the query too changes nothing.
#[test]
fn an_event_stream_that_reconnects_recovers_the_rooms_of_its_token() {
    let (one, other) = (room_at(0), room_at(1));
    for named in ["", &format!("&rooms={one}"), &format!("&rooms={other},{one}")] {
        let mut rig = rig(3);
        let query = format!("?token=7/k/{one}%2B{other}/{named}");
        let (conn, _) = open(&mut rig, 0, &query);
        push(&mut rig, &one, 1..=1);
        push(&mut rig, &other, 1..=1);
        let (_, id) = split(&take(&mut rig, conn));
        rig.hang_up(conn);
        push(&mut rig, &one, 2..=3);
        push(&mut rig, &other, 2..=2);
        let (events, last) = reopen(&mut rig, 1, &query, id.as_deref().unwrap());
        let run = event(&format!("{},{}", object(&one, 2), object(&one, 3)));
        for missed in
            [in_room(&one, ",\"recovered\":2") + &run, in_room(&other, ",\"recovered\":1")]
        {
            assert_eq!(events.matches(&missed).count(), 1, "{named}: {events}");
        }
        for object in [object(&one, 2), object(&one, 3), object(&other, 2)] {
            assert_eq!(events.matches(&object).count(), 1, "{named}: {events}");
        }
        let (events, _) = reopen(&mut rig, 0, &query, last.as_deref().unwrap());
        assert_eq!(events.matches(",\"recovered\":0").count(), 2, "{named}: {events}");
        assert_eq!(events.matches("offset").count(), 0, "{named}: {events}");
    }
}

#[test]
fn an_unknown_last_event_id_causes_a_warning_and_is_counted() {
    let mut rig = rig(3);
    let room = room_at(0);
    let query = format!("?token=7///&rooms={room}");
    let warning = "event: warning\ndata: {\"warning\":\"unknown_last_event_id\",\"message\":\"The last event ID is \
        no id of an event of this server.\"}\n\n";
    for (number, id) in ["nonsense", "1", "1AAAA", "0123456789abcdef-7"].into_iter().enumerate() {
        let (events, _) = reopen(&mut rig, 0, &query, id);
        let told = in_room(&room, ",\"recovered\":false");
        assert_eq!(events, format!("{HEAD}{warning}{told}"), "{id}");
        assert_eq!(rig.shards[0].counters().unknown_event_ids, number as u64 + 1);
    }
    let (events, _) = reopen(&mut rig, 0, &query, "");
    assert!(!events.contains("warning"), "{events}");
    assert_eq!(rig.shards[0].counters().recoveries, [0, 0]);
}

/// A push goes to a crowd in slices. Only ids for members that were already offered the push include it.
#[test]
fn event_ids_include_a_push_to_a_crowd_only_for_members_already_offered_it() {
    let rule = HistoryRule { prefix: "r".into(), pushes: 9, bytes: 1 << 20, age_ms: 60_000 };
    let limits = Limits {
        history_rules: [rule].into(),
        crowd_slice: 2,
        crowd_above: 2,
        ..Limits::default()
    };
    let mut rig = Rig::new(1, limits);
    let query = "?token=0///&rooms=r";
    let streams: Vec<ConnId> = (0..4).map(|_| open(&mut rig, 0, query).0).collect();
    let before = split(&open(&mut rig, 0, query).1).1.unwrap();
    let (call, last) = (rig.call(), streams[3].local());
    let shard = &mut rig.shards[0];
    shard.handle_message(Message::PushRoom { call, room: "r".into(), push: push_of(5, b"1") });
    shard.handle_pushes(&mut Budget::slice(), |_| None);
    shard.handle_crowds().expect("a slice");
    // A member that was not offered the push yet gets another one by its key.
    shard.handle_message(Message::DeliverConns { call, conns: vec![last], push: push_of(6, b"2") });
    shard.handle_pushes(&mut Budget::slice(), |_| None);
    let mut told = std::collections::BTreeMap::new();
    while let Some(transmit) = shard.poll_transmit() {
        let bytes = transmit.slices.collect::<Vec<_>>().concat();
        told.insert(transmit.conn, split(&String::from_utf8(bytes).unwrap()));
    }
    let [first, second, _, last] = streams[..] else { panic!() };
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [first, second, last]);
    assert_eq!(told[&first].0, push_event("r", 1));
    assert_eq!(told[&first].1, told[&second].1);
    assert_ne!(told[&first].1, Some(before.clone()));
    assert!(told[&last].0.contains("\"op\":6") && told[&last].1 == Some(before));
}

/// The rate limits room changes that a client requests after it has connected.
#[test]
fn rooms_of_a_token_and_a_query_do_not_count_as_room_changes() {
    let rule = HistoryRule { prefix: "r".into(), pushes: 3, bytes: 1 << 20, age_ms: 60_000 };
    let rates = ClientRates { room_changes: 1, frames: 1, ..ClientRates::default() };
    let limits = Limits { history_rules: [rule].into(), rates, ..Limits::default() };
    let mut rig = Rig::new(2, limits);
    let names = |of: &str| (0..15).map(|room| format!("r{of}{room}")).collect::<Vec<_>>();
    let (of_token, of_query) = (names("t"), names("q"));
    let query = format!("?token=7/k/{}/&rooms={}", of_token.join("%2B"), of_query.join(","));
    let (conn, told) = open(&mut rig, 0, &query);
    let (_, id) = split(&told);
    rig.hang_up(conn);
    let (events, _) = reopen(&mut rig, 1, &query, id.as_deref().unwrap());
    for room in of_token.iter().chain(&of_query) {
        assert_eq!(events.matches(&in_room(room, ",\"recovered\":0")).count(), 1, "{events}");
    }
}
