//! The activity in a phase of a day or of a soak: members reconnect, guests come and go, and messages are pushed to
//! rooms, to keys and to everybody.

use crate::Result;
use crate::accounting::StreamId;
use crate::args::Phase;
use crate::clients::ClientCommand;
use crate::clock::seconds_to_ns;
use crate::crowd::{Crowd, Streams};
use crate::plan::{Pattern, Plan, run_id};
use crate::sender::Sent;
use crate::sink::Sink;
use crate::subject::Subject;

/// Begins the phase with the connected members, who receive everything meant for them. Guests stay `life_s` seconds on
/// average, and the share `moves` of them changes its room. Returns the plans of the pushes, with bodies of `size`
/// bytes, and where they go; none for a rate of 0.
pub(super) fn begin(
    subject: &mut Subject,
    phase: &Phase,
    size: u32,
    (life_s, moves): (f64, f64),
) -> Result<Vec<(Plan, Sink)>> {
    let run = run_id();
    subject.restart(run, size as usize, true)?;
    if phase.reconnect > 0.0 {
        subject.clients.execute(ClientCommand::Reconnect(phase.reconnect))?;
    }
    subject.start_guests(phase.arrivals, life_s, moves)?;
    let mut pushes = Vec::new();
    for (kind, streams, rate) in rates(phase) {
        let Some(interval_ns) = Plan::interval_of(rate) else { continue };
        let crowd = Crowd { streams, ..subject.crowd.clone() };
        let plan = Plan {
            run: run + kind,
            pattern: Pattern::Rotating { first: 0 },
            interval_ns: Some(interval_ns),
            duration_ns: seconds_to_ns(phase.seconds),
            ..Plan::new(subject.operation, size as usize, crowd.members())
        };
        pushes.push((plan, subject.sink(&crowd)?));
    }
    Ok(pushes)
}

/// The number of pushes a second to the streams of each kind.
fn rates(phase: &Phase) -> [(u32, Streams, f64); 3] {
    [
        (StreamId::ROOM, Streams::Rooms, phase.room_rate),
        (StreamId::KEY, Streams::Keys(1), phase.key_rate),
        (StreamId::BROADCAST, Streams::Everybody, phase.broadcast_rate),
    ]
}

/// The messages of each stream, at the index of its kind; `sent` only has the kinds with a rate.
pub(super) fn messages_by_kind(phase: &Phase, sent: &[Sent]) -> Vec<Vec<u64>> {
    let mut sent = sent.iter();
    let of_kind = rates(phase).map(|(_, _, rate)| if rate > 0.0 { sent.next() } else { None });
    of_kind.map(|sent| sent.map(|sent| sent.messages.clone()).unwrap_or_default()).to_vec()
}
