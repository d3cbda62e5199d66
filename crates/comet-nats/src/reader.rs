//! Reads all subscriptions and passes their events on. It never waits: an event for which there is no space is dropped
//! and counted.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use comet_hub::cluster::{Event, ReplyTo};
use futures_util::StreamExt;
use futures_util::stream::{Abortable, SelectAll};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::handover::{Forwarded, Held, UpgradeStep, merge};
use crate::handover_notice::HandoverNotice;
use crate::headers::{self, Interest};
use crate::part::HostReply;
use crate::subject::{Subjects, Topic};
use crate::writer::{NewSubscription, WITHDRAW};
use crate::{
    Counts, EVENTS_BYTES_MAX, NOTICES_BYTES_MAX, PUSHES_MAX, Queues, Shared, keys, order, part,
    receipt,
};

pub(crate) struct Reader {
    subjects: Arc<Subjects>,
    shared: Arc<Shared>,
    queues: Queues,
    /// Changes of the connection for which there was no space among the notices; they go behind these. A connection
    /// that ended before its begin was passed on is left out, so there are at most one end and one begin.
    states: VecDeque<Event>,
    /// The latest error of the client, which repeats it with each attempt to connect.
    said: Option<String>,
    /// Whether it was said since the last connection that there is none.
    has_said_disconnected: bool,
    /// Set while another process announces itself by the name of this host.
    namesake: Option<Namesake>,
    upgrade: UpgradeState,
}

/// How long a process waits for the messages that the former one forwards, from its connection on.
const TAKE_OVER: Duration = Duration::from_secs(5);
/// How long it waits for a connection. The former process has given up by then.
const CONNECT: Duration = WITHDRAW.saturating_add(Duration::from_secs(1));

/// The time for which the former process still takes messages after the notice that the new one is subscribed. The NATS server may
/// have determined the subscribers of a message before that subscription, and deliver the message behind the notice.
const LATE: Duration = Duration::from_millis(50);

const DISCONNECTED: &str = "no connection to NATS: pushes reach the clients of this host alone";

/// The announcements of another process that has the name of this host.
struct Namesake {
    first: Instant,
    last: Instant,
    warns_at: Instant,
}

/// The time after which it is no longer the other process of a live upgrade.
const NAMESAKE: Duration = Duration::from_secs(15);
/// The silence after which it is gone. Hosts announce themselves every second.
const NAMESAKE_GONE: Duration = Duration::from_secs(5);
/// Between two log lines about it.
const NAMESAKE_PAUSE: Duration = Duration::from_secs(60);

/// The treatment of pushes and orders.
enum UpgradeState {
    /// No upgrade is under way.
    Serves,
    /// The shards of this process are about to stop, so they are held.
    Holds(Held),
    /// Another process takes over. It is subscribed once there is a time to forward the held messages.
    Leaves { held: Held, to: oneshot::Sender<Vec<Forwarded>>, forward_at: Option<Instant> },
    /// This process takes over. It waits for a connection, and after the first one for the former process.
    TakesOver { forwarded: Vec<Forwarded>, held: Held, has_connected: bool, until: Instant },
}

impl UpgradeState {
    fn takes_over() -> Self {
        let (forwarded, held) = (Vec::new(), Held::default());
        Self::TakesOver { forwarded, held, has_connected: false, until: Instant::now() + CONNECT }
    }
}

impl Reader {
    pub(crate) fn new(subjects: Arc<Subjects>, shared: Arc<Shared>, queues: Queues) -> Self {
        let (states, said) = (VecDeque::new(), None);
        Self {
            subjects,
            shared,
            queues,
            states,
            said,
            has_said_disconnected: false,
            namesake: None,
            upgrade: UpgradeState::Serves,
        }
    }

    pub(crate) async fn run(
        mut self,
        mut new: mpsc::Receiver<NewSubscription>,
        mut states: mpsc::UnboundedReceiver<async_nats::Event>,
        mut steps: mpsc::UnboundedReceiver<UpgradeStep>,
    ) {
        if self.shared.takes_over.load(Relaxed) {
            self.upgrade = UpgradeState::takes_over();
        }
        let notices = self.queues.notices.clone();
        let mut subscriptions: SelectAll<Abortable<Subscriber>> = SelectAll::new();
        loop {
            let until = match &self.upgrade {
                UpgradeState::TakesOver { until, .. } => Some(*until),
                _ => None,
            };
            let forward_at = match &self.upgrade {
                UpgradeState::Leaves { forward_at, .. } => *forward_at,
                _ => None,
            };
            tokio::select! {
                biased;
                state = states.recv() => match state {
                    Some(state) => self.take_state(&state),
                    None => return,
                },
                room = notices.reserve(), if !self.states.is_empty() => {
                    let state = self.states.pop_front();
                    if let (Ok(room), Some(state)) = (room, state) {
                        room.send(state);
                    }
                }
                subscription = new.recv() => match subscription {
                    Some((subscriber, registration)) => {
                        subscriptions.push(Abortable::new(subscriber, registration));
                    }
                    None => return,
                },
                Some(message) = subscriptions.next(), if !subscriptions.is_empty() => {
                    self.take(message);
                }
                // No event waits in a subscription here, so all that had to be held is held.
                Some(step) = steps.recv() => self.handle_step(step),
                () = sleep_until(forward_at.unwrap_or_else(Instant::now)), if forward_at.is_some() => {
                    self.forward();
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    log::warn!("upgrade: the former process does not say which pushes it held");
                    self.take_over();
                }
            }
        }
    }

