//! Checks that pushes to a key arrive once and in order, over all connections that hold it in succession.

use std::collections::BTreeMap;

use crate::env::Peer;

/// The pushes to its key that one connection got lie wholly before or wholly behind those of any other. Each connection
/// has checked its own order.
pub(super) fn check_keys(peers: &[Peer]) -> Result<(), String> {
    let mut ranges: BTreeMap<(&str, u64), Vec<[u64; 2]>> = BTreeMap::new();
    for Peer { client, .. } in peers {
        let Some(key) = client.profile.key else { continue };
        for (source, range) in &client.received.to_key {
            ranges.entry((key, *source)).or_default().push(*range);
        }
    }
    for ((key, source), mut ranges) in ranges {
        ranges.sort_unstable();
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0][1] >= pair[1][0]) {
            return Err(format!(
                "two connections with key {key} got pushes {pair:?} of source {source}"
            ));
        }
    }
    Ok(())
}
