//! Reads the stream of shared histories, from its first message on, each message once.
//!
//! The stream drops only its oldest messages, so its sequence numbers have no gaps. If one is missing, the consumer is
//! made anew. If it is still missing, the stream has dropped messages that this host has not read. `position.rs`
//! decides.

mod position;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, Info, RetentionPolicy};
use async_nats::jetstream::{self, Message};
use async_nats::{Client, HeaderMap};
use comet_core::limits::STREAM_FRAMES_MAX as FRAMES_MAX;
use comet_hub::cluster::{ReplyTarget, StoredPush, StreamEvent};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::options::StreamOptions;
use crate::subject::Subjects;
use crate::{Counts, STREAM_MAX, Shared, StreamReading, headers};

use position::{Arrival, Found, Loss, ReadPosition};

/// Most messages that the client requests at once, and most bytes of them. It requests the next batch when half of them
/// have come. NATS accepts no larger message.
const BATCH_MAX: usize = 256;
const BATCH_BYTES: usize = 64 << 20;
/// Most bytes of waiting messages. The client requests another batch when half of one has come, and two more by itself
/// if no messages are taken for more than half a minute. A few messages are on their way to the reader, and one is
/// being handled.
pub const STREAM_BYTES_MAX: usize = BATCH_BYTES / 2 * 7 + BATCH_BYTES * (STREAM_MAX + 1);
/// Interval of the stream's heartbeats. After two of these without a message the consumer is made anew: its server,
/// which may not be that of this connection, may have ended.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a request for messages waits if there are none.
const EXPIRES: Duration = Duration::from_secs(30);
/// The server removes a consumer from which nothing was requested for this long.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Time between two attempts.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(4);
/// How often homes are told up to where the stream is read.
const TELL: Duration = Duration::from_millis(100);
/// The messages that were in the stream at the start may have expired. So the stream is examined again after this many
/// heartbeats without a message.
const LOOK_AGAIN: u32 = 10;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The result of taking a message.
enum ReadOutcome {
    Read,
    /// It was read before.
    Known,
    /// Messages before it are missing, and may come by another consumer.
    Missing,
}

pub(crate) struct StreamReader {
    client: Client,
    subjects: Arc<Subjects>,
    shared: Arc<Shared>,
    options: StreamOptions,
    at: ReadPosition,
    /// The latest error, which is not logged again.
    said: Option<String>,
}

/// Number of messages to request at once, if each has at most `payload_max` bytes.
fn batch(payload_max: usize) -> usize {
    (BATCH_BYTES / payload_max.max(1)).clamp(1, BATCH_MAX)
}

impl StreamReader {
    pub(crate) fn new(
        client: Client,
        subjects: Arc<Subjects>,
        shared: Arc<Shared>,
        options: StreamOptions,
    ) -> Self {
        Self { client, subjects, shared, options, at: ReadPosition::default(), said: None }
    }

    pub(crate) async fn run(mut self, events: mpsc::Sender<StreamEvent>) -> Infallible {
        let mut pause = RETRY;
        let mut connections = self.shared.connections.subscribe();
        loop {
            let before = self.at.last;
            let ended = tokio::select! {
                ended = self.follow(&events) => ended,
                // The consumer is lost with its connection. The client would notice that only by the missing
                // heartbeats.
                _ = connections.changed() => {
                    pause = RETRY;
                    continue;
                }
            };
            if let Err(error) = ended {
                let sentence = error.to_string();
                if self.said.as_ref() != Some(&sentence) {
                    log::warn!("the stream of histories in NATS is not read: {sentence}");
                    self.said = Some(sentence);
                }
            }
            pause = if self.at.last > before { RETRY } else { RETRY_MAX.min(pause * 2) };
            tokio::select! {
                () = sleep(pause) => {}
                _ = connections.changed() => pause = RETRY,
            }
        }
    }

    /// Reads on, until the consumer has to be made anew. It may be dropped at any await and called again.
    async fn follow(&mut self, events: &mpsc::Sender<StreamEvent>) -> Result<(), Error> {
        let context = jetstream::new(self.client.clone());
        let found = context.get_or_create_stream(self.config()).await?;
        let info = found.cached_info();
        if let Some(why) = unfit(&info.config, &self.subjects.every_stored_room()) {
            return Err(format!("{} {why}", self.subjects.stream()).into());
        }
        self.begin(info, events).await;
        let consumer = found.create_consumer(self.consumer()).await?;
        // The stream may have been replaced meanwhile, so the consumer may belong to another one.
        if context.get_stream(self.subjects.stream()).await?.cached_info().created != info.created {
            return Ok(());
        }
        self.read(&consumer, events).await
    }

