//! The frames of push callers: exact bytes, faults, and round trips of streams that are cut anywhere.

use comet_proto::Frame;
use comet_proto::push_frame::{
    BadTarget, PUSH_HEADER_LEN, PushFrameFault, PushLedger, PushReply, PushRequest, PushTarget,
    decode_request,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::pieces;

const LENGTH_MAX: usize = 600;

fn push<'a>(target: PushTarget<'a>, body: &'a [u8]) -> PushRequest<'a> {
    let frame = Frame { version: 1, operation: 1000, sequence: 0, body };
    PushRequest { id: 7, target, accept: 0, frame }
}

fn encoded(request: &PushRequest<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    bytes
}

/// The example of PROTOCOL.md.
#[test]
fn a_push_to_a_key_and_its_reply_have_these_bytes() {
    let request = [
        0, 0, 0, 0x22, 0, 0x1c, 0, 1, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 1, 0,
        4, b'4', b'2', b'_', b'1', b'h', b'i',
    ];
    let expected = push(PushTarget::Key("42_1"), b"hi");
    assert_eq!(encoded(&expected), request);
    assert_eq!(decode_request(&request, LENGTH_MAX), Ok(Some((Ok(expected), request.len()))));

    let mut reply = Vec::new();
    PushReply::encode_ledger(&mut reply, 7, (1, 0, 0), (0, 0), [(1, 1)].into_iter());
    let header = [0, 0, 0, 0x34, 0, 0x10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
    let ledger = [
        0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0,
        0, 0, 0, 0, 0, 1,
    ];
    assert_eq!(reply, [&header[..], &ledger].concat());
    let (read, length) = PushReply::decode(&reply, LENGTH_MAX).unwrap().unwrap();
    assert_eq!((read.status, read.id, length), (0, 7, reply.len()));
    let ledger = PushLedger {
        matched: 1,
        queued: 0,
        absent: 0,
        parked: 0,
        unanswered: 0,
        dropped: vec![(1, 1)],
    };
    assert_eq!(PushLedger::decode(read.body), Some(ledger));
    for cut in 0..read.body.len() {
        assert_eq!(PushLedger::decode(&read.body[..cut]).is_some(), cut == 24, "{cut} bytes");
    }
}

#[test]
fn a_ledger_has_parked_sessions_and_hosts_in_the_place_of_reasons() {
    let mut reply = Vec::new();
    PushReply::encode_ledger(&mut reply, 7, (1, 0, 0), (2, 3), [(1, 1)].into_iter());
    let entry =
        |reason: u32, count: u64| [&reason.to_be_bytes()[..], &count.to_be_bytes()].concat();
    assert_eq!(reply[16 + 24..], [entry(0, 2), entry(1, 1), entry(u32::MAX, 3)].concat());
    let (read, _) = PushReply::decode(&reply, LENGTH_MAX).unwrap().unwrap();
    let ledger = PushLedger {
        matched: 1,
        queued: 0,
        absent: 0,
        parked: 2,
        unanswered: 3,
        dropped: vec![(1, 1)],
    };
    assert_eq!(PushLedger::decode(read.body), Some(ledger));
}

#[test]
fn wrong_lengths_are_faults_as_soon_as_they_show() {
    let whole = encoded(&push(PushTarget::Key("42_1"), b"hi"));
    let check = |at: usize, bytes: &[u8], shows: usize, fault| {
        let mut wrong = whole.clone();
        wrong[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(decode_request(&wrong[..shows - 1], LENGTH_MAX), Ok(None), "{fault}");
        assert_eq!(decode_request(&wrong[..shows], LENGTH_MAX), Err(fault));
        assert_eq!(decode_request(&wrong, LENGTH_MAX), Err(fault));
    };
    check(0, &27_u32.to_be_bytes(), 4, PushFrameFault::PackLen { pack_len: 27 });
    let too_long = PushFrameFault::TooLong { length: 601, length_max: LENGTH_MAX };
    check(0, &601_u32.to_be_bytes(), 4, too_long);
    check(4, &[0, 16], 6, PushFrameFault::HeaderLen { header_len: 16, expected: 28 });
    check(26, &[0, 7], PUSH_HEADER_LEN, PushFrameFault::PackLen { pack_len: 34 });
}

#[test]
fn a_request_without_a_target_has_an_id_and_a_length() {
    let check = |kind: u16, target: &[u8], bad| {
        let mut bytes = encoded(&push(PushTarget::Key("x"), b""));
        bytes.truncate(PUSH_HEADER_LEN);
        bytes.extend_from_slice(target);
        bytes[3] = bytes.len() as u8;
        bytes[24..26].copy_from_slice(&kind.to_be_bytes());
        bytes[27] = target.len() as u8;
        assert_eq!(decode_request(&bytes, LENGTH_MAX), Ok(Some((Err((7, bad)), bytes.len()))));
    };
    check(5, b"", BadTarget::Kind(5));
    check(1, b"", BadTarget::Name);
    check(3, b"\xff", BadTarget::Name);
    check(2, b"1234567", BadTarget::User);
    check(0, b"x", BadTarget::NotEmpty);
    check(4, b"x", BadTarget::NotEmpty);
}

#[derive(Clone, Debug)]
enum OwnedTarget {
    Token,
    Key(String),
    User(i64),
    Room(String),
    All,
}

impl OwnedTarget {
    fn view(&self) -> PushTarget<'_> {
        match self {
            Self::Token => PushTarget::Token,
            Self::Key(key) => PushTarget::Key(key),
            Self::User(user) => PushTarget::User(*user),
            Self::Room(room) => PushTarget::Room(room),
            Self::All => PushTarget::All,
        }
    }
}

fn target() -> impl Strategy<Value = OwnedTarget> {
    prop_oneof![
        Just(OwnedTarget::Token),
        "\\PC{1,60}".prop_map(OwnedTarget::Key),
        any::<i64>().prop_map(OwnedTarget::User),
        "\\PC{1,60}".prop_map(OwnedTarget::Room),
        Just(OwnedTarget::All),
    ]
}

type OwnedRequest = (u32, OwnedTarget, i32, (u16, i32, i32), Vec<u8>);

fn request() -> impl Strategy<Value = OwnedRequest> {
    let header = (1..=u16::MAX, any::<i32>(), any::<i32>());
    (any::<u32>(), target(), any::<i32>(), header, vec(any::<u8>(), 0..300))
}

fn view((id, target, accept, header, body): &OwnedRequest) -> PushRequest<'_> {
    let (version, operation, sequence) = *header;
    let frame = Frame { version, operation, sequence, body };
    PushRequest { id: *id, target: target.view(), accept: *accept, frame }
}

proptest! {
    #[test]
    fn requests_survive_a_stream(requests in vec(request(), 0..6), cuts in vec(1..200_usize, 1..8)) {
        let mut stream = Vec::new();
        requests.iter().for_each(|request| view(request).encode(&mut stream));
        let mut expected = requests.iter();
        let mut unread = Vec::new();
        for piece in pieces(&stream, &cuts) {
            unread.extend_from_slice(piece);
            while let Some((request, consumed)) = decode_request(&unread, LENGTH_MAX).unwrap() {
                prop_assert_eq!(request.ok(), expected.next().map(view));
                unread.drain(..consumed);
            }
        }
        prop_assert!(expected.next().is_none() && unread.is_empty());
    }

    #[test]
    fn replies_survive_a_stream(
        replies in vec((any::<u32>(), any::<u32>(), vec(any::<u8>(), 0..100)), 0..6),
        cuts in vec(1..100_usize, 1..8),
    ) {
        let view = |(status, id, body): &'_ (u32, u32, Vec<u8>)| (*status, *id, body.clone());
        let mut stream = Vec::new();
        for (status, id, body) in &replies {
            PushReply { status: *status, id: *id, body }.encode(&mut stream);
        }
        let mut seen = Vec::new();
        let mut unread = Vec::new();
        for piece in pieces(&stream, &cuts) {
            unread.extend_from_slice(piece);
            while let Some((reply, consumed)) = PushReply::decode(&unread, LENGTH_MAX).unwrap() {
                seen.push((reply.status, reply.id, reply.body.to_vec()));
                unread.drain(..consumed);
            }
        }
        prop_assert_eq!(seen, replies.iter().map(view).collect::<Vec<_>>());
    }
}
