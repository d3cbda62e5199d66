//! A heap profile in the format of pprof, and as a flame graph.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pprof::protos::{self, Message};

use crate::flamegraph::FlameGraph;
use crate::heap::sample::{Dump, Stack};
use crate::heap::symbols::{Symbol, Symbols};
use crate::profile::gzip;

/// The values of each stack in a profile, under the names in Go's heap profiles.
pub(crate) const KINDS: [&str; 4] =
    ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"];
const UNITS: [&str; KINDS.len()] = ["count", "bytes", "count", "bytes"];

/// The one of [`KINDS`] that is shown by default.
pub(crate) const KIND: &str = "inuse_space";

/// Stacks and the memory they allocated.
pub(crate) struct HeapProfile {
    pub(super) dump: Dump,
    pub(super) symbols: Symbols,
    /// When the sampling began.
    pub(super) time: SystemTime,
    pub(super) duration: Duration,
}

impl Stack {
    /// The values in the order of [`KINDS`].
    fn values(&self) -> [u64; KINDS.len()] {
        [self.taken.objects, self.taken.bytes, self.held.objects, self.held.bytes]
    }
}

impl HeapProfile {
    /// Encodes it as `perftools.profiles.Profile`, gzipped.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut tables = Tables::default();
        // The first string is empty by definition.
        tables.string("");
        let kinds = KINDS.into_iter().zip(UNITS);
        let sample_type = kinds.map(|(kind, unit)| tables.value_type(kind, unit)).collect();
        let period_type = tables.value_type("space", "bytes");
        let sample = self.dump.stacks.iter().map(|stack| protos::Sample {
            location_id: self
                .symbols
                .stack(&stack.addresses)
                .map(|(address, symbols)| tables.location(address, symbols))
                .collect(),
            value: stack.values().map(|value| i64::try_from(value).unwrap_or(i64::MAX)).to_vec(),
            label: Vec::new(),
        });
        let sample = sample.collect();
        let since_1970 = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let profile = protos::Profile {
            default_sample_type: tables.string(KIND),
            sample_type,
            sample,
            location: tables.locations,
            function: tables.functions,
            string_table: tables.strings,
            time_nanos: i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX),
            duration_nanos: i64::try_from(self.duration.as_nanos()).unwrap_or(i64::MAX),
            period_type: Some(period_type),
            period: i64::try_from(self.dump.interval).unwrap_or(i64::MAX),
            ..protos::Profile::default()
        };
        gzip(&profile.encode_to_vec())
    }

    /// A flame graph of one of [`KINDS`].
    pub(crate) fn flamegraph(&self, kind: &str) -> String {
        let index = KINDS.iter().position(|name| *name == kind).expect("it is one of them");
        let mut graph = FlameGraph::default();
        for stack in &self.dump.stacks {
            let frames = self.symbols.stack(&stack.addresses).rev();
            let names = frames.flat_map(|(_, symbols)| symbols.iter().rev());
            graph.add(names.map(|symbol| symbol.name.clone()), stack.values()[index]);
        }
        graph.svg(kind, UNITS[index])
    }
}

/// The tables that samples refer to. Ids of locations and functions begin with 1.
#[derive(Default)]
struct Tables {
    strings: Vec<String>,
    functions: Vec<protos::Function>,
    locations: Vec<protos::Location>,
    string_ids: HashMap<String, i64>,
    /// By the ids of name and file.
    function_ids: HashMap<(i64, i64), u64>,
    /// By address.
    location_ids: HashMap<usize, u64>,
}

impl Tables {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(id) = self.string_ids.get(text) {
            return *id;
        }
        let id = self.strings.len() as i64;
        self.strings.push(text.to_owned());
        self.string_ids.insert(text.to_owned(), id);
        id
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> protos::ValueType {
        protos::ValueType { ty: self.string(kind), unit: self.string(unit) }
    }

    fn function(&mut self, symbol: &Symbol) -> u64 {
        let (name, filename) = (self.string(&symbol.name), self.string(&symbol.file));
        *self.function_ids.entry((name, filename)).or_insert_with(|| {
            let id = self.functions.len() as u64 + 1;
            self.functions.push(protos::Function {
                id,
                name,
                system_name: name,
                filename,
                start_line: 0,
            });
            id
        })
    }

    fn location(&mut self, address: usize, symbols: &[Symbol]) -> u64 {
        if let Some(id) = self.location_ids.get(&address) {
            return *id;
        }
        let line = symbols.iter().map(|symbol| protos::Line {
            function_id: self.function(symbol),
            line: symbol.line.into(),
        });
        let line = line.collect();
        let id = self.locations.len() as u64 + 1;
        self.locations.push(protos::Location {
            id,
            address: address as u64,
            line,
            ..protos::Location::default()
        });
        self.location_ids.insert(address, id);
        id
    }
}
