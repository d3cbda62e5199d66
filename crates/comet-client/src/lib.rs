//! A client of comet, and of every server that speaks goim's wire, over TCP and WebSocket.
//!
//! [`Options`] holds the address of the server and the token of the user. [`Options::connect`] makes a blocking
//! [`Client`]; [`Options::reconnecting`] makes a [`Listener`], which reconnects whenever the connection is lost. With
//! the feature `tokio` the module of that name has both for asynchronous programs. Programs with I/O of their own use
//! the [`Session`]: only the protocol, bytes in and out, for any number of connections.
//!
//! A [`Pusher`] is for push callers: it pushes to the clients of a comet (`push.frames`).
//!
//! With the feature `tls`, on by default, [`Options::tls`] adds TLS under either transport.
//!
//! ```
//! use std::time::Duration;
//!
//! # use std::io::{Read, Write};
//! # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let address = listener.local_addr()?.to_string();
//! # let server = std::thread::spawn(move || {
//! #     let mut stream = listener.accept().unwrap().0;
//! #     let mut auth = [0; 18];
//! #     stream.read_exact(&mut auth).unwrap();
//! #     stream.write_all(b"\0\0\0\x10\0\x10\0\x01\0\0\0\x08\0\0\0\x01").unwrap();
//! #     let mut join = [0; 27];
//! #     stream.read_exact(&mut join).unwrap();
//! #     stream.write_all(b"\0\0\0\x10\0\x10\0\x01\0\0\0\x0d\0\0\0\x02").unwrap();
//! #     stream.write_all(b"\0\0\0\x15\0\x10\0\x01\0\0\0\x05\0\0\0\0hello").unwrap();
//! # });
//! // The address is a server's, such as "127.0.0.1:8080"; "42" is the token of user 42.
//! let mut client = comet_client::Options::tcp(address, "42")
//!     .heartbeat(Duration::from_secs(30))
//!     .connect()?;
//! client.join("live://1000")?;
//! while let Some(message) = client.receive()? {
//!     println!("{}: {}", message.operation, String::from_utf8_lossy(&message.body));
//!     # assert_eq!((message.operation, &message.body[..]), (5, &b"hello"[..]));
//! }
//! # server.join().unwrap();
//! # Ok::<_, comet_client::Error>(())
//! ```
//!
//! **Invariant:** nothing here knows what is inside a server; of comet's crates it uses only
//! `comet-proto`.

mod backoff;
mod block_on;
mod client;
mod connection;
mod error;
mod inbox;
mod listener;
mod options;
mod pusher;
mod reconnect;
mod retry_after;
mod room_news;
mod session;
mod socket;
mod stop;
mod stream;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tokio")]
pub mod tokio;
mod websocket;

pub use backoff::Backoff;
pub use client::Client;
pub use comet_proto::push_frame::{PushLedger, PushTarget};
pub use comet_proto::{
    AuthReply, Frame, FrameFault, KeptSession, NotRenewed, Position, Resumed, RoomRefusal, op,
};
pub use connection::SEND_BODY_MAX;
#[cfg(feature = "tls")]
pub use error::TlsError;
pub use error::{Error, Permanent, SessionError, WebSocketFault};
pub use inbox::Message;
pub use listener::Listener;
pub use options::Options;
pub use pusher::{PushOutcome, PushRefused, Pusher};
pub use reconnect::Event;
pub use room_news::{Gap, GapState, Joined};
pub use session::{Arrival, BODY_MAX_DEFAULT, Origin, Session, Transport};
pub use stop::Stopper;
#[cfg(feature = "tls")]
pub use tls::TlsOptions;
