//! The push API over loopback, in front of a backend that records its requests.

mod body;
mod recorder;
mod stream;
