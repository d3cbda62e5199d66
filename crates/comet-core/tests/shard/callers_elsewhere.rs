//! Pushes of callers that control publishes to other hosts. Control reports the results of those hosts to the shard.

use comet_core::limits::{CALLED_MAX, CALLER_CALLS_MAX, CALLER_FIRST_MS};
use comet_core::{
    CallId, CallerEnd, CallerLimits, CallerTarget, DropReason, Limits, Message, OtherHostsTally,
    Report, ShardId, Tally,
};
use comet_proto::push_frame::{PushLedger, PushTarget};

use crate::callers::{Caller, call, ended, replies, request, write};
use crate::rig::Rig;

/// Pushes that control has to publish, with the bytes of their frames.
fn called(rig: &mut Rig) -> Vec<(CallId, CallerTarget, usize)> {
    let reports = rig.take_reports().into_iter().filter_map(|report| match report {
        Report::Called { call, shard, target, push } => {
            assert_eq!(shard, ShardId(0));
            Some((call, target, push.frame.message().len()))
        }
        _ => None,
    });
    reports.collect()
}

fn tell(rig: &mut Rig, (call, bytes): (CallId, usize), mut tally: OtherHostsTally) {
    tally.bytes = bytes;
    let tally = Box::new(tally);
    rig.shards[0].handle_message(Message::OtherHostsTallied { call, tally });
    rig.run();
}

fn nothing() -> OtherHostsTally {
    OtherHostsTally { tally: Tally::default(), held: 0, unanswered: 0, bytes: 0 }
}

fn ledgers(rig: &mut Rig, caller: Caller) -> Vec<PushLedger> {
    let ledger = |(_, status, body): (u32, u32, Vec<u8>)| {
        assert_eq!(status, 0, "{}", String::from_utf8_lossy(&body));
        PushLedger::decode(&body).unwrap()
    };
    replies(rig, caller).into_iter().map(ledger).collect()
}

#[test]
fn a_reply_is_the_sum_over_all_hosts() {
    let mut rig = Rig::reporting_rooms(2);
    rig.join(1, "7//1/");
    let caller = call(&mut rig, 0);
    write(&mut rig, caller, &request(1, PushTarget::Room("1"), b"hi"));
    let [(push, target, bytes)] = called(&mut rig).try_into().unwrap();
    assert_eq!(target, CallerTarget::Room("1".into()));
    assert!(ledgers(&mut rig, caller).is_empty(), "the other hosts have not told");
    let mut tally = Tally { matched: 2, queued: 1, ..Tally::default() };
    tally.dropped[DropReason::Filtered as usize] = 1;
    tell(&mut rig, (push, bytes), OtherHostsTally { tally, unanswered: 3, ..nothing() });
    let dropped = vec![(1 + DropReason::Filtered as u32, 1)];
    let sum = PushLedger { matched: 3, queued: 2, unanswered: 3, dropped, ..PushLedger::default() };
    assert_eq!(ledgers(&mut rig, caller), [sum]);
}

#[test]
fn a_user_that_is_absent_here_may_be_connected_to_another_host() {
    let mut rig = Rig::reporting_rooms(2);
    let caller = call(&mut rig, 0);
    for (held, absent) in [(1, 0), (0, 1)] {
        write(&mut rig, caller, &request(1, PushTarget::User(7), b"hi"));
        let [(push, _, bytes)] = called(&mut rig).try_into().unwrap();
        tell(&mut rig, (push, bytes), OtherHostsTally { held, ..nothing() });
        assert_eq!(ledgers(&mut rig, caller), [PushLedger { absent, ..PushLedger::default() }]);
    }
}

/// User 0 has no connections on any host, so the push is executed nowhere.
#[test]
fn a_push_without_a_possible_receiver_is_not_published_to_other_hosts() {
    let mut rig = Rig::reporting_rooms(1);
    let caller = call(&mut rig, 0);
    write(&mut rig, caller, &request(1, PushTarget::User(0), b"hi"));
    assert!(called(&mut rig).is_empty());
    assert_eq!(ledgers(&mut rig, caller), [PushLedger { absent: 1, ..PushLedger::default() }]);
}

#[test]
fn a_broadcast_that_a_full_core_refuses_is_not_published_to_other_hosts() {
    let mut rig = Rig::reporting_rooms_with(2, Limits { mesh_backlog: 1, ..Limits::default() });
    let caller = call(&mut rig, 0);
    rig.held.insert((0, 1));
    let requests = (1..=2).flat_map(|id| request(id, PushTarget::All, b"hi"));
    write(&mut rig, caller, &requests.collect::<Vec<u8>>());
    let [(push, _, bytes)] = called(&mut rig).try_into().unwrap();
    rig.held.clear();
    tell(&mut rig, (push, bytes), nothing());
    let statuses = replies(&mut rig, caller).into_iter().map(|(id, status, _)| (id, status));
    assert_eq!(statuses.collect::<Vec<_>>(), [(1, 0), (2, 8)]);
}

