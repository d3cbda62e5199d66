//! `comet ctl`: what an operator does to a running server, from a command line.

use std::error::Error;

use comet_wire::comet::v1::node_client::NodeClient;
use comet_wire::comet::v1::push_client::PushClient as Pushes;
use comet_wire::comet::v1::push_stream_req::{Keys, Users};
use comet_wire::comet::v1::{
    BlockReq, CancelBroadcastReq, CancelMoveOffReq, DrainReq, KickReply, KickReq, ListBlocksReq,
    ListBroadcastsReq, MoveOffReq, NodeStatus, StatusReq, UnblockReq, UndrainReq, kick_req,
};
use comet_wire::goim::comet::Ledger;
use serde_json::{Map, Value, json};

use crate::args::{Ctl, EXIT_NO_MATCH, KickTarget, Order};
use crate::caller::{PushClient, PushError};
use crate::helpers::connect;
use crate::output::{Reader, print};

/// What a call answers with: fields by name, in the order in which they are printed.
type Record = Vec<(&'static str, Value)>;

/// Carries out an order and prints the answer. Returns the exit code.
///
/// # Errors
/// If the token cannot be read, no server answers, or it refuses.
pub fn ctl(ctl: &Ctl) -> Result<u8, Box<dyn Error>> {
    let client = connect(&ctl.api)?;
    let show = |records: &[Record]| print_all(records, ctl.json);
    let mut code = 0;
    match &ctl.order {
        Order::Drain { wait: true, .. } => {
            let mut status = order_drain(&client, &ctl.order)?;
            while show(&[described(&status)])? == Reader::Present
                && !matches!(&*status.phase, "drained" | "serving")
            {
                client.pause();
                status = client.ask(StatusReq {}, async |channel, request| {
                    NodeClient::new(channel).status(request).await
                })?;
            }
        }
        Order::Kick { target, reason, retry_after_ms } => {
            let target = Some(target_of(target));
            let request =
                KickReq { target, reason: reason.clone(), retry_after_ms: *retry_after_ms };
            let KickReply { closed, absent, not_closed } = client
                .ask(request, async |channel, request| Pushes::new(channel).kick(request).await)?;
            let not_closed: Map<String, Value> = not_closed
                .into_iter()
                .map(|(reason, connections)| (reason, connections.into()))
                .collect();
            show(&[vec![
                ("closed", closed.into()),
                ("absent", absent.into()),
                ("not_closed", not_closed.into()),
            ]])?;
            code = if closed == 0 { EXIT_NO_MATCH } else { 0 };
        }
        order => {
            show(&answer(&client, order)?)?;
        }
    }
    Ok(code)
}

/// Makes the call of an order that has nothing more to it.
fn answer(client: &PushClient, order: &Order) -> Result<Vec<Record>, PushError> {
    let status = match order {
        Order::Drain { .. } => order_drain(client, order)?,
        Order::Status => client.ask(StatusReq {}, async |channel, request| {
            NodeClient::new(channel).status(request).await
        })?,
        Order::Undrain => client.ask(UndrainReq {}, async |channel, request| {
            NodeClient::new(channel).undrain(request).await
        })?,
        Order::MoveOff { count, per_second, retry_after_ms } => {
            let (count, per_second, retry_after_ms) = (*count, *per_second, *retry_after_ms);
            let request = MoveOffReq { count, per_second, retry_after_ms };
            client.ask(request, async |channel, request| {
                NodeClient::new(channel).move_off(request).await
            })?
        }
        Order::CancelMoveOff => client.ask(CancelMoveOffReq {}, async |channel, request| {
            NodeClient::new(channel).cancel_move_off(request).await
        })?,
        other => return listed(client, other),
    };
    Ok(vec![described(&status)])
}

/// Makes the call of an order that is not about the state of the server.
fn listed(client: &PushClient, order: &Order) -> Result<Vec<Record>, PushError> {
    Ok(match order {
        Order::Block { address, seconds, kick } => {
            let request = BlockReq { address: address.clone(), seconds: *seconds, kick: *kick };
            let reply = client.ask(request, async |channel, request| {
                NodeClient::new(channel).block(request).await
            })?;
            vec![vec![("closed", reply.closed.into())]]
        }
        Order::Unblock { address } => {
            let request = UnblockReq { address: address.clone() };
            client.ask(request, async |channel, request| {
                NodeClient::new(channel).unblock(request).await
            })?;
            Vec::new()
        }
        Order::Broadcasts => {
            let reply = client.ask(ListBroadcastsReq {}, async |channel, request| {
                Pushes::new(channel).list_broadcasts(request).await
            })?;
            let broadcasts = reply.broadcasts.iter().map(|broadcast| {
                vec![
                    ("id", broadcast.id.into()),
                    ("operation", broadcast.proto_op.into()),
                    ("speed", broadcast.speed.into()),
                    ("since_ms", broadcast.since_ms.into()),
                ]
            });
            broadcasts.collect()
        }
        Order::Cancel { id } => {
            let reply = client.ask(CancelBroadcastReq { id: *id }, async |channel, request| {
                Pushes::new(channel).cancel_broadcast(request).await
            })?;
            let Ledger { matched, queued, dropped, .. } = reply.ledger.unwrap_or_default();
            vec![vec![
                ("matched", matched.into()),
                ("queued", queued.into()),
                ("dropped", json!(dropped)),
            ]]
        }
        // The others are handled above.
        _ => {
            let reply = client.ask(ListBlocksReq {}, async |channel, request| {
                NodeClient::new(channel).list_blocks(request).await
            })?;
            let blocks = reply.blocks.into_iter().map(|block| {
                vec![("address", block.address.into()), ("seconds_left", block.seconds_left.into())]
            });
            blocks.collect()
        }
    })
}

fn order_drain(client: &PushClient, order: &Order) -> Result<NodeStatus, PushError> {
    let Order::Drain { delay_ms, per_second, retry_after_ms, keep_clients, .. } = order else {
        unreachable!("it is a drain");
    };
    let request = DrainReq {
        delay_ms: *delay_ms,
        per_second: *per_second,
        retry_after_ms: *retry_after_ms,
        keep_clients: *keep_clients,
    };
    client.ask(request, async |channel, request| NodeClient::new(channel).drain(request).await)
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
