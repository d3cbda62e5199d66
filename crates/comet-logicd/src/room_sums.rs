//! The sums that comets are told of: read from the store by one call at a time, for all that wait.

use std::collections::HashMap;
use std::sync::Arc;

use comet_router::{Sessions, Store, StoreError};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Members by room, over all comets.
pub(crate) type Sums = HashMap<String, u32>;

/// Comets report at different times, and each gets what was read after its report. While one reads, others come to wait: they all get
/// what is read next.
#[derive(Default)]
pub(crate) struct RoomSums(Mutex<Option<Read>>);

struct Read {
    begun: Instant,
    sums: Arc<Sums>,
}

impl RoomSums {
    /// The sums as they are now, or a little later.
    ///
    /// # Errors
    /// As the store's.
    pub(crate) async fn read(&self, store: &Store) -> Result<Arc<Sums>, StoreError> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(Read { begun, sums }) = &*last
            && *begun >= asked
        {
            return Ok(Arc::clone(sums));
        }
        let begun = Instant::now();
        // Before others take their place: there may be a million rooms.
        *last = None;
        let sums = Arc::new(store.room_counts().await?);
        *last = Some(Read { begun, sums: Arc::clone(&sums) });
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use comet_router::{Buckets, Memory};

    use super::*;

    /// Whoever asks gets no sums from before it asked.
    #[tokio::test]
    async fn sums_are_read_once_for_all_that_wait() {
        let store = Store::Memory(Memory::new(Duration::from_secs(60)));
        let report = async |members| {
            let rooms = HashMap::from([("r".to_owned(), members)]);
            store.add_room_counts("a", Buckets::ALL, &rooms).await.unwrap();
        };
        let sums = RoomSums::default();
        report(1).await;
        let first = sums.read(&store).await.unwrap();
        assert_eq!(first["r"], 1);
        let reading = sums.0.lock().await;
        let (second, third) = (sums.read(&store), sums.read(&store));
        let release = async {
            report(2).await;
            drop(reading);
        };
        let (second, third, ()) = tokio::join!(second, third, release);
        let [second, third] = [second.unwrap(), third.unwrap()];
        assert_eq!(second["r"], 2);
        assert!(Arc::ptr_eq(&second, &third));
    }
}
