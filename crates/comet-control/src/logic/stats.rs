//! The numbers of the client of logic, for the metrics.

use comet_histogram::Histogram;
use comet_hub::logic::LogicClient;
use tonic::Code;

use comet_ops::{Exposition, Kind};

/// All numbers at one time.
#[derive(Debug)]
pub(crate) struct LogicStats {
    /// Each address and whether it is available.
    pub(crate) addresses: Vec<(String, bool)>,
    /// Each address and how many of its answers to pings refused this comet.
    pub(crate) refused_pings: Vec<(String, u64)>,
    /// Calls under way.
    pub(crate) calls_under_way: usize,
    /// Name, code and count of all calls answered so far.
    pub(crate) calls: Vec<(&'static str, Code, u64)>,
    /// Name of the calls, and how long their attempts took.
    pub(crate) times: Vec<(&'static str, Histogram)>,
    /// Heartbeats and ends of sessions that wait to be sent.
    pub(crate) notices_waiting: usize,
    /// Those that were given up.
    pub(crate) notices_dropped: u64,
}

impl LogicStats {
    pub(super) fn of(client: &LogicClient, times: Vec<(&'static str, Histogram)>) -> Self {
        let addresses = client.addresses();
        let refused = client.refused_pings();
        let calls = client.call_counts();
        Self {
            addresses: addresses.map(|(address, is_up)| (address.to_owned(), is_up)).collect(),
            refused_pings: refused.map(|(address, count)| (address.to_owned(), count)).collect(),
            calls_under_way: client.calls_under_way(),
            calls: calls.map(|(rpc, code, count)| (rpc, Code::from_i32(code.0), count)).collect(),
            times,
            notices_waiting: client.notices_waiting(),
            notices_dropped: client.notices_dropped(),
        }
    }

    /// Adds the families to a page of metrics.
    pub(crate) fn expose(&self, page: &mut Exposition) {
        let mut up = page.family(
            "comet_logic_up",
            Kind::Gauge,
            "Whether the logic service is available, by address.",
        );
        for (address, is_live) in &self.addresses {
            up.labelled(&[("address", address)], u64::from(*is_live));
        }
        let mut refused = page.family(
            "comet_logic_pings_refused_total",
            Kind::Counter,
            "Pings that the logic service answered with UNAUTHENTICATED: it wants another token, by address.",
        );
        for (address, count) in &self.refused_pings {
            refused.labelled(&[("address", address)], *count);
        }
        let help = "Calls to logic under way.";
        page.family("comet_logic_calls_under_way", Kind::Gauge, help)
            .sample(self.calls_under_way as u64);
        let help = "Calls to logic, by name and gRPC code.";
        let mut calls = page.family("comet_logic_calls_total", Kind::Counter, help);
        for (rpc, code, count) in &self.calls {
            calls.labelled(&[("rpc", rpc), ("code", &format_args!("{code:?}"))], *count);
        }
        let help = "Attempts of calls to logic until they were answered or given up, by name.";
        let mut times = page.family("comet_logic_call_seconds", Kind::Histogram, help);
        for (rpc, of_rpc) in &self.times {
            times.times(("rpc", rpc), of_rpc);
        }
        let help = "Heartbeats and ends of sessions that wait to be reported to logic.";
        page.family("comet_logic_notices_waiting", Kind::Gauge, help)
            .sample(self.notices_waiting as u64);
        let help = "Heartbeats and ends of sessions that were not reported to logic.";
        page.family("comet_logic_notices_dropped_total", Kind::Counter, help)
            .sample(self.notices_dropped);
    }
}
