//! The wire as others see it: exact bytes, what must be refused, round trips, another implementation,
//! and the corpus of the fuzz targets.

mod bad_input;
mod bad_upgrade;
mod corpus;
mod interop;
mod proxy;
mod round_trip;
mod support;
mod vectors;
