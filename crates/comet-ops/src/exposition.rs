//! The Prometheus text format, version 0.0.4: families of samples, each under one HELP and one TYPE.

use std::fmt::{self, Display, Write};

use comet_histogram::Histogram;

use crate::carried::{self, Carried};
use crate::number::Number;

/// `Content-Type` of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only increases; its name ends with `_total`.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Counts of times, by bucket.
    Histogram,
}

/// A page under construction.
#[derive(Default, Debug)]
pub struct Exposition {
    text: String,
    /// Whether the counters of the former process are added.
    goes_on: bool,
    /// The former process's samples of the present family that have not been added yet.
    carried: Carried,
}

impl Exposition {
    /// Starts the family `name`; its samples follow.
    pub fn family(&mut self, name: impl Display, kind: Kind, help: &str) -> Family<'_> {
        self.end_family();
        let name = name.to_string();
        let kind_name = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind_name}\n"));
        let goes_on = self.goes_on && kind != Kind::Gauge;
        self.carried = if goes_on { carried::of_family(&name) } else { Carried::default() };
        Family { page: self, name }
    }

    /// Adds the values of the former process to the counters and histograms that follow, if this process has taken over
    /// from another one: see [`carry`](crate::carry).
    pub fn go_on(&mut self) {
        self.goes_on = true;
    }

    /// The page.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.end_family();
        self.text
    }

    /// Adds the samples that only the former process has.
    fn end_family(&mut self) {
        for (sample, value) in std::mem::take(&mut self.carried).into_rest() {
            self.write(format_args!("{sample} {value}\n"));
        }
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a String takes everything");
    }
}

/// A family under construction.
#[derive(Debug)]
pub struct Family<'page> {
    page: &'page mut Exposition,
    name: String,
}

impl Family<'_> {
    /// A sample without labels.
    pub fn sample(&mut self, value: impl Into<Number>) {
        self.write("", &[], value.into());
    }

    /// A sample with labels.
    pub fn labelled(&mut self, labels: &[(&str, &dyn Display)], value: impl Into<Number>) {
        self.write("", labels, value.into());
    }

    /// The samples of a histogram: its buckets, their sum and their count.
    pub fn times(&mut self, label: (&str, &dyn Display), times: &Histogram) {
        for (bound, count) in times.cumulative() {
            let bound = bound.as_secs_f64();
            self.write("_bucket", &[label, ("le", &bound)], count.into());
        }
        self.write("_bucket", &[label, ("le", &"+Inf")], times.count().into());
        self.write("_sum", &[label], times.sum().into());
        self.write("_count", &[label], times.count().into());
    }

    fn write(&mut self, suffix: &str, labels: &[(&str, &dyn Display)], value: Number) {
        let begin = self.page.text.len();
        self.page.write(format_args!("{}{suffix}", self.name));
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { "{" } else { "," };
            let text = text.to_string();
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.page.write(format_args!("{before}{label}=\"{text}\""));
        }
        if !labels.is_empty() {
            self.page.write(format_args!("}}"));
        }
        let value = self.page.carried.add_to(&self.page.text[begin..], value);
        self.page.write(format_args!(" {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_histogram_has_cumulative_buckets() {
        let mut times = Histogram::default();
        times.record(5);
        times.record_many(60_000_000, 2);
        let mut page = Exposition::default();
        page.family("a_seconds", Kind::Histogram, "Times").times(("x", &1), &times);
        let page = page.finish();
        let lines: Vec<_> = page.lines().collect();
        let expected = [
            "# TYPE a_seconds histogram",
            "a_seconds_bucket{x=\"1\",le=\"0.000004\"} 0",
            "a_seconds_bucket{x=\"1\",le=\"0.000008\"} 1",
        ];
        assert_eq!(lines[1..4], expected);
        let expected = [
            "a_seconds_bucket{x=\"1\",le=\"8.388608\"} 1",
            "a_seconds_bucket{x=\"1\",le=\"+Inf\"} 3",
            "a_seconds_sum{x=\"1\"} 120.000005000",
            "a_seconds_count{x=\"1\"} 3",
        ];
        assert_eq!(lines[lines.len() - 4..], expected);
    }

    #[test]
    fn families_and_samples() {
        let mut page = Exposition::default();
        page.family("a_total", Kind::Counter, "Two\nlines").sample(3);
        let mut family = page.family("b", Kind::Gauge, "Labels");
        family.labelled(&[("x", &1), ("y", &"q\"\\\n")], 4);
        family.labelled(&[("x", &2)], 5);
        page.family("c_seconds", Kind::Gauge, "A time").sample(Duration::from_micros(1_000_050));
        assert_eq!(
            page.finish(),
            "# HELP a_total Two\\nlines\n# TYPE a_total counter\na_total 3\n\
             # HELP b Labels\n# TYPE b gauge\nb{x=\"1\",y=\"q\\\"\\\\\\n\"} 4\nb{x=\"2\"} 5\n\
             # HELP c_seconds A time\n# TYPE c_seconds gauge\nc_seconds 1.000050000\n"
        );
    }
}
