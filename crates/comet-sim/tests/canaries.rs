//! Known bugs are put back one by one, and the simulator has to find each of them.
//!
//! `make canary` runs this; without the feature there is nothing to put back.
#![cfg(feature = "canary")]

use std::sync::Mutex;

use comet_core::Canary;

/// Seeds within which a bug has to be found.
const SEEDS: u64 = 1_000;

/// The first seed that finds `canary`, and its failure.
fn find(canary: Canary) -> Option<String> {
    canary.release();
    (0..SEEDS).find_map(|seed| comet_sim::run(seed).err()).map(|failure| failure.to_string())
}

#[test]
fn each_canary_is_found() {
    let waiting = Mutex::new(Canary::ALL.to_vec());
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        // Two threads, as on a small machine.
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(canary) = { waiting.lock().unwrap().pop() } {
                    match find(canary) {
                        Some(failure) => println!("{canary:?}: {failure}"),
                        None => missed.lock().unwrap().push(canary),
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}
