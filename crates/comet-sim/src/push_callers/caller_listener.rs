//! The listener of a shard for push callers: the part of its fake driver that handles their sockets.

use std::collections::{BTreeMap, VecDeque};

use comet_core::{CallerOperation, CallerSlot, MessageBudget, Shard};

use super::PushCallers;
use super::socket::Received;
use crate::rng::Rng;

#[derive(Default)]
pub(crate) struct CallerListener {
    /// Callers that have connected and are not accepted yet.
    pub(super) backlog: VecDeque<usize>,
    /// Callers that hold a slot.
    slots: BTreeMap<CallerSlot, usize>,
}

impl CallerListener {
    /// Whether input has arrived or a send has completed.
    pub(crate) fn is_awake(&self, callers: &PushCallers) -> bool {
        let is_active = |caller: &usize| {
            let socket = &callers.all[*caller].socket;
            socket.can_receive() || socket.can_send() || socket.can_release()
        };
        !self.backlog.is_empty() || self.slots.values().any(is_active)
    }

    /// Passes on connections, bytes, and completions of sends. Returns whether there were any.
    pub(crate) fn complete(
        &mut self,
        shard: &mut Shard,
        callers: &mut PushCallers,
        rng: &mut Rng,
    ) -> bool {
        let mut is_active = !self.backlog.is_empty();
        while let Some(caller) = self.backlog.pop_front() {
            match shard.handle_caller_accept() {
                Some(slot) => {
                    let former = self.slots.insert(slot, caller);
                    assert!(former.is_none(), "{slot:?} is taken");
                }
                None => callers.all[caller].socket.is_released = true,
            }
        }
        let mut slots: Vec<_> = self.slots.iter().map(|(slot, caller)| (*slot, *caller)).collect();
        rng.shuffle(&mut slots);
        for (slot, caller) in slots {
            let socket = &mut callers.all[caller].socket;
            if rng.percent(80)
                && let Some(received) = socket.receive(rng)
            {
                is_active = true;
                match received {
                    Received::Bytes(bytes) => shard.handle_caller_recv(slot, &bytes),
                    Received::End => shard.handle_caller_end(slot),
                    Received::Failed => shard.handle_caller_failed(slot),
                }
            }
            if rng.percent(80)
                && let Some(taken) = socket.send(rng)
            {
                is_active = true;
                match taken {
                    Some(bytes) => shard.handle_caller_sent(slot, bytes),
                    None => shard.handle_caller_failed(slot),
                }
            }
            if socket.can_release() {
                is_active = true;
                socket.is_released = true;
                self.slots.remove(&slot);
                shard.handle_caller_gone(slot);
            }
        }
        is_active
    }

    /// Takes a request. Returns whether there was one.
    pub(crate) fn take_request(shard: &mut Shard) -> bool {
        shard.takes_pushes() && shard.handle_request(&mut MessageBudget::new(shard.limits()))
    }

    /// Carries out the shard's operations on the sockets.
    pub(crate) fn serve(&self, shard: &mut Shard, callers: &mut PushCallers) -> Result<(), String> {
        while let Some((slot, operation)) = shard.poll_caller() {
            let caller = *self.slots.get(&slot).ok_or("an operation for no caller")?;
            let socket = &mut callers.all[caller].socket;
            let is_done = match operation {
                CallerOperation::Receive => socket.submit_receive(),
                CallerOperation::Send(bytes) => socket.submit_send(bytes),
                CallerOperation::ShutWrite => socket.shut(),
                CallerOperation::Close => socket.close(),
            };
            is_done.map_err(|what| format!("caller {caller}: {what}"))?;
        }
        Ok(())
    }

    /// The process ends: everything that callers have written is received, and answered at once.
    pub(crate) fn finish(
        &mut self,
        shard: &mut Shard,
        callers: &mut PushCallers,
        rng: &mut Rng,
    ) -> Result<(), String> {
        for (slot, caller) in &self.slots {
            if let Some(Received::Bytes(bytes)) = callers.all[*caller].socket.receive(rng) {
                shard.handle_caller_recv(*slot, &bytes);
            }
        }
        for (slot, rest) in shard.finish_callers() {
            for bytes in rest {
                callers.all[self.slots[&slot]].socket.send_last(bytes);
            }
        }
        for (slot, caller) in std::mem::take(&mut self.slots) {
            callers.all[caller].socket.is_released = true;
            shard.handle_caller_gone(slot);
        }
        match shard.counters().callers {
            0 => Ok(()),
            left => Err(format!("{left} push callers are left at {:?}", shard.id())),
        }
    }
}
