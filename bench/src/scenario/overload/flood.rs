//! Floods by one client, which does one thing as often as the server lets it.

use std::io::{ErrorKind, Read, Write};

use comet_client::Transport;

use super::attacker::Attacker;
use crate::Result;
use crate::visitor::{Visitor, connect, reset};

/// Frames written before the answers are read: fewer than answers may wait (`protocol.cli_proto`).
const BATCH: usize = 64;

/// Floods until the attack is over, with the frame of each number in turn, beginning again after two batches; returns
/// the number of frames sent. If the server closes the client, it connects again.
pub(super) fn run(
    attacker: &Attacker,
    transport: Transport,
    frame: impl Fn(usize) -> Vec<u8>,
) -> Result<u64> {
    let address = match transport {
        Transport::Tcp => attacker.endpoints.tcp,
        Transport::WebSocket => attacker.websocket(),
    };
    let batches =
        [0, BATCH].map(|first| (first..first + BATCH).flat_map(&frame).collect::<Vec<u8>>());
    let mut sent = 0;
    let mut answers = vec![0; 64 << 10];
    while !attacker.is_over() {
        let token = r#"{"mid":7000000,"key":"flood","room_id":"overload://0","accepts":[1]}"#;
        let mut visitor = Visitor::enter(address, transport, token)?;
        attacker.set_under_way();
        while !attacker.is_over() {
            if visitor.stream.write_all(&batches[sent as usize / BATCH % 2]).is_err() {
                break;
            }
            sent += BATCH as u64;
            // The first answers to this batch, and whatever else has arrived.
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

/// Begins TLS handshakes, one after the other, and leaves once the server has computed its part; returns their number.
pub(super) fn handshakes(attacker: &Attacker) -> Result<u64> {
    let mut made = 0;
    while !attacker.is_over() {
        let hello = attacker.tls()?.hello()?;
        let mut stream = connect(attacker.endpoints.tcp)?;
        stream.write_all(&hello)?;
        // The answer contains the server's certificate.
        if stream.read(&mut [0; 4096])? == 0 {
            return Err("the server refuses a handshake".into());
        }
        made += 1;
        attacker.set_under_way();
    }
    Ok(made)
}

/// Sends the ClientHello of a TLS handshake on one connection after the other, and resets each at once; returns their number.
pub(super) fn abandoned_hellos(attacker: &Attacker) -> Result<u64> {
    let hello = attacker.tls()?.hello()?;
    let mut made = 0;
    while !attacker.is_over() {
        let mut stream = connect(attacker.endpoints.tcp)?;
        stream.write_all(&hello)?;
        reset(stream)?;
        made += 1;
        attacker.set_under_way();
    }
    Ok(made)
}
