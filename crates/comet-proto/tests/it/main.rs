//! Tests of the wire protocol: exact bytes, bad input, round trips, another implementation, and the
//! corpus of the fuzz targets.
#![allow(clippy::print_stdout, reason = "the harness shows it")]

mod bad_input;
mod bad_upgrade;
mod corpus;
mod deflate;
mod interop;
mod origin;
mod protocol_2;
mod proxy;
mod push_frame;
mod round_trip;
mod support;
mod text;
mod vectors;
