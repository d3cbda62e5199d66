//! Networks in CIDR notation (RFC 4632, section 3.1; RFC 4291, section 2.3) in a configuration. They are read more
//! strictly than those in an operator's call, because a mistake stays for months.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A network. It is written with its first address, and IPv4 is never written as IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network(IpNet);

impl Network {
    /// Whether the network contains `address`. An IPv4 address written as IPv6 (`::ffff:192.0.2.1`), as a listener for
    /// both families reports it, counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// The network as an address and a prefix length.
    #[must_use]
    pub fn prefix(&self) -> IpNet {
        self.0
    }
}

impl FromStr for Network {
    type Err = String;

    /// Reads `10.0.0.0/8`, `2001:db8::/32`, or a single address, which is a network of one.
    fn from_str(text: &str) -> Result<Self, String> {
        let alone = text.parse::<IpAddr>().map(IpNet::from);
        let network = alone
            .or_else(|_| text.parse::<IpNet>())
            .map_err(|_| format!("{text:?} is not a network: write one like \"10.0.0.0/8\""))?;
        if network.addr().to_canonical() != network.addr() {
            return Err(format!("{text:?} is IPv4 written as IPv6: write it as IPv4"));
        }
        match network.trunc() {
            first if first == network => Ok(Self(network)),
            first => Err(format!("{text:?} is an address inside {first}: write that network")),
        }
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
    fn text_that_is_no_network_is_refused() {
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
