//! Checks which hosts pushes have reached against their outcomes.

use std::collections::{BTreeMap, BTreeSet};

use comet_core::Millis;
use comet_hub::cluster::{ClusterOutcome, HostName, Target, UNKNOWN_HOSTS};

use super::{CALM_MS, Host, Link, TOLD_MS, World};

struct Push {
    by: usize,
    began: Millis,
    target: Target,
    /// The hosts that the pushing host knew.
    known: BTreeSet<HostName>,
    /// The hosts that have begun the push, and the number matched there.
    reached: BTreeMap<usize, u64>,
    is_over: bool,
}

#[derive(Default)]
pub(super) struct Pushes(Vec<Push>);

impl Pushes {
    pub(super) fn begin(
        &mut self,
        (by, known): (usize, BTreeSet<HostName>),
        began: Millis,
        target: Target,
    ) -> u64 {
        let reached = BTreeMap::new();
        self.0.push(Push { by, began, target, known, reached, is_over: false });
        self.0.len() as u64 - 1
    }

    /// A host begins a push of another host.
    pub(super) fn reach(&mut self, push: u64, host: usize, matched: u64) -> Result<(), String> {
        match self.0[push as usize].reached.insert(host, matched) {
            None => Ok(()),
            Some(_) => Err(format!("push {push} reaches h{host} twice")),
        }
    }

    /// A host has died. Nobody waits for the outcomes of its pushes any more.
    pub(super) fn abandon(&mut self, by: usize) {
        self.0.iter_mut().filter(|push| push.by == by).for_each(|push| push.is_over = true);
    }

    pub(super) fn ensure_ended(&self) -> Result<(), String> {
        match self.0.iter().position(|push| !push.is_over) {
            None => Ok(()),
            Some(push) => Err(format!("push {push} has no outcome")),
        }
    }
}

impl World {
    pub(super) fn check(&mut self, push: u64, outcome: &ClusterOutcome) -> Result<(), String> {
        let Push { by, began, target, known, reached, is_over } = &mut self.pushes.0[push as usize];
        if std::mem::replace(is_over, true) {
            return Err(format!("push {push} has two outcomes"));
        }
        let (by, began, target) = (*by, *began, target.clone());
        let (known, reached) = (known.clone(), reached.clone());
        let names = |name: &str| outcome.unanswered.iter().any(|host| **host == *name);
        // The part of such a host may be counted or missing.
        let may_be_unknown = |host: &Host| names(UNKNOWN_HOSTS) && !known.contains(&host.name);
        let was_calm = |host: &Host| host.link == Link::Up && host.changed.after(CALM_MS) <= began;
        let said = || format!("push {push} of h{by} to {target:?} at {began:?}: {outcome:?}");
        self.summary.pushes += 1;
        let (mut counted, mut of_unknown, mut is_calm) = (0, 0, was_calm(&self.hosts[by]));
        // The parts of hosts that had just come, or had just got their first member. They may be missing.
        let mut of_new = 0;
        for (number, host) in self.hosts.iter().enumerate().filter(|(number, _)| *number != by) {
            is_calm &= was_calm(host);
            let (was_reached, is_unknown) = (reached.get(&number), may_be_unknown(host));
            let part = was_reached.filter(|_| !names(&host.name)).copied().unwrap_or_default();
            counted += part;
            if is_unknown {
                of_unknown += part;
            } else if self.is_new(number, &target, began) {
                of_new += part;
            }
            let is_named = is_unknown || names(&host.name);
            if !host.is_running || !self.is_meant(number, &target, began) {
                continue;
            }
            match (was_reached, is_named) {
                (Some(_), _) => self.summary.reached += 1,
                (None, true) => self.summary.named += 1,
                (None, false)
                    if known.contains(&host.name)
                        || was_calm(host) && was_calm(&self.hosts[by]) =>
                {
                    let Host { link, changed, .. } = host;
                    let is = format!("h{number} ({link:?} since {changed:?})");
                    return Err(format!("{is} is not reached and not named: {}", said()));
                }
                // The caller is told that its push has not reached all hosts.
                (None, false) if !outcome.unanswered.is_empty() => self.summary.unknown += 1,
                (None, false) if self.is_new(number, &target, began) => self.summary.new += 1,
                (None, false) => self.summary.untold += 1,
            }
        }
        let matched = outcome.tally.matched;
        if matched > counted {
            return Err(format!("a part is counted whose host is named, {counted}: {}", said()));
        }
        if matched < counted - of_unknown && is_calm {
            return Err(format!("a part is missing of {counted}: {}", said()));
        }
        match matched {
            _ if matched >= counted - of_unknown => {}
            _ if matched >= counted - of_unknown - of_new => self.summary.new += 1,
            _ if !outcome.unanswered.is_empty() => self.summary.unknown += 1,
            _ => self.summary.untold += 1,
        }
        Ok(())
    }

    /// Whether the host had its connection, or its first member of the room, for less time than it takes to tell others
    /// about it.
    fn is_new(&self, number: usize, target: &Target, began: Millis) -> bool {
        let host = &self.hosts[number];
        let has_joined = host.changed.after(TOLD_MS) > began;
        let mut members = host.members.iter().filter(|(_, (count, _))| *count > 0);
        has_joined
            || match target {
                Target::Room(name) => members.any(|(room, (_, since))| {
                    self.rooms[*room] == *name && since.after(TOLD_MS) > began
                }),
                _ => false,
            }
    }

    /// Whether a push is meant for a host, and the others must know: the host had its members for long enough before
    /// the push began or, if it has no connection, before that was lost.
    fn is_meant(&self, number: usize, target: &Target, began: Millis) -> bool {
        let host = &self.hosts[number];
        let is_up = host.link == Link::Up && host.changed.after(CALM_MS) <= began;
        let told_until = if is_up { began } else { began.min(host.lost) };
        match target {
            Target::Room(name) => host.members.iter().any(|(room, (count, since))| {
                self.rooms[*room] == *name && *count > 0 && since.after(CALM_MS) <= told_until
            }),
            _ => self.matched(number, target) > 0,
        }
    }
}
