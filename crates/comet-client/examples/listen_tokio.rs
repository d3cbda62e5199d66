//! Prints the messages for a user and of rooms, on tokio, until Ctrl-C. Reconnects when the connection is lost, and asks for
//! what came meanwhile.
//!
//! ```text
//! cargo run -p comet-client --example listen_tokio -- tcp 127.0.0.1:8080 42 live://1000 live://1001
//! cargo run -p comet-client --example listen_tokio -- ws 127.0.0.1:8090 42
//! ```

#![allow(clippy::print_stdout, reason = "an example is as short as can be")]

use std::env;
use std::error::Error;

use comet_client::tokio::Listener;
use comet_client::{Event, Options};

const USAGE: &str = "usage: listen_tokio tcp|ws HOST:PORT TOKEN [ROOM...]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [transport, address, token, rooms @ ..] = &arguments[..] else {
        return Err(USAGE.into());
    };
    let options = match &transport[..] {
        "tcp" => Options::tcp(address, &**token),
        "ws" => Options::websocket(address, "/sub", &**token),
        _ => return Err(USAGE.into()),
    };
    let mut listener = Listener::new(options);
    for room in rooms {
        listener.add_room(room).await?;
    }
    let stopper = listener.stopper();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stopper.stop();
    });
    while let Some(event) = listener.next().await {
        match event {
            Event::Connected => println!("connected"),
            Event::Room { room, outcome: Ok(joined) } => println!("in {room}: {joined:?}"),
            Event::Room { room, outcome: Err(reason) } => println!("not in {room}: {reason}"),
            Event::Left { room } => println!("out of {room} by order of the server"),
            Event::Gap(gap) => {
                println!("{}: {} to {}: {:?}", gap.room, gap.first, gap.last, gap.state);
            }
            Event::Message(message) => {
                let body = String::from_utf8_lossy(&message.body);
                let room = message.room.as_deref().unwrap_or("no room");
                println!("operation {}, {room}: {body}", message.operation);
            }
            Event::Disconnected { reason, retry_in: Some(delay) } => {
                println!("disconnected: {reason}; again in {delay:.1?}");
            }
            Event::Disconnected { reason, retry_in: None } => return Err(reason.into()),
        }
    }
    Ok(())
}
