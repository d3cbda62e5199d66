//! Members of rooms are told who enters and leaves.

use comet_core::{ConnId, HistoryRule, Limits, PresenceRule, Report, Transport};
use comet_proto::{Join, op};

use crate::rig::{Rig, frame, frame_2, room_at};

const TELL: i32 = 900;
const WINDOW_MS: u64 = 1_000;

fn limits(names: u32) -> Limits {
    let window_ms = WINDOW_MS as u32;
    let rule = PresenceRule { prefix: "r".into(), operation: TELL, window_ms, names };
    Limits { presence_rules: [rule].into(), ..Limits::default() }
}

/// The push to the members. `who` is JSON.
fn told(
    room: &str,
    members: u32,
    (joined, who): (u32, &str),
    (left, gone): (u32, &str),
) -> Vec<u8> {
    let body = format!(
        r#"{{"room":"{room}","members":{members},"joined":{joined},"left":{left},"who_joined":[{who}],"who_left":[{gone}]}}"#
    );
    frame(TELL, 0, body.as_bytes())
}

#[test]
fn the_changes_of_a_window_are_one_push_to_all_members() {
    let mut rig = Rig::new(2, limits(2));
    let room = room_at(1);
    let join = |rig: &mut Rig, shard, key: &str| rig.join(shard, &format!("7/{key}/{room}/"));
    let first = join(&mut rig, 0, "a");
    rig.pass(WINDOW_MS);
    let named = |key: &str| format!(r#"{{"mid":7,"key":"{key}"}}"#);
    assert_eq!(rig.take(first), told(&room, 1, (1, &named("a")), (0, "")));
    // A client that enters and leaves within the window counts as neither.
    let brief = join(&mut rig, 1, "d");
    rig.hang_up(brief);
    let (b, c) = (join(&mut rig, 1, "b"), join(&mut rig, 0, "c"));
    rig.pass(WINDOW_MS);
    let both = format!("{},{}", named("b"), named("c"));
    let expected = told(&room, 3, (2, &both), (0, ""));
    for conn in [first, b, c] {
        assert_eq!(rig.take(conn), expected);
    }
    rig.hang_up(b);
    assert_eq!(rig.take(first), b"");
    rig.pass(WINDOW_MS);
    assert_eq!(rig.take(first), told(&room, 2, (0, ""), (1, &named("b"))));
    // Clients beyond the number of names in a push are only counted.
    let more: Vec<ConnId> = ["e", "f", "g"].map(|key| join(&mut rig, 1, key)).into();
    rig.pass(WINDOW_MS);
    let two = format!("{},{}", named("e"), named("f"));
    assert_eq!(rig.take(more[2]), told(&room, 5, (3, &two), (0, "")));
    let counters = rig.shards[1].counters();
    assert_eq!((counters.presence_pushes, counters.presence_changes), (4, 7));
    // These pushes have no caller, so their results are reported to none.
    let is_tally =
        |report: &Report| matches!(report, Report::Tally { .. } | Report::PartialTally { .. });
    assert!(!rig.take_reports().iter().any(is_tally));
    rig.hang_up(first);
    rig.hang_up(c);
    more.into_iter().for_each(|conn| rig.hang_up(conn));
    rig.pass(WINDOW_MS);
    assert!(rig.shards.iter().all(|shard| shard.poll_timeout().is_none_or(|at| at.0 > rig.now())));
}

#[test]
fn presence_needs_a_rule_and_works_in_rooms_with_a_history() {
    let rule = HistoryRule { prefix: "r".into(), pushes: 9, bytes: 1 << 20, age_ms: 60_000 };
    let mut rig = Rig::new(1, Limits { history_rules: [rule].into(), ..limits(1) });
    let plain = rig.join(0, "7/a/plain/");
    rig.pass(2 * WINDOW_MS);
    assert_eq!(rig.take(plain), b"");
    let conn = rig.connect(0, Transport::Tcp);
    rig.ask(conn, &frame_2(op::AUTH, 1, b"8/b//"));
    rig.ask(conn, &frame_2(op::JOIN, 2, &Join { since: None, room: b"r" }.encode()));
    rig.pass(WINDOW_MS);
    let pushed = rig.take(conn);
    let (frame, _) = comet_proto::decode(&pushed, 1 << 20).unwrap().unwrap();
    let push = comet_proto::RoomPush::decode(frame.body).unwrap();
    assert_eq!((push.operation, push.offset), (TELL, 1));
}
