//! `comet ctl`: the orders of an operator to a running server, from a command line.

mod lists;

use std::collections::BTreeMap;
use std::error::Error;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comet_push::trace_fields;
use comet_wire::comet::v1::inspect_client::InspectClient;
use comet_wire::comet::v1::node_client::NodeClient;
use comet_wire::comet::v1::push_client::PushClient as Pushes;
use comet_wire::comet::v1::push_stream_req::{Keys, Users};
use comet_wire::comet::v1::trace_req::Subject;
use comet_wire::comet::v1::{
    BlockReq, CancelBroadcastReq, CancelMoveOffReq, ChangeRoomsReply, ChangeRoomsReq, CountsReply,
    CountsReq, DrainReq, HistoryEntry, HistoryReply, HistoryReq, KickReply, KickReq, ListBlocksReq,
    ListBroadcastsReq, MoveOffReq, NodeStatus, StatusReq, TraceReply, TraceReq, UnblockReq,
    UndrainReq, change_rooms_req, kick_req,
};
use comet_wire::goim::comet::Ledger;
use serde_json::{Value, json};

use self::lists::{Record, members, rooms, unanswered};
use crate::args::{Ctl, Drain, EXIT_NO_MATCH, KickTarget, Order, RoomChange, TraceSubject};
use crate::blocking_client::{PushClient, PushError};
use crate::output::{Reader, print};
use crate::pusher::connect;

/// Carries out an order and prints the answer. Returns the exit code.
///
/// # Errors
/// If the token cannot be read, no server answers, or it refuses.
pub fn ctl(ctl: &Ctl) -> Result<u8, Box<dyn Error>> {
    let client = connect(&ctl.api)?;
    let records = match &ctl.order {
        Order::Drain(order) if order.wait => return wait(&client, order, ctl.json),
        Order::Kick { target, reason, retry_after_ms } => {
            let target = Some(target_of(target));
            let (reason, retry_after_ms) = (reason.clone(), *retry_after_ms);
            let reply = kick(&client, KickReq { target, reason, retry_after_ms })?;
            print_all(&[kicked(&reply)], ctl.json)?;
            return Ok(if reply.closed == 0 { EXIT_NO_MATCH } else { 0 });
        }
        Order::Join(change) | Order::Leave(change) => {
            let is_join = matches!(ctl.order, Order::Join(_));
            let reply = change_rooms(&client, change, is_join)?;
            print_all(&[changed(&reply)], ctl.json)?;
            return Ok(if reply.changed == 0 { EXIT_NO_MATCH } else { 0 });
        }
        Order::Counts { rooms } => vec![counted(&counts(&client, rooms)?)],
        Order::Members { room, cursor, limit } => members(&client, room, cursor, *limit)?,
        Order::Rooms { prefix, after, limit } => rooms(&client, prefix, after, *limit)?,
        Order::Drain(order) => vec![described(&drain(&client, order)?)],
        Order::Status => vec![described(&status(&client)?)],
        Order::Undrain => vec![described(&undrain(&client)?)],
        Order::MoveOff { count, per_second, retry_after_ms } => {
            let (count, per_second, retry_after_ms) = (*count, *per_second, *retry_after_ms);
            let order = MoveOffReq { count, per_second, retry_after_ms };
            vec![described(&move_off(&client, order)?)]
        }
        Order::CancelMoveOff => vec![described(&cancel_move_off(&client)?)],
        Order::Block { address, seconds, kick } => {
            let order = BlockReq { address: address.clone(), seconds: *seconds, kick: *kick };
            vec![block(&client, order)?]
        }
        Order::Unblock { address } => {
            unblock(&client, address.clone())?;
            Vec::new()
        }
        Order::Blocks => blocks(&client)?,
        Order::Trace { subject, seconds } => {
            return trace(&client, subject.clone(), *seconds, ctl.json);
        }
        Order::Broadcasts => broadcasts(&client)?,
        Order::History { room, before, limit } => history(&client, room, *before, *limit)?,
        Order::Cancel { id } => vec![cancel(&client, *id)?],
    };
    print_all(&records, ctl.json)?;
    Ok(0)
}

/// Drains, and prints the progress until no client is left or the drain is withdrawn.
fn wait(client: &PushClient, order: &Drain, is_json: bool) -> Result<u8, Box<dyn Error>> {
    let mut now = drain(client, order)?;
    while print_all(&[described(&now)], is_json)? == Reader::Present
        && !matches!(&*now.phase, "drained" | "serving")
    {
        client.pause();
        now = status(client)?;
    }
    Ok(0)
}

