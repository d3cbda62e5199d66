//! The client as a driver sees it, which here is the test.

use comet_core::{CloseReason, Denied, Generation, Identity, Slot, home_of_key};

use super::*;

const TIMEOUT_MS: u64 = 1_000;
const RENEW_MS: u64 = 60_000;

struct Rig {
    client: LogicClient,
    now: Millis,
}

/// A request on its way.
type Sent = (AttemptId, ConnectionId, Request);

impl Rig {
    /// With `addresses` of them available, and the first renewal of rooms done.
    fn new(addresses: usize, calls: usize) -> Self {
        let mut rig = Self::unavailable(addresses, calls);
        for address in 0..addresses {
            rig.make_available(ConnectionId { address, generation: 0 });
        }
        if addresses > 0 {
            rig.client.handle_rooms(rig.now, None);
        }
        rig.actions();
        rig
    }

    fn unavailable(addresses: usize, calls: usize) -> Self {
        let config = LogicConfig {
            addresses: (0..addresses).map(|index| format!("logic-{index}").into()).collect(),
            timeout_ms: TIMEOUT_MS,
            calls,
            ping_ms: 10_000,
            renew_ms: RENEW_MS,
            retry_after_ms: 4_000,
            unknown: UnknownCode::Refuse,
            shards: 2,
            seed: 1,
        };
        Self { client: LogicClient::new(config, Millis(0)), now: Millis(0) }
    }

    fn make_available(&mut self, connection: ConnectionId) {
        self.client.handle_connected(self.now, connection);
        self.client.handle_ping(self.now, connection, PingOutcome::Answered);
    }

    /// The first connection to the first address is there.
    fn pinged(&mut self) {
        let connection = ConnectionId { address: 0, generation: 0 };
        self.client.handle_ping(self.now, connection, PingOutcome::Answered);
    }

