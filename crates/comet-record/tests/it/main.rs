//! Sessions against rustls, against the vectors of RFC 8448, against each other, and against records that no session
//! may take.

mod corpus;
mod forger;
mod limits;
mod model;
mod peer;
mod refusals;
mod rustls_peer;
mod state;
mod tickets;
mod vectors;
