//! The samples as jemalloc writes them, in the format `heap_v2` of its manual: for each stack a line of addresses, one
//! of sums, and one for each thread.

/// Samples that were read out.
#[derive(PartialEq, Debug)]
pub(super) struct Dump {
    /// Average number of bytes between samples.
    pub(super) interval: u64,
    pub(super) stacks: Vec<Stack>,
}

/// A stack that allocated memory.
#[derive(PartialEq, Debug)]
pub(super) struct Stack {
    /// Return addresses, innermost first.
    pub(super) addresses: Vec<usize>,
    /// Allocated since sampling began.
    pub(super) taken: Amount,
    /// The part of it that is not freed.
    pub(super) held: Amount,
}

#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Amount {
    pub(super) objects: u64,
    pub(super) bytes: u64,
}

impl Dump {
    /// `None`: it has another format.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let interval = lines.next()?.strip_prefix("heap_v2/")?.parse().ok()?;
        let mut stacks = Vec::new();
        while let Some(line) = lines.next() {
            if line == "MAPPED_LIBRARIES:" {
                break;
            }
            if let Some(addresses) = line.strip_prefix('@') {
                stacks.push(Stack::parse(addresses, lines.next()?, interval)?);
            }
        }
        Some(Self { interval, stacks })
    }

    /// The addresses of all stacks, with repetitions.
    pub(super) fn addresses(&self) -> impl Iterator<Item = usize> {
        self.stacks.iter().flat_map(|stack| &stack.addresses).copied()
    }
}

impl Stack {
    /// `sums` is `  t*: OBJECTS: BYTES [OBJECTS: BYTES]`: held, and in brackets allocated.
    fn parse(addresses: &str, sums: &str, interval: u64) -> Option<Self> {
        let address = |text: &str| usize::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let addresses = addresses.split_ascii_whitespace().map(address).collect::<Option<_>>()?;
        let sums = sums.trim_start().strip_prefix("t*: ")?.strip_suffix(']')?;
        let (held, taken) = sums.split_once(" [")?;
        let amount = |text: &str| {
            let (objects, bytes) = text.split_once(": ")?;
            Some(Amount { objects: objects.parse().ok()?, bytes: bytes.parse().ok()? })
        };
        let (held, taken) = (amount(held)?, amount(taken)?);
        Some(Self { addresses, taken: taken.scaled(interval), held: held.scaled(interval) })
    }
}

impl Amount {
    /// The estimated total for a sample: an object of x bytes is sampled with the probability 1 − e^(−x / interval). As
    /// in jemalloc's own reader (jeprof), x is the mean size here.
    fn scaled(self, interval: u64) -> Self {
        if self.objects == 0 || self.bytes == 0 {
            return Self::default();
        }
        let mean = self.bytes as f64 / self.objects as f64;
        let factor = 1.0 / -(-mean / interval as f64).exp_m1();
        let scale = |number: u64| (number as f64 * factor).round() as u64;
        Self { objects: scale(self.objects), bytes: scale(self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "heap_v2/65536\n  t*: 3: 131136 [4: 131200]\n  t0: 3: 131136 [4: 131200] main\n\
        @ 0x10 0xff\n  t*: 2: 131072 [2: 131072]\n  t0: 2: 131072 [2: 131072]\n\
        @ 0x20\n  t*: 0: 0 [1: 64]\n  t0: 0: 0 [1: 64]\n\n\
        MAPPED_LIBRARIES:\n55d0-55e0 r--p 00000000 00:00 0 /bin/comet\n@ 0x30\n";

    #[test]
    fn stacks_are_read_and_scaled() {
        let dump = Dump::parse(TEXT).unwrap();
        assert_eq!((dump.interval, dump.stacks.len()), (65_536, 2));
        assert_eq!(dump.addresses().collect::<Vec<_>>(), [0x10, 0xff, 0x20]);
        // Objects as large as the interval are sampled with the probability 1 - 1/e: 2 stand for 3.16.
        let large = Amount { objects: 3, bytes: 207_353 };
        assert_eq!((dump.stacks[0].taken, dump.stacks[0].held), (large, large));
        // A sampled small object stands for as many of its size as fill an interval.
        assert_eq!(dump.stacks[1].held, Amount::default());
        assert_eq!(dump.stacks[1].taken, Amount { objects: 1_025, bytes: 65_568 });
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(Dump::parse("heap_v2/8\n"), Some(Dump { interval: 8, stacks: vec![] }));
        for text in [
            "",
            "heap_v1/8\n",
            "heap_v2/x\n",
            "heap_v2/8\n@ 0x1",
            "heap_v2/8\n@ 1\n  t*: 1: 8 [1: 8]\n",
            "heap_v2/8\n@ 0x1\n  t0: 1: 8 [1: 8]\n",
            "heap_v2/8\n@ 0x1\n  t*: 1: 8\n",
            "heap_v2/8\n@ 0x1\n  t*: 1 8 [1: 8]\n",
        ] {
            assert_eq!(Dump::parse(text), None, "{text}");
        }
    }
}
