//! Bounds on the work of one turn of a driver. Work is counted, not timed: in deliveries, closings and polled items.
//!
//! If a bound equals the load of its case, the shard itself does not bound that work.

mod connections;
mod counting;
mod crowds;
mod pushes;
mod steps;