fn status(client: &PushClient) -> Result<NodeStatus, PushError> {
    client
        .ask(StatusReq {}, async |channel, request| NodeClient::new(channel).status(request).await)
}

fn drain(client: &PushClient, order: &Drain) -> Result<NodeStatus, PushError> {
    let Drain { delay_ms, per_second, retry_after_ms, keep_clients, wait: _ } = *order;
    let request = DrainReq { delay_ms, per_second, retry_after_ms, keep_clients };
    client.ask(request, async |channel, request| NodeClient::new(channel).drain(request).await)
}

fn undrain(client: &PushClient) -> Result<NodeStatus, PushError> {
    client.ask(UndrainReq {}, async |channel, request| {
        NodeClient::new(channel).undrain(request).await
    })
}

fn move_off(client: &PushClient, order: MoveOffReq) -> Result<NodeStatus, PushError> {
    client.ask(order, async |channel, request| NodeClient::new(channel).move_off(request).await)
}

fn cancel_move_off(client: &PushClient) -> Result<NodeStatus, PushError> {
    client.ask(CancelMoveOffReq {}, async |channel, request| {
        NodeClient::new(channel).cancel_move_off(request).await
    })
}

fn kick(client: &PushClient, order: KickReq) -> Result<KickReply, PushError> {
    client.ask(order, async |channel, request| Pushes::new(channel).kick(request).await)
}

fn change_rooms(
    client: &PushClient,
    change: &RoomChange,
    is_join: bool,
) -> Result<ChangeRoomsReply, PushError> {
    let RoomChange { rooms, keys, users } = change.clone();
    let target = Some(match keys.is_empty() {
        false => change_rooms_req::Target::Keys(Keys { keys }),
        true => change_rooms_req::Target::Users(Users { users }),
    });
    client.ask(ChangeRoomsReq { target, rooms }, async |channel, request| {
        let mut pushes = Pushes::new(channel);
        if is_join { pushes.join_rooms(request).await } else { pushes.leave_rooms(request).await }
    })
}

fn counts(client: &PushClient, rooms: &[String]) -> Result<CountsReply, PushError> {
    let request = CountsReq { rooms: rooms.to_vec() };
    client.ask(request, async |channel, request| Pushes::new(channel).counts(request).await)
}

fn counted(reply: &CountsReply) -> Record {
    let rooms: BTreeMap<_, _> = reply.rooms.iter().collect();
    let mut record = vec![("clients", reply.clients.into()), ("rooms", json!(rooms))];
    record.extend(unanswered(&reply.unanswered));
    record
}

fn block(client: &PushClient, order: BlockReq) -> Result<Record, PushError> {
    let reply = client
        .ask(order, async |channel, request| NodeClient::new(channel).block(request).await)?;
    Ok(vec![("closed", reply.closed.into())])
}

fn unblock(client: &PushClient, address: String) -> Result<(), PushError> {
    let request = UnblockReq { address };
    client
        .ask(request, async |channel, request| NodeClient::new(channel).unblock(request).await)?;
    Ok(())
}

fn blocks(client: &PushClient) -> Result<Vec<Record>, PushError> {
    let reply = client.ask(ListBlocksReq {}, async |channel, request| {
        NodeClient::new(channel).list_blocks(request).await
    })?;
    let blocks = reply.blocks.into_iter().map(|block| {
        vec![("address", block.address.into()), ("seconds_left", block.seconds_left.into())]
    });
    Ok(blocks.collect())
}

/// Prints the events of a live trace as they come.
fn trace(
    client: &PushClient,
    subject: TraceSubject,
    seconds: u32,
    is_json: bool,
) -> Result<u8, Box<dyn Error>> {
    let subject = Some(match subject {
        TraceSubject::Key { key } => Subject::Key(key),
        TraceSubject::User { user } => Subject::User(user),
        TraceSubject::Room { room } => Subject::RoomId(room),
        TraceSubject::Address { address } => Subject::Address(address),
    });
    let mut replies = client.ask(TraceReq { subject, seconds }, async |channel, request| {
        NodeClient::new(channel).trace(request).await
    })?;
    while let Some(TraceReply { events, missed }) = client.next_of(&mut replies)? {
        let mut records: Vec<_> = events.into_iter().map(trace_fields).collect();
        records.extend((missed > 0).then(|| vec![("missed", missed.into())]));
        if print_all(&records, is_json)? == Reader::Left {
            break;
        }
    }
    Ok(0)
}

