//! Keys for tokens from URLs (`token.jwks_urls`), fetched by a thread of its own.

#![allow(
    clippy::disallowed_methods,
    reason = "this is the edge: when to fetch again is a matter of time"
)]

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use comet_config::Token;
use comet_logic::{AdoptedKeys, AnyAuthenticator, Jwt};
use ureq::http::header::CACHE_CONTROL;
use ureq::tls::TlsConfig;
use ureq::{Agent, Proxy};

use crate::http_client;

/// The name of the thread.
const THREAD: &str = "jwks";

/// Least time between two fetches of a URL.
const PAUSE: Duration = Duration::from_secs(10);

/// Longest time of a fetch, redirects included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Most redirects of a fetch.
const REDIRECTS: u32 = 3;

/// Longest key set, bytes.
const BODY_MAX: u64 = 1 << 20;

/// A URL, and the latest key set fetched from it.
pub(crate) type FetchedSet = (String, String);

/// The key sets of `token`'s URLs, for a continuing process.
pub(crate) fn fetched(authenticator: &AnyAuthenticator, token: &Token) -> Vec<FetchedSet> {
    let AnyAuthenticator::Jwt(jwt) = authenticator else { return Vec::new() };
    let sets = jwt.fetched().into_iter().zip(&token.jwks_urls);
    let pair = |(set, url): (Option<Arc<[u8]>>, &String)| {
        Some((url.clone(), str::from_utf8(&set?).ok()?.to_owned()))
    };
    sets.filter_map(pair).collect()
}

/// Starts with the key sets that a former process has fetched, because the servers may be slow to answer, or
/// unreachable.
pub(crate) fn take_over(authenticator: &AnyAuthenticator, token: &Token, sets: &[FetchedSet]) {
    let AnyAuthenticator::Jwt(jwt) = authenticator else { return };
    for (index, url) in token.jwks_urls.iter().enumerate() {
        let Some((_, set)) = sets.iter().find(|(of, _)| of == url) else { continue };
        match jwt.adopt_fetched(index, set.as_bytes()) {
            // Unusable keys were logged by the former process.
            Ok(AdoptedKeys { change, .. }) => {
                let change = change.map_or_else(String::new, |change| change.to_string());
                log::info!("token.jwks_urls[{index}]: {change}, from the former process");
            }
            // For example, the algorithm has changed.
            Err(error) => log::warn!(
                "token.jwks_urls[{index}]: {error}, in what the former process has; it is fetched"
            ),
        }
    }
}

/// Fetches the keys of `token`'s URLs, if there are any, as long as `authenticator` or a clone exists. Returns at once.
pub(crate) fn fetch(authenticator: &AnyAuthenticator, token: &Token) {
    let AnyAuthenticator::Jwt(jwt) = authenticator else { return };
    if token.jwks_urls.is_empty() {
        return;
    }
    let fetcher = Fetcher {
        jwt: Arc::downgrade(jwt),
        agent: agent(),
        urls: token.jwks_urls.iter().map(|url| Source::new(url)).collect(),
        refresh: token.jwks_refresh,
        last: None,
    };
    match thread::Builder::new().name(THREAD.to_owned()).spawn(|| fetcher.run()) {
        Ok(thread) => jwt.set_fetcher(thread.thread().clone()),
        Err(error) => log::error!("token.jwks_urls: no thread to fetch them: {error}"),
    }
}

fn agent() -> Agent {
    http_client::agent(TIMEOUT, |config| {
        let tls = TlsConfig::builder().root_certs(http_client::system_authorities()).build();
        config.max_redirects(REDIRECTS).proxy(Proxy::try_from_env()).tls_config(tls)
    })
}

struct Fetcher {
    /// The thread ends when this is dropped.
    jwt: Weak<Jwt>,
    agent: Agent,
    urls: Vec<Source>,
    refresh: Duration,
    /// When a key set was last fetched.
    last: Option<Instant>,
}

struct Source {
    url: String,
    /// The URL without its query, for the log and the metrics: the query may hold a secret.
    name: String,
    due: Instant,
    /// The result of the last fetch; `None` before the first.
    is_good: Option<bool>,
    /// Its keys that the last good fetch has skipped.
    unusable: Vec<String>,
}

impl Fetcher {
    fn run(mut self) {
        while let Some(jwt) = self.jwt.upgrade() {
            let pause = self.turn(&jwt);
            drop(jwt);
            thread::park_timeout(pause);
        }
    }

