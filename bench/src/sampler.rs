//! What happens while a turn is measured: deliveries, the server's CPU time and its memory, ten times a
//! second. The receiver's thread takes the samples between its turns; some reads of procfs, and nothing
//! the server could notice.

use serde::Serialize;

use crate::Result;
use crate::clock::{MILLISECOND_NS, now_ns};
use crate::process::CpuSample;
use crate::target::Target;

/// Time between samples, until there are too many.
const INTERVAL_NS: u64 = 100 * MILLISECOND_NS;
/// Then every other sample is forgotten, and those to come are twice as far apart.
const SAMPLES_MAX: usize = 200;

/// Takes samples while a turn goes on.
pub(crate) struct Sampler {
    started_ns: u64,
    interval_ns: u64,
    due_ns: u64,
    first_cpu: Option<CpuSample>,
    series: Series,
}

/// The samples of a turn as columns of one length. Times and counts are since the first sample; the
/// columns of the server are empty where its process is not known.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Series {
    pub at_us: Vec<u64>,
    /// Deliveries so far.
    pub received: Vec<u64>,
    /// CPU time so far, of all threads of the server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu_us: Vec<u64>,
    /// Resident memory of the server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rss_bytes: Vec<u64>,
}

impl Sampler {
    /// Takes the first sample.
    ///
    /// # Errors
    ///
    /// The server has ended.
    pub(crate) fn start(target: &mut Target) -> Result<Self> {
        let now_ns = now_ns();
        let mut sampler = Self {
            started_ns: now_ns,
            interval_ns: INTERVAL_NS,
            due_ns: now_ns + INTERVAL_NS,
            first_cpu: target.cpu()?,
            series: Series::default(),
        };
        sampler.take(now_ns, 0, target)?;
        Ok(sampler)
    }

    /// Takes a sample if it is time for one: so many deliveries have come.
    ///
    /// # Errors
    ///
    /// The server has ended.
    pub(crate) fn look(&mut self, received: u64, target: &mut Target) -> Result<()> {
        let now_ns = now_ns();
        if now_ns < self.due_ns {
            return Ok(());
        }
        self.take(now_ns, received, target)?;
        if self.series.at_us.len() >= SAMPLES_MAX {
            self.series.thin_out();
            self.interval_ns *= 2;
        }
        self.due_ns = now_ns + self.interval_ns;
        Ok(())
    }

    /// Takes the last sample; all are handed out.
    ///
    /// # Errors
    ///
    /// The server has ended.
    pub(crate) fn finish(mut self, received: u64, target: &mut Target) -> Result<Series> {
        self.take(now_ns(), received, target)?;
        Ok(self.series)
    }

    fn take(&mut self, now_ns: u64, received: u64, target: &mut Target) -> Result<()> {
        let cpu = target.cpu()?.zip(self.first_cpu.as_ref());
        let series = &mut self.series;
        series.at_us.push((now_ns - self.started_ns) / 1000);
        series.received.push(received);
        series.cpu_us.extend(cpu.map(|(now, first)| now.since(first).total_ns / 1000));
        series.rss_bytes.extend(target.resident_bytes()?);
        Ok(())
    }
}

impl Series {
    /// Forgets every other sample; the first stays.
    fn thin_out(&mut self) {
        let columns = [&mut self.at_us, &mut self.received, &mut self.cpu_us, &mut self.rss_bytes];
        for column in columns {
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

    #[test]
    fn every_other_sample_is_forgotten() {
        let mut series = Series {
            at_us: vec![0, 10, 20, 30, 40],
            received: vec![0, 1, 2, 3, 4],
            cpu_us: Vec::new(),
            rss_bytes: vec![5, 6, 7, 8, 9],
        };
        series.thin_out();
        let expected = Series {
            at_us: vec![0, 20, 40],
            received: vec![0, 2, 4],
            cpu_us: Vec::new(),
            rss_bytes: vec![5, 7, 9],
        };
        assert_eq!(series, expected);
    }

    #[test]
    fn a_long_turn_has_few_samples() {
        let mut target = Target::of_process(std::process::id());
        let mut sampler = Sampler::start(&mut target).unwrap();
        for received in 1..=1000 {
            sampler.due_ns = 0;
            sampler.look(received, &mut target).unwrap();
        }
        assert!(sampler.interval_ns >= 4 * INTERVAL_NS);
        let series = sampler.finish(1001, &mut target).unwrap();
        assert!((SAMPLES_MAX / 2..=SAMPLES_MAX).contains(&series.at_us.len()));
        assert_eq!((series.received[0], series.received.last()), (0, Some(&1001)));
        assert!(series.received.is_sorted() && series.at_us.is_sorted());
        assert_eq!(series.cpu_us.len(), series.at_us.len());
        assert!(series.rss_bytes.iter().all(|&bytes| bytes > 0));
    }

    #[test]
    fn no_sample_before_its_time() {
        let mut target = Target::of_process(std::process::id());
        let mut sampler = Sampler::start(&mut target).unwrap();
        sampler.due_ns = u64::MAX;
        sampler.look(1, &mut target).unwrap();
        assert_eq!(sampler.series.received, [0]);
    }
}
