//! The addresses of clients, and the network that is blocked.

use std::net::IpAddr;

use comet_core::Network;

/// The address of a peer: one of eight addresses in two subnets.
pub(crate) fn address(peer: usize) -> IpAddr {
    [192, 0, 2 + peer as u8 % 2, peer as u8 % 8].into()
}

/// The network that is blocked at times: two of the addresses.
pub(crate) fn blocked() -> Network {
    "192.0.3.0/30".parse().expect("a network")
}
