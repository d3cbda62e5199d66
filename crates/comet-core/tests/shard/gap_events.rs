//! Gaps of clients without protocol 2: event streams get gap events, and so do text clients that accept operation 23.

use comet_core::{ConnId, Limits, SlowConsumer, Transport};

use crate::event_ids::split;
use crate::event_streams::{HEAD, ask, event, open, request, take};
use crate::gaps;
use crate::history::rules;
use crate::rig::{Rig, UPGRADE, masked, room_at};

const TEXT: u8 = 0x81;

fn rig(slow_consumer: SlowConsumer) -> Rig {
    let history_rules = rules(100);
    Rig::new(
        2,
        Limits { svr_proto: 3, slow_consumer, text: true, history_rules, ..Limits::default() },
    )
}

fn push(rig: &mut Rig, room: &str, offsets: std::ops::RangeInclusive<u64>) {
    offsets.for_each(|offset| _ = rig.push_room(room, 5, offset.to_string().as_bytes()));
}

fn gap(room: &str, first: u64, last: u64) -> String {
    format!("{{\"room\":\"{room}\",\"first\":{first},\"last\":{last}}}")
}

/// The id stays before the gap, so the next stream gets the lost pushes, and those after the gap once more.
#[test]
fn an_event_stream_gets_a_gap_event_and_recovers_when_it_reconnects() {
    for (policy, got, (first, last)) in [
        (SlowConsumer::DropNewest, [1, 2, 3], (4, 6)),
        // The first is in flight.
        (SlowConsumer::DropOldest, [1, 5, 6], (2, 4)),
    ] {
        let mut rig = rig(policy);
        let room = room_at(1);
        let query = format!("?token=7/k//&rooms={room}");
        let (conn, _) = open(&mut rig, 0, &query);
        rig.allow(conn, Some(0));
        push(&mut rig, &room, 1..=6);
        rig.allow(conn, None);
        let (events, id) = split(&take(&mut rig, conn));
        let object = |offset: u64| {
            format!(
                r#"{{"ver":1,"op":5,"seq":0,"room":"{room}","offset":{offset},"body":{offset}}}"#
            )
        };
        let mut expected: Vec<String> = got.iter().map(|&offset| event(&object(offset))).collect();
        let place = got.iter().position(|&offset| offset > first).unwrap_or(3);
        expected.insert(place, format!("event: gap\ndata: {}\n\n", gap(&room, first, last)));
        assert_eq!(events, expected.concat(), "{policy:?}");
        push(&mut rig, &room, 7..=7);
        let (_, later) = split(&take(&mut rig, conn));
        assert_eq!(later, id, "it is before the gap as long as the stream lasts");

        rig.hang_up(conn);
        let conn = rig.connect(0, Transport::WebSocket);
        let back =
            ask(&mut rig, conn, &request(&query, &format!("Last-Event-ID: {}\r\n", id.unwrap())));
        let (events, id) = split(&back);
        let missed: Vec<String> = (first..=7).map(object).collect();
        let entered = format!(
            "event: room\ndata: {{\"room\":\"{room}\",\"recovered\":{}}}\n\n",
            missed.len()
        );
        assert_eq!(events, format!("{HEAD}{entered}{}", event(&missed.join(","))));
        push(&mut rig, &room, 8..=8);
        let (events, later) = split(&take(&mut rig, conn));
        assert_eq!(events, event(&object(8)));
        assert_ne!(later, id, "it has all");
    }
}

fn join_text(rig: &mut Rig, room: &str, operations: &str) -> ConnId {
    let conn = rig.connect(0, Transport::WebSocket);
    rig.ask(conn, UPGRADE);
    let auth = format!(r#"{{"op":7,"body":"7/k{operations}/{room}/{operations}"}}"#);
    rig.ask(conn, &masked(TEXT, auth.as_bytes()));
    conn
}

/// Other text clients get no marker, as from goim.
#[test]
fn a_text_client_that_accepts_operation_23_gets_gap_markers() {
    let mut rig = rig(SlowConsumer::DropNewest);
    let room = room_at(1);
    let told = [("5,23", true), ("5", false), ("", false)].map(|(operations, is_told)| {
        let conn = join_text(&mut rig, &room, operations);
        rig.allow(conn, Some(0));
        (conn, is_told)
    });
    push(&mut rig, &room, 1..=5);
    for (conn, is_told) in told {
        rig.allow(conn, None);
        let text = String::from_utf8_lossy(&rig.take(conn)).into_owned();
        let marker = format!("[{{\"ver\":1,\"op\":23,\"seq\":0,\"body\":{}}}]", gap(&room, 4, 5));
        assert_eq!(text.matches("\"op\":5").count(), 3);
        assert_eq!(text.contains(&marker), is_told, "{text}");
        assert_eq!(text.contains("\"op\":23"), is_told);
    }
}

/// Without the marker the id of the next event would be after the pushes that the mesh dropped.
#[test]
fn streams_and_text_clients_learn_after_a_hand_over_of_pushes_the_mesh_dropped() {
    for count in [2, 1] {
        let limits =
            Limits { mesh_backlog: 2, text: true, ..gaps::limits(SlowConsumer::DropNewest) };
        let mut rig = Rig::new(2, limits);
        let room = room_at(1);
        let (stream, _) = open(&mut rig, 0, &format!("?token=7/k//&rooms={room}"));
        let text = join_text(&mut rig, &room, "5,23");
        rig.held.insert((1, 0));
        push(&mut rig, &room, 1..=3);
        rig.held.clear();
        rig.run();
        let (_, id) = split(&take(&mut rig, stream));
        let renamed = rig.upgrade(count);
        let [stream, text] = [stream, text].map(|conn| renamed[&conn]);
        push(&mut rig, &room, 4..=4);
        let (events, later) = split(&take(&mut rig, stream));
        let marker = gap(&room, 3, 3);
        assert!(events.starts_with(&format!("event: gap\ndata: {marker}\n\n")), "{events}");
        assert_eq!(later, id, "it is before the gap");
        let told = String::from_utf8_lossy(&rig.take(text)).into_owned();
        assert!(told.contains(&format!("\"op\":23,\"seq\":0,\"body\":{marker}")), "{told}");
    }
}
