//! How to connect.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectOptions, Event, ServerAddr};
use comet_hub::cluster::HostName;
use tokio::sync::mpsc;

use crate::CLIENT_MESSAGES_MAX;

/// Time between two attempts to connect, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Messages of one subscription that may wait for the reader. The client tells of those beyond by a queue that has no room for many, so
/// it is never to come to that: the client reads at most 8 MiB, 128 times its buffer, before the reader gets its turn,
/// and a message has 20 bytes or more. The queue takes memory only for what waits.
const SUBSCRIPTION_MAX: usize = 1 << 19;
/// A connection on which nothing came back for two of these is taken for dead.
const PING: Duration = Duration::from_secs(5);

/// What the engine is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// URLs of servers of one cluster: `nats://HOST:PORT`, or `tls://HOST:PORT`.
    pub servers: Vec<String>,
    /// How this host proves who it is.
    pub auth: Auth,
    /// Files of authorities in PEM; empty: those of the system.
    pub authorities: Vec<PathBuf>,
    /// Before all subjects, without the last dot.
    pub prefix: String,
    /// The name of this host.
    pub host: HostName,
    /// Whether a key has one owner on all hosts.
    pub sessions: bool,
    /// The stream of the histories that hosts share. `None`: they share none.
    pub stream: Option<StreamOptions>,
}

/// What the stream is made with if it is not there. One that is there stays as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamOptions {
    /// Bytes of all its messages. One more takes the place of the oldest.
    pub bytes: u64,
    /// How long it keeps a message.
    pub age: Duration,
    /// Servers that keep a copy of it.
    pub replicas: usize,
}

/// How a host proves who it is.
#[derive(Clone, Default)]
pub enum Auth {
    /// It does not.
    #[default]
    None,
    /// By a user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// By a token.
    Token(String),
    /// By the seed of an nkey.
    Nkey(String),
    /// By the text of a credentials file.
    Credentials(String),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password { .. } => "Password",
            Self::Token(_) => "Token",
            Self::Nkey(_) => "Nkey",
            Self::Credentials(_) => "Credentials",
        })
    }
}

/// Options that cannot be used, as a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadOptions(String);

impl fmt::Display for BadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadOptions {}

impl Options {
    /// Begins to connect. Changes of the connection go to `states`.
    pub(crate) fn connect(
        self,
        states: mpsc::UnboundedSender<Event>,
    ) -> Result<impl Future<Output = Result<Client, ConnectError>>, BadOptions> {
        let servers = self.servers.iter().map(|server| {
            let bad = |error| BadOptions(format!("{server:?} is no URL of a NATS server: {error}"));
            server.parse::<ServerAddr>().map_err(bad)
        });
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        let options = match self.auth {
            Auth::None => ConnectOptions::new(),
            Auth::Password { user, password } => {
                ConnectOptions::with_user_and_password(user, password)
            }
            Auth::Token(token) => ConnectOptions::with_token(token),
            Auth::Nkey(seed) => ConnectOptions::with_nkey(seed),
            Auth::Credentials(text) => {
                ConnectOptions::with_credentials(&text).map_err(|error| {
                    BadOptions(format!("these are no credentials of NATS: {error}"))
                })?
            }
        };
        let mut options = options
            .name(format!("comet {}", self.host))
            .no_echo()
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(retry_pause)
            .ping_interval(PING)
            .subscription_capacity(SUBSCRIPTION_MAX)
            .client_capacity(CLIENT_MESSAGES_MAX)
            .event_callback(move |event| {
                // Fails only when the reader has ended.
                let _ = states.send(event);
                std::future::ready(())
            });
        for file in self.authorities {
            options = options.add_root_certificates(file);
        }
        Ok(options.connect(servers))
    }
}

/// The pause before the next attempt to connect. It is drawn from its upper half, so that hosts do not come back to a server in step, where each
/// tells the others all its rooms.
fn retry_pause(attempts: usize) -> Duration {
    let shift = u32::try_from(attempts.min(16)).unwrap_or(16);
    let longest = RETRY_MAX.min(RETRY_MIN * 2_u32.pow(shift));
    rand::random_range(longest / 2..=longest)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn hosts_do_not_come_back_to_a_server_in_step() {
        for (attempts, longest_ms) in [(0, 50), (1, 100), (5, 1_600), (6, 2_000), (1_000, 2_000)] {
            let longest = Duration::from_millis(longest_ms);
            let pauses: HashSet<Duration> = (0..100).map(|_| retry_pause(attempts)).collect();
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)));
            assert!(pauses.len() > 50, "{} of 100 differ", pauses.len());
        }
    }
}
