//! [`Redis`]: sessions in one or several Redis servers, in the layout of goim v2's logic, so that
//! both can look at the same data.
//!
//! | key | kind | holds | node |
//! |---|---|---|---|
//! | `mid_<user>` | hash | key -> server, for each session of a user | the user's |
//! | `key_<key>` | text | server | the key's |
//! | `ol_<server>` | hash | room counts, as JSON in the fields "0" to "63" | the server's |
//!
//! These are goim's. Beside them comet keeps what goim has no place for:
//!
//! | key | kind | holds | node |
//! |---|---|---|---|
//! | `seq_<user>` | number | the user's last session | the user's |
//! | `exp_<user>` | index | keys of the user's sessions, by when they expire: a hash expires whole | the user's |
//! | `own_<key>` | text | the user a key belongs to | the key's |
//! | `srv_<server>` | index | keys of a server | those of its keys |
//! | `comet_users`, `comet_servers` | index | users and servers | all |
//!
//! A session stands in two places, with its user and with its key, and what happens to both is not
//! one step. The key decides. A session is listed with its user before the key is claimed, and who
//! claims a key removes it from the list of whoever had it: so calls that overlap may leave the
//! winner unlisted until it is renewed, but never a loser listed.
//!
//! A user's node is that of `mid_<user>` on the ring, and likewise a key's and a server's. All of
//! them expire with the store's lifetime. Sessions that goim's logic wrote are found by key and
//! user, renewed and ended; they are not counted.

mod node;
mod online;
mod ring;
mod scripts;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Pipeline;
use tokio::time::Instant;

use self::node::Node;
use self::ring::Ring;
use self::scripts::Scripts;
use crate::{Counts, Placed, ROOM_COUNTS_LIFETIME_MAX, Sessions, StoreError, UserSessions};

/// Users, keys or sessions in one command: enough to make round trips cheap, few enough that Redis,
/// which does one thing at a time, answers others soon.
const BATCH: usize = 256;
/// Servers whose room counts are read in one round trip.
const ONLINE_BATCH: usize = 16;

/// How a [`Redis`] store works.
#[derive(Clone, Debug)]
pub struct Options {
    /// The servers, as `redis://[user:password@]host[:port][/database]`. Users and keys are spread
    /// over them by a consistent-hash ring on which a server stands by host, port and database.
    pub servers: Vec<String>,
    /// After how long a session expires that nobody renews; at least 1 ms.
    pub lifetime: Duration,
    /// How long a call may take.
    pub deadline: Duration,
}

/// Sessions in Redis servers, which several logic services can share.
pub struct Redis {
    nodes: Vec<Node>,
    ring: Ring,
    scripts: Scripts,
    lifetime: Duration,
    deadline: Duration,
}

