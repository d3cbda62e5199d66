//! The stat addresses of `comet logic`: `/healthz` and `/metrics`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use comet_hub::fanout::CometNumber;
use comet_ops::{
    CONTENT_TYPE, CertificatesInUse, Exposition, Kind, expose_call_times, expose_gates,
    expose_process,
};
use comet_router::{Sessions, Store};
use comet_serve::{CallCounts, Gates, Phase, healthz};
use tokio::sync::watch;

use crate::comets::Comets;

/// The sources of the numbers.
pub(crate) struct Stat {
    pub(crate) sessions: Arc<Store>,
    pub(crate) comets: Arc<Comets>,
    pub(crate) counts: Arc<CallCounts>,
    pub(crate) certificates: Arc<CertificatesInUse>,
    pub(crate) gates: Arc<Gates>,
    pub(crate) server_id: String,
    pub(crate) version: &'static str,
}

/// The routes; an unknown path is 404, another method 405.
pub(crate) fn router(stat: Stat, phase: watch::Receiver<Phase>) -> Router {
    let metrics = Router::new().route("/metrics", get(metrics)).with_state(Arc::new(stat));
    healthz(phase).merge(metrics)
}

async fn metrics(State(stat): State<Arc<Stat>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], stat.page().await).into_response()
}

/// Most servers named that are not in the list of comets: callers choose these names.
const OTHERS_MAX: usize = 64;

/// Stands for the other servers.
const UNKNOWN: &str = "unknown";

impl Stat {
    /// The sessions of the comets and of the other servers with the most, and the sessions of all others together.
    fn named(&self, sessions: BTreeMap<String, u64>) -> (BTreeMap<String, u64>, u64) {
        let comets = self.comets.all();
        let ids: HashSet<&str> = comets.values().map(|comet| &*comet.options.id).collect();
        let (mut named, mut others) = (BTreeMap::new(), Vec::new());
        for (server, count) in sessions {
            match ids.contains(&*server) {
                true => drop(named.insert(server, count)),
                false => others.push((server, count)),
            }
        }
        others.sort_by_key(|(_, count)| Reverse(*count));
        let rest = others.split_off(OTHERS_MAX.min(others.len()));
        named.extend(others);
        (named, rest.into_iter().map(|(_, count)| count).sum())
    }

    /// If the store does not answer, its numbers are missing and `comet_logic_store_up` is 0.
    async fn page(&self) -> String {
        let mut page = Exposition::default();
        let counts = self.sessions.counts().await;
        page.family("comet_logic_store_up", Kind::Gauge, "Whether the session store answers.")
            .sample(u64::from(counts.is_ok()));
        if let Ok(counts) = counts {
            page.family("comet_logic_users", Kind::Gauge, "Users with a session.")
                .sample(counts.users);
            let mut sessions =
                page.family("comet_logic_sessions", Kind::Gauge, "Sessions, by comet.");
            let (named, others) = self.named(counts.by_server);
            for (server, count) in &named {
                sessions.labelled(&[("server", server)], *count);
            }
            if others > 0 {
                sessions.labelled(&[("server", &UNKNOWN)], others);
            }
        }
        let servers = self.sessions.servers();
        let help = "Whether a Redis server has served the last call.";
        let mut up = page.family("comet_logic_redis_up", Kind::Gauge, help);
        for server in &servers {
            up.labelled(&[("server", &server.name)], u64::from(server.is_up));
        }
        let help = "Calls that a Redis server did not serve.";
        let mut failures = page.family("comet_logic_redis_failures_total", Kind::Counter, help);
        for server in &servers {
            failures.labelled(&[("server", &server.name)], server.failures);
        }
        let comets = self.comets.all();
        let mut gauge = |name, help, is_so: fn(&Comets, CometNumber) -> bool| {
            let mut family = page.family(name, Kind::Gauge, help);
            for (number, comet) in comets.iter() {
                let is_so = u64::from(is_so(&self.comets, *number));
                family.labelled(&[("server", &comet.options.id)], is_so);
            }
        };
        let up = "Whether a comet takes clients, by comet.";
        gauge("comet_logic_comet_up", up, Comets::is_serving);
        let answers = "Whether a comet answers, by comet; one that drains does.";
        gauge("comet_logic_comet_answers", answers, Comets::answers);
        let mut failures = page.family(
            "comet_logic_push_failures_total",
            Kind::Counter,
            "Push calls that failed at a comet, by comet.",
        );
        for (server, count) in self.comets.failures() {
            failures.labelled(&[("server", &server)], count);
        }
        let mut calls = page.family(
            "comet_calls_total",
            Kind::Counter,
            "Calls answered, by name or path and by gRPC code.",
        );
        for (rpc, code, count) in self.counts.all() {
            calls.labelled(&[("rpc", &rpc), ("code", &format_args!("{code:?}"))], count);
        }
        expose_call_times(&mut page, &self.counts);
        expose_gates(&mut page, &self.gates, None);
        self.certificates.expose(&mut page);
        page.family("comet_build_info", Kind::Gauge, "Always 1; the labels identify the build.")
            .labelled(&[("version", &self.version), ("server_id", &self.server_id)], 1);
        expose_process(&mut page);
        page.finish()
    }
}
