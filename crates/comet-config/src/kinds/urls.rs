//! URLs of servers.

use toml::Value;

use super::lists::peer;
use super::{Bare, Check, Facts, Kind};

/// A URL of a server, to which a path is added; `""` is none.
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
        check.refuse(format!(
            "{raw:?} is not the URL of a server: write http://HOST:PORT or https://HOST:PORT"
        ))
    }

    fn write(&self, value: &Option<String>) -> Value {
        value.as_deref().unwrap_or_default().into()
    }
}

fn is_base_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let place = &rest[..rest.find('/').unwrap_or(rest.len())];
    // A host alone is given the port of HTTP here, to be one form.
    let is_place = peer(place).is_ok() || peer(&format!("{place}:80")).is_ok();
    text.bytes().all(|b| b.is_ascii_graphic() && !b"?#@".contains(&b))
        && matches!(scheme, "http" | "https")
        && is_place
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
}
