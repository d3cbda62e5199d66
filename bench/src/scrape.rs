//! The metrics of a running comet (Prometheus text format): the outcome of deliveries after their push was answered.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Serialize;

use crate::Result;
use crate::stats::Reasons;

/// How long a server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The number of attempts while a core of the server is late: then the page has no sums, and each attempt takes a
/// second.
const ATTEMPTS: usize = 20;

/// The server's counts since it started.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Counted {
    /// Deliveries that pushes asked for, those that an outbox took, and all that were dropped.
    pub matched: u64,
    pub queued: u64,
    pub dropped: u64,
    /// Deliveries that the kernel took.
    pub sent: u64,
    /// Deliveries that were queued and then lost with their connection.
    pub lost: u64,
    /// Deliveries that were queued and then made room for newer ones.
    pub superseded: u64,
    /// Deliveries that are queued now.
    pub waiting: u64,
    /// Pushes parked for sessions without a connection, and those that were passed to the next one.
    pub parked: u64,
    pub resumed: u64,
    /// Pushes that clients got from histories after gaps.
    pub repaired: u64,
    /// Calls to logic, by name.
    pub logic_calls: Reasons,
    /// Connections closed, by reason.
    pub closed: Reasons,
    /// Connections that are open now.
    pub connections: u64,
    /// Bytes that are now allocated from the allocator.
    pub heap_bytes: u64,
    /// Logic services that answer now.
    pub logic_up: u64,
}

impl Counted {
    /// Asks the server for its counts. Fails if it does not answer with metrics.
    pub(crate) fn of(stat: SocketAddr) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let answer = http_get(stat, "/metrics");
            let answer = answer.map_err(|error| format!("no metrics at {stat}: {error}"))?;
            if answer.contains("comet_lost_total") {
                return Ok(Self::parse(&answer));
            }
            if !has_late_core(&answer) {
                return Err(format!("no metrics of a comet at {stat}").into());
            }
        }
        Err(format!("a core of the comet at {stat} does not answer").into())
    }

    /// The counts since `earlier`. Fields about the present state are left unchanged.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let closed = grown(&self.closed, &earlier.closed);
        let logic_calls = grown(&self.logic_calls, &earlier.logic_calls);
        Self {
            matched: self.matched - earlier.matched,
            queued: self.queued - earlier.queued,
            dropped: self.dropped - earlier.dropped,
            sent: self.sent - earlier.sent,
            lost: self.lost - earlier.lost,
            superseded: self.superseded - earlier.superseded,
            parked: self.parked - earlier.parked,
            resumed: self.resumed - earlier.resumed,
            repaired: self.repaired - earlier.repaired,
            logic_calls,
            closed,
            ..*self
        }
    }

    fn parse(text: &str) -> Self {
        let mut counted = Self::default();
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "comet_matched_total" => counted.matched += value,
                "comet_queued_total" => counted.queued += value,
                "comet_dropped_total" => counted.dropped += value,
                "comet_sent_total" => counted.sent += value,
                "comet_connections" => counted.connections += value,
                "comet_heap_allocated_bytes" => counted.heap_bytes += value,
                "comet_logic_up" => counted.logic_up += value,
                "comet_lost_total" => counted.lost += value,
                "comet_superseded_total" => counted.superseded += value,
                "comet_parked_total" => counted.parked += value,
                "comet_resumed_total" => counted.resumed += value,
                "comet_repaired_total" => counted.repaired += value,
                "comet_logic_calls_total" => {
                    counted.logic_calls.add(label(labels, "rpc").unwrap_or("unknown"), value);
                }
                "comet_waiting" => counted.waiting += value,
                "comet_closed_total" => {
                    counted.closed.add(label(labels, "reason").unwrap_or("unknown"), value);
                }
                _ => {}
            }
        }
        counted
    }
}

fn has_late_core(text: &str) -> bool {
    let mut lines = text.lines();
    lines.any(|line| line.starts_with("comet_core_answers{") && line.ends_with(" 0"))
}

fn grown(now: &Reasons, earlier: &Reasons) -> Reasons {
    let mut grown = now.clone();
    for (reason, count) in grown.iter_mut() {
        *count -= earlier.get(reason).unwrap_or(&0);
    }
    grown.retain(|_, count| *count > 0);
    grown
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = labels.split_once(&format!("{name}=\""))?;
    Some(value.split_once('"')?.0)
}

/// The whole answer to a GET, including the head. Fails if it is not a 200.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let is_ok = answer.starts_with("HTTP/1.1 200");
    is_ok.then_some(answer).ok_or_else(|| io::Error::other("the answer is no 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_added_up_and_reasons_kept_apart() {
        let text = "# TYPE comet_lost_total counter\n\
                    comet_lost_total{core=\"0\"} 2\n\
                    comet_lost_total{core=\"1\"} 3\n\
                    comet_superseded_total 7\n\
                    comet_waiting{core=\"0\"} 1\n\
                    comet_closed_total{core=\"0\",reason=\"peer_closed\"} 4\n\
                    comet_closed_total{core=\"1\",reason=\"write_timeout\"} 1\n\
                    comet_closed_total{core=\"1\",reason=\"peer_closed\"} 1\n";
        let counted = Counted::parse(text);
        assert_eq!((counted.lost, counted.superseded, counted.waiting), (5, 7, 1));
        assert_eq!(counted.closed["peer_closed"], 5);
        let mut earlier = counted.clone();
        earlier.lost = 1;
        earlier.closed.remove("write_timeout");
        let since = counted.since(&earlier);
        assert_eq!((since.lost, since.superseded), (4, 0));
        assert_eq!((since.closed.len(), since.closed["write_timeout"]), (1, 1));
    }
}
