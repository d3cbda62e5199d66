//! Executes tasks. If the client has no space the writer waits, and the tasks wait behind it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Subscriber};
use comet_hub::cluster::{ClusterCallId, Command, Event, Part, Publication, ReplyTo, Target};
use futures_util::stream::AbortHandle;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::engine::WriterTask;
use crate::handover::{Forwarded, UpgradeStep};
use crate::handover_notice::HandoverNotice;
use crate::headers::{self, Interest};
use crate::subject::Subjects;
use crate::{Counts, Shared, keys, order, part};

/// A subscription for the reader, with the handle that ends it.
pub(crate) type NewSubscription = (Subscriber, futures_util::stream::AbortRegistration);

pub(crate) struct Writer {
    client: Client,
    subjects: Arc<Subjects>,
    shared: Arc<Shared>,
    subscriptions: mpsc::Sender<NewSubscription>,
    events: mpsc::Sender<Event>,
    rooms: HashMap<Arc<str>, AbortHandle>,
    steps: mpsc::UnboundedSender<UpgradeStep>,
}

/// How long the process that takes over may need to connect. After that the held messages are dropped, and their hosts
/// count this one as unanswered.
pub(crate) const WITHDRAW: Duration = Duration::from_secs(5);

impl Writer {
    pub(crate) fn new(
        client: Client,
        subjects: Arc<Subjects>,
        shared: Arc<Shared>,
        (subscriptions, events, steps): (
            mpsc::Sender<NewSubscription>,
            mpsc::Sender<Event>,
            mpsc::UnboundedSender<UpgradeStep>,
        ),
    ) -> Self {
        let rooms = HashMap::new();
        Self { client, subjects, shared, subscriptions, events, rooms, steps }
    }

    /// Runs until the host leaves.
    pub(crate) async fn run(mut self, mut tasks: mpsc::Receiver<WriterTask>, sessions: bool) {
        for subject in self.subjects.fixed(sessions) {
            self.subscribe(subject).await;
        }
        let shared = Arc::clone(&self.shared);
        loop {
            // Earlier tasks are executed before the host withdraws.
            let task = select! {
                biased;
                task = tasks.recv() => task,
                () = shared.is_withdrawn.notified() => break,
            };
            let Some(task) = task else { return };
            if !self.obey(task).await {
                return;
            }
        }
        // A task that has used its share of the thread sees an empty queue.
        while let Ok(task) = tasks.try_recv() {
            if !self.obey(task).await {
                return;
            }
        }
        self.withdraw(tasks).await;
    }

    /// Executes a task. `false`: the host leaves.
    async fn obey(&mut self, task: WriterTask) -> bool {
        self.shared.waiting_bytes.fetch_sub(task.bytes(), Relaxed);
        match task {
            WriterTask::Command(Command::Leave) => {
                self.carry_out(Command::Leave).await;
                // Only with a connection: otherwise there is nothing to send, and a flush would wait for one.
                if self.shared.is_connected.load(Relaxed) {
                    let _ = self.client.flush().await;
                }
                return false;
            }
            WriterTask::Command(command) => self.carry_out(command).await,
            WriterTask::Answer(to, part) => self.answer(to, &part).await,
        }
        true
    }

    /// Withdraws in favour of another process of this host.
    async fn withdraw(&mut self, mut tasks: mpsc::Receiver<WriterTask>) {
        let (to, held) = oneshot::channel();
        let _ = self.steps.send(UpgradeStep::Withdraw(to));
        let held = timeout(WITHDRAW, held).await.ok().and_then(Result::ok);
        // Sends the answers to pushes that were begun here.
        while let Ok(task) = tasks.try_recv() {
            if let WriterTask::Answer(to, part) = task {
                self.answer(to, &part).await;
            }
        }
        match held {
            Some(held) => self.forward(held).await,
            None => {
                log::warn!("upgrade: the new process is not connected to NATS in time");
                // Until the new process is connected, no host should wait for this one.
                self.carry_out(Command::Leave).await;
            }
        }
        if self.shared.is_connected.load(Relaxed) {
            let _ = self.client.flush().await;
        }
    }

    async fn forward(&self, held: Vec<Forwarded>) {
        let own = self.subjects.own_host();
        let subject = self.subjects.host(own);
        for Forwarded { message, is_sure } in held {
            let headers = headers::of_forwarded(&message, is_sure);
            let reply = message.reply.as_ref().map(ToString::to_string);
            self.publish(subject.clone(), reply, headers, message.payload.into()).await;
        }
        self.publish(
            subject,
            None,
            headers::of_handover(HandoverNotice::Complete, own),
            Vec::new(),
        )
        .await;
    }

