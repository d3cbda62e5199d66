//! Push callers at a shard: their bytes go in, replies come out, and whatever waits has a bound.

use std::collections::BTreeMap;

use comet_core::limits::{
    CALLER_CALLS_MAX, CALLER_FIRST_MS, CALLER_INPUT_MAX, CALLER_OUTPUT_MAX, CALLER_TOKEN_MAX,
    CALLER_WRITE_MS, NAME_MAX,
};
use comet_core::{
    Budget, CallerEnd, CallerLimits, CallerOperation, CallerSlot, Counters, Limits, Message,
    MessageBudget, MessageClass, Millis, Shard, ShardId, Tokens, home_of_key, home_of_user,
};
use comet_proto::Frame;
use comet_proto::push_frame::{PUSH_HEADER_LEN, PushLedger, PushReply, PushRequest, PushTarget};

use crate::rig::{Rig, frame};

/// The sockets of callers.
#[derive(Default)]
pub(crate) struct CallerWires(BTreeMap<(ShardId, CallerSlot), Wire>);

#[derive(Default)]
struct Wire {
    /// What the caller has written and the shard has not received.
    input: Vec<u8>,
    is_receiving: bool,
    output: Vec<u8>,
    /// The caller's socket takes no bytes.
    is_stuck: bool,
    is_shut: bool,
    is_closed: bool,
}

impl CallerWires {
    /// Does the work of a driver. Returns whether there was any.
    pub(crate) fn serve(&mut self, shard: &mut Shard) -> bool {
        let mut moved = false;
        let mut budget = MessageBudget::new(shard.limits());
        while budget.is_left() && shard.takes_pushes() && shard.handle_request(&mut budget) {
            moved = true;
        }
        let id = shard.id();
        while let Some((slot, operation)) = shard.poll_caller() {
            moved = true;
            let wire = self.0.get_mut(&(id, slot)).expect("accepted");
            assert!(!wire.is_closed);
            match operation {
                CallerOperation::Receive => {
                    assert!(!std::mem::replace(&mut wire.is_receiving, true));
                }
                CallerOperation::Send(bytes) => {
                    assert!(!bytes.is_empty() && !wire.is_shut);
                    let bytes = bytes.to_vec();
                    if !wire.is_stuck {
                        // In two pieces: a kernel may split a write.
                        let taken = bytes.len().div_ceil(2);
                        wire.output.extend_from_slice(&bytes[..taken]);
                        shard.handle_caller_sent(slot, taken);
                    }
                }
                CallerOperation::ShutWrite => wire.is_shut = true,
                CallerOperation::Close => {
                    wire.is_closed = true;
                    shard.handle_caller_gone(slot);
                }
            }
        }
        for ((at, slot), wire) in &mut self.0 {
            if *at == id && wire.is_receiving && !wire.is_closed && !wire.input.is_empty() {
                let piece: Vec<u8> = wire.input.drain(..wire.input.len().min(1_000)).collect();
                wire.is_receiving = false;
                shard.handle_caller_recv(*slot, &piece);
                moved = true;
            }
        }
        moved
    }
}

pub(crate) type Caller = (ShardId, CallerSlot);

pub(crate) fn call(rig: &mut Rig, shard: u16) -> Caller {
    let slot = rig.shards[usize::from(shard)].handle_caller_accept().expect("there is a place");
    let caller = (ShardId(shard), slot);
    rig.callers.0.insert(caller, Wire::default());
    rig.run();
    caller
}

pub(crate) fn write(rig: &mut Rig, caller: Caller, bytes: &[u8]) {
    rig.callers.0.get_mut(&caller).expect("accepted").input.extend_from_slice(bytes);
    rig.run();
}

/// Id, status and body of the replies since the last call.
pub(crate) fn replies(rig: &mut Rig, caller: Caller) -> Vec<(u32, u32, Vec<u8>)> {
    let output = std::mem::take(&mut rig.callers.0.get_mut(&caller).expect("accepted").output);
    let mut rest = &output[..];
    let mut replies = Vec::new();
    while let Some((reply, length)) = PushReply::decode(rest, 1 << 20).unwrap() {
        replies.push((reply.id, reply.status, reply.body.to_vec()));
        rest = &rest[length..];
    }
    assert!(rest.is_empty(), "a reply is cut");
    replies
}

