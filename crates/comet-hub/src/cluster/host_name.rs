//! The name of a host.

use std::sync::Arc;

/// The name of a host: the id of its server.
pub type HostName = Arc<str>;
