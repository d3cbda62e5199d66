//! Pushes that connections lost before a hand-over are reported after it, at the right place.

use comet_core::{ConnId, Limits, SlowConsumer};
use comet_proto::RoomHandle;

use crate::gaps::{gap, limits, member, offsets};
use crate::history::{TELL, Told, join_since, told};
use crate::rig::{Rig, room_at};
use crate::rooms::connect;

/// No push follows before the hand-over. The home knows which push is missing.
#[test]
fn a_gap_of_pushes_the_mesh_dropped_is_reported_after_a_hand_over() {
    for count in [2, 1] {
        let limits = Limits { mesh_backlog: 2, ..limits(SlowConsumer::DropNewest) };
        let mut rig = Rig::new(2, limits);
        let room = room_at(1);
        let (conn, handle) = member(&mut rig, &room);
        rig.held.insert((1, 0));
        (0..3).for_each(|_| _ = rig.push_room(&room, TELL, b"push"));
        rig.held.clear();
        rig.run();
        let conn = rig.upgrade(count)[&conn];
        let all = told(&rig.take(conn));
        assert_eq!(offsets(&all), [1, 2]);
        assert_eq!(all.last(), Some(&gap(handle, 3, 3)), "{count} shards");
        rig.push_room(&room, TELL, b"push");
        assert_eq!(offsets(&told(&rig.take(conn))), [4]);
    }
}

/// A client that reads nothing has lost pushes before it is handed over. Its handle of the room is returned; on the other shard
/// the same handle means another room.
fn with_gap(policy: SlowConsumer) -> (Rig, String, ConnId, RoomHandle) {
    let mut rig = Rig::new(2, limits(policy));
    let room = room_at(1);
    let (conn, handle) = member(&mut rig, &room);
    let (other, _) = connect(&mut rig, 1, "8/other//");
    let joined = told(&rig.ask(other, &join_since(&room_at(0), None)));
    assert!(matches!(joined[..], [Told::Joined { handle: same, .. }] if same == handle));
    rig.allow(conn, Some(0));
    (0..9).for_each(|_| _ = rig.push_room(&room, TELL, b"push"));
    (rig, room, conn, handle)
}

/// When two shards become one the room gets another handle. Waiting pushes have the former one, the only one that the client knows.
#[test]
fn a_gap_before_waiting_pushes_is_reported_before_them_with_their_handle() {
    for count in [2, 1] {
        let (mut rig, _, conn, handle) = with_gap(SlowConsumer::DropOldest);
        let conn = rig.upgrade(count)[&conn];
        rig.allow(conn, None);
        let all = told(&rig.take(conn));
        assert_eq!((offsets(&all), &all[1]), (vec![1, 8, 9], &gap(handle, 2, 7)), "{count} shards");
        assert_eq!(all.iter().filter(|told| matches!(told, Told::Gap(_))).count(), 1);
    }
}

#[test]
fn a_gap_after_waiting_pushes_is_reported_with_the_new_handle() {
    let (mut rig, _, conn, former) = with_gap(SlowConsumer::DropNewest);
    let conn = rig.upgrade(1)[&conn];
    rig.allow(conn, None);
    let all = told(&rig.take(conn));
    // The client has not received all pushes of the home, so it gets no position: its own is where the gap begins.
    let [.., Told::Joined { handle, position: None, .. }, last] = &all[..] else {
        panic!("{all:?}")
    };
    assert_ne!(*handle, former);
    assert!(!all.contains(&Told::Left), "it is in the room all the time");
    assert_eq!((offsets(&all), last), (vec![1, 2, 3], &gap(*handle, 4, 9)));
}

/// The pushes are dropped after the room got its new handle.
#[test]
fn dropped_pushes_of_the_former_handle_are_reported_with_the_new_handle() {
    for count in [2, 1] {
        let (mut rig, room, conn, _) = with_gap(SlowConsumer::DropOldest);
        let conn = rig.upgrade(count)[&conn];
        (0..2).for_each(|_| _ = rig.push_room(&room, TELL, b"push"));
        rig.allow(conn, None);
        let all = told(&rig.take(conn));
        let [.., lost, Told::Push { handle, .. }, _] = &all[..] else { panic!("{all:?}") };
        assert_eq!((offsets(&all), lost), (vec![1, 10, 11], &gap(*handle, 2, 9)), "{count} shards");
    }
}
