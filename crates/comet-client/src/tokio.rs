//! The asynchronous client, on tokio: the same calls, timeouts and delays as those of the blocking one.
//!
//! [`Client::connect`] makes one connection; [`Listener::new`] one that is remade whenever it is lost. Each belongs to
//! one task. Their futures may be dropped before they end, as `select!` does: no message is lost, and no byte is sent
//! twice.
//!
//! ```no_run
//! # async fn example() -> Result<(), comet_client::Error> {
//! use comet_client::Options;
//! use comet_client::tokio::Client;
//!
//! let mut client = Client::connect(&Options::tcp("127.0.0.1:8080", "42")).await?;
//! client.add_room("live://1000").await?;
//! while let Some(message) = client.receive().await? {
//!     println!("{:?}: {} bytes", message.room, message.body.len());
//! }
//! # Ok(())
//! # }
//! ```

mod client;
mod listener;
mod stream;

pub use client::Client;
pub use listener::Listener;
