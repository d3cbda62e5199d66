//! Start, health, drain, stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use comet_control::{AccessControl, DrainPlan, Drained, Options, StartError};
use comet_core::{Counters, Limits, Message, Report, ShardId};
use comet_mesh::{Pulse, Wake};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::fake::{HASTY, PATIENT, ROOMY, options, start, start_with, try_start};

/// A drain at once, without a time to wait for clients.
fn within(limit: Duration) -> DrainPlan {
    let none = Duration::ZERO;
    DrainPlan { delay: none, limit, over: none, retry_after: none }
}

/// The statuses of a service as they change.
async fn watch(
    channel: Channel,
    service: &str,
) -> impl tokio_stream::Stream<Item = ServingStatus> + Unpin {
    let request = HealthCheckRequest { service: service.to_owned() };
    let stream = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    stream.map(|reply| reply.unwrap().status())
}

#[tokio::test]
async fn health_follows_ready_and_drain() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let mut watches = Vec::new();
    for service in ["", "goim.comet.Comet", "comet.v1.Push"] {
        watches.push(watch(fake.channel().await, service).await);
    }
    let healthz = async || {
        let (status, _, body) = fake.page("/healthz").await;
        (status, body)
    };
    for watch in &mut watches {
        assert_eq!(watch.next().await, Some(ServingStatus::NotServing));
    }
    assert_eq!(healthz().await, (503, "starting\n".to_owned()));

    fake.control.set_ready();
    for watch in &mut watches {
        assert_eq!(watch.next().await, Some(ServingStatus::Serving));
    }
    assert_eq!(healthz().await, (200, "ok\n".to_owned()));

    // No shard answers yet, so this only counts; each has the message.
    let drained = fake.control.drain(within(HASTY));
    assert_eq!(drained, Drained { done: 0, shards: 2 });
    for watch in &mut watches {
        assert_eq!(watch.next().await, Some(ServingStatus::NotServing));
    }
    fake.control.set_ready();
    assert_eq!(healthz().await, (503, "draining\n".to_owned()));
    for shard in &fake.shards {
        assert!(matches!(shard.next().await, Message::Drain { .. }));
    }
    drop(watches);
    fake.control.stop();
}

/// A watch does not end, so it needs a token.
#[tokio::test]
async fn health_without_a_token_is_a_check() {
    let push_access = Arc::new(AccessControl::new(vec!["a-token".to_owned()], Vec::new()));
    let fake = start_with(Options { push_access, ..options(PATIENT) }, &[ROOMY]);
    let mut client = HealthClient::new(fake.channel().await);
    client.check(HealthCheckRequest::default()).await.unwrap();
    let refused = client.watch(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(refused.metadata().get("www-authenticate").unwrap(), "Bearer");
    let mut request = Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("authorization", "Bearer a-token".parse().unwrap());
    let mut watch = client.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn watches_of_health_are_bounded() {
    let fake = start(PATIENT, &[ROOMY]);
    let mut client = HealthClient::new(fake.channel().await);
    let mut watches = Vec::new();
    for _ in 0..64 {
        watches.push(client.watch(HealthCheckRequest::default()).await.unwrap());
    }
    // Also by another connection.
    let mut other = HealthClient::new(fake.channel().await);
    for client in [&mut client, &mut other] {
        let refused = client.watch(HealthCheckRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        client.check(HealthCheckRequest::default()).await.unwrap();
    }
    watches.pop();
    // Until the server has noticed the end of the watch.
    while other.watch(HealthCheckRequest::default()).await.is_err() {}
}

/// How often it was woken.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn health_follows_the_cores() {
    let woken = Arc::new(Woken::default());
    let pulses: Vec<_> = (0..3).map(|_| Arc::new(Pulse::new(woken.clone(), 0))).collect();
    // A minute ago was the only turn of the second core.
    let now = 60_000;
    let epoch = Instant::now() - Duration::from_millis(now);
    pulses[0].beat(now + 3_600_000);
    pulses[2].end();
    let options = Options { epoch, pulses: pulses.clone(), ..options(PATIENT) };
    let fake = start_with(options, &[ROOMY, ROOMY, ROOMY]);
    let mut health = watch(fake.channel().await, "").await;
    fake.control.set_ready();
    while fake.page("/healthz").await.2 != "core 1 has not answered for 10s\n" {}
    assert_eq!(fake.page("/healthz").await.0, 503);
    assert!(woken.0.load(Ordering::Relaxed) > 0, "a core that sleeps is woken");
    let counters = [Counters::default(), Counters::default(), Counters::default()];
    let ((_, _, page), ()) = tokio::join!(fake.page("/metrics"), fake.answer_snapshots(&counters));
    let age = |core| {
        let begin = format!("\ncomet_core_turn_age_seconds{{core=\"{core}\"}} ");
        page.split_once(&begin).unwrap().1.split('.').next().unwrap().parse::<u64>().unwrap()
    };
    assert!(age(0) == 0 && age(1) >= 60 && age(2) == 0, "{page}");

    pulses[1].beat(now + 3_600_000);
    while health.next().await != Some(ServingStatus::Serving) {}
    assert_eq!(fake.page("/healthz").await.2, "ok\n");
}

#[tokio::test]
async fn a_drain_ends_with_the_last_shard() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let reports = fake.reports.clone();
    let control = fake.control;
    let draining = tokio::task::spawn_blocking(move || {
        let drained = control.drain(within(PATIENT));
        control.stop();
        drained
    });
    for (index, shard) in (0..).zip(&fake.shards) {
        assert!(matches!(shard.next().await, Message::Drain { .. }));
        reports.try_send(Report::Drained { shard: ShardId(index) }).unwrap();
    }
    assert_eq!(draining.await.unwrap(), Drained { done: 2, shards: 2 });
}

#[tokio::test]
async fn every_shard_gets_the_plan_of_a_drain() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let (over, retry_after) = (Duration::from_secs(2), Duration::from_millis(1_500));
    let _ = fake.control.drain(DrainPlan { over, retry_after, ..within(HASTY) });
    for shard in &fake.shards {
        let message = shard.next().await;
        assert!(
            matches!(message, Message::Drain { over_ms: 2_000, retry_after_ms: 1_500 }),
            "{message:?}"
        );
    }
}

