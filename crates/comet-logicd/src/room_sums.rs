//! The sums of members that comets are told: one task at a time reads them from the store, for all that wait.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use comet_router::{Sessions, Store, StoreError};
use comet_serve::{drop_offloaded, poll_offloaded};
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

/// A reading that takes this long is not repeated for each comet that asks.
const SLOW: Duration = Duration::from_millis(500);
/// Sums of a slow reading are used for this many times its duration.
const USES: u32 = 4;

/// Members by room, over all comets.
pub(crate) type Sums = HashMap<String, u32>;

/// Comets report at different times, and each gets sums that were read after its report. While one reading is under
/// way, others wait, and all of them get the result of the next. If a reading is slow, comets get sums that are some
/// seconds old: a comet waits only 2 s (`logic.timeout`), so one that had to wait longer would never get any.
#[derive(Default)]
pub(crate) struct RoomSums(Mutex<Option<Read>>);

struct Read {
    begun: Instant,
    took: Duration,
    sums: Arc<Sums>,
}

impl Read {
    /// Callers that asked before this moment get these sums.
    fn fresh_until(&self) -> Instant {
        match self.took < SLOW {
            true => self.begun,
            false => self.begun + self.took * USES,
        }
    }
}

impl RoomSums {
    /// The present sums, or slightly newer ones.
    ///
    /// # Errors
    /// As the store's.
    pub(crate) async fn read(
        self: &Arc<Self>,
        store: &Arc<Store>,
    ) -> Result<Arc<Sums>, StoreError> {
        let (this, store) = (Arc::clone(self), Arc::clone(store));
        let asked = Instant::now();
        let (tell, told) = oneshot::channel();
        // A task of its own, so that a comet that gives up does not end a reading that others wait for.
        tokio::spawn(async move {
            let _ = tell.send(this.read_after(asked, store).await);
        });
        match told.await {
            Ok(sums) => sums,
            // The runtime is ending, and drops the waiting callers.
            Err(_) => pending().await,
        }
    }

    async fn read_after(&self, asked: Instant, store: Arc<Store>) -> Result<Arc<Sums>, StoreError> {
        let mut last = self.0.lock().await;
        if let Some(read) = &*last
            && read.fresh_until() >= asked
        {
            return Ok(Arc::clone(&read.sums));
        }
        let begun = Instant::now();
        // Freed before the new sums are read: there may be a million rooms.
        drop_offloaded(last.take());
        let sums = poll_offloaded(async move { store.room_counts().await }).await?;
        let (took, sums) = (begun.elapsed(), Arc::new(sums));
        *last = Some(Read { begun, took, sums: Arc::clone(&sums) });
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use comet_router::{Buckets, Memory};

    use super::*;

    fn store() -> Arc<Store> {
        Arc::new(Store::Memory(Memory::new(Duration::from_secs(60))))
    }

    /// A request whose caller has left is still completed, for the next callers.
    #[tokio::test]
    async fn a_comet_that_gives_up_ends_no_reading() {
        let (store, sums) = (store(), Arc::<RoomSums>::default());
        let reading = sums.0.lock().await;
        tokio::select! {
            biased;
            _ = sums.read(&store) => panic!("another one reads"),
            () = tokio::task::yield_now() => {}
        }
        drop(reading);
        while sums.0.lock().await.is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sums_of_a_slow_reading_are_used_for_some_time() {
        let (store, sums) = (store(), Arc::<RoomSums>::default());
        let slow = Read { begun: Instant::now(), took: 2 * SLOW, sums: Arc::default() };
        let old = Arc::clone(&slow.sums);
        *sums.0.lock().await = Some(slow);
        tokio::time::advance(2 * SLOW * USES).await;
        assert!(Arc::ptr_eq(&sums.read(&store).await.unwrap(), &old));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!Arc::ptr_eq(&sums.read(&store).await.unwrap(), &old));
    }

    /// A caller never gets sums from before its request.
    #[tokio::test(start_paused = true)]
    async fn sums_are_read_once_for_all_that_wait() {
        let store = store();
        let report = async |members| {
            let rooms = HashMap::from([("r".to_owned(), members)]);
            store.add_room_counts("a", Buckets::ALL, &rooms).await.unwrap();
        };
        let sums = Arc::<RoomSums>::default();
        report(1).await;
        let first = sums.read(&store).await.unwrap();
        assert_eq!(first["r"], 1);
        tokio::time::advance(Duration::from_millis(1)).await;
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
