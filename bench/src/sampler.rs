//! What happens while a turn is measured: deliveries, heartbeats, connections, the server's CPU time and its
//! memory, ten times a second. The crew takes the samples between its turns; some reads of procfs, and
//! nothing the server could notice.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::clock::{MILLISECOND_NS, now_ns};
use crate::process::{CpuSample, Gauge};

/// Time between samples, until there are too many.
const INTERVAL_NS: u64 = 100 * MILLISECOND_NS;
/// Then every other sample is forgotten, and those to come are twice as far apart.
const SAMPLES_MAX: usize = 200;

/// Takes samples while a turn goes on.
pub(crate) struct Sampler {
    started_ns: u64,
    interval_ns: u64,
    due_ns: u64,
    gauge: Gauge,
    first: Counts,
    first_cpu: Option<CpuSample>,
    series: Series,
}

/// What clients have counted since they are there, over all their books.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub received: u64,
    /// Heartbeats that were answered.
    pub heartbeats: u64,
    /// Connections that are authenticated and open.
    pub connections: u64,
}

/// The samples of a turn as columns of one length. Times and counts are since the first sample, but
/// connections and memory are what there is; the columns of the server are empty where its process is not
/// known.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Series {
    pub at_us: Vec<u64>,
    /// Deliveries so far.
    pub received: Vec<u64>,
    /// Heartbeats answered so far.
    pub heartbeats: Vec<u64>,
    /// Connections that are authenticated and open.
    pub connections: Vec<u64>,
    /// CPU time so far, of all threads of the server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu_us: Vec<u64>,
    /// Resident memory of the server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rss_bytes: Vec<u64>,
}

impl Sampler {
    /// Takes the first sample of the process and of what its clients have counted so far.
    pub(crate) fn start(gauge: Gauge, counts: Counts) -> Result<Self> {
        let now_ns = now_ns();
        let mut sampler = Self {
            started_ns: now_ns,
            interval_ns: INTERVAL_NS,
            due_ns: now_ns + INTERVAL_NS,
            gauge,
            first: counts,
            first_cpu: gauge.cpu()?,
            series: Series::default(),
        };
        sampler.take(now_ns, counts)?;
        Ok(sampler)
    }

    /// Takes a sample if it is time for one.
    pub(crate) fn look(&mut self, counts: Counts) -> Result<()> {
        if now_ns() < self.due_ns { Ok(()) } else { self.mark(counts) }
    }

    /// How long it is to the next sample.
    pub(crate) fn left_ns(&self) -> u64 {
        self.due_ns.saturating_sub(now_ns())
    }

    /// Takes a sample out of turn, of a moment that two of the others would hide.
    pub(crate) fn mark(&mut self, counts: Counts) -> Result<()> {
        let now_ns = now_ns();
        self.take(now_ns, counts)?;
        if self.series.at_us.len() >= SAMPLES_MAX {
            self.series.thin_out();
            self.interval_ns *= 2;
        }
        self.due_ns = now_ns + self.interval_ns;
        Ok(())
    }

    /// Takes the last sample; all are handed out.
    pub(crate) fn finish(mut self, counts: Counts) -> Result<Series> {
        self.take(now_ns(), counts)?;
        Ok(self.series)
    }

    fn take(&mut self, now_ns: u64, counts: Counts) -> Result<()> {
        let cpu = self.gauge.cpu()?.zip(self.first_cpu.as_ref());
        let series = &mut self.series;
        series.at_us.push((now_ns - self.started_ns) / 1000);
        series.received.push(counts.received - self.first.received);
        series.heartbeats.push(counts.heartbeats - self.first.heartbeats);
        series.connections.push(counts.connections);
        series.cpu_us.extend(cpu.map(|(now, first)| now.since(first).total_ns / 1000));
        series.rss_bytes.extend(self.gauge.resident_bytes()?);
        Ok(())
    }
}

impl Series {
    /// Forgets every other sample; the first stays.
    fn thin_out(&mut self) {
        for column in [
            &mut self.at_us,
            &mut self.received,
            &mut self.heartbeats,
            &mut self.connections,
            &mut self.cpu_us,
            &mut self.rss_bytes,
        ] {
            let mut index = 0;
            column.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sampler of this process, whose clients have counted before.
    fn sampler() -> Sampler {
        let gauge = Gauge { pid: Some(std::process::id()) };
        Sampler::start(gauge, counts(0)).unwrap()
    }

    fn counts(received: u64) -> Counts {
        Counts { received: 500 + received, heartbeats: 70 + received / 2, connections: 3 }
    }

    #[test]
    fn every_other_sample_is_forgotten() {
        let mut series = Series {
            at_us: vec![0, 10, 20, 30, 40],
            received: vec![0, 1, 2, 3, 4],
            heartbeats: vec![0, 0, 1, 1, 1],
            connections: vec![9, 8, 7, 8, 9],
            cpu_us: Vec::new(),
            rss_bytes: vec![5, 6, 7, 8, 9],
        };
        series.thin_out();
        let expected = Series {
            at_us: vec![0, 20, 40],
            received: vec![0, 2, 4],
            heartbeats: vec![0, 1, 1],
            connections: vec![9, 7, 9],
            cpu_us: Vec::new(),
            rss_bytes: vec![5, 7, 9],
        };
        assert_eq!(series, expected);
    }

    #[test]
    fn a_long_turn_has_few_samples() {
        let mut sampler = sampler();
        for received in 1..=1000 {
            sampler.due_ns = 0;
            sampler.look(counts(received)).unwrap();
        }
        assert!(sampler.interval_ns >= 4 * INTERVAL_NS);
        let series = sampler.finish(counts(1001)).unwrap();
        assert!((SAMPLES_MAX / 2..=SAMPLES_MAX).contains(&series.at_us.len()));
        assert!(series.received.is_sorted() && series.at_us.is_sorted());
        assert_eq!(series.cpu_us.len(), series.at_us.len());
        assert!(series.rss_bytes.iter().all(|&bytes| bytes > 0));
    }

    #[test]
    fn what_was_counted_before_is_not_in_it() {
        let series = sampler().finish(counts(40)).unwrap();
        assert_eq!(series.received, [0, 40]);
        assert_eq!(series.heartbeats, [0, 20]);
        assert_eq!(series.connections, [3, 3]);
    }

    #[test]
    fn no_sample_before_its_time_unless_it_is_marked() {
        let mut sampler = sampler();
        sampler.due_ns = u64::MAX;
        sampler.look(counts(1)).unwrap();
        assert_eq!(sampler.series.received, [0]);
        sampler.mark(counts(2)).unwrap();
        assert_eq!(sampler.series.received, [0, 2]);
        assert!(sampler.left_ns() <= INTERVAL_NS);
    }
}
