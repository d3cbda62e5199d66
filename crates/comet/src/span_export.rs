//! Sends the spans of traced pushes to a collector (`trace.otlp`), on a thread of its own: OTLP over HTTP, in protobuf.
//!
//! The control thread gives it a push if there is room for it, and never waits.

#![allow(
    clippy::disallowed_methods,
    reason = "this is the edge: how long a batch waits is a matter of time"
)]

mod otlp;

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use comet_config::Config;
use comet_control::TracedPush;
use comet_ops::UnsentSpans;
use prost::Message;
use ureq::Agent;

use crate::jwks::authorities;

/// The name of the thread.
const THREAD: &str = "spans";

/// Pushes that may wait for the thread.
const QUEUE: usize = 1_024;

/// A batch is sent when it has so many spans, or its first push has waited so long.
const BATCH_SPANS: u64 = 512;
const BATCH_WAIT: Duration = Duration::from_millis(500);

/// Longest time of a request. A collector that does not answer in it has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time that the end of the process waits for the last batch.
const END: Duration = Duration::from_secs(2);

/// The thread. It ends when the last sender of pushes is gone.
#[derive(Debug)]
pub(crate) struct SpanExport {
    /// Gone: the thread has ended.
    ended: Receiver<()>,
}

impl SpanExport {
    /// `None`: no collector is configured.
    pub(crate) fn start(
        config: &Config,
    ) -> std::io::Result<Option<(Self, SyncSender<TracedPush>)>> {
        let Some(base) = &config.trace.otlp else { return Ok(None) };
        let (sender, pushes) = sync_channel(QUEUE);
        let (ends, ended) = channel();
        let exporter = Exporter {
            url: format!("{}/v1/traces", base.trim_end_matches('/')),
            server_id: config.server.id.clone(),
            is_up: true,
            pushes,
        };
        comet_ops::set_collector(true);
        let run = move || {
            let _ends: std::sync::mpsc::Sender<()> = ends;
            exporter.run();
        };
        thread::Builder::new().name(THREAD.to_owned()).spawn(run)?;
        Ok(Some((Self { ended }, sender)))
    }

    /// Waits until the last batch is sent, for a short time. To be called when nothing makes spans any more.
    pub(crate) fn finish(&self) {
        if self.ended.recv_timeout(END) == Err(RecvTimeoutError::Timeout) {
            log::warn!("trace.otlp: the collector does not take the last spans");
        }
    }
}

struct Exporter {
    url: String,
    server_id: String,
    /// Whether the collector took the last batch.
    is_up: bool,
    pushes: Receiver<TracedPush>,
}

impl Exporter {
    fn run(mut self) {
        let agent = agent();
        while let Ok(first) = self.pushes.recv() {
            let batch = self.batch(first);
            let spans = batch.iter().map(TracedPush::spans).sum();
            let request = otlp::request(&self.server_id, batch).encode_to_vec();
            let sent = agent
                .post(&self.url)
                .content_type("application/x-protobuf")
                .send(request)
                .map_err(|error| error.to_string());
            self.note(spans, sent.map(drop));
        }
    }

    /// `first` and what comes soon after it.
    fn batch(&self, first: TracedPush) -> Vec<TracedPush> {
        let end = Instant::now() + BATCH_WAIT;
        let mut spans = first.spans();
        let mut batch = vec![first];
        while spans < BATCH_SPANS {
            let wait = end.saturating_duration_since(Instant::now());
            let Ok(push) = self.pushes.recv_timeout(wait) else { break };
            spans += push.spans();
            batch.push(push);
        }
        batch
    }

    /// A batch that is not taken is not sent again: the next one shows whether the collector is back.
    fn note(&mut self, spans: u64, sent: Result<(), String>) {
        let was_up = std::mem::replace(&mut self.is_up, sent.is_ok());
        comet_ops::set_collector(self.is_up);
        match sent {
            Ok(()) => {
                comet_ops::count_sent_spans(spans);
                if !was_up {
                    log::info!("trace.otlp: the collector takes spans again");
                }
            }
            Err(cause) => {
                comet_ops::count_unsent_spans(UnsentSpans::Refused, spans);
                if was_up {
                    log::warn!(
                        "trace.otlp: the collector takes no spans: {cause}; they are dropped until it does"
                    );
                }
            }
        }
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .timeout_resolve(Some(TIMEOUT))
        .max_redirects(0)
        .proxy(None)
        .tls_config(authorities())
        .user_agent(concat!("comet/", env!("CARGO_PKG_VERSION")));
    config.build().into()
}
