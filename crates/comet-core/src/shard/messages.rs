//! Messages on their way to shards, including this one.

use std::collections::VecDeque;

use crate::ids::ShardId;
use crate::message::{Message, MessageClass};

pub(super) struct MessageQueues {
    shard: ShardId,
    /// Messages of this shard to itself. They are handled before a `handle_*` call returns.
    local: VecDeque<Message>,
    peers: Box<[PeerQueue]>,
}

/// The messages that wait for another shard.
#[derive(Default)]
struct PeerQueue {
    directory: VecDeque<Message>,
    pushes: VecDeque<Message>,
    /// The number of room counts among the directory messages.
    room_counts: usize,
}

impl MessageQueues {
    pub(super) fn new(shard: ShardId, shards: u16) -> Self {
        let peers = (0..shards).map(|_| PeerQueue::default()).collect();
        Self { shard, local: VecDeque::new(), peers }
    }

    /// Queues a directory message.
    pub(super) fn send(&mut self, to: ShardId, message: Message) {
        if to == self.shard {
            self.local.push_back(message);
        } else {
            self.peers[usize::from(to.0)].push_back(message);
        }
    }

    /// Queues a push for another shard. `false`: `backlog_max` pushes wait for that shard already.
    pub(super) fn send_push(&mut self, to: ShardId, message: Message, backlog_max: usize) -> bool {
        debug_assert!(message.class() == MessageClass::Push && to != self.shard);
        let peer = &mut self.peers[usize::from(to.0)];
        if peer.pushes.len() >= backlog_max {
            return false;
        }
        peer.push_back(message);
        true
    }

    pub(super) fn push_local(&mut self, message: Message) {
        self.local.push_back(message);
    }

    pub(super) fn pop_local(&mut self) -> Option<Message> {
        self.local.pop_front()
    }

    pub(super) fn pop(&mut self, peer: ShardId, class: MessageClass) -> Option<Message> {
        self.peers[usize::from(peer.0)].pop_front(class)
    }

    pub(super) fn put_back(&mut self, peer: ShardId, message: Message) {
        self.peers[usize::from(peer.0)].push_front(message);
    }

    /// The number of waiting messages.
    pub(super) fn len(&self) -> usize {
        let peers = self.peers.iter().map(|peer| peer.directory.len() + peer.pushes.len());
        self.local.len() + peers.sum::<usize>()
    }

    /// Whether room counts wait for some shard.
    pub(super) fn has_room_counts(&self) -> bool {
        self.peers.iter().any(|peer| peer.room_counts > 0)
    }
}

impl PeerQueue {
    fn queue(&mut self, class: MessageClass) -> &mut VecDeque<Message> {
        match class {
            MessageClass::Directory => &mut self.directory,
            MessageClass::Push => &mut self.pushes,
        }
    }

    fn push_back(&mut self, message: Message) {
        self.room_counts += usize::from(message.is_room_count());
        self.queue(message.class()).push_back(message);
    }

    fn pop_front(&mut self, class: MessageClass) -> Option<Message> {
        let message = self.queue(class).pop_front()?;
        self.room_counts -= usize::from(message.is_room_count());
        Some(message)
    }

    fn push_front(&mut self, message: Message) {
        self.room_counts += usize::from(message.is_room_count());
        self.queue(message.class()).push_front(message);
    }
}
