//! The layers a configuration is read from, and the process that reads it.

use std::ffi::OsString;
use std::io;
use std::path::Path;

/// The layers of a configuration, from the weakest to the strongest. Without any, the defaults are used.
#[derive(Clone, Copy, Default, Debug)]
pub struct Source<'a> {
    /// The file's name, for messages, and its text.
    pub file: Option<(&'a Path, &'a str)>,
    /// Environment variables with their values. Those of other programs are ignored.
    pub environment: &'a [(OsString, OsString)],
    /// `--set`: each is `section.key=value`, the value in TOML.
    pub sets: &'a [String],
    /// `--cores`: overrides `server.cores`.
    pub cores: Option<&'a str>,
    /// `--control-cores`: overrides `server.control_cores`.
    pub control_cores: Option<&'a str>,
    /// Reads the file of a secret, `{ file = "PATH" }`. Without this function such values are mistakes.
    pub read_secret: Option<fn(&Path) -> io::Result<String>>,
}

/// The process that reads the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    Comet,
    Logic,
}

impl Process {
    /// Whether `key` is for this process, and not for the other one.
    pub(crate) fn owns(self, key: &str) -> bool {
        (self == Self::Logic) == key.starts_with("logic_server.")
    }
}