    fn take_state(&mut self, state: &async_nats::Event) {
        use async_nats::Event::{Closed, Connected, Disconnected, SlowConsumer};
        let Shared { counts, is_connected, connections, .. } = &*self.shared;
        match state {
            Connected => {
                is_connected.store(true, Relaxed);
                connections.send_modify(|count| *count += 1);
                self.said = None;
                self.has_said_disconnected = false;
                log::info!("connected to NATS");
                if self.states.back() != Some(&Event::Connected) {
                    self.states.push_back(Event::Connected);
                }
                self.tell_states();
                if let UpgradeState::TakesOver { has_connected, until, .. } = &mut self.upgrade
                    && !std::mem::replace(has_connected, true)
                {
                    *until = Instant::now() + TAKE_OVER;
                }
            }
            Disconnected | Closed => {
                if is_connected.swap(false, Relaxed) {
                    Counts::add(&counts.disconnects);
                    self.has_said_disconnected = true;
                    log::warn!("{DISCONNECTED}");
                    // The begin of the connection was not passed on yet, so both are left out.
                    if self.states.pop_back_if(|state| *state == Event::Connected).is_none() {
                        self.states.push_back(Event::Disconnected);
                    }
                    self.tell_states();
                }
            }
            SlowConsumer(_) => Counts::add(&counts.dropped_early),
            other => {
                let sentence = other.to_string();
                if self.said.as_ref() != Some(&sentence) {
                    let is_first = !is_connected.load(Relaxed)
                        && !std::mem::replace(&mut self.has_said_disconnected, true);
                    match is_first {
                        true => log::warn!("{DISCONNECTED}: {sentence}"),
                        false => log::warn!("NATS: {sentence}"),
                    }
                    self.said = Some(sentence);
                }
            }
        }
    }

    /// Passes on changes of the connection. They are never lost: they wait until there is space.
    fn tell_states(&mut self) {
        while let Some(state) = self.states.pop_front() {
            if let Err(TrySendError::Full(state)) = self.queues.notices.try_send(state) {
                return self.states.push_front(state);
            }
        }
    }

    fn handle_step(&mut self, step: UpgradeStep) {
        match (step, std::mem::replace(&mut self.upgrade, UpgradeState::Serves)) {
            (UpgradeStep::Hold, UpgradeState::Serves) => {
                self.upgrade = UpgradeState::Holds(Held::default());
                self.shared.is_held.store(true, Release);
            }
            (UpgradeStep::Release, UpgradeState::Holds(held)) => {
                self.shared.is_held.store(false, Release);
                held.into_messages().into_iter().for_each(|message| self.take(message));
            }
            (UpgradeStep::Withdraw(to), UpgradeState::Holds(held)) => {
                // The other process may have announced itself before.
                let forward_at = held.has_heard().then(|| Instant::now() + LATE);
                self.upgrade = UpgradeState::Leaves { held, to, forward_at };
            }
            // The messages that this process's own former process held are still on their way.
            (_, upgrade) => self.upgrade = upgrade,
        }
    }

    /// Forwards the held messages. The other process is subscribed, and all messages that came before its announcement
    /// are held.
    fn forward(&mut self) {
        if let UpgradeState::Leaves { held, to, .. } =
            std::mem::replace(&mut self.upgrade, UpgradeState::Serves)
        {
            // Messages that arrive from here on reach the other process as well.
            self.upgrade = UpgradeState::Holds(Held::default());
            // Fails only if it is too late.
            let _ = to.send(held.into_forwarded());
        }
    }

    /// Begins the messages that the former process held, and those that arrived here.
    fn take_over(&mut self) {
        let upgrade = std::mem::replace(&mut self.upgrade, UpgradeState::Serves);
        if let UpgradeState::TakesOver { forwarded, held, .. } = upgrade {
            merge(forwarded, held.into_messages())
                .into_iter()
                .for_each(|message| self.take(message));
        }
        self.shared.awaits_former.store(false, Relaxed);
    }

