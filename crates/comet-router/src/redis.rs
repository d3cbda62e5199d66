//! [`Redis`]: sessions in one or several Redis servers, in the layout of goim v2's logic, so that
//! both services can use the same data.
//!
//! | key | kind | holds | node |
//! |---|---|---|---|
//! | `mid_<user>` | hash | key -> server, for each session of a user | the user's |
//! | `key_<key>` | text | server | the key's |
//! | `ol_<server>` | hash | room counts, as JSON in the fields "0" to "63" | the server's |
//!
//! These are goim's keys. comet adds others for what goim does not store:
//!
//! | key | kind | holds | node |
//! |---|---|---|---|
//! | `seq_<user>` | number | the sequence of the user's last session | the user's |
//! | `exp_<user>` | index | keys of the user's sessions by their expiry; a hash only expires as a whole | the user's |
//! | `own_<key>` | text | the user a key belongs to | the key's |
//! | `srv_<server>` | index | keys of a server | those of its keys |
//! | `comet_users`, `comet_servers` | index | users and servers | all |
//!
//! A session is stored in two places, with its user and with its key, and the two are not updated
//! in one step. The key decides who owns it. A session is listed with its user before its key is
//! claimed, and a claim removes the key from the list of its former owner. So overlapping calls may
//! leave the new owner unlisted until it is renewed, but they never leave a former owner listed.
//!
//! The node of a user is that of `mid_<user>` on the ring, and likewise for keys and servers. All
//! entries expire after the store's lifetime. Sessions that goim's logic wrote are found by key and
//! user, renewed and ended; they are not counted.

mod deadline;
mod endpoint;
mod health;
mod node;
mod online;
mod ring;
mod scripts;
mod sessions;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use self::node::RedisNode;
use self::ring::NodeRing;
use self::scripts::Scripts;
use crate::error::StoreError;
use crate::sessions::{Placed, ServerState};

/// The settings of a [`Redis`] store.
#[derive(Clone)]
pub struct RedisOptions {
    /// The servers, as `redis://[user:password@]host[:port][/database]`, with TLS as `rediss://`, or
    /// behind sentinels as `redis+sentinel://[user:password@]host[:port],.../master[/database]` and
    /// `rediss+sentinel://`. Users and keys are spread over them by a consistent-hash ring, on which
    /// host, port and database, or master and database, are the name of a server.
    pub servers: Vec<String>,
    /// The certificate authorities of servers with TLS, as PEM; `None`: those of the system.
    pub ca: Option<Vec<u8>>,
    /// The lifetime of a session that is not renewed; at least 1 ms.
    pub lifetime: Duration,
    /// The time limit of a call. A process that was stopped meanwhile first reads the input that has arrived.
    pub timeout: Duration,
}

/// Leaves out the servers, whose addresses may contain passwords.
impl fmt::Debug for RedisOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedisOptions")
            .field("lifetime", &self.lifetime)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Sessions in Redis servers. Several logic services can share them.
pub struct Redis {
    nodes: Vec<RedisNode>,
    ring: NodeRing,
    scripts: Scripts,
    lifetime: Duration,
    timeout: Duration,
}

impl Redis {
    /// A store in `options.servers`. It does not connect yet: the first call to a server does, and
    /// so does the next call after a lost connection.
    ///
    /// # Errors
    /// [`StoreError::BadAddress`] if an address is invalid or listed twice, or there is none.
    ///
    /// # Panics
    /// If `options.lifetime` is less than 1 ms.
    pub fn new(options: &RedisOptions) -> Result<Self, StoreError> {
        assert!(
            options.lifetime >= Duration::from_millis(1),
            "the lifetime of sessions is at least 1 ms"
        );
        let bad = |sentence: &str| StoreError::BadAddress { sentence: sentence.to_owned() };
        if options.servers.is_empty() {
            return Err(bad("a session store in Redis needs an address"));
        }
        let ca = options.ca.as_deref();
        let nodes: Result<Vec<RedisNode>, StoreError> =
            options.servers.iter().map(|url| RedisNode::new(url, ca, options.timeout)).collect();
        let nodes = nodes?;
        for (at, node) in nodes.iter().enumerate() {
            if nodes[..at].iter().any(|earlier| earlier.name() == node.name()) {
                return Err(bad(&format!("the session store {} is listed twice", node.name())));
            }
        }
        let ring = NodeRing::new(nodes.iter().map(RedisNode::name));
        let RedisOptions { lifetime, timeout, .. } = *options;
        Ok(Self { nodes, ring, scripts: Scripts::new(), lifetime, timeout })
    }

