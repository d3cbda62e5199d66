//! The members of rooms, as reported by servers. A report may have a million rooms, so nothing is copied, summed or
//! freed while the lock is held: the thread that would wait for it serves calls about sessions meanwhile.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::sessions::Buckets;

/// Least number of rooms that each server counts as, so that the number of servers is bounded too.
const SERVER_ROOMS: usize = 1_024;

/// The rooms of one bucket of a server.
type Rooms = Arc<HashMap<String, u32>>;

/// Reports of all servers.
#[derive(Default)]
pub(super) struct Reports(Mutex<HashMap<Arc<str>, Report>>);

/// What a server has reported.
#[derive(Default)]
struct Report {
    buckets: Vec<Rooms>,
    until: Duration,
}

/// There would be more rooms than allowed.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct TooMany;

impl Reports {
    /// Replaces the rooms of `server` in `buckets`. All its rooms expire at `until`. If all servers would have more
    /// than `most` rooms, nothing changes.
    pub(super) fn replace(
        &self,
        server: &str,
        buckets: Buckets,
        rooms: &HashMap<String, u32>,
        (now, until): (Duration, Duration),
        most: usize,
    ) -> Result<(), TooMany> {
        let mut replaced: Vec<_> = (0..Buckets::COUNT).map(|_| HashMap::new()).collect();
        for (room, count) in rooms {
            let bucket = Buckets::of(room);
            if buckets.contains(bucket) {
                replaced[bucket as usize].insert(room.clone(), *count);
            }
        }
        let mut replaced: Vec<Rooms> = replaced.into_iter().map(Arc::new).collect();
        let mut reports = self.lock();
        let expired = take_expired(&mut reports, now);
        let former = reports.get(server);
        for (bucket, rooms) in (0..).zip(&mut replaced) {
            if !buckets.contains(bucket)
                && let Some(former) = former
            {
                *rooms = Arc::clone(&former.buckets[bucket as usize]);
            }
        }
        let report = Report { buckets: replaced, until };
        if report.rooms() == 0 {
            let former = reports.remove(server);
            drop(reports);
            drop((former, expired));
            return Ok(());
        }
        let others = reports.iter().filter(|(name, _)| ***name != *server);
        let sum: usize = others.map(|(_, report)| report.weight()).sum();
        if sum + report.weight() > most {
            return Err(TooMany);
        }
        let former = match reports.get_mut(server) {
            Some(known) => mem::replace(known, report),
            None => reports.insert(server.into(), report).unwrap_or_default(),
        };
        drop(reports);
        drop((former, expired));
        Ok(())
    }

    /// The members of every room.
    pub(super) fn sums(&self, now: Duration) -> HashMap<String, u32> {
        let mut sums: HashMap<String, u32> = HashMap::new();
        for (room, count) in self.live(now).iter().flatten().flat_map(|rooms| &**rooms) {
            let sum = sums.entry(room.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        sums
    }

    /// The members of `rooms`, in their order.
    pub(super) fn members(&self, rooms: &[String], now: Duration) -> Vec<u32> {
        let live = self.live(now);
        let members = |room: &String| {
            let bucket = Buckets::of(room) as usize;
            let counts = live.iter().filter_map(|buckets| buckets[bucket].get(room));
            counts.fold(0, |sum: u32, count| sum.saturating_add(*count))
        };
        rooms.iter().map(members).collect()
    }

    /// The rooms of each server, by bucket.
    fn live(&self, now: Duration) -> Vec<Vec<Rooms>> {
        let mut reports = self.lock();
        let expired = take_expired(&mut reports, now);
        let live = reports.values().map(|report| report.buckets.clone()).collect();
        drop(reports);
        drop(expired);
        live
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Report>> {
        self.0.lock().expect("no call panics while it holds the reports")
    }
}

/// The caller frees the result after it releases the lock.
fn take_expired(reports: &mut HashMap<Arc<str>, Report>, now: Duration) -> Vec<Report> {
    reports.extract_if(|_, report| report.until <= now).map(|(_, report)| report).collect()
}

impl Report {
    fn rooms(&self) -> usize {
        self.buckets.iter().map(|rooms| rooms.len()).sum()
    }

    fn weight(&self) -> usize {
        self.rooms().max(SERVER_ROOMS)
    }
}
