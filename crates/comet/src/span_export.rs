//! Sends the spans of traced pushes to a collector (`trace.otlp`), on a thread of its own: OTLP over HTTP, in protobuf.
//!
//! The control thread passes a push to it if there is space, and never waits.

#![allow(
    clippy::disallowed_methods,
    reason = "this is the edge: how long a batch waits is a matter of time"
)]

mod otlp;

use std::error::Error;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use comet_config::Config;
use comet_control::TracedPush;
use comet_ops::UnsentSpans;
use prost::Message;
use ureq::Agent;
use ureq::tls::TlsConfig;

use crate::http_client;

/// The name of the thread.
const THREAD: &str = "spans";

/// Most pushes that wait for the thread.
const QUEUE: usize = 1_024;

/// A batch is sent when it has this many spans, or its first push has waited this long.
const BATCH_SPANS: u64 = 512;
const BATCH_WAIT: Duration = Duration::from_millis(500);

/// Longest time of a request. A collector that does not answer in it has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer, bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// Longest time for which the end of the process waits for the last batch.
const END: Duration = Duration::from_secs(2);

/// The thread. It ends when the last sender of pushes is dropped.
#[derive(Debug)]
pub(crate) struct SpanExport {
    /// Disconnected when the thread has ended.
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
            exporter.run();
            drop(ends);
        };
        thread::Builder::new().name(THREAD.to_owned()).spawn(run)?;
        Ok(Some((Self { ended }, sender)))
    }

    /// Waits a short time until the last batch is sent. Call it when no more spans are made.
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
        let agent = agent(TIMEOUT);
        while let Ok(first) = self.pushes.recv() {
            let batch = self.batch(first);
            let spans = batch.iter().map(TracedPush::spans).sum();
            let request = otlp::request(&self.server_id, batch).encode_to_vec();
            let sent = send(&agent, &self.url, &request);
            self.note(spans, sent);
        }
    }

    /// `first`, and the pushes that follow it soon.
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

    /// Notes the result of a batch. A failed batch is not sent again: the next one shows whether the collector is back.
    fn note(&mut self, spans: u64, sent: Result<u64, Box<dyn Error>>) {
        let was_up = std::mem::replace(&mut self.is_up, sent.is_ok());
        comet_ops::set_collector(self.is_up);
        let rejected = *sent.as_ref().unwrap_or(&spans).min(&spans);
        comet_ops::count_unsent_spans(UnsentSpans::Refused, rejected);
        comet_ops::count_sent_spans(spans - rejected);
        match sent {
            Err(cause) if was_up => log::warn!(
                "trace.otlp: the collector takes no spans: {cause}; they are dropped until it does"
            ),
            Ok(_) if !was_up => log::info!("trace.otlp: the collector takes spans again"),
            _ => {}
        }
    }
}

/// Returns how many spans the collector rejected.
fn send(agent: &Agent, url: &str, request: &[u8]) -> Result<u64, Box<dyn Error>> {
    let mut answer = agent.post(url).content_type("application/x-protobuf").send(request)?;
    // A redirect is not followed, and the agent does not report it as an error.
    if !answer.status().is_success() {
        return Err(answer.status().to_string().into());
    }
    let answer = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec()?;
    otlp::rejected(&answer).ok_or_else(|| "what answers there is no collector".into())
}

fn agent(limit: Duration) -> Agent {
    http_client::agent(limit, |config| {
        let tls = TlsConfig::builder().root_certs(http_client::system_authorities()).build();
        config.timeout_resolve(Some(limit)).tls_config(tls)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// The result of a request whose answer is `answer`, within `timeout`. The collector closes no connection.
    fn sent(answer: &'static str, timeout: Duration) -> Option<u64> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}/v1/traces");
        let collector = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"spans") {
                let mut bytes = [0; 1_024];
                let read = stream.read(&mut bytes).unwrap();
                if read == 0 {
                    // The request timed out before it was sent.
                    return stream;
                }
                request.extend_from_slice(&bytes[..read]);
            }
            // A client that timed out may have left.
            let _ = stream.write_all(answer.as_bytes());
            stream
        });
        let sent = send(&agent(timeout), &url, b"spans");
        // The request may also have timed out before it connected.
        drop(TcpStream::connect(address));
        collector.join().unwrap();
        sent.ok()
    }

    #[test]
    fn an_answer_says_how_many_spans_were_not_wanted() {
        let sent = |answer| sent(answer, Duration::from_secs(20));
        assert_eq!(sent("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Some(0));
        // `partial_success { rejected_spans: 3 }`
        assert_eq!(sent("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\x0a\x02\x08\x03"), Some(3));
    }

    #[test]
    fn what_does_not_answer_like_a_collector_has_taken_nothing() {
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"] {
            assert_eq!(sent(answer, Duration::from_millis(500)), None, "{answer}");
        }
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 307 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            assert_eq!(sent(answer, Duration::from_secs(20)), None, "{answer}");
        }
    }
}
