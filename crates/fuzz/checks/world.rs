//! Shards, control, logic and clients of the simulator. The fuzzer makes the decisions.

pub(crate) fn check(input: &[u8]) {
    if let Err(failure) = comet_sim::run_input(input) {
        panic!("{failure}");
    }
}
