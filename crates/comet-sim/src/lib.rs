//! comet-sim.