/// Pushes whose calls ended at the time limit count as well: control has not handled them yet.
#[test]
fn requests_wait_while_too_many_pushes_are_being_published_to_other_hosts() {
    let mut rig = Rig::reporting_rooms(1);
    for _ in 0..CALLED_MAX / CALLER_CALLS_MAX {
        let caller = call(&mut rig, 0);
        let requests =
            (0..CALLER_CALLS_MAX as u32).flat_map(|id| request(id, PushTarget::Key("nobody"), b""));
        write(&mut rig, caller, &requests.collect::<Vec<u8>>());
    }
    let under_way = called(&mut rig);
    assert_eq!(under_way.len(), CALLED_MAX);
    rig.pass(u64::from(CallerLimits::default().timeout_ms) + 1_000);
    assert_eq!(rig.shards[0].obstacles().calls, 0, "they took too long");
    let caller = call(&mut rig, 0);
    write(&mut rig, caller, &request(1, PushTarget::All, b"hi"));
    assert!(called(&mut rig).is_empty() && !rig.shards[0].has_requests());
    let (first, _, bytes) = &under_way[0];
    tell(&mut rig, (*first, *bytes), nothing());
    let [(push, target, bytes)] = called(&mut rig).try_into().unwrap();
    assert_eq!(target, CallerTarget::All);
    tell(&mut rig, (push, bytes), nothing());
    assert_eq!(ledgers(&mut rig, caller), [PushLedger::default()]);
}

#[test]
fn before_a_hand_over_a_shard_holds_new_requests_and_answers_earlier_ones() {
    let mut rig = Rig::reporting_rooms(1);
    let caller = call(&mut rig, 0);
    write(&mut rig, caller, &request(1, PushTarget::All, b""));
    let [(push, _, bytes)] = called(&mut rig).try_into().unwrap();
    rig.shards[0].hold_callers(true);
    write(&mut rig, caller, &request(2, PushTarget::All, b""));
    assert!(called(&mut rig).is_empty() && !rig.shards[0].has_requests());
    assert_eq!(rig.shards[0].obstacles().calls, 1);
    tell(&mut rig, (push, bytes), nothing());
    assert_eq!(ledgers(&mut rig, caller), [PushLedger::default()]);
    assert_eq!(rig.shards[0].obstacles().calls, 0);
    // The hand-over fails.
    rig.shards[0].hold_callers(false);
    rig.run();
    assert_eq!(called(&mut rig).len(), 1);
}

#[test]
fn a_caller_whose_first_request_is_held_is_not_closed_as_silent() {
    let mut rig = Rig::reporting_rooms(1);
    let [caller, _silent] = [(); 2].map(|()| call(&mut rig, 0));
    rig.shards[0].hold_callers(true);
    write(&mut rig, caller, &request(1, PushTarget::All, b""));
    rig.pass(CALLER_FIRST_MS + 1);
    assert_eq!(ended(&rig, CallerEnd::Silent), 1);
    rig.shards[0].hold_callers(false);
    rig.run();
    let [(push, _, bytes)] = called(&mut rig).try_into().unwrap();
    tell(&mut rig, (push, bytes), nothing());
    assert_eq!(ledgers(&mut rig, caller), [PushLedger::default()]);
}

#[test]
fn a_hand_over_waits_for_no_other_host() {
    let mut rig = Rig::reporting_rooms(1);
    rig.join(0, "7//1/");
    let caller = call(&mut rig, 0);
    write(&mut rig, caller, &request(1, PushTarget::All, b""));
    let [(push, _, bytes)] = called(&mut rig).try_into().unwrap();
    rig.shards[0].begin_hand_over();
    rig.run();
    let given_up = PushLedger { matched: 1, queued: 1, unanswered: 1, ..PushLedger::default() };
    assert_eq!(ledgers(&mut rig, caller), [given_up]);
    // This shard goes on after all. A report about the former push does not count for the next one.
    write(&mut rig, caller, &request(2, PushTarget::All, b""));
    tell(&mut rig, (push, bytes), OtherHostsTally { unanswered: 2, ..nothing() });
    let [(push, _, bytes)] = called(&mut rig).try_into().unwrap();
    tell(&mut rig, (push, bytes), nothing());
    let all = PushLedger { matched: 1, queued: 1, ..PushLedger::default() };
    assert_eq!(ledgers(&mut rig, caller), [all]);
}
