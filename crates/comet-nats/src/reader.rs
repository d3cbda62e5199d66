//! Reads all subscriptions and passes on what they say. It waits for nobody: an event that finds no room is dropped and
//! counted.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_nats::{Message, StatusCode, Subscriber};
use comet_hub::cluster::{Event, ReplyTo};
use futures_util::StreamExt;
use futures_util::stream::{Abortable, SelectAll};
use tokio::sync::mpsc;

use crate::headers::{self, Interest};
use crate::part::Answer;
use crate::subject::{Subjects, Topic};
use crate::writer::NewSubscription;
use crate::{
    Counts, EVENTS_BYTES_MAX, NOTICES_BYTES_MAX, Queues, Shared, keys, order, part, receipt,
};

pub(crate) struct Reader {
    subjects: Arc<Subjects>,
    shared: Arc<Shared>,
    queues: Queues,
    /// The latest complaint of the client, which repeats it with each attempt to connect.
    said: Option<String>,
}

impl Reader {
    pub(crate) fn new(subjects: Arc<Subjects>, shared: Arc<Shared>, queues: Queues) -> Self {
        Self { subjects, shared, queues, said: None }
    }

    pub(crate) async fn run(
        mut self,
        mut new: mpsc::Receiver<NewSubscription>,
        mut states: mpsc::UnboundedReceiver<async_nats::Event>,
    ) {
        let mut subscriptions: SelectAll<Abortable<Subscriber>> = SelectAll::new();
        loop {
            tokio::select! {
                biased;
                state = states.recv() => match state {
                    Some(state) => self.take_state(&state),
                    None => return,
                },
                subscription = new.recv() => match subscription {
                    Some((subscriber, registration)) => {
                        subscriptions.push(Abortable::new(subscriber, registration));
                    }
                    None => return,
                },
                Some(message) = subscriptions.next(), if !subscriptions.is_empty() => {
                    self.take(message);
                }
            }
        }
    }

    fn take_state(&mut self, state: &async_nats::Event) {
        use async_nats::Event::{Closed, Connected, Disconnected, SlowConsumer};
        let Shared { counts, is_connected, .. } = &*self.shared;
        match state {
            Connected => {
                is_connected.store(true, Relaxed);
                self.said = None;
                log::info!("connected to NATS");
                self.tell_state(Event::Connected);
            }
            Disconnected | Closed => {
                if is_connected.swap(false, Relaxed) {
                    Counts::add(&counts.disconnects);
                    log::warn!(
                        "no connection to NATS: pushes reach the clients of this host alone"
                    );
                    self.tell_state(Event::Disconnected);
                }
            }
            SlowConsumer(_) => Counts::add(&counts.dropped_early),
            other => {
                let sentence = other.to_string();
                if self.said.as_ref() != Some(&sentence) {
                    log::warn!("NATS: {sentence}");
                    self.said = Some(sentence);
                }
            }
        }
    }

    /// A state is not lost: a task waits for room in place of the reader.
    fn tell_state(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.queues.notices.try_send(event) {
            let notices = self.queues.notices.clone();
            tokio::spawn(async move { notices.send(event).await });
        }
    }

    fn take(&self, message: Message) {
        let counts = &self.shared.counts;
        let Ok(event) = self.event(message) else {
            return Counts::add(&counts.invalid);
        };
        let Some(event) = event else { return };
        let (bytes, waiting) = (event.bytes(), &self.shared.events_bytes);
        let Queues { pushes, notices } = &self.queues;
        let (queue, bytes_max, too_many, too_large) = match event.is_push() {
            true => (pushes, EVENTS_BYTES_MAX, &counts.dropped, &counts.dropped_bytes),
            false => {
                let dropped = &counts.dropped_notices;
                (notices, EVENTS_BYTES_MAX + NOTICES_BYTES_MAX, dropped, dropped)
            }
        };
        if waiting.load(Relaxed) >= bytes_max {
            return Counts::add(too_large);
        }
        waiting.fetch_add(bytes, Relaxed);
        if queue.try_send(event).is_err() {
            waiting.fetch_sub(bytes, Relaxed);
            Counts::add(too_many);
        }
    }