    fn config(&self) -> stream::Config {
        let StreamOptions { bytes, age, replicas } = self.options;
        stream::Config {
            name: self.subjects.stream(),
            subjects: vec![self.subjects.every_stored_room()],
            max_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            max_age: age,
            discard: DiscardPolicy::Old,
            num_replicas: replicas,
            // A message deleted from the middle would be a gap that no host notices.
            deny_delete: true,
            description: Some("Pushes to rooms with a history, of comet".to_owned()),
            ..stream::Config::default()
        }
    }

    fn consumer(&self) -> pull::Config {
        pull::Config {
            deliver_policy: match self.at.start() {
                0 => DeliverPolicy::All,
                start_sequence => DeliverPolicy::ByStartSequence { start_sequence },
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: FORGOTTEN,
            memory_storage: true,
            ..pull::Config::default()
        }
    }

    /// Continues the stream at the known position, or begins at its start if it is another stream.
    async fn begin(&mut self, info: &Info, events: &mpsc::Sender<StreamEvent>) {
        let state = &info.state;
        let found = Found {
            created: info.created.unix_timestamp_nanos(),
            first: state.first_sequence,
            last: state.last_sequence,
            messages: state.messages,
        };
        let resumed = self.shared.resumed().take();
        if let Some(position) =
            resumed.and_then(|position| ReadPosition::resume(found.created, position))
        {
            self.at = position;
        }
        let loss = self.at.begin(found);
        self.note(loss.as_ref());
        self.tell(events).await;
    }

    fn note(&self, loss: Option<&Loss>) {
        match loss {
            Some(Loss::Tail { first, last }) => {
                log::warn!("the stream of histories has lost its messages {first} to {last}");
            }
            Some(Loss::Unread { first, last }) => {
                self.counts().lost.fetch_add(last - first + 1, Relaxed);
                log::warn!("the stream has dropped what was not read: {first} to {last}");
            }
            None => {}
        }
    }

    async fn read(
        &mut self,
        consumer: &PullConsumer,
        events: &mpsc::Sender<StreamEvent>,
    ) -> Result<(), Error> {
        let asked =
            consumer.stream().max_messages_per_batch(batch(self.client.server_info().max_payload));
        let mut messages = asked.heartbeat(HEARTBEAT).expires(EXPIRES).messages().await?;
        let (mut is_first, mut quiet) = (true, 0);
        let mut ticks = interval(TELL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => {
                    let message = message.ok_or("the consumer has ended")??;
                    quiet = 0;
                    match self.take(&message, is_first, events).await? {
                        ReadOutcome::Read => (is_first, self.said) = (false, None),
                        ReadOutcome::Known => {}
                        ReadOutcome::Missing => return Ok(()),
                    }
                }
                _ = ticks.tick() => {
                    quiet += 1;
                    if !self.at.is_read && quiet > LOOK_AGAIN {
                        return Ok(());
                    }
                    self.tell(events).await;
                }
            }
        }
    }

    /// Tells homes up to where the stream is read, if that has changed.
    async fn tell(&mut self, events: &mpsc::Sender<StreamEvent>) {
        let position = self.at.announced();
        if position != self.at.announced {
            // Fails only if the host ends.
            let _ = events.send(StreamEvent::State(position)).await;
            self.at.announced = position;
        }
        self.counts().is_read.store(self.at.is_read, Relaxed);
    }

    async fn take(
        &mut self,
        message: &Message,
        is_first: bool,
        events: &mpsc::Sender<StreamEvent>,
    ) -> Result<ReadOutcome, Error> {
        let info = message.info()?;
        let (sequence, waiting) = (info.stream_sequence, info.pending);
        let stored_unix_ms =
            u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        match self.at.arrive(sequence, stored_unix_ms, is_first) {
            Arrival::Known => return Ok(ReadOutcome::Known),
            Arrival::Early => return Ok(ReadOutcome::Missing),
            Arrival::Other(loss) => {
                self.note(Some(&loss));
                return Ok(ReadOutcome::Missing);
            }
            Arrival::Next => {}
            Arrival::Behind(loss) => {
                self.note(loss.as_ref());
                self.tell(events).await;
            }
        }
        match self.push(message, sequence, stored_unix_ms) {
            Some(push) => _ = events.send(StreamEvent::Push(push)).await,
            None => Counts::add(&self.shared.counts.invalid),
        }
        let counts = self.counts();
        counts.read.fetch_add(1, Relaxed);
        counts.waiting.store(waiting, Relaxed);
        if self.at.advance(sequence, stored_unix_ms) {
            self.tell(events).await;
        }
        Ok(ReadOutcome::Read)
    }

