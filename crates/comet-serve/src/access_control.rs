//! The right to call: callers with a token may call. Where no token is required, anybody may, except web pages.
//!
//! A web page can send requests to any address that its browser reaches. It cannot read a token, and its browser says
//! which page it is (`Origin`, `Sec-Fetch-Site`) and which name it requested (`Host`). A name of the page's own that
//! points here (DNS rebinding) is not a known name.

use std::fmt;
use std::net::IpAddr;
use std::sync::RwLock;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::watch;

use crate::refusal::Refusal;

/// Calls that need no token: they tell whether the server is ready, and no more. A wrong token is refused even here, so
/// that its caller learns of it before other calls fail. A watch of health is not among them, because its answer has no
/// end.
const HEALTH: [&str; 2] = ["/healthz", "/grpc.health.v1.Health/Check"];

/// Access control of one gate.
#[derive(Default)]
pub struct AccessControl {
    /// Each of them gives access; if there are none, no token is needed.
    tokens: RwLock<Vec<String>>,
    /// Notified when the tokens change.
    changes: watch::Sender<()>,
    /// Names of this server beside `localhost` and IP addresses.
    hosts: Vec<String>,
}

impl AccessControl {
    /// Each of `tokens` gives access. If there are none, HTTP callers may name this server by `hosts`, localhost or an
    /// IP address.
    #[must_use]
    pub fn new(tokens: Vec<String>, hosts: Vec<String>) -> Self {
        Self { tokens: RwLock::new(tokens), changes: watch::Sender::new(()), hosts }
    }

    /// Replaces the tokens. Connections whose callers have shown a token that no longer holds end after the calls under
    /// way.
    pub fn set_tokens(&self, tokens: Vec<String>) {
        *self.tokens.write().expect(NO_PANIC) = tokens;
        self.changes.send_replace(());
    }

    /// Notified when the tokens change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whether calls are let in that show these credentials ([`AccessControl::shown`]).
    pub(crate) fn lets_in(&self, shown: &[Option<Box<[u8]>>]) -> bool {
        let is_token = |shown: &Option<Box<[u8]>>| {
            shown.as_ref().is_some_and(|given| bool::from(self.is_token(given)))
        };
        self.is_open() || shown.iter().all(is_token)
    }

    /// Whether anybody may call.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tokens.read().expect(NO_PANIC).is_empty()
    }

    /// `has_host`: a web page could choose the request's `Host`.
    pub(crate) fn check(&self, head: &Parts, has_host: bool) -> Result<(), Refusal> {
        if is_cross_site(head) {
            return Err(Refusal::CrossSite);
        }
        if self.is_open() {
            // Load balancers name the host as they like when they check its health.
            return match has_host && !is_health(head) && !self.is_known(head) {
                true => Err(Refusal::WrongHost),
                false => Ok(()),
            };
        }
        let given = head.headers.get(AUTHORIZATION);
        if (is_health(head) && given.is_none()) || self.opens(given) {
            return Ok(());
        }
        Err(Refusal::NoToken)
    }

    /// The credential by which a call was let in: the token, however the header is written around it, or nothing where
    /// no token is required. `None`: the call never needs one.
    pub(crate) fn shown<'head>(&self, head: &'head Parts) -> Option<Option<&'head [u8]>> {
        let given = head.headers.get(AUTHORIZATION);
        let is_asked = given.is_some() || !is_health(head);
        let token = |given: &'head HeaderValue| split(given.as_bytes()).map(|(_, token)| token);
        is_asked.then(|| given.filter(|_| !self.is_open()).and_then(token))
    }

    /// Whether a call that was let in has no token, although other calls need one.
    pub(crate) fn misses_token(&self, head: &Parts) -> bool {
        !self.is_open() && !head.headers.contains_key(AUTHORIZATION)
    }

    fn opens(&self, authorization: Option<&HeaderValue>) -> bool {
        let Some((scheme, given)) = authorization.and_then(|value| split(value.as_bytes())) else {
            return false;
        };
        let is_token = self.is_token(given);
        scheme.eq_ignore_ascii_case(b"Bearer") && bool::from(is_token)
    }

    /// Compares with every token, in a time that does not depend on how much of a token is right.
    fn is_token(&self, given: &[u8]) -> Choice {
        let tokens = self.tokens.read().expect(NO_PANIC);
        let is_equal = |token: &String| given.ct_eq(token.as_bytes());
        tokens.iter().map(is_equal).fold(Choice::from(0), |any, is_equal| any | is_equal)
    }

    /// Whether every name in the request is one of this server. A request without a name is not from a browser.
    fn is_known(&self, head: &Parts) -> bool {
        let names = head.headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
        names.chain(head.uri.authority().map(Authority::as_str)).all(|name| {
            let host = without_port(name);
            host.parse::<IpAddr>().is_ok()
                || host.eq_ignore_ascii_case("localhost")
                || self.hosts.iter().any(|known| host.eq_ignore_ascii_case(known))
        })
    }
}

fn is_health(head: &Parts) -> bool {
    HEALTH.contains(&head.uri.path())
}

/// Whether a page of another origin made the request.
fn is_cross_site(head: &Parts) -> bool {
    let headers = &head.headers;
    let site = headers.get("sec-fetch-site");
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return true;
    }
    let is_own = |origin: &HeaderValue| {
        let host = own_host(headers);
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(
            |(scheme, origin)| ["http", "https"].contains(&scheme) && Some(origin) == host,
        )
    };
    headers.get_all(ORIGIN).iter().any(|origin| !is_own(origin))
}