    /// Fetches the URLs that are due. Returns how long nothing is due.
    fn turn(&mut self, jwt: &Jwt) -> Duration {
        let may_fetch_at = self.last.map_or_else(Instant::now, |last| last + PAUSE);
        let is_wanted = jwt.wants_fetch() && may_fetch_at <= Instant::now();
        if is_wanted {
            jwt.begin_fetch();
        }
        let now = Instant::now();
        let is_due = |source: &Source| is_wanted || source.due <= now;
        let due = (0..self.urls.len()).filter(|index| is_due(&self.urls[*index])).collect();
        for (index, fetched) in self.get_all(due) {
            self.adopt(jwt, index, fetched);
            self.last = Some(Instant::now());
        }
        let now = Instant::now();
        let stale_at = self.last.map_or(now, |last| last + PAUSE);
        let is_stale = stale_at <= now || self.urls.iter().any(|url| url.is_good != Some(true));
        jwt.set_stale(is_stale);
        let dues = self.urls.iter().map(|url| url.due);
        let next = dues.chain((stale_at > now).then_some(stale_at)).min().unwrap_or(stale_at);
        next.saturating_duration_since(now)
    }

    /// Fetches the URLs at the same time, so that a server that does not answer holds up no other.
    fn get_all(&self, indices: Vec<usize>) -> Receiver<(usize, Result<Body, String>)> {
        let (done, fetched) = channel();
        for index in indices {
            let (agent, url) = (self.agent.clone(), self.urls[index].url.clone());
            let tell = done.clone();
            let get = move || drop(tell.send((index, get(&agent, &url))));
            if let Err(error) = thread::Builder::new().name(THREAD.to_owned()).spawn(get) {
                let error = format!("no thread to fetch it: {error}");
                done.send((index, Err(error))).expect("its receiver is here");
            }
        }
        fetched
    }

    fn adopt(&mut self, jwt: &Jwt, index: usize, fetched: Result<Body, String>) {
        let Self { urls, refresh, .. } = self;
        let source = &mut urls[index];
        let key = format_args!("token.jwks_urls[{index}]");
        let taken = fetched.and_then(|(bytes, max_age)| {
            let adopted = jwt.adopt_fetched(index, &bytes).map_err(|error| error.to_string())?;
            Ok((adopted, max_age))
        });
        comet_ops::count_key_fetch(&source.name, taken.is_ok());
        let was_good = source.is_good.replace(taken.is_ok());
        let pause = match taken {
            Ok((AdoptedKeys { change, unusable }, max_age)) => {
                if let Some(first) = unusable.first()
                    && source.unusable != unusable
                {
                    let (count, name) = (unusable.len(), &source.name);
                    log::warn!(
                        "{key}: {name}: {count} of its keys cannot be used; the first: {first}"
                    );
                }
                source.unusable = unusable;
                if let Some(change) = change {
                    log::info!("{key}: {change}");
                } else if was_good == Some(false) {
                    log::info!("{key}: fetched again");
                }
                max_age.map_or(*refresh, |age| age.clamp(PAUSE, PAUSE.max(*refresh)))
            }
            Err(error) => {
                if was_good != Some(false) {
                    log::warn!("{key}: {}: {error}; what it gave before stays in use", source.name);
                }
                PAUSE
            }
        };
        source.due = Instant::now() + pause;
    }
}

impl Source {
    fn new(url: &str) -> Self {
        let name = url.split(['?', '#']).next().unwrap_or(url).to_owned();
        let (url, due) = (url.to_owned(), Instant::now());
        Self { url, name, due, is_good: None, unusable: Vec::new() }
    }
}

/// A body, and how long it is valid according to the server.
type Body = (Vec<u8>, Option<Duration>);

fn get(agent: &Agent, url: &str) -> Result<Body, String> {
    let request = agent.get(url).config().https_only(url.starts_with("https:"));
    // Plain HTTP is only for this host, so no proxy is used.
    let request = match url.starts_with("https:") {
        true => request.build(),
        false => request.proxy(None).max_redirects(0).build(),
    };
    let explain = |error| http_client::explain(&error);
    let mut response = request.call().map_err(explain)?;
    let cache = response.headers().get(CACHE_CONTROL).and_then(|value| value.to_str().ok());
    let max_age = cache.and_then(max_age);
    Ok((http_client::body(&mut response, BODY_MAX).map_err(explain)?, max_age))
}

fn max_age(cache_control: &str) -> Option<Duration> {
    let directives = cache_control.split(',').map(str::trim);
    let seconds = directives.filter_map(|directive| directive.strip_prefix("max-age=")).next()?;
    seconds.parse().ok().map(Duration::from_secs)
}