    /// `Ok(None)`: it is this host's own. `Err`: it is none of comet's.
    fn event(&self, message: Message) -> Result<Option<Event>, ()> {
        let Message { subject, reply, payload, headers, status, .. } = message;
        let headers = headers.as_ref();
        let topic = self.subjects.topic(&subject).ok_or(())?;
        if let Topic::Reply(call) = topic {
            if status == Some(StatusCode::NO_RESPONDERS) {
                return Ok(Some(Event::NoResponders { call }));
            }
            if let Some(receipt) = receipt::decode(&payload) {
                return Ok(Some(match receipt {
                    Ok(()) => Event::Stored { call },
                    Err(reason) => Event::NotStored { call, reason },
                }));
            }
            return Ok(Some(match part::decode(&payload).ok_or(())? {
                Answer::Part(part) => Event::Answered { call, part },
                Answer::NoMembers(host) => Event::NoMembers { call, host },
            }));
        }
        let host = headers::host(headers);
        if host.as_ref() == Some(self.subjects.own_host()) {
            return Ok(None);
        }
        if topic == Topic::Sessions {
            let (host, (clock, keys)) = (host.ok_or(())?, keys::decode(&payload).ok_or(())?);
            return Ok(Some(Event::Keys { host, clock, keys }));
        }
        if topic == Topic::Members {
            let room = std::str::from_utf8(&payload).map_err(drop)?.into();
            return Ok(Some(Event::MembersAsked {
                room,
                reply: headers::reply(headers).ok_or(())?,
            }));
        }
        if topic == Topic::Orders {
            let order = order::decode(&payload).ok_or(())?;
            let reply = ReplyTo(reply.ok_or(())?.as_str().into());
            return Ok(Some(Event::Ordered { order, reply }));
        }
        let Some(interest) = headers::interest(headers)? else {
            let reply = reply.map(|to| ReplyTo(to.as_str().into()));
            let publication = headers::push(topic, headers, payload.into()).ok_or(())?;
            return Ok(Some(Event::Push { publication, reply }));
        };
        let (host, has_members) = (host.ok_or(())?, interest != Interest::None);
        let room = match topic {
            Topic::Hosts if has_members => return Ok(Some(Event::Announced { host })),
            Topic::Hosts => return Ok(Some(Event::Left { host })),
            Topic::Room(room) => room.into(),
            Topic::Host => std::str::from_utf8(&payload).map_err(drop)?.into(),
            _ => return Err(()),
        };
        let asks = interest == Interest::Asks;
        Ok(Some(Event::Interest { host, room, has_members, asks }))
    }
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;
    use crate::Nats;
    use comet_hub::cluster::Engine;

    fn message(bytes: usize) -> Message {
        Message {
            subject: "comet.all".into(),
            reply: None,
            payload: vec![0; bytes].into(),
            headers: None::<HeaderMap>,
            status: None,
            description: None,
            length: bytes,
        }
    }

    #[test]
    fn events_that_wait_are_bounded_by_bytes_and_by_number() {
        let shared = Arc::new(Shared::default());
        let (pushes, mut waiting) = mpsc::channel(8);
        let (notices, _waiting_notices) = mpsc::channel(2);
        let subjects = Arc::new(Subjects::new("comet", "a".into()));
        let queues = Queues { pushes, notices };
        let reader = Reader::new(subjects, Arc::clone(&shared), queues);
        let engine = Nats::new(mpsc::channel(1).0, shared);
        for _ in 0..3 {
            reader.take(message(EVENTS_BYTES_MAX / 2));
        }
        assert_eq!((engine.counts().dropped_bytes, engine.counts().dropped), (1, 0));
        while let Ok(event) = waiting.try_recv() {
            engine.note_taken(event.bytes());
        }
        for _ in 0..10 {
            reader.take(message(1));
        }
        assert_eq!((engine.counts().dropped_bytes, engine.counts().dropped), (1, 2));
        // There is no room for pushes, and there is for what hosts say.
        let mut announcement = message(0);
        announcement.subject = "comet.hosts".into();
        announcement.headers = Some(headers::of_interest(Interest::Has, "b"));
        for _ in 0..3 {
            reader.take(announcement.clone());
        }
        assert_eq!((engine.counts().dropped_notices, engine.counts().dropped), (1, 2));
    }
}
