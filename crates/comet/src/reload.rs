//! A newer configuration for a server that runs: what of it can change alive does, all or nothing.

use comet_config::{Change, Config, Machine, Source, load};

/// What a newer configuration came to.
#[derive(Clone, PartialEq, Debug)]
pub struct Reloaded {
    /// Keys that hold from now on.
    pub alive: Vec<Change>,
    /// Keys whose newer value holds after a restart.
    pub later: Vec<Change>,
}

/// `running`, with what of `newer` can change alive.
///
/// # Errors
/// If that does not fit the rest of `running`, as a sentence for each mistake.
pub(crate) fn adopt(running: &Config, newer: &Config, machine: &Machine) -> Result<Config, String> {
    let mut config = running.clone();
    config.server.drain_timeout = newer.server.drain_timeout;
    config.server.drain_over = newer.server.drain_over;
    config.server.retry_after = newer.server.retry_after;
    config.websocket.path.clone_from(&newer.websocket.path);
    config.websocket.head_max = newer.websocket.head_max;
    config.websocket.origins.clone_from(&newer.websocket.origins);
    config.tls.certificates.clone_from(&newer.tls.certificates);
    config.tls.keys.clone_from(&newer.tls.keys);
    config.tls.min_version = newer.tls.min_version;
    config.protocol = newer.protocol.clone();
    config.limits.connections = newer.limits.connections;
    config.limits.mesh_backlog = newer.limits.mesh_backlog;
    config.bucket.user_memory = newer.bucket.user_memory;
    config.white_list = newer.white_list.clone();
    config.log.level = newer.log.level;
    // For another process; nothing here depends on it.
    config.logic_server = newer.logic_server.clone();
    let text = config.to_toml();
    let name = "with what needs a restart as it is".as_ref();
    let adopted = load(&Source { file: Some((name, &text)), ..Source::default() }, machine)
        .map_err(|mistakes| mistakes.to_string())?;
    // The text is without its passwords.
    Ok(Config { logic_server: config.logic_server, ..adopted })
}

/// What `newer` changes of `running` if `adopted` is what [`adopt`] made of them.
pub(crate) fn compare(running: &Config, adopted: &Config, newer: &Config) -> Reloaded {
    let mut alive = running.changes(adopted);
    alive.retain(|change| !change.key.starts_with("logic_server."));
    Reloaded { alive, later: adopted.changes(newer) }
}
