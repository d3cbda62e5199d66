//! Who is online in which room: this server's numbers to logic, everybody else's to the rooms' homes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use comet_core::{Message, ShardId, home_of_room};
use tokio::time::sleep;
use tonic::codec::CompressionEncoding;

use super::Logic;
use super::caller::Again;
use comet_wire::goim::logic::{OnlineReply, OnlineReq};

/// Longest answer taken, bytes unpacked: it names the rooms of all servers.
const REPLY_MAX: usize = 64 << 20;

impl Logic {
    /// Renews for as long as it is polled, while logic is there: at once when it comes, and then every
    /// [`super::LogicOptions::renew`]. While it is away, rooms keep the numbers they heard last.
    pub(super) async fn renew_rooms(&self) -> Infallible {
        loop {
            self.caller.addresses().until_live().await;
            self.renew_once().await;
            sleep(self.renew).await;
        }
    }

    async fn renew_once(&self) {
        let Some(here) = self.count_rooms().await else { return };
        let permit = self.caller.wait_for_permit().await;
        let request = OnlineReq { server: self.server.clone(), room_count: here.clone() };
        let renewed = self
            .caller
            .call("RenewOnline", Again::Always, request, async |client, request| {
                let mut client = client
                    .send_compressed(CompressionEncoding::Gzip)
                    .accept_compressed(CompressionEncoding::Gzip)
                    .max_decoding_message_size(REPLY_MAX);
                client.renew_online(request).await
            })
            .await;
        drop(permit);
        // A failure is counted, and the next time mends it.
        if let Ok(OnlineReply { all_room_count }) = renewed {
            let homes = beyond(all_room_count, &here, self.hub.shards());
            for (shard, rooms) in (0..).zip(homes) {
                self.hub.tell(ShardId(shard), Message::RemoteRoomCounts { rooms });
            }
        }
    }

    /// How many are online in each room of this server; `None` if a shard did not say.
    async fn count_rooms(&self) -> Option<HashMap<String, i32>> {
        let limit = self.caller.timeout();
        let call = self.hub.begin_everywhere(limit, |call| Message::Rooms { call }).ok()?;
        let rooms = call.await.ok()?.rooms;
        let count = |online| i32::try_from(online).unwrap_or(i32::MAX);
        Some(
            rooms.into_iter().map(|(room, online)| (String::from(&*room), count(online))).collect(),
        )
    }
}

/// By home, the rooms with somebody on other servers, and how many. Logic's sum may be older than our
/// own number: then it is not less than nobody.
fn beyond(
    all: HashMap<String, i32>,
    here: &HashMap<String, i32>,
    shards: u16,
) -> Vec<Vec<(Arc<str>, u32)>> {
    let mut homes: Vec<_> = (0..shards).map(|_| Vec::new()).collect();
    for (room, online) in all {
        let own = here.get(&room).copied().unwrap_or(0);
        if let Ok(others @ 1..) = u32::try_from(online.saturating_sub(own)) {
            let home = home_of_room(&room, shards);
            homes[usize::from(home.0)].push((room.into(), others));
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_all_without_our_own_and_never_less_than_nobody() {
        let counts = |counts: &[(&str, i32)]| -> HashMap<String, i32> {
            counts.iter().map(|(room, count)| ((*room).to_owned(), *count)).collect()
        };
        let here = counts(&[("both", 2), ("stale", 9), ("odd", i32::MAX)]);
        let all =
            counts(&[("both", 5), ("stale", 4), ("there", 1), ("none", 0), ("odd", i32::MIN)]);
        for shards in [1, 3] {
            let homes = beyond(all.clone(), &here, shards);
            assert_eq!(homes.len(), usize::from(shards));
            let mut rooms = Vec::new();
            for (shard, home) in (0..).zip(homes) {
                for (room, others) in home {
                    assert_eq!(home_of_room(&room, shards), ShardId(shard));
                    rooms.push((room.to_string(), others));
                }
            }
            rooms.sort();
            assert_eq!(rooms, [("both".to_owned(), 3), ("there".to_owned(), 1)]);
        }
    }
}
