//! The registered instance: a comet, in the form that goim's logic and job look for.

use serde_json::json;

use crate::request::Form;

/// The name under which goim's comets are registered.
pub(crate) const APP: &str = "goim.comet";

/// Ready for requests; goim's comets have no other.
const STATUS_UP: &str = "1";

/// A comet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// The region of the zone.
    pub region: String,
    /// The zone; discovery replicates to others.
    pub zone: String,
    /// Instances of one environment do not see those of another.
    pub env: String,
    /// The server id, by which job and logic name the comet.
    pub hostname: String,
    /// The addresses of the push service, each `grpc://HOST:PORT`.
    pub addrs: Vec<String>,
    /// The version of the server.
    pub version: String,
    /// Its share of clients relative to other comets.
    pub weight: u32,
    /// The hosts that clients connect to.
    pub hosts: Vec<String>,
}

/// The counts reported for an instance.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Census {
    /// Client connections.
    pub connections: u64,
    /// Distinct addresses of clients.
    pub addresses: u64,
}

impl Instance {
    /// The parameters common to all requests; `renew` and `cancel` need no more.
    pub(crate) fn identity(&self) -> Form {
        vec![
            ("region", self.region.clone()),
            ("zone", self.zone.clone()),
            ("env", self.env.clone()),
            ("appid", APP.to_owned()),
            ("hostname", self.hostname.clone()),
        ]
    }

    /// Parameters of `register`.
    pub(crate) fn whole(&self, census: Census) -> Form {
        let mut form = self.identity();
        form.push(("status", STATUS_UP.to_owned()));
        form.push(("version", self.version.clone()));
        form.extend(self.addrs.iter().map(|address| ("addrs", address.clone())));
        form.push(("metadata", self.metadata(census)));
        form
    }

    /// Parameters of `set`.
    pub(crate) fn changed(&self, census: Census) -> Form {
        let mut form = self.identity();
        form.push(("metadata", self.metadata(census)));
        form
    }

    /// goim's logic ignores an instance without all five fields, and accepts numbers only as text of 32 bits.
    fn metadata(&self, census: Census) -> String {
        let count = |count: u64| count.min(i32::MAX as u64).to_string();
        json!({
            "weight": self.weight.to_string(),
            "offline": "false",
            "addrs": self.hosts.join(","),
            "conn_count": count(census.connections),
            "ip_count": count(census.addresses),
        })
        .to_string()
    }
}
