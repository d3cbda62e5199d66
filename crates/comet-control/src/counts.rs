//! Counts that are read from the shards.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use comet_core::{Counters, Message, ShardId};
use comet_hub::CallError;
use tonic::Status;

use crate::hub::HubDriver;
use crate::status::status;

/// The number of clients, of members of each room in the order of `rooms`, and of addresses that clients come from.
pub(crate) async fn count(
    hub: Arc<HubDriver>,
    limit: Duration,
    rooms: Vec<String>,
) -> Result<Vec<u64>, Status> {
    // Both are requested at once, so one time limit bounds them.
    let counters = async { snapshots(&hub, limit).await.map_err(status) };
    let (shards, members) = tokio::try_join!(counters, members(&hub, limit, rooms))?;
    let sum = |read: fn(&Counters) -> u64| shards.iter().map(|(_, counters)| read(counters)).sum();
    let (clients, addresses) = (sum(|counters| counters.live), sum(|counters| counters.addresses));
    let mut counts = vec![clients];
    counts.extend(members);
    counts.push(addresses);
    Ok(counts)
}

/// The members of each room in their order.
async fn members(
    hub: &Arc<HubDriver>,
    limit: Duration,
    rooms: Vec<String>,
) -> Result<Vec<u64>, Status> {
    if rooms.is_empty() {
        return Ok(Vec::new());
    }
    let rooms: Arc<[Arc<str>]> = rooms.into_iter().map(Arc::from).collect();
    let online = hub.count_rooms(limit, Arc::clone(&rooms)).await.map_err(status)?;
    let online: HashMap<_, _> = online.into_iter().collect();
    let members = |room| online.get(room).map_or(0, |members| u64::from(*members));
    Ok(rooms.iter().map(members).collect())
}

/// The counters of every shard, in their order.
pub(crate) async fn snapshots(
    hub: &Arc<HubDriver>,
    limit: Duration,
) -> Result<Vec<(ShardId, Box<Counters>)>, CallError> {
    let call = hub.begin_everywhere(limit, |call| Message::Snapshot { call })?;
    let mut counters = call.await?.counters;
    counters.sort_by_key(|(shard, _)| *shard);
    Ok(counters)
}
