//! One helper for each kind of value: take what was written, or the default; report what is wrong.
//! After a mistake the default stands in, so that the rest can be checked.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use crate::Process;
use crate::cpus::{self, Machine};
use crate::mistakes::Report;
use crate::raw::List;
use crate::units::{Number, Size, Span, duration_text, size_text};

/// What [`is_name`] takes, for reports.
pub(super) const NAME: &str = "a name of up to 255 printable characters without spaces";

/// A name that fits into a line of a log and a label of a metric; may be empty.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The checks of single values, and what they found.
pub(super) struct Kinds<'a> {
    pub(super) report: Report<'a>,
    pub(super) process: Process,
    /// Every address that will be listened on, in the order of the sections.
    pub(super) bound: Vec<Bound>,
}

/// One element of a list of addresses.
pub(super) struct Bound {
    pub(super) key: &'static str,
    pub(super) index: usize,
    pub(super) at: Range<usize>,
    pub(super) address: SocketAddr,
}

impl Kinds<'_> {
    pub(super) fn number<T: TryFrom<i64>>(
        &mut self,
        key: &str,
        raw: Option<Number>,
        default: T,
        range: RangeInclusive<i64>,
    ) -> T {
        let Some(Number(number)) = raw else {
            return default;
        };
        if !range.contains(&number) {
            return self.out_of_range(key, number, range.start(), range.end(), default);
        }
        fit(number)
    }

    /// A number of ring entries: the kernel takes powers of two up to 32768 (`IORING_MAX_ENTRIES`;
    /// the same for a ring of buffers).
    pub(super) fn ring_size<T: TryFrom<i64>>(
        &mut self,
        key: &str,
        raw: Option<Number>,
        default: T,
    ) -> T {
        let Some(Number(number)) = raw else {
            return default;
        };
        if !(16..=32_768).contains(&number) || number.count_ones() != 1 {
            self.report.value(key, &format!("{number} is not a power of two from 16 to 32768"));
            return default;
        }
        fit(number)
    }

    pub(super) fn size<T: TryFrom<u64>>(
        &mut self,
        key: &str,
        raw: Option<Size>,
        default: T,
        range: RangeInclusive<u64>,
    ) -> T {
        let Some(Size(size)) = raw else {
            return default;
        };
        if !range.contains(&size) {
            let [size, least, most] = [size, *range.start(), *range.end()].map(size_text);
            return self.out_of_range(key, size, least, most, default);
        }
        fit(size)
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        raw: Option<Span>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(Span(duration)) = raw else {
            return default;
        };
        if !range.contains(&duration) {
            let [duration, least, most] =
                [duration, *range.start(), *range.end()].map(duration_text);
            return self.out_of_range(key, duration, least, most, default);
        }
        duration
    }

    /// A duration that the kernel takes in whole seconds.
    pub(super) fn seconds(
        &mut self,
        key: &str,
        raw: Option<Span>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let duration = self.duration(key, raw, default, range);
        if duration.subsec_nanos() != 0 {
            let text = duration_text(duration);
            self.report.value(key, &format!("{text} is not a whole number of seconds"));
            return default;
        }
        duration
    }

    fn out_of_range<T>(
        &mut self,
        key: &str,
        value: impl Display,
        least: impl Display,
        most: impl Display,
        default: T,
    ) -> T {
        self.report.value(key, &format!("{value} is out of range: {least} to {most}"));
        default
    }

    /// Text that `is_good`; `kind` says in the report what good text is.
    pub(super) fn text(
        &mut self,
        key: &str,
        raw: Option<String>,
        default: String,
        is_good: impl Fn(&str) -> bool,
        kind: &str,
    ) -> String {
        let Some(text) = raw else { return default };
        if !is_good(&text) {
            self.report.value(key, &format!("{text:?} is not {kind}"));
            return default;
        }
        text
    }

    /// A file; `""` is none.
    pub(super) fn file(
        &mut self,
        key: &str,
        raw: Option<String>,
        default: Option<PathBuf>,
    ) -> Option<PathBuf> {
        let text = raw?;
        if text.is_empty() {
            return None;
        }
        path(&text).map_or_else(
            |what| {
                self.report.value(key, &what);
                default
            },
            Some,
        )
    }

    /// Files, each with a name.
    pub(super) fn files(
        &mut self,
        key: &str,
        raw: Option<List>,
        default: Vec<PathBuf>,
    ) -> Vec<PathBuf> {
        self.list(key, raw, default, path)
    }

    /// A list of whatever `read` makes of text; it says what is wrong with an element.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        raw: Option<List>,
        default: Vec<T>,
        mut read: impl FnMut(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(list) = raw else { return default };
        let mut values = Vec::with_capacity(list.len());
        for (index, text) in list.iter().enumerate() {
            match read(text.get_ref()) {
                Ok(value) => values.push(value),
                Err(what) => self.report.element(key, index, &text.span(), &what),
            }
        }
        values
    }

    /// CPUs of `machine`; none written is none. Those of comets may be on another one.
    pub(super) fn cpus(&mut self, key: &str, raw: Option<&str>, machine: &Machine) -> Vec<usize> {
        let raw = raw.filter(|_| self.process == Process::Comet);
        cpus::parse(raw.unwrap_or_default(), machine).unwrap_or_else(|what| {
            self.report.value(key, &what);
            Vec::new()
        })
    }

    /// Addresses to listen on.
    pub(super) fn addresses(
        &mut self,
        key: &'static str,
        raw: Option<List>,
        default: Vec<SocketAddr>,
    ) -> Vec<SocketAddr> {
        let before = self.bound.len();
        match raw {
            None => self.bound.extend((0..).zip(default).map(|(index, address)| Bound {
                key,
                index,
                at: 0..0,
                address,
            })),
            Some(list) => {
                for (index, text) in list.iter().enumerate() {
                    self.address(key, index, text);
                }
            }
        }
        self.bound[before..].iter().map(|bound| bound.address).collect()
    }

    fn address(&mut self, key: &'static str, index: usize, text: &Spanned<String>) {
        let at = text.span();
        let is_elsewhere = self.process == Process::Logic && !is_of_logic(key);
        match resolve(text.get_ref(), is_elsewhere) {
            Ok(address) => self.bound.push(Bound { key, index, at, address }),
            Err(what) => self.report.element(key, index, &at, &what),
        }
    }
}