    /// Handles a notice of the other process of this host.
    fn handle_notice(&mut self, notice: HandoverNotice, mut message: Message) {
        match (notice, &mut self.upgrade) {
            (HandoverNotice::Subscribed, UpgradeState::Holds(held)) => held.note_subscribed(),
            (HandoverNotice::Subscribed, UpgradeState::Leaves { held, forward_at, .. }) => {
                held.note_subscribed();
                *forward_at = Some(Instant::now() + LATE);
            }
            (
                HandoverNotice::Message | HandoverNotice::SureMessage,
                UpgradeState::TakesOver { forwarded, .. },
            ) => {
                let Some(subject) = headers::forwarded_subject(message.headers.as_ref()) else {
                    return Counts::add(&self.shared.counts.invalid);
                };
                // A process holds no more than this.
                if forwarded.len() >= PUSHES_MAX {
                    return Counts::add(&self.shared.counts.dropped);
                }
                message.subject = subject;
                forwarded
                    .push(Forwarded { message, is_sure: notice == HandoverNotice::SureMessage });
            }
            (HandoverNotice::Complete, UpgradeState::TakesOver { .. }) => self.take_over(),
            // The notice is for the other process.
            _ => {}
        }
    }

    fn take(&mut self, message: Message) {
        if self.subjects.topic(&message.subject) == Some(Topic::Host)
            && let Some(notice) = headers::handover_notice(message.headers.as_ref())
        {
            return self.handle_notice(notice, message);
        }
        if self.is_of_namesake(&message) {
            return self.note_namesake();
        }
        let counts = &self.shared.counts;
        let raw = (!matches!(self.upgrade, UpgradeState::Serves)).then(|| message.clone());
        let Ok(event) = self.event(message) else {
            return Counts::add(&counts.invalid);
        };
        let Some(event) = event else { return };
        if event.is_push()
            && let Some(raw) = raw
            && let UpgradeState::Holds(held)
            | UpgradeState::Leaves { held, .. }
            | UpgradeState::TakesOver { held, .. } = &mut self.upgrade
        {
            if !held.add(raw) {
                Counts::add(&self.shared.counts.dropped);
            }
            return;
        }
        if !event.is_push() {
            self.tell_states();
        }
        let Shared { counts, events_bytes: waiting, .. } = &*self.shared;
        // Notices do not overtake a waiting change of the connection.
        if !event.is_push() && !self.states.is_empty() {
            return Counts::add(&counts.dropped_notices);
        }
        let bytes = event.bytes();
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
        let is_push = event.is_push();
        if queue.try_send(event).is_err() {
            waiting.fetch_sub(bytes, Relaxed);
            Counts::add(too_many);
        } else if is_push {
            Counts::add(&self.shared.passed_on);
        }
    }

    /// Whether another process announces itself by the name of this host.
    fn is_of_namesake(&self, message: &Message) -> bool {
        let headers = message.headers.as_ref();
        let is_other = |process: &str| process != self.subjects.process();
        self.subjects.topic(&message.subject) == Some(Topic::Hosts)
            && headers::host(headers).as_ref() == Some(self.subjects.own_host())
            && headers::process(headers).is_some_and(is_other)
    }

    /// Hosts ignore what has their own name, so two with one name reach none of each other's clients. In a live upgrade
    /// two processes have one name for a short time.
    fn note_namesake(&mut self) {
        let now = Instant::now();
        let namesake = self.namesake.take().filter(|namesake| now - namesake.last < NAMESAKE_GONE);
        let mut namesake =
            namesake.unwrap_or(Namesake { first: now, last: now, warns_at: now + NAMESAKE });
        namesake.last = now;
        if now - namesake.first >= NAMESAKE {
            Counts::add(&self.shared.counts.invalid);
        }
        if now >= namesake.warns_at {
            namesake.warns_at = now + NAMESAKE_PAUSE;
            log::warn!(
                "NATS: another process has the name of this host, {:?}: neither reaches clients of the other. Give each host a server.id of its own",
                self.subjects.own_host()
            );
        }
        self.namesake = Some(namesake);
    }

    /// `Ok(None)`: it is this host's own. `Err`: it is not from comet.
    fn event(&self, message: Message) -> Result<Option<Event>, ()> {
        let Message { subject, reply, payload, headers, status, .. } = message;
        let headers = headers.as_ref();
        let topic = self.subjects.topic(&subject).ok_or(())?;
        if let Topic::Reply(call) = topic {
            if status == Some(StatusCode::NO_RESPONDERS) {
                return Ok(Some(Event::NoResponders { call }));
            }
            let json = serde_json::from_slice(&payload).map_err(drop)?;
            if let Some(receipt) = receipt::decode(&json) {
                return Ok(Some(match receipt {
                    Ok(()) => Event::Stored { call },
                    Err(reason) => Event::NotStored { call, reason },
                }));
            }
            return Ok(Some(match part::decode(&json).ok_or(())? {
                HostReply::Part(part) => Event::Answered { call, part },
                HostReply::NoMembers(host) => Event::NoMembers { call, host },
                HostReply::Refused(host) => Event::Refused { call, host },
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
            Topic::Hosts if has_members => {
                let reads_stream = headers::reads_stream(headers);
                return Ok(Some(Event::Announced { host, reads_stream }));
            }
            Topic::Hosts => return Ok(Some(Event::Left { host })),
            Topic::Room(room) => room.into(),
            Topic::Host => std::str::from_utf8(&payload).map_err(drop)?.into(),
            _ => return Err(()),
        };
        let asks = interest == Interest::Asks;
        Ok(Some(Event::Interest { host, room, has_members, asks }))
    }
}
