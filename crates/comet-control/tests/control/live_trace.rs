//! Live traces in the page of metrics.

use comet_core::{Counters, Message, Report, ShardId};
use comet_wire::comet::v1::TraceReq;
use comet_wire::comet::v1::node_client::NodeClient;
use comet_wire::comet::v1::trace_req::Subject;

use crate::fake::{Fake, PATIENT, ROOMY, start};

async fn snapshot(fake: &Fake) -> Report {
    let Message::Snapshot { call } = fake.shards[0].next().await else { panic!() };
    Report::Snapshot { call, shard: ShardId(0), counters: Box::new(Counters::default()) }
}

#[tokio::test]
async fn a_page_counts_the_traces_that_the_cores_knew_when_they_answered() {
    let fake = start(PATIENT, &[ROOMY]);
    let mut node = NodeClient::new(fake.channel().await);
    let is_counted = |page: (u16, String, String), count: u64| {
        page.2.contains(&format!("\ncomet_live_traces {count}\n"))
    };
    let begin = async {
        let answer = snapshot(&fake).await;
        // Behind the question in the inbox of the core.
        let request = TraceReq { subject: Some(Subject::User(7)), seconds: 60 };
        let stream = node.trace(request).await.unwrap();
        let Message::Configure { limits } = fake.shards[0].next().await else { panic!() };
        assert!(!limits.traces.is_empty());
        fake.report(answer);
        stream
    };
    let (page, stream) = tokio::join!(fake.page("/metrics"), begin);
    assert!(is_counted(page, 0));
    let (page, ()) =
        tokio::join!(fake.page("/metrics"), async { fake.report(snapshot(&fake).await) });
    assert!(is_counted(page, 1));
    drop(stream);
}