/// `value` in the type of its default.
fn fit<S, T: TryFrom<S>>(value: S) -> T {
    T::try_from(value).ok().expect("every range fits the type it is for")
}

/// Whether `comet logic` listens there, and not comet.
pub(super) fn is_of_logic(key: &str) -> bool {
    key.starts_with("logic_server.")
}

/// One address of `HOST:PORT`: where a name has several, the first of IPv4, so that it does not
/// depend on the resolver's mood which family is listened on. A name that `is_elsewhere` may have none
/// here: then any address stands for it.
fn resolve(text: &str, is_elsewhere: bool) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let Some(port) = port_after_name(text) else {
        return Err(format!("{text:?} is not an address: use HOST:PORT"));
    };
    if is_elsewhere {
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    let found = text.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let first = |found: &Vec<SocketAddr>| {
        found.iter().find(|address| address.is_ipv4()).or(found.first()).copied()
    };
    match found {
        Ok(addresses) => first(&addresses).ok_or_else(|| format!("{text:?} has no address")),
        Err(fault) => Err(format!("{text:?} has no address: {fault}")),
    }
}

/// The port of `NAME:PORT`, if `text` is that, with the name of a host.
fn port_after_name(text: &str) -> Option<u16> {
    let (host, port) = text.rsplit_once(':')?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_host = !host.is_empty() && host.bytes().all(is_name);
    port.parse().ok().filter(|_| is_host)
}

/// An address to connect to, as it was written: names are resolved by whoever connects.
pub(super) fn peer(text: &str) -> Result<String, String> {
    let is_address = text.parse::<SocketAddr>().is_ok() || port_after_name(text).is_some();
    if !is_address {
        return Err(format!("{text:?} is not an address: use HOST:PORT"));
    }
    if text.ends_with(":0") {
        return Err(format!("{text:?} names no port: nothing can be reached at 0"));
    }
    Ok(text.to_owned())
}

fn path(text: &str) -> Result<PathBuf, String> {
    // The kernel knows paths up to 4095 bytes (PATH_MAX), and none with a zero in it.
    if text.is_empty() || text.len() > 4095 || text.contains('\0') {
        return Err(format!("{text:?} is not the name of a file"));
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_resolved() {
        let check = |text: &str, expected: &str| {
            let resolved = resolve(text, false).map(|address| address.to_string());
            assert_eq!(resolved, Ok(expected.to_owned()));
        };
        check("0.0.0.0:8080", "0.0.0.0:8080");
        check("[::]:0", "[::]:0");
        check("[::1]:65535", "[::1]:65535");
        check("localhost:8083", "127.0.0.1:8083");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "8080",
            ":8080",
            "localhost",
            "0.0.0.0:80800",
            "localhost:x",
            "::1:80",
            "a b:80",
            "[::1",
        ] {
            let expected = format!("{text:?} is not an address: use HOST:PORT");
            assert_eq!(resolve(text, false), Err(expected.clone()));
            assert_eq!(resolve(text, true), Err(expected));
        }
    }
}
