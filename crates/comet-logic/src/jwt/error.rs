//! Why tokens cannot be checked.

use std::fmt;

/// Why tokens cannot be checked: one sentence, which names the key file if one is at fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JwtError(pub(super) String);

impl fmt::Display for JwtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for JwtError {}
