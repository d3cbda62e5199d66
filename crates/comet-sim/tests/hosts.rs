//! Many hosts that push for each other, with faults.

use comet_sim::hosts::{self, HostsCosts, HostsSummary};

#[test]
fn a_push_reaches_the_hosts_it_is_meant_for_or_they_are_named() {
    let mut sum = HostsSummary::default();
    for seed in 0..15 {
        let hosts = [2, 3, 12][seed as usize % 3];
        sum += hosts::run(seed, hosts).unwrap_or_else(|violation| panic!("{violation}"));
    }
    assert!(sum.faults > 100 && sum.named > 0 && sum.reached > 10_000, "{sum}");
}

#[test]
fn a_push_to_a_room_costs_the_hosts_with_members_alone() {
    let costs = HostsCosts::of(8, 4, 2).unwrap();
    // Each host announces itself to each other.
    assert_eq!((costs.subscriptions, costs.messages_a_second), (4, 8 * 7));
    // The host that pushes has members as well.
    assert_eq!((costs.messages_a_room_push, costs.messages_a_key_push), (2, 2 * 7));
}