#[tokio::test]
async fn every_shard_gets_new_limits() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    fake.control.configure(Limits { svr_proto: 7, ..Limits::default() });
    for shard in &fake.shards {
        let message = shard.next().await;
        assert!(
            matches!(&message, Message::Configure { limits } if limits.svr_proto == 7),
            "{message:?}"
        );
    }
}

#[tokio::test]
async fn a_shard_that_ended_counts_as_drained() {
    let mut fake = start(PATIENT, &[ROOMY]);
    fake.shards.clear();
    assert_eq!(fake.control.drain(within(PATIENT)), Drained { done: 1, shards: 1 });
}

/// Asks one version of reflection for the services, and compares.
macro_rules! check_reflection {
    ($version:ident, $fake:expr) => {{
        use $version::server_reflection_request::MessageRequest;
        use $version::server_reflection_response::MessageResponse;
        let list = $version::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client =
            $version::server_reflection_client::ServerReflectionClient::new($fake.channel().await);
        let replies = client.server_reflection_info(tokio_stream::once(list)).await.unwrap();
        let reply = replies.into_inner().next().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
            panic!("{reply:?}")
        };
        let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        names.sort();
        let expected = [
            "comet.v1.Inspect",
            "comet.v1.Node",
            "comet.v1.Push",
            "goim.comet.Comet",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        assert_eq!(names, expected);
    }};
}

#[tokio::test]
async fn both_versions_of_reflection_list_the_services() {
    let fake = start(PATIENT, &[ROOMY]);
    check_reflection!(v1, fake);
    check_reflection!(v1alpha, fake);
}

#[test]
fn a_failed_start_names_the_reason() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let in_use = |setting| {
        let port = address.port();
        format!(
            "{setting}: {address} is in use: stop what listens there (ss -ltnp 'sport = :{port}') or \
             bind another port"
        )
    };
    let check = |change: &dyn Fn(&mut Options)| -> StartError {
        let mut options = options(PATIENT);
        change(&mut options);
        try_start(options).unwrap_err()
    };
    assert_eq!(
        check(&|options| options.grpc.push(address.into())).to_string(),
        in_use("push.grpc")
    );
    assert_eq!(
        check(&|options| options.http = vec![address.into()]).to_string(),
        in_use("push.http")
    );
    assert_eq!(
        check(&|options| options.stat = vec![address.into()]).to_string(),
        in_use("monitor.stat")
    );
    for cpu in [1_023, 100_000] {
        assert_eq!(
            check(&|options| options.cpus = vec![cpu]).to_string(),
            format!(
                "cannot run the control thread on CPUs [{cpu}]: Invalid argument (os error 22)"
            )
        );
    }
}
