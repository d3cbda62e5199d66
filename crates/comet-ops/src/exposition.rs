//! The Prometheus text format, version 0.0.4: families of samples, each under one HELP and one TYPE.

use std::fmt::{self, Display, Write};
use std::time::Duration;

/// `Content-Type` of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only ever grows; its name ends with `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A value of a sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Number {
    /// A count.
    Whole(u64),
    /// A time in seconds, the format's base unit.
    Seconds(Duration),
}

impl From<u64> for Number {
    fn from(whole: u64) -> Self {
        Self::Whole(whole)
    }
}

impl From<Duration> for Number {
    fn from(time: Duration) -> Self {
        Self::Seconds(time)
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(whole) => whole.fmt(f),
            // All nine digits: a sum of nanoseconds would lose its last ones in an f64.
            Self::Seconds(time) => write!(f, "{}.{:09}", time.as_secs(), time.subsec_nanos()),
        }
    }
}

/// A page under construction.
#[derive(Default, Debug)]
pub struct Exposition(String);

impl Exposition {
    /// Starts the family `name`; its samples follow.
    pub fn family(&mut self, name: impl Display, kind: Kind, help: &str) -> Family<'_> {
        let name = name.to_string();
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: self, name }
    }

    /// The page.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes everything");
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
        self.page.write(format_args!("{} {}\n", self.name, value.into()));
    }

    /// A sample with labels.
    pub fn labelled(&mut self, labels: &[(&str, &dyn Display)], value: impl Into<Number>) {
        self.page.write(format_args!("{}{{", self.name));
        for (index, (label, text)) in labels.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let text = text.to_string();
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.page.write(format_args!("{comma}{label}=\"{text}\""));
        }
        self.page.write(format_args!("}} {}\n", value.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
