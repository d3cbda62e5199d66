//! The measurements, and what they have in common.

pub(crate) mod books;
pub(crate) mod churn;
pub(crate) mod cluster;
pub(crate) mod connect;
pub(crate) mod day;
pub(crate) mod fairness;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod latency;
mod logic;
pub(crate) mod overload;
mod phase;
pub(crate) mod readers;
pub(crate) mod resume;
pub(crate) mod rooms;
pub(crate) mod soak;
pub(crate) mod targets;
pub(crate) mod upgrade;

use std::fs::File;
use std::io::{self, Write};
use std::mem;

use crate::Result;
use crate::args::{HostArgs, SetupArgs};
use crate::dial::ensure_descriptors;
use crate::findings::{Findings, close_fault};
use crate::subject::Place;

/// The kernel's limit on the time that waking a CPU may take (admin-guide/pm/cpuidle). Only root may write to it.
const IDLE_CONTROL: &str = "/dev/cpu_dma_latency";

/// Raises the limit of open files for the connections and for `beside` more, and pins the bench. Fails if either is not
/// possible.
fn prepare(setup: &SetupArgs, beside: u64) -> Result<()> {
    let SetupArgs { dial, host, .. } = setup;
    ensure_descriptors(dial.connections as usize + usize::try_from(beside)?, dial.processes)?;
    pin(host)
}

/// Pins the bench, and keeps the CPUs awake if the arguments ask for it; children are started with their own CPUs.
/// Fails if the host has no such CPU, or does not let the user keep it awake.
fn pin(host: &HostArgs) -> Result<()> {
    let cpus = &host.bench_core;
    cpus.pin().map_err(|error| format!("cannot run on CPU {cpus}: {error}"))?;
    if host.awake {
        stay_awake().map_err(|error| format!("--awake: {IDLE_CONTROL}: {error}"))?;
    }
    Ok(())
}

/// Keeps all CPUs of the host out of their idle states until the process ends. Fails if the kernel has no
/// such control, or the user may not use it.
fn stay_awake() -> io::Result<()> {
    let mut control = File::options().write(true).open(IDLE_CONTROL)?;
    let none_us: i32 = 0;
    control.write_all(&none_us.to_ne_bytes())?;
    // It is in effect as long as the file is open.
    mem::forget(control);
    Ok(())
}

/// The settings of a server whose clients do not read, with a value of `protocol.slow_consumer`.
fn keeps_stalled(policy: &str) -> Vec<String> {
    vec![
        format!("protocol.slow_consumer=\"{policy}\""),
        // They must stay connected, and must not use up the kernel's memory.
        "protocol.write_timeout=\"1h\"".to_owned(),
        "tcp.sndbuf=16384".to_owned(),
        "protocol.svr_proto=512".to_owned(),
    ]
}

/// Runs `rounds` rounds with a turn of each subject, and returns the results.
fn each_turn<T>(
    rounds: u32,
    subjects: &[&'static str],
    mut take: impl FnMut(Place) -> Result<T>,
) -> Result<Vec<T>> {
    let turns = rounds * subjects.len() as u32;
    let mut taken = Vec::new();
    for round in 1..=rounds {
        for subject in subjects {
            let turn = taken.len() as u32 + 1;
            taken.push(take(Place { subject, round, rounds, turn, turns })?);
        }
    }
    Ok(taken)
}

/// The faults of deliveries to members and guests, as sentences, if the server has `dropped` this number: when guests
/// come and go, that may be more than the bench sees missing, but not less.
fn delivery_faults(findings: &Findings, dropped: u64) -> Vec<String> {
    let lost = findings.lost();
    let mut faults = findings.deliveries.faults(findings.deliveries.lost);
    faults.extend(findings.visits.faults(findings.visits.lost));
    faults.extend(close_fault(&findings.closed));
    if lost > dropped {
        faults
            .push(format!("{lost} deliveries lost, where the server counted {dropped} as dropped"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};

    use super::*;
    use crate::sender::Sent;
    use crate::stats::Reasons;

    #[test]
    fn drops_at_connections_that_come_and_go_explain_nothing() {
        let mut dropped = Reasons::default();
        for (reason, count) in
            [("outbox_full", 2), ("filtered", 1), ("closing", 4), ("not_ready", 8)]
        {
            dropped.add(reason, count);
        }
        let sent = Sent { dropped: Some(dropped), ..Sent::default() };
        assert_eq!((sent.dropped(), sent.dropped_of_present()), (15, 3));
        let mut findings = Findings::default();
        findings.visits.lost = 3;
        assert_eq!(delivery_faults(&findings, sent.dropped_of_present()), [""; 0]);
        findings.visits.lost = 4;
        assert_eq!(delivery_faults(&findings, sent.dropped_of_present()).len(), 1);
    }

    #[test]
    fn the_kernel_confirms_that_idle_states_are_off() {
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

    #[test]
    fn every_subject_has_a_turn_in_every_round() {
        let taken = each_turn(2, &["comet", "ring"], |place| {
            Ok((place.round, place.subject, place.turn, place.turns))
        });
        let expected =
            [(1, "comet", 1, 4), (1, "ring", 2, 4), (2, "comet", 3, 4), (2, "ring", 4, 4)];
        assert_eq!(taken.unwrap(), expected);
    }
}