    /// `None`: it is not a push.
    fn push(&self, message: &Message, sequence: u64, stored_unix_ms: u64) -> Option<StoredPush> {
        let topic = self.subjects.topic_of_stored(&message.subject)?;
        let headers = message.headers.as_ref();
        let publication = headers::push(topic, headers, message.payload.to_vec())?;
        // A caller that waited for an answer before this host started no longer waits.
        let reply_target = reply_target(&self.subjects, headers).filter(|_| self.at.is_read);
        let offset = sequence * FRAMES_MAX;
        Some(StoredPush { publication, offset, stored_unix_ms, reply_target })
    }

    fn counts(&self) -> &StreamReading {
        self.shared.stream.as_ref().expect("a host with a stream counts")
    }
}

/// Why a stream that was made by another program cannot be read: it has other messages, or gaps that a host cannot
/// distinguish from dropped messages.
fn unfit(config: &stream::Config, subject: &str) -> Option<String> {
    if config.subjects != [subject] {
        return Some(format!("takes {:?}, and not {subject}", config.subjects));
    }
    let per_subject = config.max_messages_per_subject;
    if per_subject > 0 {
        return Some(format!("keeps {per_subject} messages a subject, which leaves holes in it"));
    }
    if config.retention != RetentionPolicy::Limits {
        let retention = config.retention;
        return Some(format!("has the retention {retention:?}, which leaves holes in it"));
    }
    (config.discard != DiscardPolicy::Old).then(|| "refuses new messages when it is full".into())
}

/// The address for the answer to a push. Callers of another process of this host, from before an upgrade, no longer
/// wait.
fn reply_target(subjects: &Subjects, headers: Option<&HeaderMap>) -> Option<ReplyTarget> {
    let reply = headers::reply(headers)?;
    match headers::host(headers) {
        Some(host) if host == *subjects.own_host() => {
            subjects.own_call(&reply.0).map(ReplyTarget::Here)
        }
        _ => Some(ReplyTarget::To(reply)),
    }
}

#[cfg(test)]
mod tests {
    use comet_hub::cluster::{ClusterCallId, ReplyTo};

    use super::*;

    #[test]
    fn a_push_published_by_a_former_process_of_this_host_gets_no_answer() {
        let subjects = |host: &str| Subjects::new("comet", host.into());
        let (former, here, other) = (subjects("a"), subjects("a"), subjects("b"));
        let answered = |caller: &Subjects| {
            let reply = caller.reply(ClusterCallId(7));
            let mut headers = headers::of_host(caller.own_host());
            headers::set_reply(&mut headers, &reply);
            (reply_target(&here, Some(&headers)), reply)
        };
        assert_eq!(answered(&here).0, Some(ReplyTarget::Here(ClusterCallId(7))));
        assert_eq!(answered(&former).0, None);
        let (answer_to_other, reply) = answered(&other);
        assert_eq!(answer_to_other, Some(ReplyTarget::To(ReplyTo(reply.into()))));
        assert_eq!(reply_target(&here, Some(&headers::of_host("b"))), None, "nobody wants one");
        let mut program = HeaderMap::new();
        headers::set_reply(&mut program, "inbox");
        assert_eq!(
            reply_target(&here, Some(&program)),
            Some(ReplyTarget::To(ReplyTo("inbox".into())))
        );
    }

    #[test]
    fn the_bytes_of_a_batch_in_the_client_are_bounded() {
        // The default of nats-server, its maximum, and a server that reports none.
        let payloads = [1 << 20, 64 << 20, 4 << 10, 0];
        assert_eq!(payloads.map(batch), [64, 1, 256, 256]);
        for payload in payloads {
            assert!(batch(payload) * payload <= BATCH_BYTES, "{payload}");
        }
    }

    #[test]
    fn a_stream_with_holes_is_not_read() {
        let subject = "comet.history.*";
        let fit =
            stream::Config { subjects: vec![subject.to_owned()], ..stream::Config::default() };
        assert_eq!(unfit(&fit, subject), None);
        let (retention, discard) = (RetentionPolicy::Interest, DiscardPolicy::New);
        for (config, why) in [
            (stream::Config { subjects: Vec::new(), ..fit.clone() }, "takes []"),
            (stream::Config { max_messages_per_subject: 5, ..fit.clone() }, "keeps 5 messages"),
            (stream::Config { retention, ..fit.clone() }, "has the retention Interest"),
            (stream::Config { discard, ..fit.clone() }, "refuses new messages"),
        ] {
            let told = unfit(&config, subject).expect(why);
            assert!(told.starts_with(why), "{told}");
        }
    }
}
