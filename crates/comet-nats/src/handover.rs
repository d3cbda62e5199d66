//! A live upgrade: pushes and orders of other hosts that arrive while no process can begin them.
//!
//! The former process *holds* them from the time at which its shards stop. If the upgrade fails, it begins them itself.
//! The new process connects after the commit. Once it is subscribed it announces that on the subject of the host. The
//! former process then forwards the held messages there, followed by a message that these were all. The new process
//! holds the messages that arrive meanwhile, and begins the forwarded ones first.
//!
//! For a moment both processes are subscribed, so a message may arrive by both ways. The duplicate is recognized by its
//! content and its reply subject, which is unique for most messages. Plain publishers name no reply subject. For their
//! messages the moment decides at which the former process heard of the new one; only for messages that arrived at that
//! very moment, the content decides.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use async_nats::{Message, Subject};
use tokio::sync::oneshot;

use crate::{EVENTS_BYTES_MAX, PUSHES_MAX, headers};

/// A step of a live upgrade, about pushes and orders of other hosts.
#[derive(Debug)]
pub(crate) enum UpgradeStep {
    /// Hold them, until another step comes.
    Hold,
    /// Begin them again, those that wait first.
    Release,
    /// Another process takes over. Once it has announced itself, the waiting messages go to the sender.
    Withdraw(oneshot::Sender<Vec<Forwarded>>),
}

/// A message for the process that takes over.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) message: Message,
    /// It came before that process was subscribed, so that process has not received it in another way.
    pub(crate) is_sure: bool,
}

/// Held messages, within the bounds of those that wait for control.
#[derive(Debug, Default)]
pub(crate) struct Held {
    messages: Vec<Message>,
    bytes: usize,
    /// How many came before the other process was subscribed.
    sure: Option<usize>,
}

impl Held {
    /// `false`: there is no space, and the message is dropped.
    pub(crate) fn add(&mut self, message: Message) -> bool {
        let has_room = self.messages.len() < PUSHES_MAX && self.bytes < EVENTS_BYTES_MAX;
        if has_room {
            self.bytes += message.length;
            self.messages.push(message);
        }
        has_room
    }

    /// Notes that the other process is subscribed.
    pub(crate) fn note_subscribed(&mut self) {
        self.sure.get_or_insert(self.messages.len());
    }

    /// Whether the other process is subscribed.
    pub(crate) fn has_heard(&self) -> bool {
        self.sure.is_some()
    }

    pub(crate) fn into_messages(self) -> Vec<Message> {
        self.messages
    }

    pub(crate) fn into_forwarded(self) -> Vec<Forwarded> {
        let sure = self.sure.unwrap_or(usize::MAX);
        let messages = self.messages.into_iter().enumerate();
        messages.map(|(at, message)| Forwarded { message, is_sure: at < sure }).collect()
    }
}

/// The messages that arrived by both ways, each once: first the forwarded ones, then those that arrived `here`.
pub(crate) fn merge(forwarded: Vec<Forwarded>, here: Vec<Message>) -> Vec<Message> {
    let mut known: HashMap<u64, usize> = HashMap::new();
    for message in &here {
        *known.entry(identity(message)).or_default() += 1;
    }
    let mut is_new = |Forwarded { message, is_sure }: &Forwarded| {
        if *is_sure && message.reply.is_none() {
            return true;
        }
        match known.get_mut(&identity(message)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        }
    };
    let mut all: Vec<Message> = forwarded
        .into_iter()
        .filter_map(|forwarded| is_new(&forwarded).then_some(forwarded.message))
        .collect();
    all.extend(here);
    all
}

/// A hash that is equal for one message by both ways.
fn identity(message: &Message) -> u64 {
    let Message { subject, reply, payload, headers, .. } = message;
    let reply = reply.as_ref().map(Subject::as_str);
    let mut hasher = DefaultHasher::new();
    (reply, subject.as_str(), payload, headers::digest(headers.as_ref())).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    fn message(reply: Option<&str>, body: &'static str) -> Message {
        Message {
            subject: "comet.all".into(),
            reply: reply.map(Into::into),
            payload: body.into(),
            headers: None,
            status: None,
            description: None,
            length: body.len(),
        }
    }

    fn bodies(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|message| str::from_utf8(&message.payload).unwrap()).collect()
    }

    #[test]
    fn messages_received_by_both_processes_are_processed_once_and_in_order() {
        let mut held = Held::default();
        assert!(held.add(message(Some("r.1"), "a")));
        assert!(held.add(message(None, "tick")));
        held.note_subscribed();
        // Both processes are subscribed.
        assert!(held.add(message(Some("r.2"), "b")));
        assert!(held.add(message(None, "tick")));
        assert!(held.add(message(None, "only there")));
        let here =
            vec![message(Some("r.2"), "b"), message(None, "tick"), message(Some("r.3"), "c")];
        let all = merge(held.into_forwarded(), here);
        assert_eq!(bodies(&all), ["a", "tick", "only there", "b", "tick", "c"]);
    }

    /// The message reached the new process before the former one knew of that process.
    #[test]
    fn a_repeated_message_is_recognized_by_its_reply_subject() {
        let mut held = Held::default();
        held.add(message(Some("r.1"), "a"));
        held.note_subscribed();
        let all = merge(held.into_forwarded(), vec![message(Some("r.1"), "a")]);
        assert_eq!(bodies(&all), ["a"]);
    }

    /// Such as the reply subject of orders without answers, or of programs that always use the same one.
    #[test]
    fn a_reply_subject_of_several_messages_is_not_enough() {
        let mut held = Held::default();
        held.add(message(Some("r.0"), "kick a"));
        let mut headed = message(Some("r.0"), "kick b");
        headed.headers = Some(HeaderMap::new());
        headed.headers.as_mut().unwrap().insert("Comet-Operation", "7");
        held.add(headed.clone());
        held.note_subscribed();
        let forwarded = held.into_forwarded().into_iter().map(|Forwarded { message, is_sure }| {
            let headers = Some(headers::of_forwarded(&message, is_sure));
            Forwarded { message: Message { headers, ..message }, is_sure }
        });
        let here = vec![headed, message(Some("r.0"), "kick b"), message(Some("r.0"), "kick c")];
        let all = merge(forwarded.collect(), here);
        assert_eq!(bodies(&all), ["kick a", "kick b", "kick b", "kick c"]);
    }

    #[test]
    fn held_messages_are_bounded_in_number_and_bytes() {
        let mut held = Held::default();
        let mut large = message(None, "large");
        large.length = EVENTS_BYTES_MAX;
        assert!(held.add(large.clone()));
        assert!(!held.add(large));
        let mut held = Held::default();
        for _ in 0..PUSHES_MAX {
            assert!(held.add(message(None, "")));
        }
        assert!(!held.add(message(None, "")));
    }
}
