//! Source addresses of connections: a list of addresses and ranges, used in turn.

use std::net::{AddrParseError, IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most addresses in a range: a mistyped range must not fill the memory.
const RANGE_MAX: u32 = 65_536;
/// Connections from one loopback address: connect(2) looks for a free port in the even half of the usual range first,
/// 14,116 ports, and takes a millisecond and more when that is nearly full.
const CONNECTIONS_PER_LOOPBACK: usize = 8_000;

/// Source addresses in the order given, `10.0.0.5,10.0.0.8-10.0.0.11`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Sources(Vec<IpAddr>);

impl Sources {
    /// The address of a connection by its number.
    pub(crate) fn of(&self, connection: usize) -> IpAddr {
        self.0[connection % self.0.len()]
    }
}

/// The default source address of a connection. The kernel chooses, except on the loopback, where every
/// [`CONNECTIONS_PER_LOOPBACK`] connections after the first ones get a new address.
pub(crate) fn default_source(destination: IpAddr, connection: usize) -> Option<IpAddr> {
    let block = u32::try_from(connection / CONNECTIONS_PER_LOOPBACK).ok()?;
    let has_sources = destination.is_loopback() && destination.is_ipv4() && block > 0;
    has_sources.then(|| Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + block).into())
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut addresses = Vec::new();
        for part in text.split(',').map(str::trim) {
            let wrong = |_: AddrParseError| {
                format!("{part:?} is no address and no range of IPv4 addresses")
            };
            match part.split_once('-') {
                None => addresses.push(part.parse().map_err(wrong)?),
                Some((first, last)) => {
                    let first = first.trim().parse::<Ipv4Addr>().map_err(wrong)?.to_bits();
                    let last = last.trim().parse::<Ipv4Addr>().map_err(wrong)?.to_bits();
                    if last.checked_sub(first).is_none_or(|more| more >= RANGE_MAX) {
                        return Err(format!("the range {part:?} runs backwards or too far"));
                    }
                    addresses
                        .extend((first..=last).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))));
                }
            }
        }
        Ok(Self(addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_taken_in_turn() {
        let sources: Sources = "10.0.0.1, 127.0.0.2-127.0.0.3,::1".parse().unwrap();
        let taken: Vec<String> = (0..5).map(|number| sources.of(number).to_string()).collect();
        assert_eq!(taken, ["10.0.0.1", "127.0.0.2", "127.0.0.3", "::1", "10.0.0.1"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a", "10.0.0.2-10.0.0.1", "1.0.0.0-2.0.0.0", "::1-::2", "10.0.0.1,"] {
            assert!(text.parse::<Sources>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn the_loopback_changes_sources_before_ports_run_out() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(default_source(loopback, 7_999), None);
        assert_eq!(default_source(loopback, 8_000), Some(Ipv4Addr::new(127, 0, 0, 2).into()));
        assert_eq!(default_source(loopback, 16_000), Some(Ipv4Addr::new(127, 0, 0, 3).into()));
        assert_eq!(default_source(IpAddr::from([10, 0, 0, 1]), 16_000), None);
    }
}
