//! Settles the books: the outcome of each push at each client that it was for.

use super::faults::Faults;
use super::record::{Call, Diary, Entry, Kind, Outcome, Records, Session};
use super::seen::Places;
use super::table::{Books, Class, Row};
use crate::clock::SECOND_NS;

/// An answered push may wait this long in the outbox of a connection, and be lost with it.
const IN_OUTBOX_NS: u64 = 2 * SECOND_NS;
/// How long replies name a killed host after its end, at least.
const NAMED_NS: u64 = 60 * SECOND_NS;
/// The host may not notice the end of a connection for this long.
const UNNOTICED_NS: u64 = 2 * SECOND_NS;

impl Records<'_> {
    /// Settles the books. Everything that nobody was told of becomes a fault.
    pub(super) fn settle(&self) -> Books {
        let mut books = Books::default();
        for phase in self.phases {
            if books.phases.iter().all(|(name, _)| *name != phase.name) {
                books.phases.push((phase.name, Row::default()));
            }
        }
        let mut faults = Faults::default();
        let mut places = Vec::new();
        for client in 0..self.diaries.len() {
            let seen = self.seen(client, &mut faults);
            places.push(seen.places);
            for number in seen.again {
                books.rows_of(self, number).into_iter().for_each(|row| row.again += 1);
            }
        }
        self.check_agreement(&places, &mut faults);
        let told: Vec<Vec<bool>> =
            (0..self.diaries.len()).map(|client| self.told(client, &places)).collect();
        let last: Vec<Vec<[u64; 3]>> = self.diaries.iter().map(|it| self.last(it)).collect();
        for (number, call) in self.calls.iter().enumerate() {
            if let Outcome::Silent = call.outcome {
                faults.add("calls without an answer", || format!("push {number}: {call:?}"));
            }
            self.check_names(number, call, &mut faults);
            let classes = self.classes(number, &places, &told, &last);
            if let Outcome::Refused(error) | Outcome::Failed(error) = &call.outcome {
                *books.errors.entry(error.clone()).or_default() += 1;
            }
            for row in books.rows_of(self, number) {
                row.pushes += 1;
                classes.iter().for_each(|class| row.classes[*class as usize] += 1);
            }
            for (client, class) in call.clients.iter().zip(&classes) {
                if *class == Class::Unexplained {
                    faults.add("pushes that nobody was told of", || self.describe(number, *client));
                }
                if matches!(call.outcome, Outcome::Refused(_)) && places[*client][number].is_some()
                {
                    faults.add("pushes that were refused, and came", || {
                        self.describe(number, *client)
                    });
                }
            }
            self.check_sums(number, &classes, &mut books, &mut faults);
        }
        books.faults = faults.into_texts();
        books
    }

    /// By session and kind: the beginning of the latest call whose push arrived in this session.
    fn last(&self, diary: &Diary) -> Vec<[u64; 3]> {
        let mut last = vec![[0; 3]; diary.sessions.len()];
        for entry in &diary.entries {
            let Entry::Push { number, kind, session, .. } = *entry else { continue };
            if let Some(call) = self.calls.get(number) {
                let last = &mut last[session][kind as usize];
                *last = call.begin_ns.max(*last);
            }
        }
        last
    }

    /// The outcome of a push at each of its clients.
    fn classes(
        &self,
        number: usize,
        places: &[Places],
        told: &[Vec<bool>],
        last: &[Vec<[u64; 3]>],
    ) -> Vec<Class> {
        let call = &self.calls[number];
        let mut dropped = call.answer().map_or(0, |answer| answer.dropped.values().sum::<u64>());
        let mut class = |client: usize| {
            if let Some(place) = places[client][number] {
                let entry = self.diaries[client].entries[place];
                let is_recovered = matches!(entry, Entry::Push { is_recovered: true, .. });
                return if is_recovered { Class::Recovered } else { Class::Live };
            }
            let Some(answer) = call.answer() else { return Class::Caller };
            let sessions = &self.diaries[client].sessions;
            // A stored push must reach each client, whatever happened to its host.
            if call.kind == Kind::History {
                return if told[client][number] { Class::Gap } else { Class::Unexplained };
            }
            if self.hosts_at(call, sessions).any(|host| answer.names(host, call.host, self.names)) {
                return Class::Caller;
            }
            if is_away(call, sessions) || is_lost_with_connection(call, sessions, &last[client]) {
                return Class::NotConnected;
            }
            if dropped > 0 {
                dropped -= 1;
                return Class::Dropped;
            }
            Class::Unexplained
        };
        call.clients.iter().map(|client| class(*client)).collect()
    }

    /// The hosts where a client was, or had last been, during a call.
    fn hosts_at<'a>(
        &self,
        call: &'a Call,
        sessions: &'a [Session],
    ) -> impl Iterator<Item = usize> + 'a {
        let next_ready = |index: usize| sessions.get(index + 1).map(|next| next.ready_ns);
        let may_be = move |(index, session): (usize, &Session)| {
            let is_over = next_ready(index).is_some_and(|ready| ready < call.begin_ns);
            (session.begin_ns <= call.end_ns && !is_over).then_some(session.host)
        };
        sessions.iter().enumerate().filter_map(may_be)
    }

    /// Each reply must name a killed host until another process has its name.
    fn check_names(&self, number: usize, call: &Call, faults: &mut Faults) {
        let (Some(death), Some(answer)) = (self.death, call.answer()) else { return };
        let until_ns = death.to_ns.min(death.from_ns + NAMED_NS);
        let is_dead = call.begin_ns > death.from_ns && call.end_ns < until_ns;
        if is_dead && !answer.names(death.host, call.host, self.names) {
            faults.add("replies without the name of the killed host", || {
                format!("push {number}: {call:?}")
            });
        }
    }

    /// The queued and dropped counts of a reply must match what clients received and missed.
    fn check_sums(&self, number: usize, classes: &[Class], books: &mut Books, faults: &mut Faults) {
        let call = &self.calls[number];
        let sums = &mut books.sums[call.kind as usize];
        let live = classes.iter().filter(|class| **class == Class::Live).count() as u64;
        sums.live += live;
        let Some(answer) = call.answer() else {
            sums.live_beyond_replies += live;
            return;
        };
        for (reason, count) in &answer.dropped {
            *books.dropped.entry(reason.clone()).or_default() += count;
        }
        sums.queued += answer.queued;
        // A client that has just gone to another host may be counted at both.
        let changes = call.clients.iter().filter(|client| self.has_changed(call, **client)).count();
        let changes = changes as u64;
        // A client is only certain to be counted if the answer names neither its host nor one that it has just left;
        // `*` may be either.
        let is_sure = |client: &usize| {
            let mut hosts = self.hosts_at(call, &self.diaries[*client].sessions);
            !hosts.any(|host| answer.names(host, call.host, self.names))
        };
        let of = |class: Class| {
            let with = call.clients.iter().zip(classes).filter(move |(_, is)| **is == class);
            with.map(|(client, _)| client)
        };
        let sure = of(Class::Live).filter(|client| is_sure(client)).count() as u64;
        let lost = of(Class::NotConnected).count() as u64;
        sums.live_beyond_replies += live - sure;
        let most = match call.kind {
            // A member that waits for a repair gets no push in the meantime.
            Kind::History => call.clients.len() as u64 + changes,
            _ => live + lost + of(Class::Caller).count() as u64 + changes,
        };
        sums.lost += answer.queued.saturating_sub(sure);
        if !(sure..=most).contains(&answer.queued) {
            faults.add("replies whose queued is not what clients got", || {
                format!("push {number}: {sure} to {most} at clients, {call:?}")
            });
        }
        let missing = call.clients.len() as u64 - live;
        let dropped: u64 = answer.dropped.values().sum();
        if call.kind != Kind::History && dropped > missing + changes {
            faults.add("replies with more dropped than clients miss", || {
                format!("push {number}: {missing} missing, {call:?}")
            });
        }
    }

    /// Whether a connection of a client ended during a call or shortly before, so that its host may not have noticed.
    fn has_changed(&self, call: &Call, client: usize) -> bool {
        let ends = self.diaries[client].sessions.iter().filter_map(|session| session.end_ns);
        ends.into_iter().any(|end| end <= call.end_ns && call.begin_ns <= end + UNNOTICED_NS)
    }
}

/// Whether the client was without a connection at some time during a call.
fn is_away(call: &Call, sessions: &[Session]) -> bool {
    let ends = sessions.iter().filter_map(|session| session.end_ns);
    let nexts = sessions.iter().skip(1).map(|next| next.ready_ns).chain([u64::MAX]);
    ends.zip(nexts).any(|(end, next)| end <= call.end_ns && call.begin_ns <= next)
}

/// Whether a push was queued on a connection that ended soon after: nothing that was pushed later arrived on it.
fn is_lost_with_connection(call: &Call, sessions: &[Session], last: &[[u64; 3]]) -> bool {
    sessions.iter().zip(last).any(|(session, last)| {
        session.end_ns.is_some_and(|end| {
            session.begin_ns <= call.end_ns
                && call.end_ns <= end
                && end <= call.end_ns + IN_OUTBOX_NS
                && last[call.kind as usize] <= call.end_ns
        })
    })
}

#[cfg(test)]
mod tests;
