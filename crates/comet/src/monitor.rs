//! The client of a server's `monitor.stat`, for `comet stat` and `comet top`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use comet_listen::Address;
use serde_json::Value;
use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, HeaderValue};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::args::{Access, Monitored, Serve};
use crate::http_client;
use crate::inputs::token;
use crate::run;

/// Longest time of a request. The server has shorter limits.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer, bytes.
const BODY_MAX: u64 = 64 << 20;

/// The monitored server.
pub(crate) struct MonitorClient {
    agent: Agent,
    /// The URL to which paths are appended.
    base: String,
    authorization: Option<HeaderValue>,
}

impl MonitorClient {
    /// The server that the command line names. No request is made yet.
    ///
    /// # Errors
    /// If there is no address, or a file cannot be read.
    pub(crate) fn new(monitored: &Monitored) -> Result<Self, String> {
        let address = match &monitored.server {
            Some(address) => address.clone(),
            None => configured(monitored)?,
        };
        let base = match address.strip_prefix("tls:") {
            _ if address.starts_with("unix:") => {
                return Err(format!("{address}: name an address of TCP with --server"));
            }
            Some(address) => format!("https://{address}"),
            None => format!("http://{address}"),
        };
        let authorization = monitored.access.token.as_deref().map(|argument| {
            let header = [b"Bearer ", &*token(argument)?].concat();
            HeaderValue::from_bytes(&header).map_err(|error| format!("--token: {error}"))
        });
        let tls = TlsConfig::builder().root_certs(authorities(&monitored.access)?).build();
        let agent = http_client::agent(TIMEOUT, |config| {
            config.http_status_as_error(false).tls_config(tls)
        });
        Ok(Self { agent, base, authorization: authorization.transpose()? })
    }

    /// The JSON at `path`.
    ///
    /// # Errors
    /// If no server answers, or it refuses; as a sentence with the address.
    pub(crate) fn get(&self, path: &str) -> Result<Value, String> {
        let url = format!("{}{path}", self.base);
        let named = |what: &dyn std::fmt::Display| format!("{url}: {what}");
        let mut request = self.agent.get(&url);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let mut response = request.call().map_err(|error| named(&error))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(BODY_MAX).read_to_vec();
        let body = body.map_err(|error| named(&error))?;
        if !status.is_success() {
            let sentence = String::from_utf8_lossy(&body);
            return Err(named(&format_args!("{status}: {}", printable(sentence.trim_end()))));
        }
        serde_json::from_slice(&body).map_err(|error| named(&error))
    }
}

/// The first address of `monitor.stat`, as reachable from this host.
fn configured(monitored: &Monitored) -> Result<String, String> {
    let serve = Serve { config: monitored.config.clone(), ..Serve::default() };
    let config = run::configure(&serve)?;
    let address = config.monitor.stat.first();
    let address = address.ok_or("monitor.stat names no address: name one with --server")?;
    let here = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => *address,
    };
    Ok(match address {
        Address::Plain(address) => Address::Plain(here(address)),
        Address::Tls(address) => Address::Tls(here(address)),
        Address::Unix(path) => Address::Unix(path.clone()),
    }
    .to_string())
}

/// The authorities accepted for the server's certificate.
fn authorities(access: &Access) -> Result<RootCerts, String> {
    let Some(path) = &access.ca else {
        return Ok(http_client::system_authorities());
    };
    let named = |error: &dyn std::fmt::Display| format!("--ca {}: {error}", path.display());
    let pem = fs::read(path).map_err(|error| named(&error))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| named(&error))? {
            certificates.push(certificate);
        }
    }
    match certificates.is_empty() {
        true => Err(named(&"no certificate is in it")),
        false => Ok(certificates.into_iter().into()),
    }
}

/// `text` without control characters for the terminal: clients choose the names of rooms and keys.
pub(crate) fn printable(text: &str) -> String {
    let escape = |c: char| match c.is_control() || is_invisible(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Marks that change the direction of text, and spaces of zero width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_move_no_cursor() {
        assert_eq!(printable("live://1 é"), "live://1 é");
        assert_eq!(printable("a\x1b[2J\u{202e}\n"), "a\\u{1b}[2J\\u{202e}\\u{a}");
    }
}
