//! A connection that is meant to stay.

#[derive(Clone, Copy)]
pub(super) struct Member {
    pub number: usize,
    /// Its index at the receiver.
    pub index: usize,
}
