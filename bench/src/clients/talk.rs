//! Members that talk: each in turn sends a message to logic, numbered from 0.

use crate::clients::member::Member;
use crate::clock::now_ns;
use crate::message::OP_SEND;
use crate::receiver::Receiver;

/// Bytes of a message's body: the member's number and that of the message.
pub(crate) const TALK_LEN: usize = 16;

/// The schedule, and how many messages each member has sent.
pub(super) struct Talk {
    interval_ns: u64,
    due_ns: u64,
    next: usize,
    /// By index in the list of members.
    counts: Vec<u64>,
    pub(super) sent: u64,
    is_over: bool,
}

impl Talk {
    /// A schedule of one message every so many ns, from now on.
    pub(super) fn start(interval_ns: u64) -> Self {
        let (next, counts, sent) = (0, Vec::new(), 0);
        Self { interval_ns, due_ns: now_ns(), next, counts, sent, is_over: false }
    }

    pub(super) fn stop(&mut self) {
        self.is_over = true;
    }

    /// Sends the messages that are due, from `members`; returns when the next one is.
    pub(super) fn act(&mut self, receiver: &mut Receiver, members: &[Member]) -> u64 {
        if self.is_over || members.is_empty() {
            return u64::MAX;
        }
        self.counts.resize(members.len(), 0);
        let now_ns = now_ns();
        while self.due_ns <= now_ns {
            self.due_ns += self.interval_ns;
            let reads = |at: &usize| receiver.is_read(members[*at % members.len()].index);
            let Some(at) = (self.next..self.next + members.len()).find(reads) else { continue };
            let at = at % members.len();
            let Member { number, index } = members[at];
            self.next = at + 1;
            receiver.send(index, OP_SEND, &talk_body(number as u64, self.counts[at]));
            self.counts[at] += 1;
            self.sent += 1;
        }
        self.due_ns
    }
}

fn talk_body(member: u64, sequence: u64) -> [u8; TALK_LEN] {
    let mut body = [0; TALK_LEN];
    body[..8].copy_from_slice(&member.to_be_bytes());
    body[8..].copy_from_slice(&sequence.to_be_bytes());
    body
}

/// The number of the member and that of the message.
pub(crate) fn talk_of(body: &[u8]) -> Option<(u64, u64)> {
    let body: &[u8; TALK_LEN] = body.try_into().ok()?;
    let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| body[at + byte]));
    Some((word(0), word(8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_talk_body_has_its_client_and_its_number() {
        assert_eq!(talk_of(&talk_body(7, 1 << 40)), Some((7, 1 << 40)));
        assert_eq!(talk_of(b"short"), None);
    }
}
