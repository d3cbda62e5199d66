//! The measurements, and what all of them do alike.

pub(crate) mod churn;
pub(crate) mod connect;
pub(crate) mod day;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod parts;
pub(crate) mod raw;
pub(crate) mod readers;
pub(crate) mod targets;
