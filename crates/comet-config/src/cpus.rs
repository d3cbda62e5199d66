//! Lists of CPUs as people write them, `0-3,6`, and the machine they have to be on.

use std::fmt::Write;
use std::num::IntErrorKind;

/// What the configuration has to fit: the machine comet runs on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// The CPUs this process may run on, by number, ascending. Not empty.
    pub cpus: Vec<usize>,
    /// The name of the host: what `server.id` is when nothing else is configured.
    pub host_name: String,
}

/// Reads a list of CPUs that `machine` has; empty text is an empty list. Ascending, whatever the
/// order in the text.
///
/// # Errors
/// A sentence that begins with what is wrong.
pub(crate) fn parse(text: &str, machine: &Machine) -> Result<Vec<usize>, String> {
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim) {
        if part.is_empty() && text.trim().is_empty() {
            break;
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first, text)?, number(last, text)?);
        if first > last {
            return Err(format!("{part}: the range runs backwards"));
        }
        // Looked up in the machine's list, not counted through: `0-18446744073709551615` costs nothing.
        let there = machine.cpus.iter().copied().filter(|cpu| (first..=last).contains(cpu));
        let named = there.clone().count();
        if (last - first).checked_add(1) != Some(named) {
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

fn number(text: &str, whole: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number) => Ok(number),
        // There is no such CPU either: leave it to the comparison with the machine.
        Err(fault) if *fault.kind() == IntErrorKind::PosOverflow => Ok(usize::MAX),
        Err(_) => Err(format!("{whole:?} is not a list of CPUs: write one like \"0-3,6\"")),
    }
}

/// The list as [`parse`] reads it, with runs as ranges.
pub(crate) fn format(cpus: &[usize]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: impl IntoIterator<Item = usize>) -> Machine {
        Machine { cpus: cpus.into_iter().collect(), host_name: "host".to_owned() }
    }

    #[test]
    fn lists_are_read_and_written() {
        let check = |text: &str, cpus: &[usize], written: &str| {
            assert_eq!(parse(text, &machine(0..8)).as_deref(), Ok(cpus), "{text}");
            assert_eq!(format(cpus), written, "{text}");
        };
        check("", &[], "");
        check(" ", &[], "");
        check("7", &[7], "7");
        check("0-3,6", &[0, 1, 2, 3, 6], "0-3,6");
        check(" 0 - 1 , 3 ", &[0, 1, 3], "0-1,3");
        check("6,0,1", &[0, 1, 6], "0-1,6");
        check("2-2", &[2], "2");
    }

    #[test]
    fn lists_that_make_no_sense_say_why() {
        let check = |text: &str, machine: &Machine, sentence: &str| {
            assert_eq!(parse(text, machine), Err(sentence.to_owned()), "{text}");
        };
        let two = machine(0..2);
        check("99", &two, "99: this machine has CPUs 0-1");
        check("1-2", &two, "1-2: this machine has CPUs 0-1");
        check("0-18446744073709551615", &two, "0-18446744073709551615: this machine has CPUs 0-1");
        check("99999999999999999999", &two, "99999999999999999999: this machine has CPUs 0-1");
        check("1", &machine([0, 2, 3]), "1: this machine has CPUs 0,2-3");
        check("1-0", &two, "1-0: the range runs backwards");
        check("0-1,1", &two, "0-1,1: CPU 1 is named twice");
        for text in ["x", "0,", ",", "0--1", "-1", "0;1", "1-"] {
            let sentence = format!("{text:?} is not a list of CPUs: write one like \"0-3,6\"");
            check(text, &two, &sentence);
        }
    }
}
