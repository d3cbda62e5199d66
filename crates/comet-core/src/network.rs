//! Networks of clients, in CIDR notation (RFC 4632, section 3.1; RFC 4291, section 2.3).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A network of addresses. An IPv4 network is never represented as IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Network(IpNet);

impl Network {
    /// The network with a prefix of `prefix` bits that contains `address`. `None`: addresses of that family have fewer
    /// bits.
    #[must_use]
    pub fn around(address: IpAddr, prefix: u8) -> Option<Self> {
        let address = address.to_canonical();
        Some(Self(IpNet::new(address, prefix).ok()?.trunc()))
    }

    /// Its lowest address.
    pub(crate) fn first(&self) -> IpAddr {
        self.0.network()
    }

    /// Whether it contains `address`. An IPv4 address written as IPv6 (`::ffff:192.0.2.1`) counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl From<IpAddr> for Network {
    /// The network of one address.
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical().into())
    }
}

impl FromStr for Network {
    type Err = String;

    /// Reads `10.0.0.0/8`, `2001:db8::/32`, or a single address, which is a network of one. IPv4 written as IPv6 is
    /// read as IPv4. Bits beyond the prefix are ignored, because an operator may have copied the address from a log.
    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            if let Ok(address) = text.parse::<IpAddr>() {
                return Some(address.into());
            }
            let network = text.parse::<IpNet>().ok()?;
            let is_mapped = network.addr().is_ipv6() && network.addr().to_canonical().is_ipv4();
            let mapped_bits = if is_mapped { 96 } else { 0 };
            Self::around(network.addr(), network.prefix_len().checked_sub(mapped_bits)?)
        };
        read().ok_or_else(|| {
            format!("{text:?} is no address and no network: write 192.0.2.7 or 192.0.2.0/24")
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_in_one_form() {
        let check = |text: &str, expected: Option<&str>| {
            let network = text.parse::<Network>().ok();
            assert_eq!(network.map(|network| network.to_string()).as_deref(), expected, "{text}");
        };
        check("192.0.2.7", Some("192.0.2.7/32"));
        check("192.0.2.7/24", Some("192.0.2.0/24"));
        check("::ffff:192.0.2.7", Some("192.0.2.7/32"));
        check("::ffff:192.0.2.7/120", Some("192.0.2.0/24"));
        check("::ffff:192.0.2.7/64", None);
        check("2001:db8::1/64", Some("2001:db8::/64"));
        check("::/0", Some("::/0"));
        for text in ["", "host", "192.0.2.7/33", "192.0.2", "192.0.2.7:80", " 192.0.2.7"] {
            check(text, None);
        }
    }

    #[test]
    fn a_network_has_its_addresses_in_either_form() {
        let check = |network: &str, address: &str, contains: bool| {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), contains, "{network:?}");
        };
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7", "::ffff:192.0.2.7", true);
        check("::ffff:192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7", "192.0.2.8", false);
        check("192.0.2.9/24", "192.0.2.200", true);
        check("192.0.2.0/24", "192.0.3.1", false);
        check("::ffff:192.0.2.0/120", "192.0.2.200", true);
        check("2001:db8::/32", "2001:db8:1::1", true);
    }
}