    /// Waits in steps, as a thread that is not held up, with an answered ping in each.
    fn wait_pinged(&mut self, millis: u64) {
        for _ in 0..millis / 1_000 {
            self.wait(1_000);
            self.pinged();
        }
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.client.poll_action()).collect()
    }

    fn messages(&mut self) -> Vec<(ShardId, Message)> {
        std::iter::from_fn(|| self.client.poll_message()).collect()
    }

    /// What rooms are to be cut with, if they are to be counted.
    fn told(&mut self) -> Option<Option<Told>> {
        self.actions().into_iter().find_map(|action| match action {
            Action::CountRooms { told } => Some(told),
            _ => None,
        })
    }

    fn last_line(&mut self) -> String {
        std::iter::from_fn(|| self.client.poll_event()).last().unwrap().to_string()
    }

    /// What is sent; other actions are dropped.
    fn sent(&mut self) -> Vec<Sent> {
        let send = |action| match action {
            Action::Send { attempt, connection, request } => {
                Some((attempt, connection, Request::clone(&request)))
            }
            _ => None,
        };
        self.actions().into_iter().filter_map(send).collect()
    }

    #[track_caller]
    fn only_sent(&mut self) -> Sent {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn identify(&mut self) {
        let request = AuthRequest { conn: conn(), token: (*b"t").into(), cookie: "c".into() };
        self.client.handle_report(self.now, Report::Identify(request));
    }

    fn receive(&mut self) {
        self.client.handle_report(
            self.now,
            Report::Receive {
                conn: conn(),
                user: 42,
                key: "k".into(),
                operation: 4,
                sequence: 9,
                body: (*b"hello").into(),
            },
        );
    }

    fn renewed(&mut self, key: &str) {
        self.client.handle_report(self.now, Report::Heartbeat { user: 1, key: key.into() });
    }

    fn ended(&mut self, key: &str) {
        self.client.handle_report(self.now, Report::Disconnected { user: 1, key: key.into() });
    }

    fn reply(&mut self, sent: &Sent, outcome: AttemptOutcome) {
        self.client.handle_reply(self.now, sent.0, outcome);
    }

    fn done(&mut self, sent: &Sent) {
        self.reply(sent, AttemptOutcome::Replied(Reply::Done));
    }

    fn connected(&mut self, sent: &Sent, key: &str) {
        let identity = Identity { user: 1, key: Some(key.into()), ..Identity::default() };
        self.reply(sent, AttemptOutcome::Replied(Reply::Connected(identity)));
    }

    fn wait(&mut self, millis: u64) {
        self.now = self.now.after(millis);
        self.client.handle_timeout(self.now);
    }

    /// The answer to the one question of [`conn`].
    #[track_caller]
    fn answer(&mut self) -> Result<Identity, Denied> {
        match &self.messages()[..] {
            [(ShardId(1), Message::Identified { conn: asked, answer })] => {
                assert_eq!(*asked, conn());
                answer.clone()
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn receipt(&mut self) -> Result<(), Box<str>> {
        match &self.messages()[..] {
            [(ShardId(1), Message::Receipt { conn: asked, outcome })] => {
                assert_eq!(*asked, conn());
                outcome.clone()
            }
            other => panic!("{other:?}"),
        }
    }

    fn counted(&self, rpc: &str, code: StatusCode) -> u64 {
        let mut counts = self.client.call_counts();
        counts.find(|(name, of, _)| (*name, *of) == (rpc, code)).map_or(0, |(.., count)| count)
    }
}

fn conn() -> ConnId {
    ConnId { shard: ShardId(1), slot: Slot(3), generation: Generation(7) }
}

fn refused(code: i32) -> AttemptOutcome {
    AttemptOutcome::Refused { code: StatusCode(code), sentence: "so be it".into() }
}

#[test]
fn questions_are_asked_and_answered() {
    let mut rig = Rig::new(1, 4);
    rig.identify();
    let sent = rig.only_sent();
    assert_eq!(sent.2, Request::Connect { token: (*b"t").into(), cookie: "c".into() });
    assert_eq!(rig.client.calls_under_way(), 1);
    rig.connected(&sent, "k");
    assert_eq!(rig.answer().unwrap().key.as_deref(), Some("k"));
    rig.receive();
    let sent = rig.only_sent();
    let body = (*b"hello").into();
    assert_eq!(sent.2, Request::Receive { user: 42, operation: 4, sequence: 9, body });
    rig.done(&sent);
    assert_eq!(rig.receipt(), Ok(()));
    assert_eq!(rig.client.calls_under_way(), 0);
    for rpc in ["Connect", "Receive"] {
        assert_eq!(rig.counted(rpc, StatusCode::OK), 1);
    }
}

/// How each outcome of the first attempt at one of two addresses ends a call.
#[test]
fn a_call_goes_to_another_address_if_it_may() {
    struct Case {
        outcome: AttemptOutcome,
        connect_goes_on: bool,
        receive_goes_on: bool,
        sentence: &'static str,
    }
    let case = |outcome, connect_goes_on, receive_goes_on, sentence| Case {
        outcome,
        connect_goes_on,
        receive_goes_on,
        sentence,
    };
    let cases = [
        case(AttemptOutcome::TimedOut, false, false, "logic did not answer in time"),
        case(AttemptOutcome::Broken { was_sent: false }, true, true, ""),
        case(AttemptOutcome::Broken { was_sent: true }, true, false, "logic is not there"),
        case(refused(14), true, false, "logic has failed"),
        case(refused(13), true, false, "logic has failed"),
        case(refused(4), true, false, "logic has failed"),
        case(refused(2), false, false, "refused by logic"),
        case(refused(16), false, false, "so be it"),
    ];
    for Case { outcome, connect_goes_on, receive_goes_on, sentence } in cases {
        for is_connect in [true, false] {
            let mut rig = Rig::new(2, 4);
            if is_connect {
                rig.identify();
            } else {
                rig.receive();
            }
            let first = rig.only_sent();
            rig.reply(&first, outcome.clone());
            if if is_connect { connect_goes_on } else { receive_goes_on } {
                let second = rig.only_sent();
                assert_ne!(second.1.address, first.1.address);
                // The former attempt is over.
                rig.reply(&first, AttemptOutcome::Replied(Reply::Done));
                assert!(rig.messages().is_empty());
                // No address is asked twice.
                rig.reply(&second, AttemptOutcome::Broken { was_sent: false });
                assert!(rig.sent().is_empty());
                let said = match is_connect {
                    true => rig.answer().unwrap_err().sentence,
                    false => rig.receipt().unwrap_err(),
                };
                assert_eq!(&*said, "logic is not there", "{outcome:?}");
            } else {
                assert!(rig.sent().is_empty());
                let said = match is_connect {
                    true => rig.answer().unwrap_err().sentence,
                    false => rig.receipt().unwrap_err(),
                };
                assert_eq!(&*said, sentence, "{outcome:?}");
            }
            assert_eq!(rig.client.calls_under_way(), 0);
        }
    }
}

#[test]
fn all_attempts_of_a_call_share_one_deadline() {
    let mut rig = Rig::new(2, 4);
    rig.identify();
    let first = rig.only_sent();
    rig.wait(TIMEOUT_MS - 1);
    rig.reply(&first, AttemptOutcome::Broken { was_sent: true });
    let second = rig.only_sent();
    assert_eq!(rig.client.poll_timeout(), Some(Millis(TIMEOUT_MS)));
    rig.wait(1);
    assert!(rig.actions().contains(&Action::Abandon(second.0)));
    let denied = rig.answer().unwrap_err();
    assert_eq!(
        (&*denied.sentence, denied.reason),
        ("logic did not answer in time", CloseReason::LogicUnavailable)
    );
    assert_eq!(rig.counted("Connect", StatusCode::DEADLINE_EXCEEDED), 1);
    let line = rig.last_line();
    assert_eq!(line, "Connect of logic fails with DEADLINE_EXCEEDED: \"no answer within 1s\"");
    // The answer comes all the same.
    rig.connected(&second, "k");
    assert!(rig.messages().is_empty());
}

#[test]
fn while_no_address_is_available_questions_are_answered_and_notices_wait() {
    let mut rig = Rig::unavailable(1, 4);
    rig.actions();
    rig.identify();
    assert_eq!(&*rig.answer().unwrap_err().sentence, "logic is not there");
    rig.receive();
    assert_eq!(rig.receipt(), Err("logic is not there".into()));
    rig.ended("k");
    assert!(rig.sent().is_empty());
    assert_eq!((rig.client.notices_waiting(), rig.client.is_idle()), (1, false));
    rig.make_available(ConnectionId { address: 0, generation: 0 });
    let sent = rig.only_sent();
    assert_eq!(sent.2, Request::Disconnect { user: 1, key: "k".into() });
    rig.done(&sent);
    assert!(rig.client.has_delivered_notices() && rig.client.is_idle());
}

#[test]
fn permits_bound_the_calls_under_way() {
    let mut rig = Rig::new(1, 2);
    rig.identify();
    rig.receive();
    let under_way = rig.sent();
    assert_eq!(under_way.len(), 2);
    rig.identify();
    let denied = rig.answer().unwrap_err();
    assert_eq!(&*denied.sentence, "logic has too much to do");
    assert!((2_000..=4_000).contains(&denied.retry_after_ms.unwrap()), "{denied:?}");
    assert_eq!(rig.counted("Connect", StatusCode::RESOURCE_EXHAUSTED), 1);
    let line = rig.last_line();
    assert_eq!(
        line,
        "Connect of logic fails with RESOURCE_EXHAUSTED: \"logic.calls are under way\""
    );
    // A notice waits, and goes before later questions.
    rig.ended("k");
    assert!(rig.sent().is_empty());
    rig.done(&under_way[1]);
    let notice = rig.only_sent();
    assert_eq!(notice.2.rpc(), "Disconnect");
    assert_eq!(rig.client.calls_under_way(), 2);
    rig.done(&notice);
    rig.connected(&under_way[0], "other");
    assert_eq!(rig.client.calls_under_way(), 0);
}

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
            // It rests until it is known which addresses are available.
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
            // Of an end it learns by expiry.
            [] if !is_renewal => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A client comes back with the key whose end is on its way, or was delivered while logic was asked.
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

#[test]
fn room_counts_are_renewed_while_logic_is_available() {
    let mut rig = Rig::unavailable(1, 1);
    rig.make_available(ConnectionId { address: 0, generation: 0 });
    assert!(rig.told().is_some());
    // They wait for a permit.
    rig.identify();
    let asked = rig.only_sent();
    let rooms = RoomPieces::cut(vec![("here".into(), 3), ("many".into(), u32::MAX)], None);
    rig.client.handle_rooms(rig.now, Some(rooms.clone()));
    assert!(rig.sent().is_empty());
    rig.connected(&asked, "k");
    rig.messages();
    let renewal = rig.only_sent();
    let all = [("here".to_owned(), 5), ("there".to_owned(), 1)];
    let elsewhere = rooms.elsewhere(all, 2);
    assert_eq!(renewal.2, Request::RenewOnline { pieces: Arc::new(rooms), piece: 0 });
    rig.reply(&renewal, AttemptOutcome::Replied(Reply::Elsewhere(elsewhere)));
    let messages = rig.messages();
    let mut counts = Vec::new();
    for (index, (shard, message)) in messages.iter().enumerate() {
        assert_eq!(usize::from(shard.0), index);
        let Message::RemoteRoomCounts { rooms } = message else { panic!("{message:?}") };
        counts.extend(rooms.iter().map(|(room, others)| (&**room, *others)));
    }
    counts.sort_unstable();
    assert_eq!((messages.len(), counts), (2, vec![("here", 2), ("there", 1)]));
    // The next one, and what becomes of one that fails.
    for outcome in [None, Some(refused(13))] {
        for _ in 0..RENEW_MS / 1_000 {
            assert!(rig.told().is_none());
            rig.wait(1_000);
            rig.pinged();
        }
        assert!(rig.told().is_some());
        rig.client
            .handle_rooms(rig.now, outcome.as_ref().map(|_| RoomPieces::cut(Vec::new(), None)));
        if let Some(outcome) = outcome {
            let renewal = rig.only_sent();
            rig.reply(&renewal, outcome);
        }
        assert!(rig.messages().is_empty());
    }
}

/// The thread was held up: what arrived meanwhile is read after the timer has fired.
#[test]
fn an_answer_that_arrived_during_a_stall_counts() {
    let mut rig = Rig::new(1, 8);
    for _ in 0..2 {
        rig.identify();
    }
    let sent = rig.sent();
    rig.wait(5_000);
    assert!(rig.messages().is_empty());
    rig.connected(&sent[0], "k");
    let [(_, Message::Identified { answer: Ok(_), .. })] = &rig.messages()[..] else {
        panic!("logic has answered")
    };
    for _ in 0..6 {
        rig.wait(250);
    }
    let [(_, Message::Identified { answer: Err(_), .. })] = &rig.messages()[..] else {
        panic!("logic has not answered")
    };
}

#[test]
fn nothing_is_due_for_calls_that_are_over() {
    let mut rig = Rig::new(1, 8);
    let idle = rig.client.poll_timeout();
    rig.identify();
    assert_eq!(rig.client.poll_timeout(), Some(Millis(TIMEOUT_MS)));
    let sent = rig.only_sent();
    rig.connected(&sent, "k");
    assert_eq!(rig.client.poll_timeout(), idle);
}

/// What fails again and again is said once, whatever it is that is asked.
#[test]
fn a_renewal_that_fails_is_logged_and_counted_as_what_it_is() {
    let mut rig = Rig::new(1, 8);
    let too_much =
        |code: StatusCode| AttemptOutcome::Refused { code, sentence: "too \u{1b}much".into() };
    for (code, line) in [
        (StatusCode::RESOURCE_EXHAUSTED, "RenewOnline of logic fails with RESOURCE_EXHAUSTED"),
        (StatusCode::UNAUTHENTICATED, "RenewOnline of logic fails with UNAUTHENTICATED"),
    ] {
        for attempt in 1..=2 {
            rig.wait_pinged(RENEW_MS);
            while rig.client.poll_event().is_some() {}
            rig.client.handle_rooms(rig.now, Some(RoomPieces::cut(vec![("room".into(), 1)], None)));
            let renewal = rig.only_sent();
            rig.reply(&renewal, too_much(code));
            rig.pinged();
            assert_eq!(rig.counted("RenewOnline", code), attempt);
            match attempt {
                1 => assert_eq!(rig.last_line(), format!("{line}: \"too \\u{{1b}}much\"")),
                _ => assert_eq!(rig.client.poll_event(), None),
            }
        }
    }
    rig.wait_pinged(RENEW_MS);
    rig.client.handle_rooms(rig.now, Some(RoomPieces::cut(Vec::new(), None)));
    let renewal = rig.only_sent();
    rig.reply(&renewal, AttemptOutcome::Replied(Reply::Elsewhere(vec![Vec::new(), Vec::new()])));
    let line = "RenewOnline of logic succeeds again: 2 calls failed with UNAUTHENTICATED";
    assert_eq!(rig.last_line(), line);
}

/// goim's logic keeps the count of a room that it is not told.
#[test]
fn a_room_that_emptied_is_told_as_zero_until_logic_has_answered() {
    let mut rig = Rig::unavailable(1, 1);
    rig.make_available(ConnectionId { address: 0, generation: 0 });
    let none = || AttemptOutcome::Replied(Reply::Elsewhere(vec![Vec::new(), Vec::new()]));
    for (present, outcome, expected) in [
        (&["a", "b"][..], none(), &[("a", 1), ("b", 1)][..]),
        (&["b"], refused(13), &[("b", 1), ("a", 0)]),
        (&["c"], none(), &[("c", 1), ("b", 0), ("a", 0)]),
        (&["c"], none(), &[("c", 1)]),
        (&[], none(), &[("c", 0)]),
        (&[], none(), &[]),
    ] {
        let told = rig.told().expect("a renewal is due");
        let rooms = present.iter().map(|room| ((*room).into(), 1)).collect();
        rig.client.handle_rooms(rig.now, Some(RoomPieces::cut(rooms, told.as_ref())));
        let renewal = rig.only_sent();
        let Request::RenewOnline { pieces, piece: 0 } = &renewal.2 else {
            panic!("{:?}", renewal.2)
        };
        let mut sent: Vec<_> =
            pieces.rooms(0).iter().map(|(room, online)| (&**room, *online)).collect();
        sent.sort_by_key(|(room, online)| (-online, *room));
        let mut expected = expected.to_vec();
        expected.sort_by_key(|(room, online)| (-online, *room));
        assert_eq!(sent, expected);
        rig.reply(&renewal, outcome);
        rig.pinged();
        rig.wait_pinged(RENEW_MS);
    }
}

/// Rooms that do not fit one request go in several, one after the other. The last answer with rooms counts.
#[test]
fn rooms_beyond_a_request_go_in_pieces() {
    let rooms = || (0..60_000).map(|at| (Arc::from(format!("{at:0200}")), 1)).collect::<Vec<_>>();
    let pieces = RoomPieces::cut(rooms(), None);
    assert_eq!(pieces.len(), 4);
    let elsewhere = |online: i32| {
        let all = [("there".to_owned(), online)];
        AttemptOutcome::Replied(Reply::Elsewhere(pieces.elsewhere(all, 2)))
    };
    let none = || AttemptOutcome::Replied(Reply::Elsewhere(vec![Vec::new(), Vec::new()]));
    let failed = || refused(8);
    for (outcomes, expected) in [
        // goim's logic, `comet logic`, and either of them failing.
        ([elsewhere(1), elsewhere(2), elsewhere(3), elsewhere(4)], Some(4)),
        ([none(), none(), none(), elsewhere(4)], Some(4)),
        ([failed(), elsewhere(2), elsewhere(3), failed()], Some(3)),
        ([none(), failed(), none(), elsewhere(4)], Some(4)),
        ([none(), none(), none(), failed()], None),
    ] {
        let mut rig = Rig::new(1, 8);
        rig.wait_pinged(RENEW_MS);
        rig.actions();
        rig.client.handle_rooms(rig.now, Some(RoomPieces::cut(rooms(), None)));
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let sent = rig.only_sent();
            let Request::RenewOnline { piece, .. } = &sent.2 else { panic!("{:?}", sent.2) };
            assert_eq!(*piece, number);
            assert!(rig.messages().is_empty(), "after all of them");
            rig.reply(&sent, outcome);
            rig.pinged();
        }
        assert!(rig.sent().is_empty());
        let messages = rig.messages();
        let counts = messages.iter().flat_map(|(_, message)| match message {
            Message::RemoteRoomCounts { rooms } => rooms.iter().map(|(_, others)| *others),
            other => panic!("{other:?}"),
        });
        assert_eq!(counts.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<u32>>());
        assert_eq!(messages.len(), if expected.is_some() { 2 } else { 0 });
    }
}

#[test]
fn rooms_that_fit_no_request_are_said_once() {
    let mut rig = Rig::new(1, 8);
    let of_one_bucket = (0..).map(|at| format!("{at:0200}"));
    let of_one_bucket =
        of_one_bucket.filter(|room| cityhasher::hash::<u32>(room).is_multiple_of(64));
    let rooms: Vec<_> = of_one_bucket.take(20).map(|room| (Arc::from(room), 1)).collect();
    let mut lines = Vec::new();
    while rig.client.poll_event().is_some() {}
    for rooms in [rooms.clone(), rooms.clone(), Vec::new(), rooms] {
        rig.wait_pinged(RENEW_MS);
        rig.actions();
        rig.client.handle_rooms(rig.now, Some(RoomPieces::cut_by(4_000, rooms)));
        let mut sent = rig.sent();
        while let Some(piece) = sent.pop() {
            rig.reply(&piece, AttemptOutcome::Replied(Reply::Elsewhere(Vec::new())));
            sent.extend(rig.sent());
        }
        lines.push(std::iter::from_fn(|| rig.client.poll_event()).count());
    }
    assert_eq!(lines, [1, 0, 0, 1]);
}
