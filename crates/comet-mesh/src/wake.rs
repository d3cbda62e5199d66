//! The [`Wake`] trait.

/// How a sleeping receiver is woken. Called from the sender's thread; must not block.
pub trait Wake: Send + Sync + 'static {
    /// Makes the receiver look at its inbox again. Calls may be merged, none may be lost.
    fn wake(&self);
}
