//! The form of the books, and their output.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::record::{Kind, Records};
use crate::report::Table;

/// The outcome of a push at a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Live,
    /// It came from the history, after a return or a gap.
    Recovered,
    /// The ledger counts it as dropped, with a reason.
    Dropped,
    /// The client was told that something is missing at this place.
    Gap,
    /// The caller was told that the part of the client's host is missing, or got an error.
    Caller,
    /// The client had no connection, or lost it before the push had left the server.
    NotConnected,
    /// Nobody was told.
    Unexplained,
}

impl Class {
    pub(super) const ALL: [Self; 7] = [
        Self::Live,
        Self::Recovered,
        Self::Dropped,
        Self::Gap,
        Self::Caller,
        Self::NotConnected,
        Self::Unexplained,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Recovered => "recovered",
            Self::Dropped => "dropped",
            Self::Gap => "told as a gap",
            Self::Caller => "told to the caller",
            Self::NotConnected => "not connected",
            Self::Unexplained => "unexplained",
        }
    }
}

/// A row of the table: the number of pushes, and the outcomes at all clients.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub pushes: u64,
    pub classes: [u64; Class::ALL.len()],
    /// Pushes that arrived twice in cases where that is allowed.
    pub again: u64,
}

impl Row {
    pub(super) fn expected(&self) -> u64 {
        self.classes.iter().sum()
    }

    pub(super) fn count(&self, class: Class) -> u64 {
        self.classes[class as usize]
    }
}

/// Deliveries that clients saw, next to those that replies count as queued.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Sums {
    /// The sum of queued in all replies.
    pub queued: u64,
    /// Live deliveries; and those of them whose host's part is not in the reply, or that got no reply.
    pub live: u64,
    pub live_beyond_replies: u64,
    /// Deliveries lost with connections that had them queued, or may have.
    pub lost: u64,
}

/// The books of a run.
#[derive(Default, Debug)]
pub(super) struct Books {
    /// By [`Kind`].
    pub rows: [Row; 3],
    pub phases: Vec<(&'static str, Row)>,
    pub sums: [Sums; 3],
    /// The sum of dropped in all replies, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Errors that callers got.
    pub errors: BTreeMap<String, u64>,
    pub faults: Vec<String>,
}

impl Books {
    /// The rows that a push belongs to.
    pub(super) fn rows_of(&mut self, records: &Records<'_>, number: usize) -> [&mut Row; 2] {
        let call = &records.calls[number];
        let begun = records.phases.iter().take_while(|phase| phase.begin_ns <= call.end_ns);
        let name = begun.last().unwrap_or(&records.phases[0]).name;
        let phase = self.phases.iter_mut().find(|(it, _)| *it == name);
        [&mut self.rows[call.kind as usize], &mut phase.expect("all have a row").1]
    }
}

/// A row for each kind of push and for each part of the run.
pub(super) fn table(books: &Books) -> String {
    let kinds = Kind::ALL.iter().zip(&books.rows).map(|(kind, row)| (kind.name().to_owned(), *row));
    let phases = books.phases.iter().map(|(name, row)| (format!("during: {name}"), *row));
    let cells = |(name, row): (String, Row)| {
        let numbers =
            [row.pushes, row.expected()].into_iter().chain(row.classes).chain([row.again]);
        [name].into_iter().chain(numbers.map(|number| number.to_string())).collect()
    };
    let headings: Vec<_> = ["target", "pushes", "expected"]
        .into_iter()
        .chain(Class::ALL.map(Class::name))
        .chain(["again"])
        .collect();
    let legend = [
        "expected: pairs of a push and a client that it is for; each is in one of the columns behind it",
        "recovered: from the history, after a return or a gap; told as a gap: the client knows that it misses something there",
        "told to the caller: the reply names the client's host as unanswered, or the call failed",
        "not connected: the client had no connection during the call, or lost it before the push had left the server",
        "again: beside these; the client went to another host during the call, or was told that the history begins before what it has",
    ];
    Table::new(&headings, kinds.chain(phases).map(cells).collect(), &legend).text()
}

/// The deliveries that replies count as queued, next to those that arrived.
pub(super) fn sums(books: &Books) -> String {
    let cells = |(kind, sums): (&Kind, &Sums)| {
        let numbers = [sums.queued, sums.live, sums.live_beyond_replies, sums.lost];
        [kind.name().to_owned()].into_iter().chain(numbers.map(|it| it.to_string())).collect()
    };
    let headings =
        ["target", "queued", "live", "of hosts named in replies", "queued there, or lost"];
    let legend = [
        "queued: the sum of all replies. It is live, less deliveries at hosts that a reply names, or may by '*', and calls without a reply, and with what is queued there all the same, or was lost with its connection",
    ];
    Table::new(&headings, Kind::ALL.iter().zip(&books.sums).map(cells).collect(), &legend).text()
}

/// The drops by reason, and the errors that callers got.
pub(super) fn reasons(books: &Books) -> String {
    let dropped = books
        .dropped
        .iter()
        .map(|(reason, count)| format!("dropped in replies, {reason}: {count}\n"));
    let errors =
        books.errors.iter().map(|(error, count)| format!("{count} calls failed, {error}\n"));
    dropped.chain(errors).collect()
}

/// The books for machines.
pub(super) fn results(books: &Books) -> Value {
    let row = |row: &Row| {
        let mut value =
            json!({ "pushes": row.pushes, "expected": row.expected(), "again": row.again });
        for class in Class::ALL {
            value[class.name().replace(' ', "_")] = json!(row.count(class));
        }
        value
    };
    let rows: Vec<_> = (Kind::ALL.iter().zip(&books.rows).zip(&books.sums))
        .map(|((kind, it), sums)| {
            let mut value = row(it);
            value["target"] = json!(kind.name());
            value["queued"] = json!(sums.queued);
            value["live_beyond_replies"] = json!(sums.live_beyond_replies);
            value["queued_not_live"] = json!(sums.lost);
            value
        })
        .collect();
    let phases: Vec<_> = (books.phases.iter())
        .map(|(name, it)| {
            let mut value = row(it);
            value["during"] = json!(name);
            value
        })
        .collect();
    json!({
        "rows": rows,
        "phases": phases,
        "dropped": books.dropped,
        "errors": books.errors,
        "faults": books.faults,
    })
}
