//! Takes values out of the merged layers and checks each of them.

use std::collections::BTreeMap;
use std::ops::Range;

use comet_listen::Address;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use crate::cpus::Machine;
use crate::kinds::{Check, Kind};
use crate::mistakes::Report;
use crate::source::Process;

/// The written values, by `section.key`. Each has the shape of its kind.
pub(crate) type Written<'a> = BTreeMap<&'static str, Spanned<DeValue<'a>>>;

/// Checks values one by one.
pub(crate) struct Reader<'a> {
    pub(crate) report: Report<'a>,
    /// Every address that will be listened on, in the order of the sections.
    pub(crate) bound: Vec<Bound>,
    written: Written<'a>,
    machine: &'a Machine,
    process: Process,
}

/// One element of a list of addresses.
pub(crate) struct Bound {
    pub(crate) key: &'static str,
    pub(crate) index: usize,
    pub(crate) at: Range<usize>,
    pub(crate) address: Address,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        written: Written<'a>,
        report: Report<'a>,
        machine: &'a Machine,
        process: Process,
    ) -> Self {
        Self { report, bound: Vec::new(), written, machine, process }
    }

    /// The value of `key`: the written one, or `default`, which is TOML. After a mistake the default is used, so that
    /// the rest can be checked.
    pub(crate) fn take<T, K: Kind<T>>(
        &mut self,
        key: &'static str,
        default: &'static str,
        kind: &K,
    ) -> T {
        let written = self.written.remove(key);
        let places = written.as_ref().map(places_of_elements).unwrap_or_default();
        let mut check = self.context(key);
        let value = written.and_then(|written| kind.check(raw(written), &mut check));
        let faults = check.faults;
        for fault in &faults {
            match &fault.element {
                None => self.report.value(key, &fault.what),
                Some((index, at)) => self.report.element(key, *index, at, &fault.what),
            }
        }
        let value = value.unwrap_or_else(|| {
            let default = DeValue::parse(default).expect("defaults are TOML");
            let mut check = self.context(key);
            kind.check(raw(default), &mut check).expect("defaults are good")
        });
        let is_good = |index: &usize| {
            let is_here = |(other, _): &(usize, _)| other == index;
            !faults.iter().any(|fault| fault.element.as_ref().is_some_and(is_here))
        };
        let good = (0..).filter(is_good).zip(kind.listeners(&value));
        self.bound.extend(good.map(|(index, address)| {
            let at = places.get(index).cloned().unwrap_or(0..0);
            Bound { key, index, at, address }
        }));
        value
    }

    fn context(&self, key: &str) -> Check<'a> {
        let is_elsewhere = self.process == Process::Logic && !self.process.owns(key);
        Check { machine: self.machine, is_elsewhere, faults: Vec::new() }
    }
}

fn raw<'v, T: Deserialize<'v>>(value: Spanned<DeValue<'v>>) -> T {
    T::deserialize(ValueDeserializer::from(value)).expect("its shape is checked")
}

fn places_of_elements(value: &Spanned<DeValue<'_>>) -> Vec<Range<usize>> {
    match value.get_ref() {
        DeValue::Array(elements) => elements.iter().map(Spanned::span).collect(),
        _ => Vec::new(),
    }
}
