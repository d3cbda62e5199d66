//! The life of a call: it begins, is tried at one address after the other, and ends. The effect of the answer depends
//! on its purpose.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use comet_core::{ConnId, Message, Millis, ShardId, home_of_key};

use super::action::{Action, AttemptId, Event, Unneeded};
use super::notices::{Notice, NoticeKind};
use super::outcome::{Failure, StatusCode};
use super::request::{Reply, Request};
use super::room_counts::{Next, RoomCountUpdate, RoomsByHome};
use super::{Call, LogicClient, Purpose, log_failure};

impl LogicClient {
    /// Begins a client's call, or answers at once if there is no free permit.
    pub(super) fn ask(&mut self, now: Millis, purpose: Purpose, request: Request) {
        if self.calls.len() < self.config.calls {
            return self.begin(now, purpose, request);
        }
        let way = (request.rpc(), Failure::TooManyCalls.code());
        self.count(way.0, way.1);
        log_failure((&mut self.failing, &mut self.out), now, way, "logic.calls are under way");
        match purpose {
            Purpose::Identify { conn, .. } => self.deny(conn, Failure::TooManyCalls),
            Purpose::Receive { conn } => {
                self.send(
                    conn,
                    Message::Receipt { conn, outcome: Err(Failure::TooManyCalls.sentence()) },
                );
            }
            Purpose::Notice(_) | Purpose::RoomCounts => unreachable!("these wait for a permit"),
        }
    }

    pub(super) fn begin(&mut self, now: Millis, purpose: Purpose, request: Request) {
        self.last_call += 1;
        let call = self.last_call;
        let request = Arc::new(request);
        let (attempts, connection, tried) = (0, None, Vec::new());
        let failure = Failure::Unavailable;
        self.calls.insert(call, Call { purpose, request, attempts, connection, tried, failure });
        self.deadlines.push_back((now.after(self.config.timeout_ms), call));
        self.try_next(now, call);
    }

    /// Sends the call to the next address that it has not tried. At the start of the process, which may have taken over
    /// clients in mid-conversation, it waits until some address is known to be available or not.
    pub(super) fn try_next(&mut self, now: Millis, id: u64) {
        let call = self.calls.get_mut(&id).expect("the call is under way");
        let Some(connection) = self.addresses.pick(&call.tried) else {
            if self.addresses.has_unknown(&call.tried) {
                call.connection = None;
                return self.without_address.push(id);
            }
            let failure = call.failure.clone();
            return self.end(now, id, Err(failure));
        };
        let attempt = AttemptId { call: id, attempt: call.attempts };
        call.attempts += 1;
        call.connection = Some(connection);
        let request = Arc::clone(&call.request);
        self.out.actions.push_back(Action::Send { attempt, connection, request });
    }

    /// Sends calls that wait for an address, the oldest first. Calls that still have to wait stay queued.
    pub(super) fn retry_waiting(&mut self, now: Millis) {
        for id in mem::take(&mut self.without_address) {
            if self.calls.contains_key(&id) {
                self.try_next(now, id);
            }
        }
    }