impl Redis {
    /// A store in `options.servers`. Connects to none of them yet: the first call to each does, and
    /// whenever a connection is lost the next one does again.
    ///
    /// # Errors
    /// [`StoreError::BadAddress`] if an address is none or listed twice, or there are none.
    ///
    /// # Panics
    /// If `options.lifetime` is less than 1 ms.
    pub fn new(options: &Options) -> Result<Self, StoreError> {
        assert!(options.lifetime >= Duration::from_millis(1), "sessions live for a while");
        let bad = |sentence: &str| StoreError::BadAddress { sentence: sentence.to_owned() };
        if options.servers.is_empty() {
            return Err(bad("a session store in Redis needs an address"));
        }
        let nodes: Result<Vec<Node>, StoreError> =
            options.servers.iter().map(|url| Node::new(url, options.deadline)).collect();
        let nodes = nodes?;
        for (at, node) in nodes.iter().enumerate() {
            if nodes[..at].iter().any(|earlier| earlier.name() == node.name()) {
                return Err(bad(&format!("the session store {} is listed twice", node.name())));
            }
        }
        let ring = Ring::new(nodes.iter().map(Node::name));
        let Options { lifetime, deadline, .. } = *options;
        Ok(Self { nodes, ring, scripts: Scripts::new(), lifetime, deadline })
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

    fn until(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// Lists a session with its user; `count` gives it a number.
    async fn list(
        &self,
        user: i64,
        key: &str,
        server: &str,
        mode: &str,
        until: Instant,
    ) -> Result<Placed, StoreError> {
        let mut script = self.scripts.list.prepare_invoke();
        script.arg(user).arg(key).arg(server).arg(millis(self.lifetime)).arg(mode);
        let node = &self.nodes[self.user_node(user)];
        let (sequence, key) = node.script(&script, until).await?;
        Ok(Placed { sequence, key })
    }

    /// Makes a key this user's and server's, and says whether it is now. Where it was before, it is
    /// no longer listed.
    async fn claim(
        &self,
        user: i64,
        key: &str,
        server: &str,
        mode: &str,
        until: Instant,
    ) -> Result<bool, StoreError> {
        let mut script = self.scripts.claim.prepare_invoke();
        script.arg(key).arg(user).arg(server).arg(millis(self.lifetime)).arg(mode);
        let node = &self.nodes[self.key_node(key)];
        let (ours, former, owner): (bool, Option<String>, Option<i64>) =
            node.script(&script, until).await?;
        if let Some(former) = former {
            let owner = owner.unwrap_or(user);
            if (owner, former.as_str()) != (user, server) {
                self.unlist(&former, &[(key.to_owned(), owner)], until).await?;
            }
        }
        Ok(ours)
    }

    /// Removes sessions of `server` from their users' lists.
    async fn unlist(
        &self,
        server: &str,
        sessions: &[(String, i64)],
        until: Instant,
    ) -> Result<(), StoreError> {
        for (node, sessions) in self.grouped(sessions, |(_, user)| self.user_node(*user)) {
            let mut script = self.scripts.unlist.prepare_invoke();
            script.arg(server).arg(millis(self.lifetime));
            for (key, user) in sessions {
                script.arg(user).arg(key);
            }
            self.nodes[node].script::<()>(&script, until).await?;
        }
        Ok(())
    }

    /// `items` by their nodes.
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

    /// Users of a node, and its servers with their sessions there.
    async fn count(
        &self,
        node: &Node,
        until: Instant,
    ) -> Result<(u64, Vec<(String, u64)>), StoreError> {
        node.script(&self.scripts.count.prepare_invoke(), until).await
    }
}

impl Sessions for Redis {
    async fn put(&self, user: i64, key: &str, server: &str) -> Result<Placed, StoreError> {
        let until = self.until();
        let placed = self.list(user, key, server, "count", until).await?;
        self.claim(user, &placed.key, server, "take", until).await?;
        Ok(placed)
    }

    async fn del(&self, user: i64, key: &str, server: &str) -> Result<bool, StoreError> {
        let until = self.until();
        let mut script = self.scripts.release.prepare_invoke();
        script.arg(key).arg(user).arg(server);
        let held = self.nodes[self.key_node(key)].script(&script, until).await?;
        self.unlist(server, &[(key.to_owned(), user)], until).await?;
        Ok(held)
    }

    async fn renew(&self, user: i64, key: &str, server: &str) -> Result<bool, StoreError> {
        let until = self.until();
        if !self.claim(user, key, server, "keep", until).await? {
            return Ok(false);
        }
        self.list(user, key, server, "keep", until).await?;
        // Taken away in between, it must not stay listed.
        let ours = self.claim(user, key, server, "keep", until).await?;
        if !ours {
            self.unlist(server, &[(key.to_owned(), user)], until).await?;
        }
        Ok(ours)
    }

    async fn servers_of_keys(&self, keys: &[&str]) -> Result<Vec<Option<String>>, StoreError> {
        let until = self.until();
        let mut servers = vec![None; keys.len()];
        let places: Vec<usize> = (0..keys.len()).collect();
        for (node, places) in self.grouped(&places, |&at| self.key_node(keys[at])) {
            for places in places.chunks(BATCH) {
                let mut pipeline = Pipeline::new();
                let mget = pipeline.cmd("MGET");
                for &&at in places {
                    mget.arg(format!("key_{}", keys[at]));
                }
                let (found,): (Vec<Option<String>>,) =
                    self.nodes[node].pipeline(&pipeline, until).await?;
                for (&&at, server) in places.iter().zip(found) {
                    servers[at] = server;
                }
            }
        }
        Ok(servers)
    }

    async fn sessions_of(&self, users: &[i64]) -> Result<Vec<UserSessions>, StoreError> {
        let until = self.until();
        let mut answer: Vec<UserSessions> = users.iter().map(|&user| (user, Vec::new())).collect();
        let places: Vec<usize> = (0..users.len()).collect();
        for (node, places) in self.grouped(&places, |&at| self.user_node(users[at])) {
            for places in places.chunks(BATCH) {
                let mut script = self.scripts.read.prepare_invoke();
                for &&at in places {
                    script.arg(users[at]);
                }
                let found: Vec<Vec<(String, String)>> =
                    self.nodes[node].script(&script, until).await?;
                for (&&at, mut sessions) in places.iter().zip(found) {
                    sessions.sort_unstable();
                    answer[at].1 = sessions;
                }
            }
        }
        Ok(answer)
    }

    async fn del_server(&self, server: &str) -> Result<u64, StoreError> {
        self.add_room_counts(server, &HashMap::new()).await?;
        let mut ended = 0;
        for node in &self.nodes {
            loop {
                let until = self.until();
                let mut script = self.scripts.take.prepare_invoke();
                script.arg(server).arg(BATCH);
                let (taken, freed): (usize, Vec<(String, i64)>) =
                    node.script(&script, until).await?;
                ended += freed.len() as u64;
                self.unlist(server, &freed, until).await?;
                if taken < BATCH {
                    break;
                }
            }
        }
        Ok(ended)
    }

    async fn add_room_counts(
        &self,
        server: &str,
        rooms: &HashMap<String, u32>,
    ) -> Result<(), StoreError> {
        let updated = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut script = self.scripts.rooms.prepare_invoke();
        script.arg(server);
        script.arg(millis(self.lifetime.min(ROOM_COUNTS_LIFETIME_MAX)));
        script.arg(millis(self.lifetime));
        for (field, document) in online::encode(server, rooms, updated.cast_signed()) {
            script.arg(field).arg(document);
        }
        self.nodes[self.server_node(server)].script(&script, self.until()).await
    }

    async fn room_counts(&self) -> Result<HashMap<String, u32>, StoreError> {
        let until = self.until();
        let mut sums: HashMap<String, u32> = HashMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let (_, servers) = self.count(node, until).await?;
            let servers = servers.into_iter().map(|(server, _)| server);
            let servers: Vec<String> =
                servers.filter(|server| self.server_node(server) == at).collect();
            for servers in servers.chunks(ONLINE_BATCH) {
                let mut pipeline = Pipeline::new();
                for server in servers {
                    pipeline.cmd("HVALS").arg(format!("ol_{server}"));
                }
                let found: Vec<Vec<String>> = node.pipeline(&pipeline, until).await?;
                for (server, documents) in servers.iter().zip(found) {
                    let rooms =
                        online::decode(&documents).map_err(|error| StoreError::Foreign {
                            node: node.name().to_owned(),
                            name: format!("ol_{server}"),
                            sentence: error.to_string(),
                        })?;
                    for (room, count) in rooms {
                        let sum = sums.entry(room).or_default();
                        *sum = sum.saturating_add(count);
                    }
                }
            }
        }
        Ok(sums)
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        let until = self.until();
        let mut counts = Counts::default();
        for node in &self.nodes {
            let (users, servers) = self.count(node, until).await?;
            counts.users += users;
            for (server, sessions) in servers.into_iter().filter(|(_, sessions)| *sessions > 0) {
                counts.sessions += sessions;
                *counts.by_server.entry(server).or_default() += sessions;
            }
        }
        Ok(counts)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Redis")
            .field("nodes", &self.nodes)
            .field("lifetime", &self.lifetime)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// Milliseconds, as Redis takes them: beyond some thousand years it refuses.
fn millis(duration: Duration) -> u64 {
    const MAX: u64 = 1 << 46;
    duration.as_millis().try_into().unwrap_or(MAX).min(MAX)
}
