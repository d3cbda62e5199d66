//! The frames of `vectors/protocol2.json`, which clients in other languages are tested with as well.

use comet_proto::{
    AuthReply, Encoded, Frame, Join, JoinReply, Leave, LeaveReply, Position, Resumed, RoomGap,
    RoomHandle, RoomPush, decode, op,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const VECTORS: &str = include_str!("../../vectors/protocol2.json");

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn position(position: Position) -> Value {
    let Position { epoch, offset } = position;
    json!({ "epoch": epoch.to_string(), "offset": offset.to_string() })
}

/// The fields of a body as the vectors name them, and the body that the encoder makes of them.
fn read(frame: &Frame<'_>) -> (Value, Vec<u8>) {
    let flags = frame.body.get(1).copied().unwrap_or(0);
    match frame.operation {
        op::KEEP => (json!({ "keep": frame.body[0] }), frame.body.to_vec()),
        op::AUTH => (json!({ "token": text(frame.body) }), frame.body.to_vec()),
        op::AUTH_REPLY => {
            let reply = AuthReply::decode(frame.body).unwrap();
            let AuthReply { heartbeat_ms, expires_in_ms, kept, .. } = reply;
            let mut fields = json!({
                "version": 2, "flags": flags, "heartbeat_ms": heartbeat_ms,
                "expires_in_ms": expires_in_ms.unwrap_or(0),
            });
            if let Some(kept) = kept {
                let Resumed { parked, lost_full, lost_memory } = kept.resumed.unwrap_or_default();
                fields["parked"] = parked.into();
                fields["lost_full"] = lost_full.into();
                fields["lost_memory"] = lost_memory.into();
            }
            (fields, reply.encode())
        }
        op::JOIN => {
            let join = Join::decode(frame.body).unwrap();
            let fields = json!({ "since": join.since.map(position), "room": text(join.room) });
            (fields, join.encode())
        }
        op::JOIN_REPLY => {
            let reply = JoinReply::decode(frame.body).unwrap();
            let (status, handle) = match reply.outcome {
                Ok(handle) => (0, handle),
                Err(refusal) => (refusal as u8, RoomHandle(0)),
            };
            let at = reply.position.unwrap_or(Position { epoch: 0, offset: 0 });
            let fields = json!({
                "status": status, "flags": flags, "handle": handle.0, "epoch": at.epoch.to_string(),
                "offset": at.offset.to_string(), "recovered": reply.recovered.unwrap_or(0),
                "room": text(reply.room),
            });
            (fields, reply.encode())
        }
        op::ROOM_PUSH => {
            let RoomPush { handle, operation, offset, body } =
                RoomPush::decode(frame.body).unwrap();
            let mut fields = json!({
                "handle": handle.0, "operation": operation, "offset": offset.to_string(),
            });
            if operation == op::RAW {
                let mut frames = Vec::new();
                let mut rest = body;
                while let Some((Frame { version, operation, sequence, body }, length)) =
                    decode(rest, usize::MAX).unwrap()
                {
                    frames.push(json!({
                        "version": version, "operation": operation, "sequence": sequence,
                        "body": text(body),
                    }));
                    rest = &rest[length..];
                }
                assert!(rest.is_empty());
                fields["frames"] = Value::Array(frames);
            } else {
                fields["body"] = json!(text(body));
            }
            let push = Frame { version: 1, operation, sequence: frame.sequence, body };
            let encoded = Encoded::frame(&push).to_room_push(handle, offset);
            let websocket = encoded.for_websocket();
            assert_eq!(&websocket[websocket.len() - encoded.for_tcp().len()..], encoded.for_tcp());
            assert_eq!(websocket[0], 0x82);
            (fields, encoded.for_tcp()[16..].to_vec())
        }
        op::LEAVE => {
            let leave = Leave::decode(frame.body).unwrap();
            (json!({ "handle": leave.handle.0 }), leave.encode().to_vec())
        }
        op::LEAVE_REPLY => {
            let reply = LeaveReply::decode(frame.body).unwrap();
            let status = reply.outcome.map_or_else(|refusal| refusal as u8, |()| 0);
            let fields = json!({ "status": status, "flags": flags, "handle": reply.handle.0 });
            (fields, reply.encode().to_vec())
        }
        op::GAP => {
            let gap = RoomGap::decode(frame.body).unwrap();
            let fields = json!({
                "handle": gap.handle.0, "flags": frame.body[4], "first": gap.first.to_string(),
                "last": gap.last.to_string(),
            });
            (fields, gap.encode().to_vec())
        }
        other => panic!("operation {other}"),
    }
}

#[test]
fn the_vectors_are_read_and_written() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let mut operations = Vec::new();
    for vector in vectors["frames"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let bytes = bytes_of(vector["hex"].as_str().unwrap());
        let (frame, length) = decode(&bytes, usize::MAX).unwrap().unwrap();
        assert_eq!(length, bytes.len(), "{name}");
        let (fields, body) = read(&frame);
        let seen = json!({
            "version": frame.version, "operation": frame.operation, "sequence": frame.sequence,
            "body": fields,
        });
        for (field, value) in seen.as_object().unwrap() {
            assert_eq!(&vector[field], value, "{name}: {field}");
        }
        let written = Frame { body: &body, ..frame };
        assert_eq!(Encoded::frame(&written).for_tcp(), bytes, "{name}");
        operations.push(frame.operation);
    }
    operations.dedup();
    let session = [op::AUTH, op::AUTH_REPLY, op::KEEP, op::AUTH_REPLY];
    let rooms = [op::JOIN, op::JOIN_REPLY, op::ROOM_PUSH, op::LEAVE, op::LEAVE_REPLY, op::GAP];
    assert_eq!(operations, [&session[..], &rooms].concat());
}

proptest! {
    #[test]
    fn any_body_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Some(join) = Join::decode(&body) {
            let encoded = join.encode();
            prop_assert_eq!(Join::decode(&encoded), Some(join));
        }
        if let Some(reply) = JoinReply::decode(&body) {
            let encoded = reply.encode();
            prop_assert_eq!(JoinReply::decode(&encoded).unwrap().outcome, reply.outcome);
        }
        if let Some(push) = RoomPush::decode(&body) {
            prop_assert_eq!(push.body, &body[16..]);
        }
        if let Some(reply) = LeaveReply::decode(&body) {
            prop_assert_eq!(LeaveReply::decode(&reply.encode()), Some(reply));
        }
        if let Some(gap) = RoomGap::decode(&body) {
            prop_assert_eq!(RoomGap::decode(&gap.encode()), Some(gap));
        }
        prop_assert_eq!(Leave::decode(&body).is_some(), body.len() >= 4);
    }

    #[test]
    fn a_room_push_of_any_length_has_the_push_in_it(
        body in prop::collection::vec(any::<u8>(), 0..70_000),
        operation in any::<i32>(),
        sequence in any::<i32>(),
    ) {
        prop_assume!(operation != op::RAW);
        let push = Frame { version: 1, operation, sequence, body: &body };
        let encoded = Encoded::frame(&push).to_room_push(RoomHandle(3), 4);
        let (frame, length) = decode(encoded.for_tcp(), usize::MAX).unwrap().unwrap();
        prop_assert_eq!(length, encoded.for_tcp().len());
        prop_assert_eq!((frame.version, frame.operation, frame.sequence), (2, op::ROOM_PUSH, sequence));
        let expected = RoomPush { handle: RoomHandle(3), operation, offset: 4, body: &body };
        prop_assert_eq!(RoomPush::decode(frame.body), Some(expected));
    }
}
