//! A client leaves a room and enters it again while earlier pushes wait. Some of those are dropped after it has entered again.

use comet_core::{CoalesceRule, Limits, Message, Push, SlowConsumer, home_of_room};
use comet_proto::{Join, Leave, RoomGap, op};

use super::{limits, member};
use crate::history::{TELL, Told, told};
use crate::rig::{Rig, frame_2, push, room_at};

#[test]
fn pushes_lost_after_entering_a_room_again_are_reported_after_the_join_reply() {
    let rule = CoalesceRule {
        rooms: Some("".into()),
        operations: [].into(),
        window_ms: 50,
        keep_latest: true,
    };
    let limits = limits(SlowConsumer::DropOldest);
    let mut rig = Rig::new(2, Limits { svr_proto: 4, coalesce_rules: [rule].into(), ..limits });
    let room = room_at(1);
    // Another member here, for whom the room stays the same.
    rig.join(0, &format!("8/other/{room}/"));
    let (conn, handle) = member(&mut rig, &room);
    let send = |rig: &mut Rig, id: Option<&str>| {
        let push = Push { collapse_id: id.map(Into::into), ..push(TELL, b"") };
        let (call, home) = (rig.call(), home_of_room(&room, 2));
        rig.send(home, Message::PushRoom { call, room: room.as_str().into(), push });
        rig.pass(60);
    };
    rig.allow(conn, Some(0));
    // The first of four is in flight.
    (0..4).for_each(|_| send(&mut rig, None));
    rig.feed(conn, &frame_2(op::LEAVE, 6, &Leave { handle }.encode()));
    let join = Join { since: None, room: room.as_bytes() };
    rig.feed(conn, &frame_2(op::JOIN, 7, &join.encode()));
    // The second push replaces the first, and the third replaces two earlier ones.
    [Some("state"), Some("state"), None].into_iter().for_each(|id| send(&mut rig, id));
    rig.allow(conn, None);

    let all = told(&rig.take(conn));
    let entered = all.iter().position(|told| matches!(told, Told::Joined { .. })).unwrap();
    let gap = |first, last| Told::Gap(RoomGap { handle, is_outdated: false, first, last });
    let (before, behind) = all.split_at(entered);
    assert_eq!(super::offsets(before), [1, 4], "{all:?}");
    assert_eq!(before[1], gap(2, 5), "{all:?}");
    assert_eq!(super::offsets(behind), [6, 7], "{all:?}");
    assert_eq!(behind[1], gap(2, 5), "{all:?}");
}
