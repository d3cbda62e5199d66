//! The stat addresses of `comet logic`: `/healthz` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use comet_ops::{
    CONTENT_TYPE, CertificatesInUse, Exposition, Kind, expose_call_times, expose_gates,
    expose_process,
};
use comet_router::{Sessions, Store};
use comet_serve::{CallCounts, Gates, Phase, healthz};
use tokio::sync::watch;

use crate::comets::Comets;

/// Where the numbers come from.
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

impl Stat {
    /// Where the store does not answer, its numbers are missing and `comet_logic_store_up` is 0.
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
            for (server, count) in &counts.by_server {
                sessions.labelled(&[("server", server)], *count);
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
        let mut up = page.family(
            "comet_logic_comet_up",
            Kind::Gauge,
            "Whether a comet takes clients, by comet.",
        );
        for (number, comet) in comets.iter() {
            let is_serving = u64::from(self.comets.is_serving(*number));
            up.labelled(&[("server", &comet.options.id)], is_serving);
        }
        let mut answers = page.family(
            "comet_logic_comet_answers",
            Kind::Gauge,
            "Whether a comet answers, by comet; one that drains does.",
        );
        for (number, comet) in comets.iter() {
            let is_answering = u64::from(self.comets.answers(*number));
            answers.labelled(&[("server", &comet.options.id)], is_answering);
        }
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
