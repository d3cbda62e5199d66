//! The comets that a node knows, as returned by a poll.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::instance::APP;

/// Most comets taken from one answer.
const COMETS_MAX: usize = 1_024;

/// Ready for requests.
const STATUS_UP: u32 = 1;

/// A comet that is registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisteredComet {
    /// Its server id.
    pub hostname: String,
    /// The addresses of its push service, each `grpc://HOST:PORT`.
    pub addrs: Vec<String>,
    /// Its share of clients relative to other comets.
    pub weight: u32,
    /// The hosts that clients connect to.
    pub hosts: Vec<String>,
    /// Whether clients should not be sent to it.
    pub is_offline: bool,
}

/// The result of a poll.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PollReply {
    /// Code 0: all comets that the node knows.
    Comets {
        /// By hostname, each once.
        comets: Vec<RegisteredComet>,
        /// The timestamp for the next poll.
        timestamp: i64,
    },
    /// Code -304, after half a minute: nothing has changed.
    Unchanged,
    /// The node knows no comet.
    NoInstances,
    /// Another code, or no answer: a sentence.
    Failed(String),
}

/// The form of the answer. A mistake in it affects only one comet.
#[derive(Deserialize)]
struct Body {
    code: i64,
    #[serde(default)]
    message: String,
    data: Option<BTreeMap<String, Option<App>>>,
}

#[derive(Deserialize)]
struct App {
    /// By zone.
    instances: Option<BTreeMap<String, Option<Vec<Value>>>>,
    #[serde(default)]
    latest_timestamp: i64,
}

#[derive(Deserialize)]
struct Registered {
    hostname: String,
    status: u32,
    addrs: Option<Vec<String>>,
    metadata: Option<BTreeMap<String, String>>,
}

impl PollReply {
    /// Reads the body of an answer with HTTP status 200.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        let Body { code, message, data } = match serde_json::from_slice(body) {
            Ok(body) => body,
            Err(error) => {
                return Self::Failed(format!("an answer that is none of discovery: {error}"));
            }
        };
        match code {
            0 => {}
            -304 => return Self::Unchanged,
            -404 => return Self::NoInstances,
            _ => return Self::Failed(format!("code {code} {message:?}")),
        }
        let app = data.and_then(|mut apps| apps.remove(APP).flatten());
        let Some(App { instances: Some(zones), latest_timestamp: timestamp }) = app else {
            return Self::NoInstances;
        };
        // Sorted: nodes list them in any order.
        let mut named = BTreeMap::new();
        for instance in zones.into_values().flatten().flatten() {
            if let Ok(instance) = serde_json::from_value::<Registered>(instance)
                && instance.status == STATUS_UP
            {
                named.entry(instance.hostname.clone()).or_insert(instance);
            }
        }
        let comets: Vec<_> =
            named.into_values().take(COMETS_MAX).map(RegisteredComet::from).collect();
        match comets.is_empty() {
            true => Self::NoInstances,
            false => Self::Comets { comets, timestamp },
        }
    }
}

impl From<Registered> for RegisteredComet {
    fn from(Registered { hostname, addrs, metadata, .. }: Registered) -> Self {
        let metadata = metadata.unwrap_or_default();
        let text = |name: &str| metadata.get(name).map(String::as_str).unwrap_or_default();
        let hosts = text("addrs").split(',').map(str::trim).filter(|host| !host.is_empty());
        Self {
            hostname,
            addrs: addrs.unwrap_or_default(),
            weight: text("weight").parse().unwrap_or(1).max(1),
            hosts: hosts.map(str::to_owned).collect(),
            is_offline: text("offline") == "true",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(hostname: &str) -> RegisteredComet {
        RegisteredComet {
            hostname: hostname.to_owned(),
            addrs: vec!["grpc://192.0.2.1:3109".to_owned()],
            weight: 10,
            hosts: vec!["a.example".to_owned(), "b.example".to_owned()],
            is_offline: false,
        }
    }

    fn instance(hostname: &str) -> Value {
        json!({
            "region": "sh", "zone": "sh001", "env": "dev", "appid": "goim.comet", "version": "",
            "hostname": hostname, "addrs": ["grpc://192.0.2.1:3109"], "status": 1,
            "metadata": { "weight": "10", "addrs": "a.example,b.example", "offline": "false" },
            "reg_timestamp": 1_525_948_297_987_066_289_i64,
        })
    }

    #[test]
    fn comets_of_all_zones_are_found() {
        let check = |zones: Value, expected: &[RegisteredComet]| {
            let app = json!({ "instances": zones, "latest_timestamp": 7 });
            let answer = json!({ "code": 0, "data": { "goim.comet": app, "infra": null } });
            let comets = PollReply::Comets { comets: expected.to_vec(), timestamp: 7 };
            let expected = if expected.is_empty() { PollReply::NoInstances } else { comets };
            assert_eq!(PollReply::read(answer.to_string().as_bytes()), expected);
        };
        let zones = json!({ "sh001": [instance("b"), instance("c")], "sh002": [instance("a")] });
        check(zones, &[found("a"), found("b"), found("c")]);
        // One that waits, one of another form, and a duplicate.
        let mut waits = instance("b");
        waits["status"] = 2.into();
        let zones = json!({ "1": [waits, { "hostname": 7 }, instance("a")], "2": [instance("a")] });
        check(zones, &[found("a")]);
        let mut bare = instance("a");
        (bare["metadata"], bare["addrs"]) = (Value::Null, Value::Null);
        let (addrs, hosts) = (Vec::new(), Vec::new());
        check(json!({ "1": [bare] }), &[RegisteredComet { addrs, hosts, weight: 1, ..found("a") }]);
        check(json!({ "1": null }), &[]);
        check(Value::Null, &[]);
        let many: Vec<_> =
            (0..1_100).rev().map(|number| instance(&format!("{number:04}"))).collect();
        let first: Vec<_> = (0..1_024).map(|number| found(&format!("{number:04}"))).collect();
        check(json!({ "1": many }), &first);
    }

    #[test]
    fn unchanged_empty_and_failed_poll_replies_are_distinguished() {
        assert_eq!(
            PollReply::read(br#"{"code":-304,"message":"-304","ttl":1}"#),
            PollReply::Unchanged
        );
        for nobody in [&br#"{"code":-404}"#[..], br#"{"code":0}"#, br#"{"code":0,"data":{}}"#] {
            assert_eq!(PollReply::read(nobody), PollReply::NoInstances);
        }
        let failed = PollReply::Failed("code -500 \"full\"".to_owned());
        assert_eq!(PollReply::read(br#"{"code":-500,"message":"full"}"#), failed);
        for body in [&b""[..], b"<html>", b"{}", b"[]", br#"{"code":0,"data":7}"#, b"\xff"] {
            assert!(matches!(PollReply::read(body), PollReply::Failed(_)), "{body:?}");
        }
    }
}
