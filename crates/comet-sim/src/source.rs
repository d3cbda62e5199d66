//! Where clients connect from, and what of it is blocked.

use std::net::IpAddr;

use comet_core::Network;

/// Where a peer connects from: one of eight addresses in two subnets.
pub(crate) fn address(peer: usize) -> IpAddr {
    [192, 0, 2 + peer as u8 % 2, peer as u8 % 8].into()
}

/// The network that is blocked now and then: two of the addresses.
pub(crate) fn blocked() -> Network {
    "192.0.3.0/30".parse().expect("a network")
}
