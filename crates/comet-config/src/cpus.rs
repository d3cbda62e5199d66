//! The machine that a configuration has to fit, and lists of its CPUs.

pub(crate) use comet_cpus::format;

/// The machine on which comet runs, which the configuration has to fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// The CPUs this process may run on, by number, ascending. Not empty.
    pub cpus: Vec<usize>,
    /// The name of the host: the default of `server.id`.
    pub host_name: String,
}

/// Reads a list of CPUs that `machine` has; empty text is an empty list. The result is ascending, whatever the order in
/// the text.
///
/// # Errors
/// A sentence that begins with the error.
pub(crate) fn parse(text: &str, machine: &Machine) -> Result<Vec<usize>, String> {
    let mut cpus = Vec::new();
    for range in comet_cpus::parse(text)? {
        // Intersected with the machine's list instead of iterated, because the range may be huge.
        let there = machine.cpus.iter().copied().filter(|cpu| range.contains(cpu));
        let named = there.clone().count();
        let (first, last) = range.clone().into_inner();
        if (last - first).checked_add(1) != Some(named) {
            let part = if first == last { first.to_string() } else { format!("{first}-{last}") };
            return Err(format!("{part}: this machine has CPUs {}", format(&machine.cpus)));
        }
        cpus.extend(there);
    }
    cpus.sort_unstable();
    match cpus.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{text}: CPU {} is named twice", pair[0])),
        None => Ok(cpus),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: impl IntoIterator<Item = usize>) -> Machine {
        Machine { cpus: cpus.into_iter().collect(), host_name: "host".to_owned() }
    }

    #[test]
    fn lists_are_sorted() {
        let check = |text: &str, cpus: &[usize]| {
            assert_eq!(parse(text, &machine(0..8)).as_deref(), Ok(cpus), "{text}");
        };
        check("", &[]);
        check("0-3,6", &[0, 1, 2, 3, 6]);
        check("6,0,1", &[0, 1, 6]);
    }

    #[test]
    fn errors_of_invalid_cpu_lists_name_the_reason() {
        let check = |text: &str, machine: &Machine, sentence: &str| {
            assert_eq!(parse(text, machine), Err(sentence.to_owned()), "{text}");
        };
        let two = machine(0..2);
        check("99", &two, "99: this machine has CPUs 0-1");
        check("1-2", &two, "1-2: this machine has CPUs 0-1");
        check("0-18446744073709551615", &two, "0-18446744073709551615: this machine has CPUs 0-1");
        check("99999999999999999999", &two, "18446744073709551615: this machine has CPUs 0-1");
        check("1", &machine([0, 2, 3]), "1: this machine has CPUs 0,2-3");
        check("1-0", &two, "1-0: the range runs backwards");
        check("0-1,1", &two, "0-1,1: CPU 1 is named twice");
        check("0,", &two, "\"0,\" is not a list of CPUs: write one like \"0-3,6\"");
    }
}
