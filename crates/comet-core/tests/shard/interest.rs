//! Rooms with members on this host, as homes report them.

use std::sync::Arc;

use comet_core::Report;

use crate::rig::{Rig, room_at};

fn told(rig: &mut Rig) -> Vec<(Arc<str>, bool)> {
    let interest = |report| match report {
        Report::RoomInterest { room, has_members } => Some((room, has_members)),
        _ => None,
    };
    rig.take_reports().into_iter().filter_map(interest).collect()
}

/// The first member on any core is reported, and the end of the last one.
#[test]
fn homes_report_the_first_and_the_last_member_on_the_host() {
    let mut rig = Rig::reporting_rooms(2);
    let room: Arc<str> = room_at(1).into();
    let here = rig.join(0, &format!("7/a/{room}/"));
    assert_eq!(told(&mut rig), [(Arc::clone(&room), true)]);
    let there = rig.join(1, &format!("8/b/{room}/"));
    assert_eq!(told(&mut rig), []);
    rig.hang_up(here);
    assert_eq!(told(&mut rig), []);
    rig.hang_up(there);
    assert_eq!(told(&mut rig), [(room, false)]);
}
