//! The counts of rooms, which logic receives and answers with those of other comets.

use super::*;

#[test]
fn room_counts_are_renewed_while_logic_is_available() {
    let mut rig = Rig::unavailable(1, 1);
    rig.make_available(ConnectionId { address: 0, generation: 0 });
    assert!(rig.sent_rooms().is_some());
    // The rooms wait for a permit.
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
    // The next renewal, and one that fails.
    for outcome in [None, Some(refused(13))] {
        for _ in 0..RENEW_MS / 1_000 {
            assert!(rig.sent_rooms().is_none());
            rig.wait(1_000);
            rig.pinged();
        }
        assert!(rig.sent_rooms().is_some());
        rig.client
            .handle_rooms(rig.now, outcome.as_ref().map(|_| RoomPieces::cut(Vec::new(), None)));
        if let Some(outcome) = outcome {
            let renewal = rig.only_sent();
            rig.reply(&renewal, outcome);
        }
        assert!(rig.messages().is_empty());
    }
}

/// A repeated failure is logged once, whatever was asked.
#[test]
fn a_failed_renewal_is_logged_and_counted_with_its_code() {
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

/// goim's logic keeps the count of a room until it is replaced.
#[test]
fn an_emptied_room_is_reported_as_zero_until_logic_has_answered() {
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
        let sent_rooms = rig.sent_rooms().expect("a renewal is due");
        let rooms = present.iter().map(|room| ((*room).into(), 1)).collect();
        rig.client.handle_rooms(rig.now, Some(RoomPieces::cut(rooms, sent_rooms.as_ref())));
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
fn rooms_that_fit_no_request_are_logged_once() {
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
