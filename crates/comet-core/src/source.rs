//! Limits on connections by client address, and the address and subnet in which a connection is counted.

use std::net::IpAddr;

use crate::network::Network;

/// How many connections may come from one address and from one subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Whether connections are counted even if neither is limited. It does not change while a shard runs.
    pub is_census: bool,
    /// Connections of one address; 0: any number.
    pub per_address: u32,
    /// Connections of one subnet; 0: any number.
    pub per_subnet: u32,
    /// Prefix length of a subnet of IPv4. It does not change while a shard runs.
    pub v4_prefix: u8,
    /// Prefix length of a subnet of IPv6. It does not change while a shard runs.
    pub v6_prefix: u8,
    /// Networks that are not counted, such as the network of a load balancer.
    pub exempt: Box<[Network]>,
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self {
            is_census: false,
            per_address: 0,
            per_subnet: 0,
            v4_prefix: 24,
            v6_prefix: 64,
            exempt: [].into(),
        }
    }
}

impl SourceLimits {
    /// Whether connections are counted at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_census || self.per_address > 0 || self.per_subnet > 0
    }

    /// The address and subnet in which a connection from `address` is counted; `None`: it is not counted.
    pub(crate) fn source(&self, address: IpAddr) -> Option<Source> {
        let address = address.to_canonical();
        if !self.is_on() || self.exempt.iter().any(|network| network.contains(address)) {
            return None;
        }
        let prefix = if address.is_ipv4() { self.v4_prefix } else { self.v6_prefix };
        let subnet = Network::around(address, prefix).expect("a prefix of the family");
        Some(Source { address, subnet })
    }

    pub(crate) fn assert_sound(&self) {
        assert!(self.v4_prefix <= 32 && self.v6_prefix <= 128, "a prefix of the family");
    }
}

/// An address and its subnet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Source {
    /// The address. IPv4 is never represented as IPv6.
    pub address: IpAddr,
    /// The subnet that it is in.
    pub subnet: Network,
}
