//! The options that connect this host with others (`nats.servers`), from the configuration.

use std::fs;
use std::sync::Arc;

use comet_config::{Config, HISTORY_AGE_MAX, HistoryStore, Nats, NatsRooms};
use comet_control::ClusterOptions;
use comet_nats::{Auth, Events, Options, StreamOptions};

/// `None`: there are no other hosts.
///
/// # Errors
/// If the credentials cannot be read, or the options cannot be used, as a sentence with the key.
pub(crate) fn cluster(config: &Config) -> Result<Option<ClusterOptions>, String> {
    let nats = &config.nats;
    if nats.servers.is_empty() {
        return Ok(None);
    }
    let options = Options {
        servers: nats.servers.clone(),
        auth: auth(nats)?,
        authorities: nats.authorities.clone(),
        prefix: nats.prefix.clone(),
        host: config.server.id.as_str().into(),
        sessions: nats.sessions,
        stream: stream(config),
    };
    let host = options.host.clone();
    let (engine, Events { notices, pushes, stream }, work) =
        comet_nats::start(options).map_err(|error| format!("nats.servers: {error}"))?;
    Ok(Some(ClusterOptions {
        host,
        sessions: nats.sessions,
        subscribes_rooms: nats.rooms == NatsRooms::Subscribed,
        engine: Arc::new(engine),
        notices,
        pushes,
        stream,
        work: Box::pin(work),
    }))
}

/// A stream that keeps each push as long as any rule requires. It is read even without a rule, because a rule may be
/// added while this process runs, and the stream may belong to another host.
fn stream(config: &Config) -> Option<StreamOptions> {
    let Nats { history, history_bytes, history_replicas, .. } = &config.nats;
    let age = config.history.rules.iter().map(|rule| rule.age).max().unwrap_or(HISTORY_AGE_MAX);
    let options = StreamOptions { bytes: *history_bytes, age, replicas: *history_replicas };
    (*history == HistoryStore::Jetstream).then_some(options)
}

fn auth(nats: &Nats) -> Result<Auth, String> {
    if let Some(user) = &nats.user {
        let password = nats.password.clone().unwrap_or_default();
        return Ok(Auth::Password { user: user.clone(), password });
    }
    if let Some(seed) = &nats.nkey {
        return Ok(Auth::Nkey(seed.clone()));
    }
    let Some(file) = &nats.credentials else { return Ok(Auth::None) };
    let read = fs::read_to_string(file);
    read.map(Auth::Credentials)
        .map_err(|error| format!("nats.credentials: cannot read {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use comet_config::{Machine, Source, load};

    use super::*;

    /// A rule may be added while the process runs, and other hosts may have rules.
    #[test]
    fn the_stream_is_read_also_where_there_is_no_rule() {
        let check = |sets: &[&str], hours: Option<u64>| {
            let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
            let machine = Machine { cpus: vec![0], host_name: "host".to_owned() };
            let config = load(&Source { sets: &sets, ..Source::default() }, &machine).unwrap();
            let age = stream(&config).map(|options| options.age);
            assert_eq!(age, hours.map(std::time::Duration::from_hours), "{sets:?}");
        };
        let servers = "nats.servers=[\"nats://127.0.0.1\"]";
        let shared = "nats.history=\"jetstream\"";
        let rule = "history.rules=[{rooms=\"h://\", age=\"2h\"}]";
        check(&[servers, rule], None);
        check(&[servers, shared], Some(24));
        check(&[servers, shared, rule], Some(2));
    }
}
