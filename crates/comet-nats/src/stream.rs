//! Reads the stream of the histories that hosts share, from its first message to its last and on, and each of them once.
//!
//! The stream drops its oldest messages alone, so its sequences have no holes. Where one is missing the consumer is made anew. If it is
//! missing still, the stream has dropped what this host has not read.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, Info};
use async_nats::jetstream::{self, Message};
use async_nats::{Client, HeaderMap};
use comet_core::StreamState;
use comet_core::limits::STREAM_FRAMES_MAX as FRAMES_MAX;
use comet_hub::cluster::{Answer, StoredPush, StreamEvent, StreamPlace};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::options::StreamOptions;
use crate::subject::Subjects;
use crate::{Counts, Shared, StreamReading, headers};

/// Messages that the client asks for at once, and asks again for when half of them have come: at least and at most, and the bytes
/// that they may have.
const BATCH: [usize; 2] = [4, 256];
const BATCH_BYTES: usize = 64 << 20;
/// Bytes of messages that wait in the client at most.
pub const STREAM_BYTES_MAX: usize = BATCH_BYTES / 2 * 3;
/// The stream says so often that it is there. After two of these without a word the consumer is made anew.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a question for messages holds, where there are none.
const EXPIRES: Duration = Duration::from_secs(30);
/// The server forgets a consumer that nobody asks for so long.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Time between two attempts.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(4);
/// How often homes are told how far the stream is read.
const TELL: Duration = Duration::from_millis(100);
/// What was in the stream at the start may have gone of age, so it is looked at again after so many of these without a message.
const LOOK_AGAIN: u32 = 10;

type Error = Box<dyn std::error::Error + Send + Sync>;

pub(crate) struct StreamReader {
    client: Client,
    subjects: Arc<Subjects>,
    shared: Arc<Shared>,
    options: StreamOptions,
    at: Place,
    /// The latest complaint, which is not repeated.
    said: Option<String>,
}

/// How far the stream is read.
#[derive(Default)]
struct Place {
    /// Tells the stream from one that had its name before.
    created: i128,
    /// The stream had lost its last messages, and goes on behind this one: its sequences mean others now.
    cut: u64,
    /// Sequence of the last message that was read.
    last: u64,
    /// Messages up to this one may be lost.
    lost: u64,
    /// Sequence of the last message that was there at the start.
    end: u64,
    is_read: bool,
    told: StreamPlace,
}

impl Place {
    fn told(&self) -> StreamPlace {
        let state = StreamState {
            epoch: epoch(self.created, self.cut),
            floor: self.lost * FRAMES_MAX,
            seen: self.last * FRAMES_MAX,
            is_read: self.is_read,
        };
        StreamPlace { state, cut: self.cut }
    }

    /// Where another process of this host has read the stream up to. `None`: it was another stream.
    fn resume(created: i128, place: StreamPlace) -> Option<Self> {
        let StreamPlace { state: StreamState { epoch: known, floor, seen, is_read }, cut } = place;
        (is_read && known == epoch(created, cut)).then_some(Self {
            created,
            cut,
            last: seen / FRAMES_MAX,
            lost: floor / FRAMES_MAX,
            is_read,
            ..Self::default()
        })
    }
}

/// Messages to be asked for at once, each of so many bytes at most.
fn batch(payload_max: usize) -> usize {
    let [least, most] = BATCH;
    (BATCH_BYTES / payload_max.max(1)).clamp(least, most)
}

/// The same on all hosts, and never 0.
fn epoch(created: i128, cut: u64) -> u64 {
    let mixed = (created as u64) ^ cut.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.max(1)
}

impl StreamReader {
    pub(crate) fn new(
        client: Client,
        subjects: Arc<Subjects>,
        shared: Arc<Shared>,
        options: StreamOptions,
    ) -> Self {
        Self { client, subjects, shared, options, at: Place::default(), said: None }
    }