fn statuses(rig: &mut Rig, caller: Caller) -> Vec<(u32, u32)> {
    replies(rig, caller).into_iter().map(|(id, status, _)| (id, status)).collect()
}

fn is_closed(rig: &Rig, caller: Caller) -> bool {
    rig.callers.0[&caller].is_closed
}

pub(crate) fn request(id: u32, target: PushTarget<'_>, body: &[u8]) -> Vec<u8> {
    let frame = Frame { version: 1, operation: 1000, sequence: 0, body };
    let mut bytes = Vec::new();
    PushRequest { id, target, accept: 0, frame }.encode(&mut bytes);
    bytes
}

fn ledger(matched: u64, queued: u64, absent: u64) -> PushLedger {
    PushLedger { matched, queued, absent, ..PushLedger::default() }
}

fn counters(rig: &Rig, shard: u16) -> Counters {
    rig.shards[usize::from(shard)].counters()
}

pub(crate) fn ended(rig: &Rig, reason: CallerEnd) -> u64 {
    counters(rig, 0).callers_ended[reason as usize]
}

fn with(callers: CallerLimits) -> Rig {
    Rig::new(1, Limits { callers, ..Limits::default() })
}

/// The caller, the home and the connections may be on any shards.
#[test]
fn pushes_are_answered_in_order_with_their_ledgers() {
    for shards in [1, 4] {
        let mut rig = Rig::new(shards, Limits::default());
        let conns: Vec<_> = (0..4).map(|at| rig.join(at % shards, "7//1/")).collect();
        let caller = call(&mut rig, shards - 1);
        let pushes = [
            (PushTarget::Key("7_1"), ledger(1, 1, 0)),
            (PushTarget::User(7), ledger(4, 4, 0)),
            (PushTarget::Room("1"), ledger(4, 4, 0)),
            (PushTarget::All, ledger(4, 4, 0)),
            (PushTarget::Key("nobody"), ledger(0, 0, 1)),
            (PushTarget::User(8), ledger(0, 0, 1)),
            (PushTarget::User(0), ledger(0, 0, 1)),
            (PushTarget::Room("empty"), ledger(0, 0, 0)),
        ];
        let mut stream = Vec::new();
        for (id, (target, _)) in (0..).zip(&pushes) {
            stream.extend(request(id, *target, b"hi"));
        }
        write(&mut rig, caller, &stream);
        let expected = (0..).zip(&pushes).map(|(id, (_, ledger))| (id, 0, Some(ledger.clone())));
        let replies = replies(&mut rig, caller).into_iter();
        let replies = replies.map(|(id, status, body)| (id, status, PushLedger::decode(&body)));
        assert_eq!(replies.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{shards} shards");
        for (conn, pushes) in conns.into_iter().zip([4, 3, 3, 3]) {
            assert_eq!(rig.take(conn), frame(1000, 0, b"hi").repeat(pushes));
        }
        let all = (0..shards).map(|shard| counters(&rig, shard));
        assert_eq!(all.clone().map(|counters| counters.calls[0]).sum::<u64>(), 8);
        assert_eq!(all.map(|counters| counters.deliveries.queued).sum::<u64>(), 13);
        assert!(rig.take_reports().is_empty(), "control is told nothing");
    }
}

#[test]
fn invalid_push_requests_are_refused_and_the_caller_stays_connected() {
    let mut rig = with(CallerLimits { frame_max: 100, ..CallerLimits::default() });
    let conn = rig.join(0, "7//1/");
    let caller = call(&mut rig, 0);
    let key = PushTarget::Key("7_1");
    write(&mut rig, caller, &request(1, key, &[b'x'; 101]));
    let mut batch = request(2, key, b"no frame");
    batch[8..12].copy_from_slice(&9_u32.to_be_bytes());
    write(&mut rig, caller, &batch);
    let mut kind = request(3, key, b"");
    kind[25] = 7;
    write(&mut rig, caller, &kind);
    write(&mut rig, caller, &request(4, key, &[b'x'; 100]));
    assert_eq!(statuses(&mut rig, caller), [(1, 3), (2, 3), (3, 3), (4, 0)]);
    assert_eq!(rig.take(conn), frame(1000, 0, &[b'x'; 100]));
    assert!(!is_closed(&rig, caller));
}

#[test]
fn wrong_lengths_are_answered_and_end_the_connection() {
    let mut rig = with(CallerLimits { frame_max: 100, ..CallerLimits::default() });
    rig.join(0, "7//1/");
    let good = request(1, PushTarget::Key("7_1"), b"hi");
    let mut long = good.clone();
    long[..4].copy_from_slice(&100_000_u32.to_be_bytes());
    let mut header = good.clone();
    header[5] = 16;
    for (bad, status) in [(long, 11), (header, 3)] {
        let caller = call(&mut rig, 0);
        write(&mut rig, caller, &[&good[..], &bad, &good].concat());
        assert_eq!(statuses(&mut rig, caller), [(1, 0), (0, status)]);
        assert!(rig.callers.0[&caller].is_shut && !is_closed(&rig, caller));
        rig.shards[0].handle_caller_end(caller.1);
        rig.run();
        assert!(is_closed(&rig, caller));
    }
    assert_eq!((ended(&rig, CallerEnd::BadFrame), counters(&rig, 0).callers), (2, 0));
}

#[test]
fn a_caller_without_a_valid_token_is_refused() {
    let tokens = Tokens::new(["first", "second"]);
    let mut rig = with(CallerLimits { tokens: tokens.clone(), ..CallerLimits::default() });
    let conn = rig.join(0, "7//1/");
    let push = request(2, PushTarget::Key("7_1"), b"hi");
    let token = |token: &str| request(1, PushTarget::Token, token.as_bytes());
    for (opening, expected) in [
        (Vec::new(), &[(2, 16)][..]),
        (token("third"), &[(1, 16)]),
        (token(""), &[(1, 16)]),
        (token("second"), &[(1, 0), (2, 0)]),
    ] {
        let caller = call(&mut rig, 0);
        write(&mut rig, caller, &[opening, push.clone()].concat());
        assert_eq!(statuses(&mut rig, caller), expected);
        assert_eq!(rig.callers.0[&caller].is_shut, expected.len() == 1);
    }
    assert_eq!(rig.take(conn), frame(1000, 0, b"hi"));
    assert_eq!(ended(&rig, CallerEnd::NoToken), 3);
    assert_eq!(format!("{tokens:?}"), "Tokens(2)");
}

/// Before a caller has shown its token, the server accepts and stores no more bytes than a token has.
#[test]
fn a_first_request_longer_than_a_token_is_refused() {
    let long = vec![b'x'; NAME_MAX + CALLER_TOKEN_MAX + 1];
    let limits = CallerLimits { tokens: Tokens::new(["first"]), ..CallerLimits::default() };
    let mut rig = with(limits);
    let caller = call(&mut rig, 0);
    // The length in the header suffices to refuse it.
    write(&mut rig, caller, &request(2, PushTarget::All, &long)[..PUSH_HEADER_LEN]);
    assert_eq!(statuses(&mut rig, caller), [(0, 16)]);
    assert_eq!(ended(&rig, CallerEnd::NoToken), 1);
    let mut rig = with(CallerLimits::default());
    let caller = call(&mut rig, 0);
    let [token, too_long] =
        [0, 1].map(|more| request(1, PushTarget::Token, &long[..CALLER_TOKEN_MAX + more]));
    write(&mut rig, caller, &[token, too_long].concat());
    assert_eq!(statuses(&mut rig, caller), [(1, 0), (1, 3)]);
}

#[test]
fn callers_are_closed_when_their_token_is_removed_from_the_configuration() {
    let limits = |tokens: &[&str]| {
        let tokens = Tokens::new(tokens.iter().copied());
        Limits { callers: CallerLimits { tokens, ..CallerLimits::default() }, ..Limits::default() }
    };
    let mut rig = Rig::new(1, limits(&["old", "kept"]));
    let callers = ["old", "kept"].map(|token| {
        let caller = call(&mut rig, 0);
        write(&mut rig, caller, &request(1, PushTarget::Token, token.as_bytes()));
        assert_eq!(statuses(&mut rig, caller), [(1, 0)]);
        caller
    });
    let limits = std::sync::Arc::new(limits(&["kept", "new"]));
    rig.send(ShardId(0), Message::Configure { limits });
    assert!(rig.callers.0[&callers[0]].is_shut && !rig.callers.0[&callers[1]].is_shut);
}

/// Once the replies that a caller does not read reach their bound, no more of its input is read. Other callers are served.
#[test]
fn a_caller_that_does_not_read_waits_and_is_closed() {
    let mut rig = Rig::new(1, Limits { svr_proto: u16::MAX, ..Limits::default() });
    rig.join(0, "7//1/");
    let [stuck, other] = [call(&mut rig, 0), call(&mut rig, 0)];
    rig.callers.0.get_mut(&stuck).unwrap().is_stuck = true;
    let push = request(1, PushTarget::Key("nobody"), b"hi");
    write(&mut rig, stuck, &push.repeat(100_000));
    let taken = counters(&rig, 0).calls[0];
    let most = (CALLER_OUTPUT_MAX / 40 + CALLER_CALLS_MAX) as u64;
    assert!((1_000..=2 * most).contains(&taken), "{taken} answered");
    let left = rig.callers.0[&stuck].input.len();
    assert!(left > 100_000 * push.len() / 2 - CALLER_INPUT_MAX, "{left} bytes are left");
    write(&mut rig, other, &request(2, PushTarget::Key("7_1"), b"hi"));
    assert_eq!(statuses(&mut rig, other), [(2, 0)]);
    rig.pass(CALLER_WRITE_MS + 1_000);
    assert!(is_closed(&rig, stuck) && !is_closed(&rig, other));
    assert_eq!(ended(&rig, CallerEnd::WriteTimeout), 1);
}

/// The results of its pushes wait until the caller reads the replies before them.
#[test]
fn a_caller_that_does_not_read_keeps_no_core_awake() {
    let mut rig = Rig::new(2, Limits::default());
    let stuck = call(&mut rig, 0);
    rig.callers.0.get_mut(&stuck).unwrap().is_stuck = true;
    let elsewhere = (0..).map(|number| format!("key{number}"));
    let elsewhere = { elsewhere }.find(|key| home_of_key(key, 2) == ShardId(1)).unwrap();
    write(&mut rig, stuck, &request(1, PushTarget::Key(&elsewhere), b"hi").repeat(100_000));
    rig.pass(u64::from(CallerLimits::default().timeout_ms) + 1_000);
    assert!(rig.shards[0].poll_timeout() > Some(Millis(rig.now())), "the core would not sleep");
}

/// A push whose home does not answer is answered at the time limit, and the reply of the next push waits for that.
#[test]
fn late_pushes_are_answered_and_later_tallies_dropped() {
    let mut rig = Rig::new(2, Limits::default());
    let caller = call(&mut rig, 0);
    let key = (0..).map(|number| format!("k{number}")).find(|key| home_of_key(key, 2).0 == 1);
    let far = key.unwrap();
    rig.held.insert((0, 1));
    write(&mut rig, caller, &request(1, PushTarget::Key(&far), b"hi"));
    let near = (1..).find(|user| home_of_user(*user, 2).0 == 0).unwrap();
    write(&mut rig, caller, &request(2, PushTarget::User(near), b"hi"));
    rig.pass(4_999);
    assert_eq!(statuses(&mut rig, caller), []);
    rig.pass(2);
    assert_eq!(statuses(&mut rig, caller), [(1, 4), (2, 0)]);
    rig.held.clear();
    rig.run();
    write(&mut rig, caller, &request(3, PushTarget::Key(&far), b"hi"));
    assert_eq!(statuses(&mut rig, caller), [(3, 0)]);
}

#[test]
fn a_full_queue_to_a_home_is_an_answer() {
    let mut rig = Rig::new(2, Limits { mesh_backlog: 2, ..Limits::default() });
    let caller = call(&mut rig, 0);
    rig.held.insert((0, 1));
    let far = (0..).map(|number| format!("k{number}")).find(|key| home_of_key(key, 2).0 == 1);
    let push = |id| request(id, PushTarget::Key(far.as_deref().unwrap()), b"hi");
    write(&mut rig, caller, &(1..=3).flat_map(push).collect::<Vec<_>>());
    assert!(rig.shards[0].poll_message(ShardId(1), MessageClass::Push).is_some());
    rig.held.clear();
    rig.pass(5_001);
    assert_eq!(statuses(&mut rig, caller), [(1, 4), (2, 0), (3, 8)]);
}

#[test]
fn silent_and_slow_callers_leave() {
    let mut rig = with(CallerLimits::default());
    let [silent, slow, idle] = [(); 3].map(|()| call(&mut rig, 0));
    let push = request(1, PushTarget::All, b"hi");
    write(&mut rig, slow, &push[..20]);
    write(&mut rig, idle, &push);
    rig.pass(5_001);
    assert!(rig.callers.0[&slow].is_shut, "half a request is too late");
    rig.pass(CALLER_FIRST_MS);
    assert!(rig.callers.0[&silent].is_shut && !rig.callers.0[&idle].is_shut);
    assert!(is_closed(&rig, slow), "it did not close its side");
    assert_eq!((ended(&rig, CallerEnd::Late), ended(&rig, CallerEnd::Silent)), (1, 1));
}

#[test]
fn a_caller_that_has_ended_its_side_gets_its_replies() {
    let mut rig = with(CallerLimits::default());
    let caller = call(&mut rig, 0);
    write(&mut rig, caller, &request(1, PushTarget::All, b"hi"));
    rig.shards[0].handle_caller_end(caller.1);
    rig.run();
    assert_eq!(statuses(&mut rig, caller), [(1, 0)]);
    assert!(is_closed(&rig, caller));
    // The slot is used again, and late tallies find no call of the former caller.
    assert_eq!(call(&mut rig, 0), caller);
}

#[test]
fn the_idlest_caller_makes_room() {
    let mut rig = with(CallerLimits { connections: 2, ..CallerLimits::default() });
    let [first, second] = [call(&mut rig, 0), call(&mut rig, 0)];
    write(&mut rig, first, &request(1, PushTarget::All, b"hi"));
    let third = call(&mut rig, 0);
    assert!(rig.callers.0[&second].is_shut && !rig.callers.0[&first].is_shut);
    write(&mut rig, third, &request(1, PushTarget::All, b"hi"));
    assert_eq!(statuses(&mut rig, third), [(1, 0)]);
    assert_eq!(ended(&rig, CallerEnd::Evicted), 1);
}

/// Incomplete requests of several callers take all the bytes that requests may take.
#[test]
fn the_oldest_incomplete_request_makes_room() {
    let frame_max = 32 << 20;
    let mut rig = with(CallerLimits { frame_max, ..CallerLimits::default() });
    let [shard] = &mut rig.shards[..] else { unreachable!("one shard") };
    let length = frame_max - 1;
    let begin = request(1, PushTarget::Key("k"), &vec![0; length]);
    let callers = [(); 4].map(|()| shard.handle_caller_accept().unwrap());
    let mut sent = BTreeMap::from(callers.map(|caller| (caller, 0)));
    let limits = Limits::clone(shard.limits());
    let mut closed = Vec::new();
    let mut is_moving = true;
    while std::mem::take(&mut is_moving) {
        let mut receiving = Vec::new();
        while let Some((slot, operation)) = shard.poll_caller() {
            match operation {
                CallerOperation::Receive if sent.contains_key(&slot) => receiving.push(slot),
                CallerOperation::ShutWrite => closed.push(slot),
                _ => {}
            }
        }
        // All but the last byte, in turns.
        for slot in receiving {
            let sent = sent.get_mut(&slot).unwrap();
            let piece = &begin[*sent..(*sent + (4 << 20)).min(begin.len() - 1)];
            if !piece.is_empty() {
                *sent += piece.len();
                shard.handle_caller_recv(slot, piece);
                is_moving = true;
            }
        }
        while shard.handle_request(&mut MessageBudget::new(&limits)) {}
    }
    assert_eq!(closed, callers[..2], "the oldest");
    assert!(callers[2..].iter().all(|caller| sent[caller] == begin.len() - 1), "{sent:?}");
    assert_eq!(shard.counters().callers_ended[CallerEnd::Evicted as usize], 2);
}

#[test]
fn a_request_that_arrived_before_its_deadline_is_not_late() {
    let mut rig = Rig::new(1, Limits::default());
    let caller = call(&mut rig, 0);
    let push = request(1, PushTarget::All, b"hi");
    let (head, rest) = push.split_at(5);
    write(&mut rig, caller, head);
    rig.shards[0].handle_caller_recv(caller.1, rest);
    rig.callers.0.get_mut(&caller).unwrap().is_receiving = false;
    // Turns in which no push is taken.
    let (begin, end_ms) = (rig.now(), u64::from(CallerLimits::default().timeout_ms) + 1_000);
    for millis in (0..=end_ms).step_by(100) {
        let shard = &mut rig.shards[0];
        shard.handle_time(Millis(begin + millis));
        shard.handle_deadlines(&mut Budget::slice());
    }
    rig.pass(end_ms);
    assert_eq!(statuses(&mut rig, caller), [(1, 0)]);
    assert_eq!(ended(&rig, CallerEnd::Late), 0);
}

/// A request that arrived and was not handled yet counts as a request, so its caller is not idle.
#[test]
fn a_caller_with_an_unread_request_is_not_replaced_as_idle() {
    let mut rig = with(CallerLimits { connections: 1, ..CallerLimits::default() });
    let first = call(&mut rig, 0);
    rig.shards[0].handle_caller_recv(first.1, &request(1, PushTarget::All, b"hi"));
    assert_eq!(rig.shards[0].handle_caller_accept(), None);
    rig.callers.0.get_mut(&first).unwrap().is_receiving = false;
    rig.run();
    assert_eq!(statuses(&mut rig, first), [(1, 0)]);
    assert!(!rig.callers.0[&first].is_shut);
}

/// Requests that a caller sent before it was closed are not executed after the close.
#[test]
fn requests_of_a_closed_caller_are_not_executed() {
    let limits = |token: &str| {
        let tokens = Tokens::new([token]);
        Limits { callers: CallerLimits { tokens, ..CallerLimits::default() }, ..Limits::default() }
    };
    let mut rig = Rig::new(1, limits("old"));
    let conn = rig.join(0, "7//1/");
    let caller = call(&mut rig, 0);
    write(&mut rig, caller, &request(1, PushTarget::Token, b"old"));
    rig.shards[0].handle_caller_recv(caller.1, &request(2, PushTarget::All, b"hi"));
    rig.callers.0.get_mut(&caller).unwrap().is_receiving = false;
    let limits = std::sync::Arc::new(limits("new"));
    rig.shards[0].handle_message(Message::Configure { limits });
    rig.run();
    assert_eq!(statuses(&mut rig, caller), [(1, 0)]);
    assert!(rig.callers.0[&caller].is_shut && rig.take(conn).is_empty());
}

#[test]
fn callers_are_answered_when_the_server_ends() {
    let mut rig = Rig::new(2, Limits::default());
    let caller = call(&mut rig, 0);
    rig.held.insert((0, 1));
    let far = (0..).map(|number| format!("k{number}")).find(|key| home_of_key(key, 2).0 == 1);
    let push = |id| request(id, PushTarget::Key(far.as_deref().unwrap()), b"hi");
    write(&mut rig, caller, &push(1));
    rig.shards[0].handle_caller_recv(caller.1, &push(2));
    let rest: Vec<u8> =
        rig.shards[0].finish_callers().flat_map(|(_, rest)| rest.concat()).collect();
    rig.callers.0.get_mut(&caller).unwrap().output = rest;
    assert_eq!(statuses(&mut rig, caller), [(1, 14), (2, 14)]);
}
