//! Keys that connections of other hosts hold as well.

use comet_core::{CloseReason, Message, Millis, Report, ShardId};

use crate::rig::{Rig, key_at};

fn claimed(rig: &mut Rig) -> Vec<(Box<str>, Millis)> {
    let claimed = |report| match report {
        Report::Claimed { key, at } => Some((key, at)),
        _ => None,
    };
    rig.take_reports().into_iter().filter_map(claimed).collect()
}

fn listed(rig: &mut Rig, since: Millis) -> Vec<(Box<str>, Millis)> {
    let (mut listed, mut at) = (Vec::new(), Some((0, 0)));
    while let Some((home, table)) = at {
        rig.send(ShardId(home), Message::ListKeys { since, table });
        for report in rig.take_reports() {
            let Report::KeySlice { shard, keys, next } = report else { continue };
            assert_eq!(shard, ShardId(home));
            listed.extend(keys);
            at = next.map(|table| (home, table)).or((home == 0).then_some((1, 0)));
        }
    }
    listed.sort();
    listed
}

#[test]
fn of_two_hosts_the_younger_connection_keeps_the_key() {
    let mut rig = Rig::new(2, comet_core::Limits::default());
    rig.send_all(&Message::WatchKeys);
    let key: Box<str> = key_at(1).into();
    let token = format!("7/{key}//");
    let conn = rig.join(0, &token);
    let told = claimed(&mut rig);
    let &[(_, at)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(told[0].0, key);
    let held = |at, wins_ties| {
        let keys = vec![(key.clone(), at), ("nobody".into(), Millis(u64::MAX))];
        Message::HeldElsewhere { keys, wins_ties }
    };
    // The other claim is from the same millisecond, and its host has to yield: the claim is announced.
    rig.send(ShardId(1), held(at, false));
    assert!(!rig.is_closed(conn));
    assert_eq!(claimed(&mut rig), [(key.clone(), at)]);
    rig.send(ShardId(1), held(at, true));
    assert_eq!(rig.reason(conn), CloseReason::Replaced);
    assert_eq!(claimed(&mut rig), []);
    assert_eq!(rig.push_keys(&[&key], 5, b"").absent, 1);
    // A new connection here is younger than the one of the other host.
    let conn = rig.join(1, &token);
    rig.send(ShardId(1), held(at.after(60_000), false));
    assert_eq!(rig.reason(conn), CloseReason::Replaced);
}

/// Each host generates the same keys for users without one.
#[test]
fn keys_that_a_home_hands_out_concern_no_other_host() {
    let mut rig = Rig::new(2, comet_core::Limits::default());
    rig.send_all(&Message::WatchKeys);
    let conn = rig.join(0, "7///");
    assert_eq!(claimed(&mut rig), []);
    let keys = vec![("7_1".into(), Millis(u64::MAX))];
    rig.send_all(&Message::HeldElsewhere { keys, wins_ties: true });
    assert!(!rig.is_closed(conn));
    assert_eq!(listed(&mut rig, Millis(0)), []);
}

#[test]
fn homes_list_the_keys_that_got_an_owner_since() {
    let mut rig = Rig::new(2, comet_core::Limits::default());
    for number in 0..20 {
        rig.join(number % 2, &format!("7/key-{number}//"));
    }
    assert_eq!(listed(&mut rig, Millis(0)).len(), 20);
    let latest = listed(&mut rig, Millis(0)).into_iter().map(|(_, at)| at).max().unwrap();
    assert_eq!(listed(&mut rig, latest.after(1)), []);
}

/// An upgrade does not change the age of owners, however long it takes. So a key that another host announces again
/// replaces no younger owner.
#[test]
fn owners_keep_their_age_in_another_process() {
    for (count, had_hosts) in [(2, true), (1, true), (3, true), (2, false)] {
        let mut rig = Rig::new(2, comet_core::Limits::default());
        if had_hosts {
            rig.send_all(&Message::WatchKeys);
        }
        rig.pass(1_000);
        let at = Millis(rig.now());
        let given = rig.join(0, "7/k//");
        let handed_out = rig.join(1, "8///");
        let told = if had_hosts { vec![("k".into(), at)] } else { Vec::new() };
        assert_eq!(claimed(&mut rig), told);
        rig.pass(1_000);
        let renamed = rig.upgrade(count);
        rig.send_all(&Message::WatchKeys);
        rig.take_reports();
        let (given, handed_out) = (renamed[&given], renamed[&handed_out]);
        let held = |at: Millis| {
            let keys = ["k", "8_1"].map(|key| (Box::from(key), at));
            Message::HeldElsewhere { keys: keys.into(), wins_ties: false }
        };
        rig.send_all(&held(at));
        assert_eq!(claimed(&mut rig), [("k".into(), at)], "{count} shards");
        assert!(!rig.is_closed(given));
        rig.send_all(&held(at.after(1)));
        assert_eq!(rig.reason(given), CloseReason::Replaced);
        assert!(!rig.is_closed(handed_out));
    }
}