fn broadcasts(client: &PushClient) -> Result<Vec<Record>, PushError> {
    let reply = client.ask(ListBroadcastsReq {}, async |channel, request| {
        Pushes::new(channel).list_broadcasts(request).await
    })?;
    let broadcasts = reply.broadcasts.iter().map(|broadcast| {
        let mut record = vec![
            ("id", broadcast.id.into()),
            ("operation", broadcast.proto_op.into()),
            ("speed", broadcast.speed.into()),
            ("since_ms", broadcast.since_ms.into()),
        ];
        if !broadcast.name.is_empty() {
            record.push(("name", broadcast.name.as_str().into()));
        }
        record
    });
    Ok(broadcasts.collect())
}

/// Prints the position of a room, then the pushes on the page.
fn history(
    client: &PushClient,
    room: &str,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<Record>, PushError> {
    let request = HistoryReq { room: room.to_owned(), before: before.unwrap_or(0), limit };
    let reply = client.ask(request, async |channel, request| {
        InspectClient::new(channel).history(request).await
    })?;
    let HistoryReply { epoch, offset, entries, next } = reply;
    let epoch = epoch.map(|epoch| format!("{epoch:016x}"));
    let next = (next > 0).then_some(next);
    let position = vec![("epoch", json!(epoch)), ("offset", offset.into()), ("next", json!(next))];
    let record = |HistoryEntry { offset, operation, body, age_ms }| {
        let body = match String::from_utf8(body) {
            Ok(text) => ("body", text.into()),
            Err(error) => ("body_base64", STANDARD.encode(error.as_bytes()).into()),
        };
        vec![
            ("offset", Value::from(offset)),
            ("operation", operation.into()),
            ("age_ms", age_ms.into()),
            body,
        ]
    };
    Ok([position].into_iter().chain(entries.into_iter().map(record)).collect())
}

fn cancel(client: &PushClient, id: u64) -> Result<Record, PushError> {
    let reply = client.ask(CancelBroadcastReq { id }, async |channel, request| {
        Pushes::new(channel).cancel_broadcast(request).await
    })?;
    let ledger = reply.ledger.unwrap_or_default();
    let Ledger { matched, queued, dropped, .. } = ledger;
    let mut record = vec![
        ("matched", Value::from(matched)),
        ("queued", queued.into()),
        ("dropped", json!(dropped)),
    ];
    record.extend(unanswered(&ledger.unanswered));
    Ok(record)
}

fn kicked(reply: &KickReply) -> Record {
    // Sorted by name, because the reasons come in any order.
    let not_closed: BTreeMap<_, _> = reply.not_closed.iter().collect();
    let mut record = vec![
        ("closed", reply.closed.into()),
        ("absent", reply.absent.into()),
        ("not_closed", json!(not_closed)),
    ];
    if reply.parked > 0 {
        record.push(("parked", reply.parked.into()));
    }
    record.extend(unanswered(&reply.unanswered));
    record
}

fn changed(reply: &ChangeRoomsReply) -> Record {
    let not_reached: BTreeMap<_, _> = reply.not_reached.iter().collect();
    let mut record = vec![
        ("changed", reply.changed.into()),
        ("unchanged", reply.unchanged.into()),
        ("refused", reply.refused.into()),
        ("absent", reply.absent.into()),
        ("not_reached", json!(not_reached)),
    ];
    record.extend(unanswered(&reply.unanswered));
    record
}

fn target_of(target: &KickTarget) -> kick_req::Target {
    match target.clone() {
        KickTarget::Key { keys } => kick_req::Target::Keys(Keys { keys }),
        KickTarget::User { users } => kick_req::Target::Users(Users { users }),
        KickTarget::Room { room } => kick_req::Target::RoomId(room),
        KickTarget::Address { address } => kick_req::Target::Address(address),
    }
}

fn described(status: &NodeStatus) -> Record {
    vec![
        ("phase", status.phase.clone().into()),
        ("connections", status.connections.into()),
        ("moving_off", status.moving_off.into()),
        ("per_second", status.per_second.into()),
        ("delay_left_ms", status.delay_left_ms.into()),
        ("keeps_clients", status.keeps_clients.into()),
    ]
}

/// A line for each record: its JSON, or names and values.
fn print_all(records: &[Record], is_json: bool) -> Result<Reader, String> {
    for record in records {
        let line = match is_json {
            true => {
                let fields = record.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
                Value::Object(fields.collect()).to_string()
            }
            false => {
                let texts = record.iter().map(|(name, value)| match value {
                    Value::String(text) => format!("{name} {text}"),
                    value => format!("{name} {value}"),
                });
                texts.collect::<Vec<_>>().join(" ")
            }
        };
        if print(line)? == Reader::Left {
            return Ok(Reader::Left);
        }
    }
    Ok(Reader::Present)
}
