//! The Prometheus text format, version 0.0.4: families of samples, each under one HELP and one TYPE.

use std::fmt::{Display, Write};

/// `Content-Type` of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

/// A page under construction.
#[derive(Default)]
pub(crate) struct Exposition(String);

impl Exposition {
    /// Starts the family `name`; its samples follow.
    pub(crate) fn family(&mut self, name: impl Display, kind: Kind, help: &str) -> Family<'_> {
        let name = name.to_string();
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: self, name }
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes everything");
    }
}

pub(crate) struct Family<'page> {
    page: &'page mut Exposition,
    name: String,
}

impl Family<'_> {
    /// A sample without labels.
    pub(crate) fn sample(&mut self, value: u64) {
        self.page.write(format_args!("{} {value}\n", self.name));
    }

    /// A sample with labels.
    pub(crate) fn labelled(&mut self, labels: &[(&str, &dyn Display)], value: u64) {
        self.page.write(format_args!("{}{{", self.name));
        for (index, (label, text)) in labels.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let text = text.to_string();
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.page.write(format_args!("{comma}{label}=\"{text}\""));
        }
        self.page.write(format_args!("}} {value}\n"));
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
        assert_eq!(
            page.finish(),
            "# HELP a_total Two\\nlines\n# TYPE a_total counter\na_total 3\n\
             # HELP b Labels\n# TYPE b gauge\nb{x=\"1\",y=\"q\\\"\\\\\\n\"} 4\nb{x=\"2\"} 5\n"
        );
    }
}
