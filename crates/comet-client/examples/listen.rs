//! Prints the messages for a user, and of a room if one is named: the blocking client. Reconnects when the connection is
//! lost.
//!
//! ```text
//! cargo run -p comet-client --example listen -- tcp 127.0.0.1:8080 42 live://1000
//! cargo run -p comet-client --example listen -- ws 127.0.0.1:8090 42
//! ```

#![allow(clippy::print_stdout, reason = "an example is as short as can be")]

use std::env;
use std::error::Error;

use comet_client::{Event, Options};

const USAGE: &str = "usage: listen tcp|ws HOST:PORT TOKEN [ROOM]";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [transport, address, token, room @ ..] = &arguments[..] else {
        return Err(USAGE.into());
    };
    let options = match &transport[..] {
        "tcp" => Options::tcp(address, &**token),
        "ws" => Options::websocket(address, "/sub", &**token),
        _ => return Err(USAGE.into()),
    };
    let mut listener = options.reconnecting();
    if let Some(room) = room.first() {
        listener.join(room)?;
    }
    for event in listener {
        match event {
            Event::Connected => println!("connected"),
            Event::Message(message) => {
                let body = String::from_utf8_lossy(&message.body);
                println!("operation {}: {body}", message.operation);
            }
            Event::Room { room, outcome } => println!("{room}: {outcome:?}"),
            Event::Left { room } => println!("{room}: left by order of the server"),
            Event::Gap(gap) => {
                println!("{}: {} to {}: {:?}", gap.room, gap.first, gap.last, gap.state);
            }
            Event::Disconnected { reason, retry_in: Some(delay) } => {
                println!("disconnected: {reason}; again in {delay:.1?}");
            }
            Event::Disconnected { reason, retry_in: None } => return Err(reason.into()),
        }
    }
    Ok(())
}
