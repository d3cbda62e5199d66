//! A connection that is meant to stay.

#[derive(Clone, Copy)]
pub(super) struct Member {
    pub number: usize,
    /// At the receiver.
    pub index: usize,
}
