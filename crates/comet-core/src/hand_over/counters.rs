//! Counters by name, for the hand-over.

use std::collections::BTreeMap;

use comet_handover as handed;
use comet_histogram::Histogram;
use comet_proto::RoomRefusal;

use crate::ledger::{CallerEnd, CloseReason, Counters, DropReason, ParkedLoss, Tally};

/// All totals of `counters` with their names, and all histograms. Gauges are left out, because the new shard knows them
/// itself.
#[allow(clippy::type_complexity, reason = "two lists")]
fn named(
    counters: &mut Counters,
) -> (Vec<(String, &mut u64)>, Vec<(&'static str, &mut Histogram)>) {
    // All fields are named, so that a new field has to be put into one of the lists.
    let Counters {
        accepted_tcp,
        accepted_websocket,
        event_streams,
        unknown_event_ids,
        deflated_connections,
        deflated_messages,
        deflate_saved_bytes,
        presence_pushes,
        presence_changes,
        refused,
        refused_for_memory,
        accept_pauses,
        accept_errors,
        authenticated,
        tokens_renewed,
        tokens_not_renewed,
        closed,
        pushes,
        deliveries,
        sent,
        lost,
        superseded,
        displaced,
        unsent,
        resumed,
        parked_lost,
        sessions_parked,
        sessions_resumed,
        sessions_expired,
        coalesce_windows,
        coalesced,
        frames_in,
        frames_ignored,
        heartbeats,
        rooms_refused,
        recoveries,
        recoveries_delayed,
        repaired,
        history_evicted,
        received,
        bytes_in,
        bytes_out,
        sends,
        mesh_waits,
        forgotten,
        trace_missed,
        handshake_times,
        push_times,
        turn_times,
        turn_micros_max,
        stalled_millis,
        callers_accepted,
        callers_ended,
        calls,
        // Gauges.
        waiting: _,
        parked: _,
        parked_bytes: _,
        parked_sessions: _,
        gathered: _,
        gathered_bytes: _,
        waiting_bytes: _,
        held_bytes: _,
        history_bytes: _,
        recovery_bytes: _,
        callers: _,
        connections: _,
        live: _,
        handshakes: _,
        moving_off: _,
        sources: _,
        addresses: _,
        rooms: _,
        further_rooms: _,
        users: _,
        keys: _,
    } = counters;
    let Tally {
        matched,
        queued,
        dropped,
        absent,
        parked: parked_by_pushes,
        unchanged,
        refused: rooms_refused_by_order,
    } = deliveries;
    let mut totals: Vec<(String, &mut u64)> = [
        ("accepted_tcp", accepted_tcp),
        ("accepted_websocket", accepted_websocket),
        ("event_streams", event_streams),
        ("unknown_event_ids", unknown_event_ids),
        ("deflated_connections", deflated_connections),
        ("deflated_messages", deflated_messages),
        ("deflate_saved_bytes", deflate_saved_bytes),
        ("recoveries_delayed", recoveries_delayed),
        ("presence_pushes", presence_pushes),
        ("presence_changes", presence_changes),
        ("refused", refused),
        ("refused_for_memory", refused_for_memory),
        ("accept_pauses", accept_pauses),
        ("accept_errors", accept_errors),
        ("authenticated", authenticated),
        ("tokens_renewed", tokens_renewed),
        ("tokens_not_renewed", tokens_not_renewed),
        ("pushes", pushes),
        ("deliveries_matched", matched),
        ("deliveries_queued", queued),
        ("deliveries_absent", absent),
        ("deliveries_parked", parked_by_pushes),
        ("orders_unchanged", unchanged),
        ("orders_refused", rooms_refused_by_order),
        ("sent", sent),
        ("lost", lost),
        ("superseded", superseded),
        ("displaced", displaced),
        ("unsent", unsent),
        ("resumed", resumed),
        ("sessions_parked", sessions_parked),
        ("sessions_resumed", sessions_resumed),
        ("sessions_expired", sessions_expired),
        ("coalesce_windows", coalesce_windows),
        ("coalesced", coalesced),
        ("frames_in", frames_in),
        ("frames_ignored", frames_ignored),
        ("heartbeats", heartbeats),
        ("history_evicted", history_evicted),
        ("repaired", repaired),
        ("received", received),
        ("bytes_in", bytes_in),
        ("bytes_out", bytes_out),
        ("sends", sends),
        ("mesh_waits", mesh_waits),
        ("forgotten", forgotten),
        ("trace_missed", trace_missed),
        (TURN_MICROS_MAX, turn_micros_max),
        ("stalled_millis", stalled_millis),
        ("callers_accepted", callers_accepted),
    ]
    .map(|(name, total)| (name.to_owned(), total))
    .into();
    labelled(&mut totals, "closed", CloseReason::ALL.iter().map(|reason| reason.label()), closed);
    labelled(&mut totals, "dropped", DropReason::ALL.iter().map(|reason| reason.label()), dropped);
    let losses = ParkedLoss::ALL.iter().map(|reason| reason.label());
    labelled(&mut totals, "parked_lost", losses, parked_lost);
    let refusals = RoomRefusal::ALL.iter().map(|refusal| refusal.label());
    labelled(&mut totals, "rooms_refused", refusals, rooms_refused);
    labelled(&mut totals, "recoveries", ["not_recovered", "recovered"].into_iter(), recoveries);
    let ends = CallerEnd::ALL.iter().map(|end| end.label());
    labelled(&mut totals, "callers_ended", ends, callers_ended);
    for (code, total) in calls.iter_mut().enumerate() {
        totals.push((format!("calls/{code}"), total));
    }
    let histograms = vec![
        ("handshake_times", handshake_times),
        ("push_times", push_times),
        ("turn_times", turn_times),
    ];
    (totals, histograms)
}

/// The name of the one total that is a maximum; all others are sums.
pub(super) const TURN_MICROS_MAX: &str = "turn_micros_max";

fn labelled<'a>(
    totals: &mut Vec<(String, &'a mut u64)>,
    name: &str,
    labels: impl Iterator<Item = &'static str>,
    array: &'a mut [u64],
) {
    totals.extend(labels.zip(array).map(|(label, total)| (format!("{name}/{label}"), total)));
}

/// The totals of `counters`.
pub(crate) fn to_message(mut counters: Counters) -> handed::Counters {
    let (totals, histograms) = named(&mut counters);
    let of = |histogram: &Histogram| {
        let (buckets, sum_micros) = histogram.parts();
        handed::Histogram { buckets: buckets.to_vec(), sum_micros }
    };
    handed::Counters {
        totals: totals.into_iter().map(|(name, total)| (name, *total)).collect(),
        histograms: histograms
            .into_iter()
            .map(|(name, times)| (name.to_owned(), of(times)))
            .collect(),
    }
}

/// The totals in `message` that this release knows.
pub(crate) fn from_message(message: &handed::Counters) -> Counters {
    let handed::Counters { totals: by_name, histograms: times_by_name } = message;
    let mut counters = Counters::default();
    let (totals, histograms) = named(&mut counters);
    for (name, total) in totals {
        *total = by_name.get(&name).copied().unwrap_or(0);
    }
    for (name, times) in histograms {
        // A histogram of another release may have other buckets. Its times are lost.
        let known = times_by_name.get(name);
        let known = known.and_then(|known| Histogram::from_parts(&known.buckets, known.sum_micros));
        *times = known.unwrap_or_default();
    }
    counters
}

/// Adds the counters of another shard.
pub(super) fn add(sum: &mut handed::Counters, other: &handed::Counters) {
    let handed::Counters { totals, histograms } = sum;
    for (name, &more) in &other.totals {
        let total = totals.entry(name.clone()).or_default();
        let is_max = name == TURN_MICROS_MAX;
        *total = if is_max { more.max(*total) } else { total.saturating_add(more) };
    }
    for (name, more) in &other.histograms {
        let times = histograms.entry(name.clone()).or_default();
        times.sum_micros = times.sum_micros.saturating_add(more.sum_micros);
        times.buckets.resize(times.buckets.len().max(more.buckets.len()), 0);
        for (count, &more) in times.buckets.iter_mut().zip(&more.buckets) {
            *count = count.saturating_add(more);
        }
    }
}

/// The counters of all shards, added up for each of the `count` shards that continue.
pub(super) fn regroup(counters: &[handed::Counters], count: u16) -> Vec<handed::Counters> {
    let empty = || handed::Counters { totals: BTreeMap::new(), histograms: BTreeMap::new() };
    let mut regrouped: Vec<_> = (0..count).map(|_| empty()).collect();
    for (index, one) in counters.iter().enumerate() {
        add(&mut regrouped[index % usize::from(count)], one);
    }
    regrouped
}
