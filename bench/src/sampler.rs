//! Samples a turn while it is measured: deliveries, heartbeats, connections, the server's CPU time and its memory, ten
//! times a second. The thread that holds the connections takes the samples: a few reads of procfs, which do not disturb
//! the server.

use std::collections::BTreeMap;

use derive_more::AddAssign;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::clock::{MILLISECOND_NS, now_ns};
use crate::process::{CpuSample, Gauge};

/// Time between samples, until there are too many.
const INTERVAL_NS: u64 = 100 * MILLISECOND_NS;
/// Beyond this number every other sample is dropped, and later ones are twice as far apart.
const SAMPLES_MAX: usize = 200;

/// Takes samples while a turn is under way.
pub(crate) struct Sampler {
    started_ns: u64,
    interval_ns: u64,
    due_ns: u64,
    gauge: Gauge,
    first: Counts,
    first_cpu: Option<CpuSample>,
    series: Series,
}

/// The counts of all clients since they were started.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, AddAssign)]
pub(crate) struct Counts {
    /// Distinct deliveries, over all restarts and since the last.
    pub received: u64,
    pub received_since_restart: u64,
    /// Heartbeats that were answered.
    pub heartbeats: u64,
    /// Connections that are authenticated and open.
    pub connections: u64,
    /// Connections that the server closed.
    pub closed: u64,
}

/// The samples of a turn as named columns of equal length: time, deliveries, answered heartbeats and CPU time since the
/// first sample; open connections and resident memory as they were. If the server's process is not known, there are no
/// columns for CPU time and memory.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Series(BTreeMap<&'static str, Vec<u64>>);

impl Sampler {
    /// Takes the first sample of the process and of the counts of its clients.
    pub(crate) fn start(gauge: Gauge, counts: Counts) -> Result<Self> {
        let now_ns = now_ns();
        let first_cpu = gauge.cpu()?;
        let mut sampler = Self {
            started_ns: now_ns,
            interval_ns: INTERVAL_NS,
            due_ns: now_ns + INTERVAL_NS,
            gauge,
            first: counts,
            first_cpu: first_cpu.clone(),
            series: Series::default(),
        };
        sampler.push(now_ns, counts, first_cpu)?;
        Ok(sampler)
    }

    /// Takes a sample if it is due.
    pub(crate) fn look(&mut self, counts: Counts) -> Result<()> {
        if now_ns() < self.due_ns { Ok(()) } else { self.mark(counts) }
    }

    /// The time until the next sample.
    pub(crate) fn left_ns(&self) -> u64 {
        self.due_ns.saturating_sub(now_ns())
    }

    /// Takes a sample at once, at a moment that the regular samples would miss.
    pub(crate) fn mark(&mut self, counts: Counts) -> Result<()> {
        let now_ns = now_ns();
        self.take(now_ns, counts)?;
        if self.series.len() >= SAMPLES_MAX {
            self.series.thin_out();
            self.interval_ns *= 2;
        }
        self.due_ns = now_ns + self.interval_ns;
        Ok(())
    }

    /// Takes the last sample and returns all.
    pub(crate) fn finish(mut self, counts: Counts) -> Result<Series> {
        self.take(now_ns(), counts)?;
        Ok(self.series)
    }

    fn take(&mut self, now_ns: u64, counts: Counts) -> Result<()> {
        let cpu = self.gauge.cpu()?;
        self.push(now_ns, counts, cpu)
    }

    fn push(&mut self, now_ns: u64, counts: Counts, cpu: Option<CpuSample>) -> Result<()> {
        let cpu = cpu.zip(self.first_cpu.as_ref());
        let columns = [
            ("at_us", Some((now_ns - self.started_ns) / 1000)),
            ("received", Some(counts.received - self.first.received)),
            ("heartbeats", Some(counts.heartbeats - self.first.heartbeats)),
            ("connections", Some(counts.connections)),
            ("cpu_us", cpu.map(|(now, first)| now.since(first).total_ns / 1000)),
            ("rss_bytes", self.gauge.resident_bytes()?),
        ];
        for (name, value) in columns {
            if let Some(value) = value {
                self.series.0.entry(name).or_default().push(value);
            }
        }
        Ok(())
    }
}

impl Series {
    fn len(&self) -> usize {
        self.0.values().map(Vec::len).max().unwrap_or(0)
    }

    /// Drops every other sample; the first stays.
    fn thin_out(&mut self) {
        for column in self.0.values_mut() {
            *column = column.iter().copied().step_by(2).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sampler of this process, whose clients have already counted something.
    fn sampler() -> Sampler {
        let gauge = Gauge { pid: Some(std::process::id()) };
        Sampler::start(gauge, counts(0)).unwrap()
    }

    fn counts(received: u64) -> Counts {
        let (received, heartbeats) = (500 + received, 70 + received / 2);
        Counts { received, heartbeats, connections: 3, ..Counts::default() }
    }

    #[test]
    fn every_other_sample_is_dropped() {
        let mut series = Series([("at_us", vec![0, 10, 20, 30, 40]), ("cpu_us", vec![5])].into());
        series.thin_out();
        assert_eq!(series, Series([("at_us", vec![0, 20, 40]), ("cpu_us", vec![5])].into()));
    }

    #[test]
    fn a_long_turn_has_few_samples() {
        let mut sampler = sampler();
        for received in 1..=1000 {
            sampler.due_ns = 0;
            sampler.look(counts(received)).unwrap();
        }
        assert!(sampler.interval_ns >= 4 * INTERVAL_NS);
        let Series(columns) = sampler.finish(counts(1001)).unwrap();
        assert!((SAMPLES_MAX / 2..=SAMPLES_MAX).contains(&columns["at_us"].len()));
        assert!(columns["received"].is_sorted() && columns["at_us"].is_sorted());
        assert_eq!(columns["cpu_us"].len(), columns["at_us"].len());
        assert!(columns["rss_bytes"].iter().all(|&bytes| bytes > 0));
    }

    #[test]
    fn series_start_from_the_counts_at_their_begin() {
        let Series(columns) = sampler().finish(counts(40)).unwrap();
        assert_eq!(columns["received"], [0, 40]);
        assert_eq!(columns["heartbeats"], [0, 20]);
        assert_eq!(columns["connections"], [3, 3]);
        assert_eq!(columns["cpu_us"][0], 0);
    }

    #[test]
    fn no_sample_before_its_time_unless_it_is_marked() {
        let mut sampler = sampler();
        sampler.due_ns = u64::MAX;
        sampler.look(counts(1)).unwrap();
        assert_eq!(sampler.series.0["received"], [0]);
        sampler.mark(counts(2)).unwrap();
        assert_eq!(sampler.series.0["received"], [0, 2]);
        assert!(sampler.left_ns() <= INTERVAL_NS);
    }
}
