//! Push callers that are connected to the shard. Their pushes begin at the home without passing through another thread,
//! and so do their replies. The driver that accepts callers keeps their sockets.

use crate::budget::MessageBudget;
use crate::callers::{CallerOperation, CallerSlot, CallerTarget};
use crate::ids::{CallId, ShardId};
use crate::ledger::CallerEnd;
use crate::limits::Limits;
use crate::message::{Message, Push, Report};

use super::Shard;
use super::callers::{Failure, NextRequest};

impl Shard {
    /// A caller has connected. `None`: there are too many, so the driver closes it.
    pub fn handle_caller_accept(&mut self) -> Option<CallerSlot> {
        self.callers.accept(&self.context.limits.callers, self.context.clock.active())
    }

    /// Bytes of a caller arrived, and the receive is over.
    pub fn handle_caller_recv(&mut self, slot: CallerSlot, bytes: &[u8]) {
        self.callers.received(slot, bytes, self.context.clock.active());
    }

    /// The caller has shut its write side, and the receive is over.
    pub fn handle_caller_end(&mut self, slot: CallerSlot) {
        self.callers.end_input(slot);
    }

    /// A send is over. The kernel took `bytes` bytes of it.
    pub fn handle_caller_sent(&mut self, slot: CallerSlot, bytes: usize) {
        self.callers.sent(slot, bytes, self.context.clock.active());
    }

    /// The socket of a caller has failed.
    pub fn handle_caller_failed(&mut self, slot: CallerSlot) {
        self.callers.fail_socket(slot);
    }

    /// The socket of a caller is closed. Its slot may be used again.
    pub fn handle_caller_gone(&mut self, slot: CallerSlot) {
        self.callers.gone(slot);
    }

    /// The next thing to do with the socket of a caller.
    pub fn poll_caller(&mut self) -> Option<(CallerSlot, CallerOperation<'_>)> {
        self.callers.poll(&self.context.limits.callers, self.context.clock.active())
    }

    /// The number of callers that were ended because they had no valid token.
    #[must_use]
    pub fn callers_unauthenticated(&self) -> u64 {
        self.callers.ended[CallerEnd::NoToken as usize]
    }

    /// Whether [`Shard::handle_request`] may have something to do.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.callers.has_requests()
    }

    /// Takes the next request of the callers. A push is begun as in [`Shard::handle_message`], and spent from `budget`.
    /// `false`: there was no request.
    pub fn handle_request(&mut self, budget: &mut MessageBudget) -> bool {
        let Limits { callers, refuses_pushes, .. } = &*self.context.limits;
        let (now, shard) = (self.context.clock.active(), self.context.shard);
        match self.callers.next((callers, *refuses_pushes), now, shard) {
            None => return false,
            Some(NextRequest::Answered) => budget.spend_bytes(0),
            Some(NextRequest::Push { call, target, push }) => {
                budget.spend_bytes(push.frame.for_websocket().len());
                self.begin_request(call, target, push);
            }
        }
        true
    }

    /// Stops taking requests, because the shard is about to be handed over or other hosts cannot be told yet; or
    /// resumes it. Requests under way are answered.
    pub fn hold_callers(&mut self, is_held: bool) {
        self.callers.hold(is_held);
    }

    fn begin_request(&mut self, call: CallId, target: CallerTarget, push: Push) {
        let elsewhere = self.context.has_other_hosts.then(|| (target.clone(), push.clone()));
        let is_asked = match target {
            CallerTarget::User(0) => {
                // User 0 stands for all anonymous users. It has no home, so it cannot be pushed to.
                self.counters.deliveries.absent += 1;
                self.callers.absent(call);
                false
            }
            CallerTarget::Key(key) => {
                let home = self.context.home_of_key(&key);
                self.ask(home, call, Message::PushKeys { call, keys: vec![key], push })
            }
            CallerTarget::User(user) => {
                let home = self.context.home_of_user(user);
                self.ask(home, call, Message::PushUsers { call, users: vec![user], push })
            }
            CallerTarget::Room(room) => {
                let home = self.context.home_of_room(&room);
                self.ask(home, call, Message::PushRoom { call, room, push })
            }
            CallerTarget::All => {
                self.callers.expect(call, self.context.shards.into());
                let mut is_asked = true;
                for shard in (0..self.context.shards).map(ShardId) {
                    let push = push.clone();
                    is_asked &=
                        self.ask(shard, call, Message::Broadcast { call, push, speed: None });
                }
                is_asked
            }
        };
        // A push that is refused here begins on no other host, so a caller that tries again causes one push there.
        if let Some((target, push)) = elsewhere.filter(|_| is_asked) {
            self.callers.expect_elsewhere(call, push.frame.message().len());
            let shard = self.context.shard;
            self.reports.push(Report::Called { call, shard, target, push });
        }
        self.dispatch_local();
    }

    /// Sends a push to a shard. If the queue is full, the call fails.
    fn ask(&mut self, shard: ShardId, call: CallId, message: Message) -> bool {
        if shard == self.context.shard {
            self.messages.push_local(message);
            return true;
        }
        let is_sent = self.messages.send_push(shard, message, self.context.limits.mesh_backlog);
        if !is_sent {
            self.callers.fail(call, Failure::mesh_full(shard.0));
        }
        is_sent
    }

    pub(super) fn expire_callers(&mut self) {
        self.callers.expire(&self.context.limits.callers, self.context.clock.active());
    }

    /// The limits have changed from `former`. Ends callers whose tokens are not valid any more.
    pub(super) fn check_caller_tokens(&mut self, former: &Limits) {
        let callers = &self.context.limits.callers;
        if callers.tokens != former.callers.tokens {
            self.callers.check_tokens(callers);
        }
    }

    /// Answers all requests, because the server ends. Returns the bytes that are still to be sent to callers, except
    /// those with a send under way.
    pub fn finish_callers(&mut self) -> impl Iterator<Item = (CallerSlot, [&[u8]; 2])> {
        self.callers.finish(&self.context.limits.callers, self.context.clock.active())
    }
}
