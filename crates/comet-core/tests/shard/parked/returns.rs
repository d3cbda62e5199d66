//! Connections that end or are replaced while a session is being resumed on them.

use comet_core::{CloseReason, Hangup, Message, Millis, Transport, home_of_key, home_of_user};

use super::{PUSH, TOKEN, check_books, join, parked, pushes, request, resumed, welcome, with};

/// The client has its answer, and its connection is cut before the parked pushes arrive.
#[test]
fn a_connection_that_ends_before_it_gets_its_parked_pushes_parks_them_again() {
    let home = home_of_key("k", 2).0;
    let owner = 1 - home;
    let mut rig = with(|_| {});
    let (conn, ..) = join(&mut rig, owner, TOKEN);
    rig.hang_up(conn);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"1"), parked(1));
    assert_eq!(rig.push_keys(&["k"], PUSH + 1, b"2"), parked(1));
    let conn = rig.connect(owner, Transport::Tcp);
    rig.held.insert((home, owner));
    // It accepts other operations than its predecessor, so the home has to ask for that one's filter.
    rig.feed(conn, &request(&format!("{TOKEN}{PUSH}")));
    rig.held.clear();
    rig.held.insert((owner, home));
    rig.run();
    assert_eq!(welcome(&rig.take(conn)), (resumed(2), Vec::new()));
    // The home considers the session resumed, and the messages that it sends are held.
    rig.held.clear();
    rig.held.insert((home, owner));
    rig.run();
    let call = rig.call();
    let push = crate::rig::push(PUSH, b"3");
    let keys = vec!["k".into()];
    rig.send(home_of_key("k", 2), Message::PushKeys { call, keys, push });
    rig.end(conn, Hangup::Cut(104));
    assert_eq!(rig.push_keys(&["k"], PUSH, b"4"), parked(1));
    rig.held.clear();
    rig.run();
    let (_, kept, rest) = join(&mut rig, home, TOKEN);
    let expected = [pushes(&["1"]), crate::rig::frame(PUSH + 1, 0, b"2"), pushes(&["3", "4"])];
    assert_eq!((kept, rest), (resumed(4), expected.concat()));
    check_books(&rig);
}

/// The claimant waits for the unsent pushes of its predecessor when another host proves to hold the key.
#[test]
fn a_claimant_whose_key_another_host_holds_leaves_no_session_behind() {
    let home = home_of_key("k", 2).0;
    let former = 1 - home;
    // The home of the user is on the same shard, so that the registration of the claimant is not held.
    let user = (1..).find(|&user| home_of_user(user, 2).0 == home).unwrap();
    let token = format!("{user}/k//");
    let mut rig = with(|_| {});
    let (old, ..) = join(&mut rig, former, &token);
    rig.allow(old, Some(0));
    rig.push_keys(&["k"], PUSH, b"1");
    rig.held.insert((home, former));
    let claimant = rig.connect(home, Transport::Tcp);
    rig.feed(claimant, &request(&token));
    assert!(rig.take(claimant).is_empty(), "the answer waits for the rest");
    let keys = vec![("k".into(), Millis(rig.now() + 1_000))];
    rig.send(home_of_key("k", 2), Message::HeldElsewhere { keys, wins_ties: true });
    rig.held.clear();
    rig.run();
    assert_eq!(rig.reason(claimant), CloseReason::Replaced);
    assert_eq!(rig.push_keys(&["k"], PUSH, b"2").absent, 1);
    assert_eq!(rig.push_user(user, PUSH, b"3").absent, 1);
    for shard in &rig.shards {
        assert_eq!((shard.obstacles().sessions, shard.counters().parked), (0, 0));
    }
    check_books(&rig);
}
