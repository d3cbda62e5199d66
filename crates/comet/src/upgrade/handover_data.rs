//! The former process's data beside the states of its shards, as JSON. A missing field has its default, and an unknown
//! one is ignored, so releases that add fields understand each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use comet_control::{ClusterHandOver, PacedMove};
use serde_json::{Map, Value, json};

use super::{hosts, paced};
use crate::jwks::FetchedSet;

/// Sent with the listeners, while the former process serves. Their descriptors follow, and that of the pid file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Sockets {
    /// In the form of [`comet_listen::names`].
    pub(super) names: String,
    /// Its pid file, whose descriptor comes last; `None`: it has none.
    pub(super) pid_file: Option<PathBuf>,
    /// The time of its shards' clock, microseconds.
    pub(super) clock_us: u64,
    /// Connections that it would hand over now.
    pub(super) connections: u64,
    /// The latest key set that it has fetched from each of `token.jwks_urls`.
    pub(super) key_sets: Vec<FetchedSet>,
}

/// Sent before the shards, once all of them are frozen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Process {
    /// The id of the latest call to its shards.
    pub(super) last_call: u64,
    /// Counts of upgrades, by result.
    pub(super) upgrades: BTreeMap<String, u64>,
    /// Its counters that belong to no shard, as a page of metrics.
    pub(super) counters: String,
    /// Blocked networks, each with the time at which the block ends, by the shards' clock, milliseconds.
    pub(super) blocks: Vec<(String, u64)>,
    /// Paced broadcasts that are under way.
    pub(super) paced: Vec<PacedMove>,
    /// Its state about other hosts, if it has some.
    pub(super) hosts: Option<ClusterHandOver>,
}

impl Sockets {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { names, pid_file, clock_us, connections, key_sets } = self;
        let pid_file = pid_file.as_ref().map(|path| path.to_string_lossy());
        let all = json!({
            "sockets": names,
            "pid_file": pid_file,
            "clock_us": clock_us,
            "connections": connections,
            "key_sets": key_sets,
        });
        all.to_string().into_bytes()
    }

    /// # Errors
    /// If `bytes` are not such an object, in words.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let object = object(bytes)?;
        let text = |name: &str| Some(object.get(name)?.as_str()?.to_owned());
        let key_sets = object.get("key_sets").and_then(Value::as_array);
        let key_set =
            |pair: &Value| Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned()));
        Ok(Self {
            names: text("sockets").unwrap_or_default(),
            pid_file: text("pid_file").map(Into::into),
            clock_us: object.get("clock_us").and_then(Value::as_u64).unwrap_or(0),
            connections: object.get("connections").and_then(Value::as_u64).unwrap_or(0),
            key_sets: key_sets.into_iter().flatten().filter_map(key_set).collect(),
        })
    }
}

impl Process {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { last_call, upgrades, counters, blocks, paced, hosts } = self;
        let paced: Vec<_> = paced.iter().map(paced::to_json).collect();
        let all = json!({
            "last_call": last_call,
            "upgrades": upgrades,
            "counters": counters,
            "blocks": blocks,
            "paced": paced,
            "hosts": hosts.as_ref().map(hosts::to_json),
        });
        all.to_string().into_bytes()
    }

    /// # Errors
    /// As [`Sockets::decode`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let object = object(bytes)?;
        let upgrades = object.get("upgrades").and_then(Value::as_object);
        let count = |(name, count): (&String, &Value)| Some((name.clone(), count.as_u64()?));
        let blocks = object.get("blocks").and_then(Value::as_array);
        let paced = object.get("paced").and_then(Value::as_array);
        let block = |pair: &Value| Some((pair[0].as_str()?.to_owned(), pair[1].as_u64()?));
        Ok(Self {
            last_call: object.get("last_call").and_then(Value::as_u64).unwrap_or(0),
            upgrades: upgrades.into_iter().flatten().filter_map(count).collect(),
            counters: object.get("counters").and_then(Value::as_str).unwrap_or_default().to_owned(),
            blocks: blocks.into_iter().flatten().filter_map(block).collect(),
            paced: paced.into_iter().flatten().filter_map(paced::from_json).collect(),
            hosts: object.get("hosts").and_then(hosts::from_json),
        })
    }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(format!("no object: {other}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for pid_file in [None, Some("/run/comet.pid".into())] {
            let key_sets = vec![("https://a/keys".to_owned(), "{\"keys\":[]}".to_owned())];
            let names = "tcp.bind 0 127.0.0.1:0\n".to_owned();
            let sockets = Sockets { names, pid_file, clock_us: 7, connections: 3, key_sets };
            assert_eq!(Sockets::decode(&sockets.encode()), Ok(sockets));
        }
        let upgrades = [("done".to_owned(), 2), ("late".to_owned(), 1)].into();
        let blocks = vec![("192.0.2.0/24".to_owned(), 7_000)];
        let (paced, hosts) = (vec![paced::example()], Some(hosts::example()));
        let counters = "# TYPE comet_a_total counter\ncomet_a_total{b=\"c\"} 7\n".to_owned();
        let process = Process { last_call: u64::MAX, upgrades, counters, blocks, paced, hosts };
        assert_eq!(Process::decode(&process.encode()), Ok(process));
    }

    #[test]
    fn other_releases_are_understood() {
        assert_eq!(Process::decode(br#"{"later":[1]}"#), Ok(Process::default()));
        Process::decode(b"[]").unwrap_err();
        Process::decode(b"{").unwrap_err();
    }
}