    /// The state of each server.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerState> {
        self.nodes.iter().map(RedisNode::state).collect()
    }

    fn user_node(&self, user: i64) -> usize {
        self.ring.node(&format!("mid_{user}"))
    }

    fn key_node(&self, key: &str) -> usize {
        self.ring.node(&format!("key_{key}"))
    }

    fn server_node(&self, server: &str) -> usize {
        self.ring.node(&format!("ol_{server}"))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Lists a session with its user. With the mode `count` it gets a new sequence.
    async fn list(
        &self,
        user: i64,
        key: &str,
        server: &str,
        mode: &str,
        deadline: Instant,
    ) -> Result<Placed, StoreError> {
        let mut script = self.scripts.list.prepare_invoke();
        script.arg(user).arg(key).arg(server).arg(millis(self.lifetime)).arg(mode);
        let node = &self.nodes[self.user_node(user)];
        let (sequence, key) = node.script(&script, deadline).await?;
        Ok(Placed { sequence, key })
    }

    /// Gives a key to this user and server, and returns whether they own it now. Removes it from
    /// the list of its former owner.
    async fn claim(
        &self,
        user: i64,
        key: &str,
        server: &str,
        mode: &str,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let mut script = self.scripts.claim.prepare_invoke();
        script.arg(key).arg(user).arg(server).arg(millis(self.lifetime)).arg(mode);
        let node = &self.nodes[self.key_node(key)];
        let (is_owner, former_server, owner): (bool, Option<String>, Option<i64>) =
            node.script(&script, deadline).await?;
        if let Some(former_server) = former_server {
            let owner = owner.unwrap_or(user);
            if (owner, former_server.as_str()) != (user, server) {
                self.unlist(&former_server, &[(key.to_owned(), owner)], deadline).await?;
            }
        }
        Ok(is_owner)
    }

    /// Removes sessions of `server` from their users' lists.
    async fn unlist(
        &self,
        server: &str,
        sessions: &[(String, i64)],
        deadline: Instant,
    ) -> Result<(), StoreError> {
        for (node, sessions) in self.grouped(sessions, |(_, user)| self.user_node(*user)) {
            let mut script = self.scripts.unlist.prepare_invoke();
            script.arg(server).arg(millis(self.lifetime));
            for (key, user) in sessions {
                script.arg(user).arg(key);
            }
            self.nodes[node].script::<()>(&script, deadline).await?;
        }
        Ok(())
    }

    /// `items`, grouped by their nodes.
    fn grouped<'a, T>(
        &self,
        items: &'a [T],
        node: impl Fn(&T) -> usize,
    ) -> BTreeMap<usize, Vec<&'a T>> {
        let mut groups: BTreeMap<usize, Vec<&T>> = BTreeMap::new();
        for item in items {
            groups.entry(node(item)).or_default().push(item);
        }
        groups
    }

    /// The number of users on a node, and its servers with the numbers of their sessions there.
    async fn count(
        &self,
        node: &RedisNode,
        deadline: Instant,
    ) -> Result<(u64, Vec<(String, u64)>), StoreError> {
        node.script(&self.scripts.count.prepare_invoke(), deadline).await
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Redis")
            .field("nodes", &self.nodes)
            .field("lifetime", &self.lifetime)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A duration in milliseconds, for Redis. It is limited to some thousand years, because Redis
/// refuses more.
fn millis(duration: Duration) -> u64 {
    const MAX: u64 = 1 << 46;
    duration.as_millis().try_into().unwrap_or(MAX).min(MAX)
}
