//! Checks what clients received: each push once, in order, and in the same order at all of them; and where they were
//! told that something is missing.

use std::collections::BTreeMap;

use super::faults::Faults;
use super::record::{Answer, Diary, Entry, Kind, Records};

/// For each push, its index in a client's entries if it is there.
pub(super) type Places = Vec<Option<usize>>;

/// What a client received.
pub(super) struct Seen {
    pub places: Places,
    /// Pushes that arrived twice in cases where that is allowed.
    pub again: Vec<usize>,
}

impl Records<'_> {
    /// Finds each push in a client's entries. Checks that it is there once, through the target that it was pushed to,
    /// and in the order of its publisher.
    pub(super) fn seen(&self, client: usize, faults: &mut Faults) -> Seen {
        let mut again = Vec::new();
        let mut places = vec![None; self.calls.len()];
        let mut last: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (place, entry) in self.diaries[client].entries.iter().enumerate() {
            let Entry::Push { number, kind, .. } = *entry else { continue };
            let Some(call) = self.calls.get(number) else {
                faults.add("pushes that nobody made", || format!("{number} at client {client}"));
                continue;
            };
            if call.kind != kind || !call.clients.contains(&client) {
                faults.add("pushes at a client that they are not for", || {
                    self.describe(number, client)
                });
            }
            if let Some(first) = places[number] {
                if self.may_come_again(client, number, (first, place)) {
                    again.push(number);
                } else {
                    faults.add("pushes that came twice", || self.describe(number, client));
                }
                continue;
            }
            places[number] = Some(place);
            let last = last.entry((kind as usize, call.publisher)).or_default();
            if *last > number {
                faults.add("pushes out of the order of their publisher", || {
                    format!("{} came behind {last}", self.describe(number, client))
                });
            }
            *last = number.max(*last);
        }
        Seen { places, again }
    }

    /// Whether a push may arrive at a client twice, at these places. A client with a history is told that its position
    /// is not known, and then gets what its new host had not sent yet. In other cases the client went to another host
    /// before all hosts had the push.
    fn may_come_again(
        &self,
        client: usize,
        number: usize,
        (first, second): (usize, usize),
    ) -> bool {
        let Diary { sessions, entries } = &self.diaries[client];
        let call = &self.calls[number];
        let (Entry::Push { session: before, .. }, Entry::Push { session: after, .. }) =
            (entries[first], entries[second])
        else {
            return false;
        };
        if call.kind == Kind::History {
            return before < after && entries[first..second].contains(&Entry::Told);
        }
        let host = sessions[after].host;
        let may_be_late = |answer: &Answer| answer.names(host, call.host, self.names);
        before < after
            && (sessions[after].begin_ns <= call.end_ns || call.answer().is_none_or(may_be_late))
    }

    /// The pushes of the history room that a client received, in order.
    fn in_order<'a>(
        &'a self,
        client: usize,
        places: &'a Places,
    ) -> impl DoubleEndedIterator<Item = usize> + 'a {
        let entries = self.diaries[client].entries.iter().enumerate();
        entries.filter_map(|(place, entry)| match entry {
            // The first occurrence counts.
            Entry::Push { number, kind: Kind::History, .. } => {
                (places.get(*number) == Some(&Some(place))).then_some(*number)
            }
            _ => None,
        })
    }

    /// All clients must see the history room in the same order.
    pub(super) fn check_agreement(&self, places: &[Places], faults: &mut Faults) {
        for one in 0..self.diaries.len() {
            for other in one + 1..self.diaries.len() {
                let mut last = 0;
                for number in self.in_order(one, &places[one]) {
                    let Some(place) = places[other][number] else { continue };
                    if place < last {
                        faults.add("pushes in another order than at another client", || {
                            format!("{}, and {other}", self.describe(number, one))
                        });
                    }
                    last = place.max(last);
                }
            }
        }
    }

    /// For each push, whether a client was told of a gap at the place where it is missing in the history room: between
    /// the pushes around it that the client has. The neighbours of a push are known from other clients that have both.
    pub(super) fn told(&self, client: usize, places: &[Places]) -> Vec<bool> {
        let own = &places[client];
        let entries = &self.diaries[client].entries;
        let mut after: Places = vec![None; self.calls.len()];
        let mut before = after.clone();
        for other in (0..self.diaries.len()).filter(|other| *other != client) {
            let mut bound = 0;
            for number in self.in_order(other, &places[other]) {
                match own[number] {
                    Some(place) => bound = place,
                    None => after[number] = after[number].max(Some(bound)),
                }
            }
            let mut bound = entries.len();
            for number in self.in_order(other, &places[other]).rev() {
                match own[number] {
                    Some(place) => bound = place,
                    None => {
                        before[number] = Some(before[number].map_or(bound, |it| it.min(bound)));
                    }
                }
            }
        }
        let is_told = |(after, before): (Option<usize>, Option<usize>)| {
            let place = after.zip(before).filter(|(after, before)| after <= before);
            place.is_some_and(|(after, before)| entries[after..before].contains(&Entry::Told))
        };
        after.into_iter().zip(before).map(is_told).collect()
    }
}