    async fn carry_out(&mut self, command: Command) {
        let own = Arc::clone(self.subjects.own_host());
        match command {
            Command::Subscribe { room } => self.subscribe_room(room).await,
            Command::Unsubscribe { room } => {
                if let Some(handle) = self.rooms.remove(&room) {
                    handle.abort();
                }
            }
            Command::SubscribeOnly { rooms } => {
                let wanted: HashSet<&Arc<str>> = rooms.iter().collect();
                self.rooms.retain(|room, handle| {
                    let is_wanted = wanted.contains(room);
                    if !is_wanted {
                        handle.abort();
                    }
                    is_wanted
                });
                for room in rooms {
                    self.subscribe_room(room).await;
                }
            }
            Command::SubscribeAllRooms => {
                let subject = self.subjects.every_room();
                self.subscribe(subject).await;
            }
            Command::Publish { mut publication, call } => {
                let body = std::mem::take(&mut publication.body);
                let headers = headers::of_push(&publication, &own);
                let Publication { target, .. } = publication;
                let reply = call.map(|call| self.subjects.reply(call));
                let subject = self.subjects.target(&target);
                let is_published = self.publish(subject, reply, headers, body).await;
                self.tell_if_not(is_published, call);
            }
            Command::Store { mut publication, call } => {
                let body = std::mem::take(&mut publication.body);
                let mut headers = headers::of_push(&publication, &own);
                let reply = self.subjects.reply(call);
                headers::set_reply(&mut headers, &reply);
                let Target::Room(room) = &publication.target else {
                    unreachable!("rooms alone have a history")
                };
                let subject = self.subjects.stored_room(room);
                let is_published = self.publish(subject, Some(reply), headers, body).await;
                self.tell_if_not(is_published, Some(call));
            }
            Command::PublishOrder { order, call } => {
                let reply = self.subjects.reply(call.unwrap_or(ClusterCallId(0)));
                let (headers, body) = (headers::of_host(&own), order::encode(&order));
                let subject = self.subjects.orders();
                let is_published = self.publish(subject, Some(reply), headers, body).await;
                self.tell_if_not(is_published, call);
            }
            Command::AnnounceInterest { room, has_members, asks } => {
                let interest = match (has_members, asks) {
                    (true, true) => Interest::Asks,
                    (true, false) => Interest::Has,
                    (false, _) => Interest::None,
                };
                let headers = headers::of_interest(interest, &own);
                self.publish(self.subjects.room(&room), None, headers, Vec::new()).await;
            }
            Command::AnswerInterest { room, to } => {
                let headers = headers::of_interest(Interest::Has, &own);
                let body = room.as_bytes().to_vec();
                self.publish(self.subjects.host(&to), None, headers, body).await;
            }
            Command::AnnounceKeys { clock, keys } => {
                let (headers, body) = (headers::of_host(&own), keys::encode(clock, &keys));
                self.publish(self.subjects.sessions(), None, headers, body).await;
            }
            Command::AskMembers { room, call } => {
                let headers = headers::of_question(&own, &self.subjects.reply(call));
                let body = room.as_bytes().to_vec();
                self.publish(self.subjects.members(), None, headers, body).await;
            }
            Command::AnswerNoMembers { to: ReplyTo(to) } => {
                self.publish(to.into(), None, HeaderMap::new(), part::no_members(&own)).await;
            }
            Command::Refuse { to: ReplyTo(to) } => {
                self.publish(to.into(), None, HeaderMap::new(), part::refused(&own)).await;
            }
            Command::Announce { .. } | Command::Leave => {
                let is_there = command != Command::Leave;
                let interest = if is_there { Interest::Has } else { Interest::None };
                let process = self.subjects.process();
                let mut headers = headers::of_announcement(interest, &own, process);
                if command == (Command::Announce { reads_stream: true }) {
                    headers::set_reads_stream(&mut headers);
                }
                self.publish(self.subjects.hosts(), None, headers, Vec::new()).await;
                // The first announcement of a connection follows its subscriptions.
                if is_there && self.shared.takes_over.swap(false, Relaxed) {
                    let headers = headers::of_handover(HandoverNotice::Subscribed, &own);
                    self.publish(self.subjects.host(&own), None, headers, Vec::new()).await;
                }
            }
        }
    }

    fn tell_if_not(&self, is_published: bool, call: Option<ClusterCallId>) {
        if let Some(call) = call.filter(|_| !is_published) {
            // Without space for it the call ends by its deadline.
            let _ = self.events.try_send(Event::NotPublished { call });
        }
    }

    async fn answer(&self, ReplyTo(to): ReplyTo, part: &Part) {
        self.publish(to.into(), None, HeaderMap::new(), part::encode(part)).await;
    }

    async fn subscribe_room(&mut self, room: Arc<str>) {
        if !self.rooms.contains_key(&room)
            && let Some(handle) = self.subscribe(self.subjects.room(&room)).await
        {
            self.rooms.insert(room, handle);
        }
    }

    /// Subscribes as soon as there is a connection, and again with each later one.
    async fn subscribe(&self, subject: String) -> Option<AbortHandle> {
        let subscriber = match self.client.subscribe(subject).await {
            Ok(subscriber) => subscriber,
            Err(error) => {
                log::error!("NATS takes no subscription: {error}");
                return None;
            }
        };
        let (handle, registration) = AbortHandle::new_pair();
        // Fails only if the reader has ended.
        let _ = self.subscriptions.send((subscriber, registration)).await;
        Some(handle)
    }

    /// Publishes at once or not at all: a message that waited for a connection would be too late.
    async fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> bool {
        let is_connected = self.shared.is_connected.load(Relaxed);
        let published = match (is_connected, reply) {
            (false, _) => false,
            (true, Some(reply)) => self
                .client
                .publish_with_reply_and_headers(subject, reply, headers, body.into())
                .await
                .is_ok(),
            (true, None) => {
                self.client.publish_with_headers(subject, headers, body.into()).await.is_ok()
            }
        };
        if !published {
            Counts::add(&self.shared.counts.untold);
        }
        published
    }
}
