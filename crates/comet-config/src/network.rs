//! Networks in CIDR notation (RFC 4632, section 3.1; RFC 4291, section 2.3).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// Its first address; IPv4 is never written as IPv6.
    pub address: IpAddr,
    /// Leading bits all its addresses share: up to 32, with IPv6 up to 128.
    pub bits: u8,
}

impl Network {
    /// Whether `address` is in it. An IPv4 address written as IPv6 (`::ffff:192.0.2.1`), as a listener
    /// for both families reports it, counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(mine), IpAddr::V4(other)) => {
                let differing = mine.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(mine), IpAddr::V6(other)) => {
                let differing = mine.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }

    /// The same network by its first address.
    fn masked(self) -> Self {
        let bits = u32::from(self.bits);
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        };
        Self { address, bits: self.bits }
    }
}

impl FromStr for Network {
    type Err = String;

    /// Reads `10.0.0.0/8`, `2001:db8::/32`, or an address alone, which is a network of one.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a network: write one like \"10.0.0.0/8\"");
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        if address.to_canonical() != address {
            return Err(format!("{text:?} is IPv4 written as IPv6: write it as IPv4"));
        }
        let network = Self { address, bits };
        match network.masked() {
            masked if masked == network => Ok(network),
            masked => Err(format!("{text:?} is an address inside {masked}: write that network")),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        let check = |network: &str, inside: &[&str], outside: &[&str]| {
            let network: Network = network.parse().unwrap();
            for (addresses, expected) in [(inside, true), (outside, false)] {
                for address in addresses {
                    let found = network.contains(address.parse().unwrap());
                    assert_eq!(found, expected, "{network} {address}");
                }
            }
        };
        check(
            "10.0.0.0/8",
            &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"],
            &["11.0.0.0", "9.255.255.255", "::a00:1", "::1"],
        );
        check("192.0.2.7", &["192.0.2.7", "::ffff:192.0.2.7"], &["192.0.2.6"]);
        check("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::", "::1"]);
        check("2001:db8::/33", &["2001:db8:7fff::1"], &["2001:db8:8000::", "10.0.0.1"]);
        check("::/0", &["::", "ffff::"], &["10.0.0.1", "::ffff:10.0.0.1"]);
        check("::1", &["::1"], &["::2"]);
    }

    #[test]
    fn networks_are_written_as_they_are_read() {
        let check = |text: &str, written: &str| {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), written);
        };
        check("10.0.0.0/8", "10.0.0.0/8");
        check("192.0.2.7", "192.0.2.7/32");
        check("::1", "::1/128");
        check("2001:DB8::/32", "2001:db8::/32");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let check = |text: &str, what: &str| {
            assert_eq!(text.parse::<Network>(), Err(format!("{text:?} {what}")));
        };
        for text in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/", "10/8", "10.0.0.0/+8", "/8"] {
            check(text, "is not a network: write one like \"10.0.0.0/8\"");
        }
        check("10.0.0.1/8", "is an address inside 10.0.0.0/8: write that network");
        check("::1/64", "is an address inside ::/64: write that network");
        check("::ffff:10.0.0.0/104", "is IPv4 written as IPv6: write it as IPv4");
    }
}
