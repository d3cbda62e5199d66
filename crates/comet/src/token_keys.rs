//! The key files that check tokens (`token.jwt_keys`), and their reload.

use std::fs;
use std::path::PathBuf;

use comet_logic::{AnyAuthenticator, Jwt, KeyFile, KeySet};

/// The bytes of `files`.
///
/// # Errors
/// A sentence that names the first file that cannot be read.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<KeyFile>, String> {
    let read = |path: &PathBuf| {
        let name = path.display().to_string();
        match fs::read(path) {
            Ok(bytes) => Ok(KeyFile { name, bytes }),
            Err(error) => Err(format!("{name}: {error}")),
        }
    };
    files.iter().map(read).collect()
}

/// The keys from newer files, not in use yet.
#[must_use]
pub(crate) struct NewKeys<'a>(Option<(&'a Jwt, KeySet)>);

/// Reads `files` again, if `authenticator` has keys.
///
/// # Errors
/// A sentence that names the first file that cannot be used.
pub(crate) fn reload<'a>(
    authenticator: &'a AnyAuthenticator,
    files: &[PathBuf],
) -> Result<NewKeys<'a>, String> {
    let AnyAuthenticator::Jwt(jwt) = authenticator else { return Ok(NewKeys(None)) };
    let keys = read(files).and_then(|files| jwt.read(&files).map_err(|error| error.to_string()));
    match keys {
        Ok(keys) => Ok(NewKeys(Some((jwt, keys)))),
        Err(error) => Err(format!("token.jwt_keys: {error}")),
    }
}

impl NewKeys<'_> {
    /// Puts the keys into use. Returns what changed, one sentence per file.
    pub(crate) fn adopt(self) -> Vec<String> {
        let changes = self.0.map(|(jwt, keys)| jwt.adopt(keys)).unwrap_or_default();
        let named =
            |change: comet_logic::KeyChange| format!("token.jwt_keys[{}]: {change}", change.file);
        changes.into_iter().map(named).collect()
    }
}
