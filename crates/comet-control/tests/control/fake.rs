//! A control thread whose shards are simulated by the test, which receives each message and answers it.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comet_control::{
    AccessControl, ApiTls, ClientEndpoint, ClusterOptions, Control, ControlWake, DrainPlan,
    Options, StartError,
};
use comet_core::{CallId, Counters, Limits, Message, Report, ShardId, Tally};
use comet_hub::cluster::{
    Command, Engine, EngineCounts, Event, Part, ReplyTo, StreamCounts, StreamEvent,
};
use comet_mesh::{Inbox, Sender, Wake, inbox};
use comet_ops::LogFormat;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tonic::transport::{Channel, Endpoint};

/// Long enough that no test reaches it, and short enough that a hanging test ends.
pub(crate) const PATIENT: Duration = Duration::from_secs(30);

/// For tests that wait for a timeout. Their work before it takes far less, even on a loaded machine.
pub(crate) const HASTY: Duration = Duration::from_secs(5);

/// An inbox capacity that no test fills.
pub(crate) const ROOMY: usize = 1_024;

pub(crate) fn options(call_timeout: Duration) -> Options {
    let access = Arc::new(AccessControl::new(Vec::new(), vec!["test".to_owned()]));
    Options {
        grpc: vec!["127.0.0.1:0".parse().unwrap()],
        http: vec!["127.0.0.1:0".parse().unwrap()],
        stat: vec!["127.0.0.1:0".parse().unwrap()],
        debug: vec!["127.0.0.1:0".parse().unwrap()],
        node: ClientEndpoint {
            domain: "push.example".to_owned(),
            tcp: vec!["192.0.2.1:8080".parse().unwrap(), "192.0.2.2:8081".parse().unwrap()],
            websocket: vec!["192.0.2.1:8090".parse().unwrap()],
            websocket_tls: Vec::new(),
            heartbeat: Duration::from_secs(300),
        },
        weight: 1,
        push_access: Arc::clone(&access),
        access_log: Arc::default(),
        monitor_access: access,
        tls: ApiTls::default(),
        logic: None,
        frame_max: 256,
        keys_max: 8,
        call_timeout,
        cpus: Vec::new(),
        server_id: "test".to_owned(),
        version: "0.0.0",
        limits: Arc::new(Limits::default()),
        trace_log: None,
        inherited: None,
        log_format: LogFormat::Text,
        traced: None,
        epoch: Instant::now(),
        drain: DrainPlan {
            delay: Duration::ZERO,
            limit: PATIENT,
            over: Duration::ZERO,
            retry_after: Duration::ZERO,
        },
        memory: u64::MAX,
        open_files: 65_536,
        certificates: Arc::default(),
        pulses: Vec::new(),
    }
}

pub(crate) struct Fake {
    pub(crate) control: Control,
    pub(crate) shards: Vec<FakeShard>,
    pub(crate) reports: Sender<Report>,
}

/// Starts a control thread with as many fake shards as there are capacities.
pub(crate) fn start(call_timeout: Duration, capacities: &[usize]) -> Fake {
    start_with(options(call_timeout), capacities)
}

/// The same with `options`.
pub(crate) fn start_with(options: Options, capacities: &[usize]) -> Fake {
    start_beside(None, options, capacities)
}

/// The same on one of several hosts.
pub(crate) fn start_with_cluster(options: Options, capacities: &[usize]) -> Fake {
    let (_, stream) = mpsc::channel(1);
    start_beside(Some(alone(Arc::new(NoEngine), stream)), options, capacities)
}

/// The same with an engine and its events: pushes and notices, as long as neither channel is closed.
pub(crate) fn start_with_engine(
    (engine, [pushes, notices]): (Arc<dyn Engine>, [mpsc::Receiver<Event>; 2]),
    options: Options,
    capacities: &[usize],
) -> Fake {
    let (_, stream) = mpsc::channel(1);
    let cluster = ClusterOptions { notices, pushes, ..alone(engine, stream) };
    start_beside(Some(cluster), options, capacities)
}

/// The same, and hosts share a stream, which the test simulates.
pub(crate) fn start_with_stream(
    engine: Arc<dyn Engine>,
    options: Options,
    capacities: &[usize],
) -> (Fake, mpsc::Sender<StreamEvent>) {
    let (events, stream) = mpsc::channel(1);
    (start_beside(Some(alone(engine, stream)), options, capacities), events)
}

fn start_beside(cluster: Option<ClusterOptions>, options: Options, capacities: &[usize]) -> Fake {
    let wake = Arc::new(ControlWake::default());
    let waker: Arc<dyn Wake> = wake.clone();
    let (reports, report_inbox) = inbox(ROOMY, waker);
    let (senders, shards) = capacities.iter().map(|capacity| FakeShard::new(*capacity)).unzip();
    let control = Control::start(options, wake, senders, report_inbox, cluster).unwrap();
    Fake { control, shards, reports }
}

/// A host with a connection that knows no other host.
fn alone(engine: Arc<dyn Engine>, stream: mpsc::Receiver<StreamEvent>) -> ClusterOptions {
    let (engine_notices, notices) = mpsc::channel(1);
    let (_, pushes) = mpsc::channel(1);
    engine_notices.try_send(Event::Connected).expect("it has room");
    let work = Box::pin(ready(()));
    ClusterOptions {
        host: "a".into(),
        subscribes_rooms: true,
        sessions: false,
        engine,
        notices,
        pushes,
        stream,
        work,
    }
}

struct NoEngine;

impl Engine for NoEngine {
    fn submit(&self, _: Command) -> Result<(), Command> {
        Ok(())
    }