fn own_host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

/// Scheme and token of `Authorization` (RFC 6750, section 2.1).
fn split(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    Some((&value[..space], value[space..].trim_ascii()))
}

/// The `HOST` of `HOST:PORT`; an IPv6 address without its brackets, a name without its last dot.
fn without_port(name: &str) -> &str {
    if let Some(rest) = name.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
    host.strip_suffix('.').unwrap_or(host)
}

impl fmt::Debug for AccessControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessControl").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use crate::connection_limit::ConnectionLimit;

    use super::*;

    #[track_caller]
    fn check(access: &AccessControl, headers: &[(&str, &str)], expected: Result<(), Refusal>) {
        check_at(access, "/goim/push/all", headers, expected);
    }

    #[track_caller]
    fn check_at(
        access: &AccessControl,
        uri: &str,
        headers: &[(&str, &str)],
        expected: Result<(), Refusal>,
    ) {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(access.check(&head, true), expected, "{uri} {headers:?}");
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let access = AccessControl::default();
        let host = ("host", "127.0.0.1:7172");
        check(&access, &[host], Ok(()));
        check(&access, &[host, ("origin", "http://127.0.0.1:7172")], Ok(()));
        for origin in
            ["https://evil.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:7173"]
        {
            check(&access, &[host, ("origin", origin)], Err(Refusal::CrossSite));
        }
        let [good, evil] = ["http://127.0.0.1:7172", "https://evil.example"];
        check(&access, &[host, ("origin", good), ("origin", evil)], Err(Refusal::CrossSite));
        for site in ["same-origin", "none"] {
            check(&access, &[host, ("sec-fetch-site", site)], Ok(()));
        }
        for site in ["cross-site", "same-site", "x"] {
            check(&access, &[host, ("sec-fetch-site", site)], Err(Refusal::CrossSite));
        }
    }

    #[test]
    fn names_that_are_not_known_are_refused() {
        let access = AccessControl::new(Vec::new(), vec!["edge-7".to_owned()]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:1",
            "[::1]:1",
            "[::1]",
            "localhost:1",
            "LOCALHOST",
            "Edge-7:80",
            "edge-7.",
        ] {
            check(&access, &[("host", host)], Ok(()));
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "edge-70", "é"]
        {
            check(&access, &[("host", host)], Err(Refusal::WrongHost));
        }
        check(&access, &[("host", "localhost"), ("host", "evil")], Err(Refusal::WrongHost));
        let localhost = [("host", "localhost")];
        check_at(&access, "http://evil/metrics", &localhost, Err(Refusal::WrongHost));
        check_at(&access, "/healthz", &[("host", "pool.example")], Ok(()));
        check(&access, &[], Ok(()));
    }

    #[test]
    fn any_of_the_tokens_opens() {
        let access = AccessControl::new(
            vec!["first-token".to_owned(), "second-token".to_owned()],
            Vec::new(),
        );
        let authorized =
            |value| check(&access, &[("authorization", value), ("host", "any")], Ok(()));
        authorized("Bearer first-token");
        authorized("bearer  second-token ");
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer first-toke",
            "Bearer first-token2",
            "first-token",
            "Basic first-token",
        ] {
            check(&access, &[("authorization", value)], Err(Refusal::NoToken));
        }
        check(&access, &[], Err(Refusal::NoToken));
        check_at(&access, "/healthz", &[], Ok(()));
        check_at(&access, "/grpc.health.v1.Health/Check", &[], Ok(()));
        check_at(&access, "/grpc.health.v1.Health/Watch", &[], Err(Refusal::NoToken));
        check_at(
            &access,
            "/grpc.health.v1.Health/Watch",
            &[("authorization", "Bearer first-token")],
            Ok(()),
        );
        let wrong = [("authorization", "Bearer first-toke")];
        check_at(&access, "/grpc.health.v1.Health/Check", &wrong, Err(Refusal::NoToken));
        let token = ("authorization", "Bearer first-token");
        check(&access, &[token, ("origin", "https://evil.example")], Err(Refusal::CrossSite));
        access.set_tokens(vec!["third-token".to_owned()]);
        check(&access, &[token], Err(Refusal::NoToken));
    }

    /// A caller that keeps changing how it writes its token has shown only one token.
    #[tokio::test]
    async fn a_token_is_noted_once() {
        let access =
            AccessControl::new(vec!["a-token".to_owned(), "b-token".to_owned()], Vec::new());
        let permit = ConnectionLimit::new(1).enter().await;
        let note = |authorization: &str| {
            let request = Request::post("/goim/push/all").header("authorization", authorization);
            let (head, ()) = request.body(()).unwrap().into_parts();
            access.check(&head, false).unwrap();
            permit.note_shown(access.shown(&head).expect("it needs one"))
        };
        assert!(note("Bearer a-token"));
        for spaces in 1..1_000 {
            assert!(!note(&format!("bearer{}a-token", " ".repeat(spaces))));
        }
        assert!(note("Bearer b-token"));
        assert_eq!(permit.shown().len(), 2);
        assert!(access.lets_in(&permit.shown()));
        access.set_tokens(vec!["a-token".to_owned()]);
        assert!(!access.lets_in(&permit.shown()));
    }
}