    pub(crate) async fn run(mut self, events: mpsc::Sender<StreamEvent>) -> Infallible {
        let mut pause = RETRY;
        let mut connections = self.shared.connections.subscribe();
        loop {
            let before = self.at.last;
            let ended = tokio::select! {
                ended = self.follow(&events) => ended,
                // The consumer has gone with its connection, which the client would notice by its silence.
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

    /// Reads on, until the consumer has to be made anew. Whatever it waits for, it may be dropped there and called again.
    async fn follow(&mut self, events: &mpsc::Sender<StreamEvent>) -> Result<(), Error> {
        let context = jetstream::new(self.client.clone());
        let found = context.get_or_create_stream(self.config()).await?;
        let info = found.cached_info();
        let subject = self.subjects.every_stored_room();
        if info.config.subjects != [subject.as_str()] {
            let (name, others) = (self.subjects.stream(), &info.config.subjects);
            return Err(format!("{name} takes {others:?}, and not {subject}").into());
        }
        self.begin(info, events).await;
        let consumer = found.create_consumer(self.consumer()).await?;
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
            // What is taken out of the middle is a hole that no host notices.
            deny_delete: true,
            description: Some("Pushes to rooms with a history, of comet".to_owned()),
            ..stream::Config::default()
        }
    }

    fn consumer(&self) -> pull::Config {
        pull::Config {
            deliver_policy: match self.at.last {
                0 => DeliverPolicy::All,
                last => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: FORGOTTEN,
            memory_storage: true,
            ..pull::Config::default()
        }
    }

    /// Takes up the stream where it was left, or from its beginning if it is another one.
    async fn begin(&mut self, info: &Info, events: &mpsc::Sender<StreamEvent>) {
        let created = info.created.unix_timestamp_nanos();
        let (first, end) = (info.state.first_sequence, info.state.last_sequence);
        let at = &mut self.at;
        let resumed = self.shared.resumed().take();
        if let Some(place) = resumed.and_then(|place| Place::resume(created, place)) {
            *at = place;
        }
        if created != at.created {
            // No member has had what is in a stream that was made meanwhile.
            let is_younger = at.created != 0 && created > at.created;
            *at = Place { created, end, is_read: is_younger, ..Place::default() };
        } else if end < at.last {
            log::warn!("the stream of histories has lost its messages {} to {}", end + 1, at.last);
            *at = Place { created, cut: at.last, end, ..Place::default() };
        }
        if !at.is_read && (info.state.messages == 0 || first > at.end) {
            // Nothing is left of what was there.
            at.last = at.last.max(first.saturating_sub(1));
            at.lost = at.last;
            at.is_read = true;
        }
        self.tell(events).await;
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
                    if !self.take(&message, is_first, events).await? {
                        return Ok(());
                    }
                    (is_first, self.said) = (false, None);
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

    /// Tells homes how far the stream is read, if that has changed.
    async fn tell(&mut self, events: &mpsc::Sender<StreamEvent>) {
        let place = self.at.told();
        if place != self.at.told {
            // Fails only when the host ends.
            let _ = events.send(StreamEvent::State(place)).await;
            self.at.told = place;
        }
        self.counts().is_read.store(self.at.is_read, Relaxed);
    }

    /// `false`: messages before this one are missing, and may come by another consumer.
    async fn take(
        &mut self,
        message: &Message,
        is_first: bool,
        events: &mpsc::Sender<StreamEvent>,
    ) -> Result<bool, Error> {
        let info = message.info()?;
        let (sequence, waiting) = (info.stream_sequence, info.pending);
        let stored_unix_ms =
            u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let next = self.at.last + 1;
        if sequence < next {
            return Ok(true);
        }
        if sequence > next {
            if !is_first {
                return Ok(false);
            }
            self.at.lost = sequence - 1;
            if self.at.last > 0 {
                self.counts().lost.fetch_add(sequence - next, Relaxed);
                log::warn!("the stream has dropped what was not read: {next} to {}", sequence - 1);
            }
            self.at.last = sequence - 1;
            self.tell(events).await;
        }
        match self.push(message, sequence, stored_unix_ms) {
            Some(push) => _ = events.send(StreamEvent::Push(push)).await,
            None => Counts::add(&self.shared.counts.invalid),
        }
        self.at.last = sequence;
        let counts = self.counts();
        counts.read.fetch_add(1, Relaxed);
        counts.waiting.store(waiting, Relaxed);
        if !self.at.is_read && sequence >= self.at.end {
            self.at.is_read = true;
            self.tell(events).await;
        }
        Ok(true)
    }

    /// `None`: it is no push.
    fn push(&self, message: &Message, sequence: u64, stored_unix_ms: u64) -> Option<StoredPush> {
        let topic = self.subjects.topic_of_stored(&message.subject)?;
        let headers = message.headers.as_ref();
        let publication = headers::push(topic, headers, message.payload.to_vec())?;
        // Whoever waited for an answer at the start of this host does not any more.
        let answer = answer(&self.subjects, headers).filter(|_| self.at.is_read);
        let offset = sequence * FRAMES_MAX;
        Some(StoredPush { publication, offset, stored_unix_ms, answer })
    }

    fn counts(&self) -> &StreamReading {
        self.shared.stream.as_ref().expect("a host with a stream counts")
    }
}

/// Where the answer to a push goes. Callers of another process of this host, from before an upgrade, do not wait any more.
fn answer(subjects: &Subjects, headers: Option<&HeaderMap>) -> Option<Answer> {
    let reply = headers::reply(headers)?;
    match headers::host(headers) {
        Some(host) if host == *subjects.own_host() => subjects.own_call(&reply.0).map(Answer::Here),
        _ => Some(Answer::To(reply)),
    }
}

#[cfg(test)]
mod tests {
    use comet_hub::cluster::{ClusterCallId, ReplyTo};

    use super::*;

    #[test]
    fn a_push_of_a_process_before_an_upgrade_is_answered_to_nobody() {
        let subjects = |host: &str| Subjects::new("comet", host.into());
        let (former, here, other) = (subjects("a"), subjects("a"), subjects("b"));
        let answered = |caller: &Subjects| {
            let reply = caller.reply(ClusterCallId(7));
            let mut headers = headers::of_host(caller.own_host());
            headers::set_reply(&mut headers, &reply);
            (answer(&here, Some(&headers)), reply)
        };
        assert_eq!(answered(&here).0, Some(Answer::Here(ClusterCallId(7))));
        assert_eq!(answered(&former).0, None);
        let (answer_to_other, reply) = answered(&other);
        assert_eq!(answer_to_other, Some(Answer::To(ReplyTo(reply.into()))));
        assert_eq!(answer(&here, Some(&headers::of_host("b"))), None, "nobody wants one");
        let mut program = HeaderMap::new();
        headers::set_reply(&mut program, "inbox");
        assert_eq!(answer(&here, Some(&program)), Some(Answer::To(ReplyTo("inbox".into()))));
    }

    #[test]
    fn another_stream_has_another_epoch() {
        assert_ne!(epoch(7, 0), epoch(8, 0));
        assert_ne!(epoch(7, 0), epoch(7, 1));
        assert_eq!(epoch(0, 0), 1, "0 stands for none");
    }

    #[test]
    fn what_waits_in_the_client_has_a_bound() {
        // The default of nats-server, its most, and a server that says none.
        assert_eq!([1 << 20, 64 << 20, 4 << 10, 0].map(batch), [64, 4, 256, 256]);
    }

    #[test]
    fn a_stream_is_read_on_where_another_process_was() {
        for cut in [0, 5] {
            let former =
                Place { created: 7, cut, last: 9, lost: 3, is_read: true, ..Place::default() };
            let Place { created, cut, last, lost, end: _, is_read, told } =
                Place::resume(7, former.told()).expect("it is the same stream");
            assert_eq!((created, cut, last, lost, is_read), (7, former.cut, 9, 3, true));
            assert_eq!(told, StreamPlace::default(), "homes are told");
            assert!(Place::resume(8, former.told()).is_none(), "it was made anew");
        }
        let began = Place { created: 7, ..Place::default() };
        assert!(Place::resume(7, began.told()).is_none(), "it was not read yet");
    }
}
