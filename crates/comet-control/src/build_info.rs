//! What this program was built from: `/buildinfo`, and the labels of `comet_build_info`.

use serde_json::{Value, json};

/// Commit of the source, as `COMET_COMMIT` or git said it at build time; `unknown` without either.
pub(crate) const COMMIT: &str = env!("COMET_BUILD_COMMIT");

/// What `comet --version` says: of what release, and of which commit, the program is.
pub const VERSION_AND_COMMIT: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("COMET_BUILD_COMMIT"), ")");

/// `rustc --version` of the compiler.
pub(crate) const RUSTC: &str = env!("COMET_BUILD_RUSTC");

/// The answer of `/buildinfo`.
pub(crate) fn page(version: &str) -> Value {
    json!({
        "version": version,
        "commit": COMMIT,
        "rustc": RUSTC,
        "profile": env!("COMET_BUILD_PROFILE"),
        "target": env!("COMET_BUILD_TARGET"),
    })
}
