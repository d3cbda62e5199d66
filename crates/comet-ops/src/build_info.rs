//! The build information of this program: `/buildinfo`, and the labels of `comet_build_info`.

use serde_json::{Value, json};

/// Commit of the source, from `COMET_COMMIT` or git at build time; `unknown` without either.
pub const COMMIT: &str = env!("COMET_BUILD_COMMIT");

/// The release and the commit of the program, as `comet --version` prints them.
pub const VERSION_AND_COMMIT: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("COMET_BUILD_COMMIT"), ")");

/// `rustc --version` of the compiler.
pub const RUSTC: &str = env!("COMET_BUILD_RUSTC");

/// The answer of `/buildinfo`.
#[must_use]
pub fn build_info(version: &str) -> Value {
    json!({
        "version": version,
        "commit": COMMIT,
        "rustc": RUSTC,
        "profile": env!("COMET_BUILD_PROFILE"),
        "target": env!("COMET_BUILD_TARGET"),
    })
}
