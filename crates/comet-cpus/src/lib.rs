//! Lists of CPUs as people write them (`0-3,6`, the kernel's cpulist format), and pinning threads to them.

use std::fmt::{self, Write};
use std::io;
use std::num::IntErrorKind;
use std::ops::RangeInclusive;
use std::str::FromStr;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Serialize, Serializer};

/// Reads a list of CPUs and ranges of them, in the order of the text; empty text is an empty list. Whether
/// the CPUs exist is not checked, and ranges are not expanded: `0-18446744073709551615` costs nothing. A
/// number that does not fit is `usize::MAX`, which no machine has.
///
/// # Errors
/// A sentence that begins with the mistake.
pub fn parse(text: &str) -> Result<Vec<RangeInclusive<usize>>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let number = |digits: &str| match digits.trim().parse::<usize>() {
        Ok(number) => Ok(number),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => Ok(usize::MAX),
        Err(_) => Err(format!("{text:?} is not a list of CPUs: write one like \"0-3,6\"")),
    };
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("{}: the range runs backwards", part.trim()));
        }
        Ok(first..=last)
    };
    text.split(',').map(range).collect()
}

/// The list as [`parse`] reads it, with runs of ascending numbers as ranges.
pub fn format(cpus: &[usize]) -> String {
    let mut text = String::new();
    for run in cpus.chunk_by(|one, next| one + 1 == *next) {
        let comma = if text.is_empty() { "" } else { "," };
        let written = match run {
            [first, .., last] => write!(text, "{comma}{first}-{last}"),
            _ => write!(text, "{comma}{}", run[0]),
        };
        written.expect("a string takes all");
    }
    text
}

/// The CPUs that the calling thread may run on, ascending.
///
/// # Errors
/// The kernel has more CPUs than its C library knows of.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Lets the calling thread, and every thread and process it starts from now on, run on `cpus` only.
///
/// # Errors
/// None of the CPUs exists, or the process may not use them.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(rustix::io::Errno::INVAL.into());
        }
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// CPUs in the order given. At least one if it was parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuList(Vec<usize>);

impl CpuList {
    /// One CPU.
    pub fn one(cpu: usize) -> Self {
        Self(vec![cpu])
    }

    /// All that the calling thread may run on; CPU 0 where the kernel does not say.
    pub fn allowed() -> Self {
        Self(allowed().unwrap_or_else(|_| vec![0]))
    }

    /// The first of them alone.
    pub fn first(&self) -> Self {
        Self(self.0.iter().take(1).copied().collect())
    }

    /// The last of them alone.
    pub fn last(&self) -> Self {
        Self(self.0.iter().rev().take(1).copied().collect())
    }

    /// The CPUs that are not in `other`, if there are any.
    pub fn without(&self, other: &Self) -> Option<Self> {
        let left: Vec<usize> =
            self.0.iter().filter(|cpu| !other.0.contains(cpu)).copied().collect();
        (!left.is_empty()).then_some(Self(left))
    }

    /// Both lists together, each CPU once.
    pub fn with(&self, other: &Self) -> Self {
        let mut all = self.0.clone();
        all.extend(other.0.iter().filter(|cpu| !self.0.contains(cpu)));
        Self(all)
    }

    /// [`pin`]s the calling thread to them.
    ///
    /// # Errors
    /// As of [`pin`].
    pub fn pin(&self) -> io::Result<()> {
        pin(&self.0)
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ranges = parse(text)?;
        match ranges.iter().find(|range| *range.end() >= CpuSet::MAX_CPU) {
            Some(range) => Err(format!("no machine has a CPU {}", range.end())),
            None if ranges.is_empty() => Err("a list of CPUs names at least one".to_owned()),
            None => Ok(Self(ranges.into_iter().flatten().collect())),
        }
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&format(&self.0))
    }
}

impl Serialize for CpuList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> CpuList {
        text.parse().unwrap()
    }

    #[test]
    fn lists_are_parsed_and_formatted() {
        let check = |text: &str, cpus: &[usize], formatted: &str| {
            let parsed: Vec<usize> = parse(text).unwrap().into_iter().flatten().collect();
            assert_eq!(parsed, cpus, "{text}");
            assert_eq!(format(cpus), formatted, "{text}");
        };
        check("", &[], "");
        check(" ", &[], "");
        check("7", &[7], "7");
        check("0-3,6", &[0, 1, 2, 3, 6], "0-3,6");
        check(" 0 - 1 , 3 ", &[0, 1, 3], "0-1,3");
        check("6,0,1", &[6, 0, 1], "6,0-1");
        check("2-2", &[2], "2");
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("0, 2-1"), Err("2-1: the range runs backwards".to_owned()));
        for text in ["x", "0,", ",", "0--1", "-1", "0;1", "1-", "1,,2"] {
            let sentence = format!("{text:?} is not a list of CPUs: write one like \"0-3,6\"");
            assert_eq!(parse(text), Err(sentence));
        }
    }

    #[test]
    fn huge_numbers_are_not_expanded() {
        let all = 0..=usize::MAX;
        assert_eq!(parse("0-18446744073709551615"), Ok(vec![all.clone()]));
        assert_eq!(parse("0-99999999999999999999"), Ok(vec![all]));
        for text in ["", "99999", "0-18446744073709551615"] {
            assert!(text.parse::<CpuList>().is_err(), "{text:?} was accepted");
        }
        assert!(pin(&[99_999]).is_err());
    }

    #[test]
    fn lists_combine() {
        assert_eq!(list("0-3").without(&list("1,3")), Some(list("0,2")));
        assert_eq!(list("0,1").without(&list("0-1")), None);
        assert_eq!(list("0-1").with(&list("1-2")), list("0-2"));
        assert_eq!((list("2,0").first(), list("2,0").last()), (list("2"), CpuList::one(0)));
    }

    #[test]
    fn a_thread_is_pinned_to_what_it_may_use() {
        let only = CpuList::allowed().last();
        let pinned = std::thread::spawn({
            let only = only.clone();
            move || {
                only.pin().unwrap();
                CpuList::allowed()
            }
        });
        assert_eq!(pinned.join().unwrap(), only);
    }
}
