//! Notices that sessions go on, or that they ended.

use super::*;

#[test]
fn one_notice_of_a_key_is_on_its_way_and_the_newest_follows() {
    let mut rig = Rig::new(1, 8);
    rig.renewed("k");
    let first = rig.only_sent();
    rig.ended("k");
    rig.renewed("k");
    rig.ended("k");
    rig.ended("other");
    assert_eq!(rig.only_sent().2, Request::Disconnect { user: 1, key: "other".into() });
    rig.done(&first);
    assert_eq!(rig.only_sent().2, Request::Disconnect { user: 1, key: "k".into() });
}

#[test]
fn a_renewal_that_logic_does_not_hear_goes_back_to_the_keys_home() {
    for is_renewal in [true, false] {
        let mut rig = Rig::new(1, 8);
        if is_renewal {
            rig.renewed("k");
        } else {
            rig.ended("k");
        }
        for _ in 0..3 {
            assert!(rig.messages().is_empty());
            let sent = rig.only_sent();
            rig.reply(&sent, refused(13));
            rig.pinged();
            // The notice waits until it is known which addresses are available.
            assert!(rig.sent().is_empty());
            let due = rig.client.poll_timeout();
            assert!(due.is_some_and(|due| due <= rig.now.after(500)), "{due:?}");
            rig.wait(500);
        }
        assert!(rig.sent().is_empty());
        assert_eq!(rig.client.notices_dropped(), 1);
        let messages = rig.messages();
        match &messages[..] {
            [(home, Message::RenewalFailed { key })] if is_renewal => {
                assert_eq!((*home, &**key), (home_of_key("k", 2), "k"));
            }
            // Logic learns of an end by expiry.
            [] if !is_renewal => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A client comes back with a key whose end is on its way, or was delivered while logic was asked.
#[test]
fn the_end_of_a_session_never_hits_the_next_one_of_its_key() {
    for end_is_delivered_first in [true, false] {
        let mut rig = Rig::new(1, 8);
        rig.identify();
        let asked = rig.only_sent();
        rig.ended("k");
        let end = rig.only_sent();
        if end_is_delivered_first {
            rig.done(&end);
            rig.connected(&asked, "k");
        } else {
            rig.connected(&asked, "k");
            assert!(rig.sent().is_empty());
            rig.done(&end);
        }
        assert_eq!(rig.only_sent().2, Request::Heartbeat { user: 1, key: "k".into() });
    }
}
