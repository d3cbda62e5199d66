//! The push API over loopback, in front of a backend that notes what it is asked for.

mod body;
mod recorder;
mod stream;
