//! Floods by one client: it does one thing as often as the server lets it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr};

use comet_client::Transport;

use super::attacker::Attacker;
use crate::Result;
use crate::message::{HEADER_LEN, OP_CHANGE_ROOM, OP_HEARTBEAT, append_header};
use crate::tls::Tls;
use crate::visitor::{Visitor, connect};

/// Frames written before the answers are read: fewer than answers may wait (`protocol.cli_proto`).
const BATCH: usize = 64;
/// Body of the largest frame (`protocol.body_max`), and its operation: a message for logic.
const LARGEST: usize = 4096;
const OP_SEND: i32 = 4;
/// Operation of a subscription, whose body is a list of operations.
const OP_SUBSCRIBE: i32 = 14;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flood {
    Heartbeats,
    RoomChanges,
    Subscriptions,
    LargestFrames,
    Pings,
}

/// Floods until the attack is over; gives the frames that were sent. A client that the server has closed connects
/// again.
pub(super) fn run(attacker: &Attacker, flood: Flood) -> Result<u64> {
    let (transport, address) = match flood {
        Flood::Pings => (
            Transport::WebSocket,
            attacker.endpoints.websocket.ok_or("the server has no WebSocket listener")?,
        ),
        _ => (Transport::Tcp, attacker.endpoints.tcp),
    };
    let batches = [0, 1].map(|odd| batch(flood, odd));
    let mut sent = 0;
    let mut answers = vec![0; 64 << 10];
    while !attacker.signs.is_over() {
        let token = r#"{"mid":7000000,"key":"flood","room_id":"overload://0","accepts":[1]}"#;
        let mut visitor = Visitor::enter(address, transport, token)?;
        attacker.signs.set_under_way();
        while !attacker.signs.is_over() {
            if visitor.stream.write_all(&batches[sent as usize / BATCH % 2]).is_err() {
                break;
            }
            sent += BATCH as u64;
            // The first answers to this batch, and whatever else has come.
            match visitor.stream.read(&mut answers) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    }
    Ok(sent)
}

/// Frames that are sent together, others for odd ones.
fn batch(flood: Flood, odd: usize) -> Vec<u8> {
    let mut batch = Vec::new();
    for number in 0..BATCH {
        let (operation, body) = match flood {
            Flood::Heartbeats => (OP_HEARTBEAT, Vec::new()),
            Flood::RoomChanges => {
                (OP_CHANGE_ROOM, format!("overload://{}", number * 2 + odd).into_bytes())
            }
            Flood::Subscriptions => (OP_SUBSCRIBE, (2 + number % 32).to_string().into_bytes()),
            Flood::LargestFrames => (OP_SEND, vec![b'x'; LARGEST - HEADER_LEN]),
            // A masked ping without a payload (RFC 6455, section 5.5.2).
            Flood::Pings => {
                batch.extend([0x89, 0x80, 0, 0, 0, 0]);
                continue;
            }
        };
        append_header(operation, 1, body.len(), &mut batch);
        batch.extend(body);
    }
    batch
}

/// Begins TLS handshakes, one after the other, and leaves when the server has computed its part; gives how many.
pub(super) fn handshakes(attacker: &Attacker) -> Result<u64> {
    let trust = attacker.endpoints.tls.as_ref().ok_or("the server has no TLS")?;
    let mut made = 0;
    while !attacker.signs.is_over() {
        let hello = Tls::new(trust, IpAddr::from(Ipv4Addr::LOCALHOST))?.hello()?;
        let mut stream = connect(attacker.endpoints.tcp)?;
        stream.write_all(&hello)?;
        // Its certificate is in it.
        if stream.read(&mut [0; 4096])? == 0 {
            return Err("the server refuses a handshake".into());
        }
        made += 1;
        attacker.signs.set_under_way();
    }
    Ok(made)
}
