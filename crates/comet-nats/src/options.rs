//! The options of a connection.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectOptions, Event, ServerAddr};
use comet_hub::cluster::HostName;
use tokio::sync::mpsc;

use crate::CLIENT_MESSAGES_MAX;

/// Time between two attempts to connect: the first, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Most messages of one subscription that wait for the reader. The client reports an overflow through a queue with few
/// places, so it should never overflow: the client reads at most 8 MiB, 128 times its buffer, before the reader gets
/// its turn, and a message has at least 20 bytes. The queue takes memory only for waiting messages.
const SUBSCRIPTION_MAX: usize = 1 << 19;
/// A connection without any input for two of these intervals is considered dead.
const PING: Duration = Duration::from_secs(5);

/// What the engine is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// URLs of servers of one cluster: `nats://HOST:PORT`, or `tls://HOST:PORT`.
    pub servers: Vec<String>,
    /// The credentials of this host.
    pub auth: Auth,
    /// Files of authorities in PEM; empty: those of the system.
    pub authorities: Vec<PathBuf>,
    /// The prefix of all subjects, without the last dot.
    pub prefix: String,
    /// The name of this host.
    pub host: HostName,
    /// Whether a key has one owner on all hosts.
    pub sessions: bool,
    /// The stream of shared histories. `None`: hosts share none.
    pub stream: Option<StreamOptions>,
}

/// The settings with which the stream is made if it does not exist. An existing one is not changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamOptions {
    /// Bytes of all its messages. A further message replaces the oldest.
    pub bytes: u64,
    /// How long it keeps a message.
    pub age: Duration,
    /// Servers that keep a copy of it.
    pub replicas: usize,
}

/// The credentials of a host.
#[derive(Clone, Default)]
pub enum Auth {
    /// None.
    #[default]
    None,
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
    /// The seed of an nkey.
    Nkey(String),
    /// The text of a credentials file.
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

/// Why the options cannot be used, as a sentence.
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
                // Fails only if the reader has ended.
                let _ = states.send(event);
                std::future::ready(())
            });
        for file in self.authorities {
            options = options.add_root_certificates(file);
        }
        Ok(options.connect(servers))
    }
}

/// The pause before the next attempt to connect. It is drawn from its upper half, so that hosts do not all come back to
/// a server at the same time and then announce all their rooms at once.
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
