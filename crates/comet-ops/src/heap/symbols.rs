//! Symbols at the addresses of this process's code.

use std::collections::HashMap;
use std::ptr::without_provenance_mut;

/// A place in the source.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Symbol {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) line: u32,
}

/// Places by return address; inlined functions come first.
pub(super) struct Symbols(HashMap<usize, Vec<Symbol>>);

impl Symbols {
    /// Looks up each of `addresses`, and frees the memory used for that except the result.
    pub(super) fn look_up(addresses: impl Iterator<Item = usize>) -> Self {
        let mut symbols = HashMap::new();
        for address in addresses {
            symbols.entry(address).or_insert_with(|| symbols_at(address));
        }
        backtrace::clear_symbol_cache();
        Self(symbols)
    }

    /// The frames of a stack of `addresses`, innermost first, without those inside the allocator.
    pub(super) fn stack<'a>(
        &'a self,
        addresses: &'a [usize],
    ) -> impl DoubleEndedIterator<Item = (usize, &'a [Symbol])> {
        let frame = |address: &usize| (*address, self.0[address].as_slice());
        let is_allocator = |address: &&usize| self.0[*address].iter().all(Symbol::is_allocator);
        let outer = addresses.iter().take_while(is_allocator).count();
        addresses[outer..].iter().map(frame)
    }
}

impl Symbol {
    /// Recognizes it by its file, or by its name if the build left files out.
    fn is_allocator(&self) -> bool {
        const NAMES: [&str; 6] =
            ["_rjem_", "prof_", "imalloc", "do_rallocx", "__rustc::__rust_", "__rust_"];
        self.file.contains("/tikv-jemalloc") || NAMES.iter().any(|name| self.name.starts_with(name))
    }
}

fn symbols_at(address: usize) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    backtrace::resolve(without_provenance_mut(address), |symbol| {
        symbols.push(Symbol {
            // The name without the hash at its end.
            name: symbol.name().map_or_else(|| "unknown".to_owned(), |name| format!("{name:#}")),
            file: symbol.filename().map_or_else(String::new, |file| file.display().to_string()),
            line: symbol.lineno().unwrap_or_default(),
        });
    });
    if symbols.is_empty() {
        symbols.push(Symbol { name: format!("{address:#x}"), file: String::new(), line: 0 });
    }
    symbols
}
