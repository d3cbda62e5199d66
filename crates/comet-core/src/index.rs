//! Index types.

/// An index type of a slab. Each slab has its own, so that an index of one cannot be used for another.
pub(crate) trait Index: Copy + Eq {
    /// The index that names nothing.
    const NONE: Self;

    fn from_u32(index: u32) -> Self;
    fn to_u32(self) -> u32;
}

/// Implements [`Index`] for a newtype of `u32`.
macro_rules! index {
    ($name:ident) => {
        impl crate::index::Index for $name {
            const NONE: Self = Self(u32::MAX);

            #[inline]
            fn from_u32(index: u32) -> Self {
                Self(index)
            }

            #[inline]
            fn to_u32(self) -> u32 {
                self.0
            }
        }
    };
}
pub(crate) use index;
