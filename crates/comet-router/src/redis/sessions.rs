//! The calls of the [`Sessions`] trait, in terms of the scripts.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use redis::Pipeline;

use super::{Redis, millis, online};
use crate::error::StoreError;
use crate::sessions::{
    Buckets, Placed, ROOM_COUNTS_LIFETIME_MAX, SessionCounts, Sessions, UserSessions,
};

/// Most users, keys or sessions in one command. It is enough to make round trips cheap, and few
/// enough that Redis, which executes one command at a time, is not blocked for long.
const BATCH: usize = 256;
/// Most servers whose room counts are read in one round trip.
const ONLINE_BATCH: usize = 16;

impl Redis {
    /// The members of all rooms in `buckets`.
    async fn sums_of(&self, buckets: Buckets) -> Result<HashMap<String, u32>, StoreError> {
        // The call is long if there are many rooms, so each part of it has the deadline.
        let mut sums: HashMap<String, u32> = HashMap::new();
        if buckets == Buckets(0) {
            return Ok(sums);
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let (_, servers) = self.count(node, self.deadline()).await?;
            let servers = servers.into_iter().map(|(server, _)| server);
            let servers: Vec<String> =
                servers.filter(|server| self.server_node(server) == at).collect();
            for servers in servers.chunks(ONLINE_BATCH) {
                let mut pipeline = Pipeline::new();
                for server in servers {
                    let name = format!("ol_{server}");
                    match buckets {
                        Buckets::ALL => pipeline.cmd("HVALS").arg(name),
                        buckets => pipeline.cmd("HMGET").arg(name).arg(fields(buckets)),
                    };
                }
                let found: Vec<Vec<Option<String>>> =
                    node.pipeline(&pipeline, self.deadline()).await?;
                for (server, documents) in servers.iter().zip(found) {
                    let documents: Vec<String> = documents.into_iter().flatten().collect();
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
}

/// The names of the fields in Redis.
fn fields(buckets: Buckets) -> Vec<u32> {
    (0..Buckets::COUNT).filter(|bucket| buckets.contains(*bucket)).collect()
}

impl Sessions for Redis {
    async fn put(&self, user: i64, key: &str, server: &str) -> Result<Placed, StoreError> {
        let deadline = self.deadline();
        let placed = self.list(user, key, server, "count", deadline).await?;
        self.claim(user, &placed.key, server, "take", deadline).await?;
        Ok(placed)
    }

    async fn del(&self, user: i64, key: &str, server: &str) -> Result<bool, StoreError> {
        let deadline = self.deadline();
        let mut script = self.scripts.release.prepare_invoke();
        script.arg(key).arg(user).arg(server);
        let was_owner = self.nodes[self.key_node(key)].script(&script, deadline).await?;
        self.unlist(server, &[(key.to_owned(), user)], deadline).await?;
        Ok(was_owner)
    }

    async fn renew(&self, user: i64, key: &str, server: &str) -> Result<bool, StoreError> {
        let deadline = self.deadline();
        if !self.claim(user, key, server, "keep", deadline).await? {
            return Ok(false);
        }
        self.list(user, key, server, "keep", deadline).await?;
        // Another owner may have claimed the key in between; then the session must not stay listed.
        let is_owner = self.claim(user, key, server, "keep", deadline).await?;
        if !is_owner {
            self.unlist(server, &[(key.to_owned(), user)], deadline).await?;
        }
        Ok(is_owner)
    }

    async fn servers_of_keys(&self, keys: &[&str]) -> Result<Vec<Option<String>>, StoreError> {
        let deadline = self.deadline();
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
                    self.nodes[node].pipeline(&pipeline, deadline).await?;
                for (&&at, server) in places.iter().zip(found) {
                    servers[at] = server;
                }
            }
        }
        Ok(servers)
    }

    async fn sessions_of(&self, users: &[i64]) -> Result<Vec<UserSessions>, StoreError> {
        let deadline = self.deadline();
        let mut answer: Vec<UserSessions> = users.iter().map(|&user| (user, Vec::new())).collect();
        let places: Vec<usize> = (0..users.len()).collect();
        for (node, places) in self.grouped(&places, |&at| self.user_node(users[at])) {
            for places in places.chunks(BATCH) {
                let mut script = self.scripts.read.prepare_invoke();
                for &&at in places {
                    script.arg(users[at]);
                }
                let found: Vec<Vec<(String, String)>> =
                    self.nodes[node].script(&script, deadline).await?;
                for (&&at, mut sessions) in places.iter().zip(found) {
                    sessions.sort_unstable();
                    answer[at].1 = sessions;
                }
            }
        }
        Ok(answer)
    }

    async fn del_server(&self, server: &str) -> Result<u64, StoreError> {
        self.add_room_counts(server, Buckets::ALL, &HashMap::new()).await?;
        let mut ended = 0;
        for node in &self.nodes {
            loop {
                let deadline = self.deadline();
                let mut script = self.scripts.take.prepare_invoke();
                script.arg(server).arg(BATCH);
                let (taken, freed): (usize, Vec<(String, i64)>) =
                    node.script(&script, deadline).await?;
                ended += freed.len() as u64;
                self.unlist(server, &freed, deadline).await?;
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
        buckets: Buckets,
        rooms: &HashMap<String, u32>,
    ) -> Result<(), StoreError> {
        let updated = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut script = self.scripts.rooms.prepare_invoke();
        script.arg(server);
        script.arg(millis(self.lifetime.min(ROOM_COUNTS_LIFETIME_MAX)));
        script.arg(millis(self.lifetime));
        for (field, document) in online::encode(server, buckets, rooms, updated.cast_signed()) {
            script.arg(field).arg(document);
        }
        self.nodes[self.server_node(server)].script(&script, self.deadline()).await
    }

    async fn room_counts(&self) -> Result<HashMap<String, u32>, StoreError> {
        self.sums_of(Buckets::ALL).await
    }

    async fn members_of(&self, rooms: &[String]) -> Result<Vec<u32>, StoreError> {
        let buckets = rooms.iter().fold(0, |buckets, room| buckets | 1 << Buckets::of(room));
        let sums = self.sums_of(Buckets(buckets)).await?;
        Ok(rooms.iter().map(|room| sums.get(room).copied().unwrap_or_default()).collect())
    }

    async fn counts(&self) -> Result<SessionCounts, StoreError> {
        let deadline = self.deadline();
        let mut counts = SessionCounts::default();
        for node in &self.nodes {
            let (users, servers) = self.count(node, deadline).await?;
            counts.users += users;
            for (server, sessions) in servers.into_iter().filter(|(_, sessions)| *sessions > 0) {
                counts.sessions += sessions;
                *counts.by_server.entry(server).or_default() += sessions;
            }
        }
        Ok(counts)
    }
}
