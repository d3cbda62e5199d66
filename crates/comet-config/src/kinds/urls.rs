//! URLs of servers, single and in lists.

use std::net::IpAddr;

use toml::Value;

use super::lists::{Elements, host_and_port, peer};
use super::{Bare, Check, Facts, Kind};
use crate::secrets::without_secrets;

/// A URL of a server, to which a path is appended; `""` means none.
pub(crate) struct UrlOrNone;

impl Kind<Option<String>> for UrlOrNone {
    type Raw = String;

    fn facts(&self) -> Facts {
        Facts { bare: Bare::Text, ..Facts::new("URL") }
    }

    fn check(&self, raw: String, check: &mut Check<'_>) -> Option<Option<String>> {
        if raw.is_empty() || is_base_url(&raw) {
            return Some(Some(raw).filter(|url| !url.is_empty()));
        }
        let shown = without_secrets(&raw);
        check.refuse(format!(
            "{shown:?} is not the URL of a server: write http://HOST:PORT or https://HOST:PORT"
        ))
    }

    fn write(&self, value: &Option<String>) -> Value {
        value.as_deref().unwrap_or_default().into()
    }
}

fn is_base_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let place = &rest[..rest.find('/').unwrap_or(rest.len())];
    // A host without a port gets the port of HTTP here, to have one form.
    let is_place = peer(place).is_ok() || peer(&format!("{place}:80")).is_ok();
    text.bytes().all(|b| b.is_ascii_graphic() && !b"?#@".contains(&b))
        && matches!(scheme, "http" | "https")
        && is_place
}

/// `nats://host[:port]`, with TLS `tls://`.
pub(crate) struct NatsUrls;

impl Elements<String> for NatsUrls {
    const FORM: &'static str = "list of URLs";

    fn read(&self, text: &str, _: &[String]) -> Result<String, String> {
        let place = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://"));
        let is_address = |place: &str| {
            host_and_port(place).is_ok() || host_and_port(&format!("{place}:4222")).is_ok()
        };
        if place.is_some_and(is_address) {
            return Ok(text.to_owned());
        }
        let shown = without_secrets(text);
        Err(format!("{shown:?} is no address of NATS: write nats://HOST:PORT or tls://HOST:PORT"))
    }

    fn write(&self, element: &String) -> String {
        element.clone()
    }
}

/// `redis://[user:password@]host[:port][/database]`, with TLS `rediss://`, behind sentinels
/// `redis+sentinel://[user:password@]host[:port],.../master[/database]` and `rediss+sentinel://`.
pub(crate) struct RedisUrls;

impl Elements<String> for RedisUrls {
    const FORM: &'static str = "list of URLs";

    fn read(&self, text: &str, _: &[String]) -> Result<String, String> {
        if is_redis(text) {
            return Ok(text.to_owned());
        }
        let shown = without_secrets(text);
        Err(format!("{shown:?} is not a Redis address: write redis://HOST:PORT"))
    }

    fn write(&self, element: &String) -> String {
        element.clone()
    }

    fn show_secret(&self, element: &String) -> String {
        without_secrets(element)
    }
}

fn is_redis(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let is_behind_sentinels = match scheme {
        "redis" | "rediss" => false,
        "redis+sentinel" | "rediss+sentinel" => true,
        _ => return false,
    };
    let (place, more) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let addresses = place.rsplit_once('@').map_or(place, |(_, addresses)| addresses);
    let is_address = |address: &str| {
        host_and_port(address).is_ok() || host_and_port(&format!("{address}:6379")).is_ok()
    };
    let path = more.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    let (are_addresses, database) = if is_behind_sentinels {
        let (master, database) = path.split_once('/').unwrap_or((path, ""));
        (!master.is_empty() && addresses.split(',').all(is_address), database)
    } else {
        (is_address(addresses), path)
    };
    text.bytes().all(|b| b.is_ascii_graphic())
        && are_addresses
        && (database.is_empty() || database.parse::<i64>().is_ok())
}

/// URLs whose servers cannot be impersonated: with TLS, or on this host.
pub(crate) struct KeyUrls;

impl Elements<String> for KeyUrls {
    const FORM: &'static str = "list of URLs";

    fn read(&self, text: &str, _: &[String]) -> Result<String, String> {
        if is_key_url(text) {
            return Ok(text.to_owned());
        }
        let shown = without_secrets(text);
        Err(format!(
            "{shown:?} is not an address of keys: write https://HOST/PATH, or http:// and a loopback address"
        ))
    }

    fn write(&self, element: &String) -> String {
        element.clone()
    }

    fn show_secret(&self, element: &String) -> String {
        without_secrets(element)
    }
}

fn is_key_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let place = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let has_port =
        place.rsplit_once(':').is_some_and(|(host, _)| peer(place).is_ok() && !host.is_empty());
    let is_place = has_port || peer(&format!("{place}:443")).is_ok();
    let host =
        if has_port { place.rsplit_once(':').map_or(place, |(host, _)| host) } else { place };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    text.bytes().all(|b| b.is_ascii_graphic())
        && is_place
        && (scheme == "https" || (scheme == "http" && is_here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_a_server_has_no_query_and_no_user() {
        for good in [
            "http://127.0.0.1:4318",
            "http://collector",
            "https://[::1]:4318/",
            "https://o.example/otlp",
        ] {
            assert!(is_base_url(good), "{good}");
        }
        for bad in [
            "collector:4318",
            "grpc://a:4317",
            "http://",
            "http://a:4318?x",
            "http://u:p@a",
            "http://a b",
        ] {
            assert!(!is_base_url(bad), "{bad}");
        }
    }

    #[test]
    fn urls_of_keys_need_https_or_loopback() {
        for good in [
            "https://issuer/.well-known/jwks.json",
            "https://issuer.example:8443",
            "https://[2001:db8::1]/k",
            "https://192.0.2.1/k?a=b",
            "http://127.0.0.1:8080/k",
            "http://localhost/k",
            "http://[::1]:80/k",
        ] {
            assert!(is_key_url(good), "{good}");
        }
        for bad in [
            "",
            "issuer/k",
            "https://",
            "https:///k",
            "https://issuer:0x/k",
            "http://issuer/k",
            "http://192.0.2.1/k",
            "http://localhost.example/k",
            "http://localhost@issuer/k",
            "https://user:word@issuer/k",
            "ftp://127.0.0.1/k",
            "https://issuer/a b",
        ] {
            assert!(!is_key_url(bad), "{bad}");
        }
    }

    #[test]
    fn redis_is_at_an_address_or_behind_sentinels() {
        for url in [
            "redis://h",
            "rediss://user:p@ss@h:1/2",
            "redis+sentinel://h/main",
            "rediss+sentinel://user:pass@a:26379,b,[::1]:1/main/2",
        ] {
            assert!(is_redis(url), "{url}");
        }
    }
}
