//! How much one turn of a driver may do. Work is counted, not timed: a turn is as long as the deliveries,
//! closings and items to poll that it adds up to.
//!
//! Where a bound equals the load of its case, the shard has no bound of its own there.

mod connections;
mod counting;
mod crowds;
mod pushes;
mod steps;
