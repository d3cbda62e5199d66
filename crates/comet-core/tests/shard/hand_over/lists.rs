//! Lists of rooms that are incomplete when a shard is about to be handed over. A frozen core has no later turns to complete them.

use comet_core::{CallId, Limits, Message, Report};

use crate::rig::Rig;

#[test]
fn a_list_of_rooms_is_completed() {
    let mut rig = Rig::new(1, Limits::default());
    let shard = &mut rig.shards[0];
    shard.handle_message(Message::Rooms { call: CallId(7) });
    assert_eq!(shard.obstacles().lists, 1);
    shard.begin_hand_over();
    assert_eq!(shard.obstacles().lists, 0);
    let report = shard.poll_report();
    assert!(matches!(report, Some(Report::Rooms { call: CallId(7), .. })), "{report:?}");
    assert!(shard.obstacles().is_none());
}
