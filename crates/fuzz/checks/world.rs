//! Shards, control, logic and clients of the simulator, whose decisions are the fuzzer's.

pub(crate) fn check(input: &[u8]) {
    if let Err(failure) = comet_sim::run_input(input) {
        panic!("{failure}");
    }
}
