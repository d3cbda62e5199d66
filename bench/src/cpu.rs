//! Sets of CPUs as the command line writes them, and pinning to them.

use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::str::FromStr;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Serialize, Serializer};

/// CPUs in the order given, `0-3,6`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CpuList(Vec<usize>);

impl CpuList {
    /// One CPU.
    pub(crate) fn one(cpu: usize) -> Self {
        Self(vec![cpu])
    }

    /// The first CPU that the process may use.
    pub(crate) fn first() -> Self {
        Self::one(usable().next().unwrap_or(0))
    }

    /// The last CPU that the process may use.
    pub(crate) fn last() -> Self {
        Self::one(usable().last().unwrap_or(0))
    }

    /// The CPUs that the process may use.
    pub(crate) fn usable() -> Self {
        Self(usable().collect())
    }

    /// The first of them alone.
    pub(crate) fn head(&self) -> Self {
        Self(self.0.iter().take(1).copied().collect())
    }

    /// Those that are not in `other`, if there are any.
    pub(crate) fn without(&self, other: &Self) -> Option<Self> {
        let left: Vec<usize> =
            self.0.iter().filter(|cpu| !other.0.contains(cpu)).copied().collect();
        (!left.is_empty()).then_some(Self(left))
    }

    /// Both lists together.
    pub(crate) fn with(&self, other: &Self) -> Self {
        let mut all = self.0.clone();
        all.extend(other.0.iter().filter(|cpu| !self.0.contains(cpu)));
        Self(all)
    }

    /// Lets the calling thread, and what it starts from now on, run on these CPUs only.
    ///
    /// # Errors
    ///
    /// None of the CPUs exists, or the process may not use them.
    pub(crate) fn pin(&self) -> io::Result<()> {
        let mut set = CpuSet::new();
        for &cpu in &self.0 {
            set.set(cpu);
        }
        Ok(sched_setaffinity(None, &set)?)
    }
}

/// Where the kernel is told how long waking a CPU may take (admin-guide/pm/cpuidle). Root may write to it.
pub(crate) const IDLE_CONTROL: &str = "/dev/cpu_dma_latency";

/// Keeps all CPUs of the host out of their idle states until the process ends.
///
/// # Errors
///
/// The kernel has no such control, or the user may not use it.
pub(crate) fn stay_awake() -> io::Result<()> {
    let mut control = File::options().write(true).open(IDLE_CONTROL)?;
    let none_us: i32 = 0;
    control.write_all(&none_us.to_ne_bytes())?;
    // It holds for as long as the file is open.
    mem::forget(control);
    Ok(())
}

fn usable() -> impl Iterator<Item = usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(move |&cpu| set.is_set(cpu))
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |digits: &str| {
                digits
                    .trim()
                    .parse::<usize>()
                    .ok()
                    .filter(|&cpu| cpu < CpuSet::MAX_CPU)
                    .ok_or_else(|| format!("{part:?} is no CPU and no range of CPUs"))
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("the range {part:?} runs backwards"));
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl std::fmt::Display for CpuList {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(usize::to_string).collect();
        out.write_str(&numbers.join(","))
    }
}

impl Serialize for CpuList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};

    use super::*;

    #[test]
    fn lists_and_ranges_are_read() {
        assert_eq!("0-3,6".parse(), Ok(CpuList(vec![0, 1, 2, 3, 6])));
        assert_eq!("2".parse(), Ok(CpuList::one(2)));
        assert_eq!("0,2".parse::<CpuList>().unwrap().to_string(), "0,2");
    }

    #[test]
    fn a_difference_may_be_nothing() {
        let cpus = |text: &str| text.parse::<CpuList>().unwrap();
        assert_eq!(cpus("0-3").without(&cpus("1,3")), Some(cpus("0,2")));
        assert_eq!(cpus("0,1").without(&cpus("0-1")), None);
        assert_eq!(cpus("2,0").head(), cpus("2"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a", "3-1", "1,,2", "-1", "99999"] {
            assert!(text.parse::<CpuList>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_union_names_each_cpu_once() {
        let both = CpuList(vec![0, 1]).with(&CpuList(vec![1, 2]));
        assert_eq!(both, CpuList(vec![0, 1, 2]));
    }

    #[test]
    fn awake_is_what_the_kernel_says_then() {
        match stay_awake() {
            Ok(()) => {
                let mut allowed_us = [0xff; 4];
                File::open(IDLE_CONTROL).unwrap().read_exact(&mut allowed_us).unwrap();
                assert_eq!(i32::from_ne_bytes(allowed_us), 0);
            }
            Err(error) => {
                let refused = [ErrorKind::PermissionDenied, ErrorKind::NotFound];
                assert!(refused.contains(&error.kind()), "{error}");
            }
        }
    }
}
