//! Requests of this program to HTTP servers: what all of them have in common.

use std::time::Duration;

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, RootCerts};
use ureq::typestate::AgentScope;

/// An agent whose requests take `limit` at most. It follows no redirect and asks no proxy, unless `change` says so.
pub(crate) fn agent(
    limit: Duration,
    change: impl FnOnce(ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope>,
) -> Agent {
    let config = Agent::config_builder()
        .timeout_global(Some(limit))
        .max_redirects(0)
        .proxy(None)
        .user_agent(concat!("comet/", env!("CARGO_PKG_VERSION")));
    change(config).build().into()
}

/// The authorities that this host trusts.
pub(crate) fn system_authorities() -> RootCerts {
    let authorities = rustls_native_certs::load_native_certs().certs;
    authorities.iter().map(|one| Certificate::from_der(one).to_owned()).into()
}
