//! The common part of this program's requests to HTTP servers.

use std::time::Duration;

use ureq::config::ConfigBuilder;
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body, Error, Timeout};

/// An agent whose requests take at most `limit`. It follows no redirects and uses no proxy, unless `change` sets this.
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

/// The body of a successful answer, of at most `most` bytes.
///
/// # Errors
/// Its status, if that is not 2xx, which includes a redirect that is not followed. Or the failure.
pub(crate) fn body(answer: &mut Response<Body>, most: u64) -> Result<Vec<u8>, Error> {
    let status = answer.status();
    if !status.is_success() {
        return Err(Error::StatusCode(status.as_u16()));
    }
    answer.body_mut().with_config().limit(most).read_to_vec()
}

/// An error of a request as a sentence.
pub(crate) fn explain(error: &Error) -> String {
    match error {
        Error::Timeout(Timeout::Resolve) => "no answer to the question for its address".to_owned(),
        Error::Timeout(Timeout::Connect) => "no connection in time".to_owned(),
        Error::Timeout(_) => "no whole answer in time".to_owned(),
        Error::Protocol(_) => format!("no HTTP/1.1: {error}"),
        error => error.to_string(),
    }
}

/// The authorities that this host trusts.
pub(crate) fn system_authorities() -> RootCerts {
    let authorities = rustls_native_certs::load_native_certs().certs;
    authorities.iter().map(|one| Certificate::from_der(one).to_owned()).into()
}