    fn answer(&self, _: ReplyTo, _: Part) -> bool {
        true
    }

    fn counts(&self) -> EngineCounts {
        EngineCounts::default()
    }

    fn stream_counts(&self) -> Option<StreamCounts> {
        Some(StreamCounts::default())
    }
}

/// Starts a control thread without any callers.
pub(crate) fn try_start(options: Options) -> Result<Control, StartError> {
    let wake = Arc::new(ControlWake::default());
    let (shard, _messages) = inbox(1, wake.clone());
    let (_reports, report_inbox) = inbox(1, wake.clone());
    Control::start(options, wake, vec![shard], report_inbox, None)
}

impl Fake {
    pub(crate) async fn channel(&self) -> Channel {
        let address = self.control.grpc_addrs()[0].socket().unwrap();
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
    }

    pub(crate) fn report(&self, report: Report) {
        self.reports.try_send(report).unwrap();
    }

    /// One connection took the push.
    pub(crate) fn queued(&self, call: CallId) {
        let mut tally = Tally::default();
        tally.queue();
        self.report(Report::Tally { call, shard: ShardId(0), tally, partials: 0 });
    }

    /// Lets each shard answer one snapshot with these counters.
    pub(crate) async fn answer_snapshots(&self, counters: &[Counters]) {
        for (index, counters) in counters.iter().enumerate() {
            let message = self.shards[index].next().await;
            self.answer(index, message, counters, &[]);
        }
    }

    /// Lets each shard answer the requests of `/stat`: a snapshot and its rooms.
    pub(crate) async fn answer_stat(&self, counters: &[Counters], rooms: &[&[(&str, u32)]]) {
        for (index, (counters, rooms)) in counters.iter().zip(rooms).enumerate() {
            for _ in 0..2 {
                let message = self.shards[index].next().await;
                self.answer(index, message, counters, rooms);
            }
        }
    }

    pub(crate) fn answer(
        &self,
        index: usize,
        message: Message,
        counters: &Counters,
        rooms: &[(&str, u32)],
    ) {
        let shard = ShardId(u16::try_from(index).unwrap());
        self.report(match message {
            Message::Snapshot { call } => {
                Report::Snapshot { call, shard, counters: Box::new(counters.clone()) }
            }
            Message::Rooms { call } => {
                let rooms = rooms.iter().map(|(name, online)| ((*name).into(), *online));
                Report::Rooms { call, rooms: rooms.collect() }
            }
            Message::CountRooms { call, rooms: named } => {
                let rooms = rooms.iter().map(|(name, online)| (Arc::from(*name), *online));
                let rooms = rooms.filter(|(name, _)| named.contains(name)).collect();
                Report::Rooms { call, rooms }
            }
            other => panic!("{other:?}"),
        });
    }

    /// Status, content type and body of a page at the stat address.
    pub(crate) async fn page(&self, path: &str) -> (u16, String, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let (status, head, body) =
            exchange(self.control.stat_addrs()[0].socket().unwrap(), request.as_bytes()).await;
        let content_type =
            head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
        (status, content_type.to_owned(), body)
    }

    /// Content type and body of the page of metrics with these counters. Control waits a second for the shards, so the page is
    /// requested again if the test answered too late.
    pub(crate) async fn metrics(&self, counters: &[Counters]) -> (String, String) {
        loop {
            let ((status, content_type, page), ()) =
                tokio::join!(self.page("/metrics"), self.answer_snapshots(counters));
            assert_eq!(status, 200, "{page}");
            let is_late =
                |core| page.contains(&format!("comet_core_answers{{core=\"{core}\"}} 0\n"));
            if !(0..counters.len()).any(is_late) {
                return (content_type, page);
            }
        }
    }

    /// Content type and body of another page. `answer` answers for the shards, for which control waits in the same way.
    pub(crate) async fn answered_page(
        &self,
        path: &str,
        answer: impl AsyncFn(),
    ) -> (String, String) {
        loop {
            let ((status, content_type, body), ()) = tokio::join!(self.page(path), answer());
            if status != 503 {
                assert_eq!(status, 200, "{body}");
                return (content_type, body);
            }
        }
    }

    /// Status and body of a call at the debug address.
    pub(crate) async fn debug(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        let (status, _, body) =
            exchange(self.control.debug_addrs()[0].socket().unwrap(), request.as_bytes()).await;
        (status, body)
    }
}

/// Sends `request`, which asks for the connection to be closed, and takes its answer apart: status, head
/// and body.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    answer(&mut stream).await
}

/// Reads an answer to its end.
pub(crate) async fn answer(stream: &mut TcpStream) -> (u16, String, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(&self) {
        self.0.notify_one();
    }
}

/// The receiving end of a shard's inbox.
pub(crate) struct FakeShard {
    inbox: Inbox<Message>,
    bell: Arc<Bell>,
}

impl FakeShard {
    fn new(capacity: usize) -> (Sender<Message>, Self) {
        let bell = Arc::new(Bell::default());
        let waker: Arc<dyn Wake> = bell.clone();
        let (sender, inbox) = inbox(capacity, waker);
        (sender, Self { inbox, bell })
    }

    /// Waits for the next message.
    pub(crate) async fn next(&self) -> Message {
        loop {
            if let Some(message) = self.inbox.try_recv() {
                return message;
            }
            if self.inbox.arm_wakeup() {
                self.bell.0.notified().await;
                self.inbox.disarm_wakeup();
            }
        }
    }

    /// The next message, if it is there.
    pub(crate) fn try_next(&self) -> Option<Message> {
        self.inbox.try_recv()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.inbox.depth() == 0
    }
}