    pub(super) fn end(&mut self, now: Millis, id: u64, result: Result<Reply, Failure>) {
        let Call { purpose, request, .. } = self.calls.remove(&id).expect("the call is under way");
        let code = result.as_ref().map_or_else(Failure::code, |_| StatusCode::OK);
        self.count(request.rpc(), code);
        match &result {
            Ok(_) => {
                let rpc = request.rpc();
                let ways = (rpc, StatusCode(i32::MIN))..=(rpc, StatusCode(i32::MAX));
                for ((rpc, code), failed) in self.failing.ended(now, ways) {
                    self.out.events.push_back(Event::CallsSucceed { rpc, code, failed });
                }
            }
            Err(Failure::Late) => {
                let limit = Duration::from_millis(self.config.timeout_ms);
                let message = format!("no answer within {limit:?}");
                log_failure(
                    (&mut self.failing, &mut self.out),
                    now,
                    (request.rpc(), code),
                    &message,
                );
            }
            // The failed attempts were logged already.
            Err(_) => {}
        }
        match (purpose, result) {
            // If the answer comes too late, logic may have made a session whose key is never used here. It expires:
            // only a live connection's heartbeats renew it.
            (Purpose::Identify { conn, .. }, Err(failure)) => self.deny(conn, failure),
            (Purpose::Identify { conn, asked }, Ok(Reply::Connected(identity))) => {
                if let Some(key) = &identity.key {
                    let given_up = self.notices.key_in_use(identity.user, key, asked);
                    self.give_up(given_up);
                }
                self.send(conn, Message::Identified { conn, answer: Ok(identity) });
            }
            (Purpose::Receive { conn }, Ok(Reply::Done)) => {
                self.send(conn, Message::Receipt { conn, outcome: Ok(()) });
            }
            (Purpose::Receive { conn }, Err(failure)) => {
                self.send(conn, Message::Receipt { conn, outcome: Err(failure.sentence()) });
            }
            (Purpose::Notice(notice), Ok(Reply::Done)) => {
                let given_up = self.notices.handle_delivered(&notice);
                self.give_up(given_up);
            }
            (Purpose::Notice(notice), Err(_)) => self.notices.handle_undelivered(now, notice),
            (Purpose::RoomCounts, result) => {
                // A failure is counted and logged, and the next update makes up for it.
                let answer = result.ok().map(|reply| match reply {
                    Reply::Elsewhere(homes) => homes,
                    reply => unreachable!("{reply:?} is no reply to RenewOnline"),
                });
                self.continue_update(now, answer);
            }
            (purpose, Ok(reply)) => unreachable!("{reply:?} is no reply to {purpose:?}"),
        }
    }

    /// Takes the answer to a piece of the room counts, and continues the update.
    fn continue_update(&mut self, now: Millis, answer: Option<RoomsByHome>) {
        let resting = RoomCountUpdate::Resting { until: now.after(self.config.renew_ms) };
        let RoomCountUpdate::UnderWay(progress) =
            mem::replace(&mut self.room_count_update, resting)
        else {
            unreachable!("the renewal is under way")
        };
        let (next, unneeded) = progress.handle_answer(answer);
        if let Some(answer) = unneeded.filter(|answer| !answer.iter().all(Vec::is_empty)) {
            self.out.actions.push_back(Action::Free(Unneeded::Answer(answer)));
        }
        match next {
            Next::Piece(progress) => self.room_count_update = RoomCountUpdate::Counted(progress),
            Next::Over(sent_rooms, answer) => {
                if let Some(former) = self.sent_rooms.replace(sent_rooms) {
                    let pieces = former.into_pieces();
                    self.out.actions.push_back(Action::Free(Unneeded::Pieces(pieces)));
                }
                let homes = answer.into_iter().flatten();
                let messages = homes.map(|rooms| Message::RemoteRoomCounts { rooms });
                self.out.messages.extend((0..).map(ShardId).zip(messages));
            }
        }
    }

    fn deny(&mut self, conn: ConnId, failure: Failure) {
        let denied = failure.denied(self.config.retry_after_ms, &mut self.jitter);
        self.send(conn, Message::Identified { conn, answer: Err(denied) });
    }

    /// Logic learns of an undelivered end when the session expires. A renewal must not be lost: the shard has planned
    /// the next one already, and before that the session of a live client may expire.
    pub(super) fn give_up(&mut self, notice: Option<Notice>) {
        if let Some(Notice { key, kind: NoticeKind::Renewed, .. }) = notice {
            let home = home_of_key(&key, self.config.shards);
            self.out.messages.push_back((home, Message::RenewalFailed { key }));
        }
    }

    pub(super) fn send(&mut self, conn: ConnId, message: Message) {
        self.out.messages.push_back((conn.shard, message));
    }

    pub(super) fn count(&mut self, rpc: &'static str, code: StatusCode) {
        *self.counts.entry((rpc, code)).or_default() += 1;
    }
}
