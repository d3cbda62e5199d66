//! The speed of a paced push, as its caller gives it.

use std::num::NonZeroU32;

use tonic::Status;

/// Connections a second; 0 is all at once.
///
/// # Errors
/// If `speed` is negative.
pub fn pace(speed: i32) -> Result<Option<NonZeroU32>, Status> {
    u32::try_from(speed).map(NonZeroU32::new).map_err(|_| {
        Status::invalid_argument(format!("speed is {speed}: give 0 or connections a second"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_not_negative() {
        assert_eq!(pace(0).unwrap(), None);
        assert_eq!(pace(7).unwrap(), NonZeroU32::new(7));
        let error = pace(-1).unwrap_err();
        assert_eq!(error.message(), "speed is -1: give 0 or connections a second");
    }
}
