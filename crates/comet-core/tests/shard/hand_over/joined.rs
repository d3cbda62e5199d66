//! Connections that wait for a room when their shard is handed over.

use comet_core::{Limits, MessageClass, ShardId, home_of_key, home_of_user};

use crate::rig::{Rig, room_at};

/// More connections wait than enter in one turn after the room's home has answered.
#[test]
fn connections_that_wait_for_a_room_enter_it_before_the_hand_over() {
    const CLIENTS: usize = 100;
    let mut rig = Rig::new(2, Limits::default());
    let room = room_at(1);
    let user = (1..).find(|&user| home_of_user(user, 2) == ShardId(0)).unwrap();
    let keys = (0..).map(|number| format!("k{number}"));
    let keys = keys.filter(|key| home_of_key(key, 2) == ShardId(0));
    rig.held.insert((1, 0));
    for key in keys.take(CLIENTS) {
        rig.join(0, &format!("{user}/{key}/+{room}/"));
    }
    // After the freeze messages of other shards are handled, but no deadlines.
    for class in MessageClass::ALL {
        while let Some(message) = rig.shards[1].poll_message(ShardId(0), class) {
            rig.shards[0].handle_message(message);
        }
    }
    rig.shards[0].begin_hand_over();
    let (handed, _) = rig.shards[0].hand_over();
    assert_eq!(handed.connections.len(), CLIENTS);
    assert!(handed.connections.iter().all(|conn| conn.further_rooms.len() == 1));
}
