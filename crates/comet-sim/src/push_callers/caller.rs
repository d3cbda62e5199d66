//! A fake push caller: it sends requests in bursts, checks replies as they come, and may have faults.

use std::collections::VecDeque;

use comet_core::limits::{CALLER_FIRST_MS, NAME_MAX};
use comet_core::{CallerLimits, Millis};
use comet_proto::Frame;
use comet_proto::push_frame::{PUSH_HEADER_LEN, PushReply, PushRequest, PushTarget};

use super::account::{Account, MadePush};
use super::socket::{CallerSocket, End};
use crate::client::Reads;
use crate::plan::{CALLER_TOKEN, KEYS, OPERATIONS, OTHER_CALLER_TOKEN, Plan, ROOMS, USERS};
use crate::request;
use crate::rng::Rng;
use crate::wire::Kind;

/// The most requests that a caller has under way, without its last burst.
const ASKED_MAX: usize = 20;

const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const OUT_OF_RANGE: u32 = 11;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// The fault of a caller after some requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    WrongToken,
    Garbage,
    /// A request that is never completed.
    Half,
    /// No request at all.
    Silent,
    /// It shuts its write side, and continues to read.
    Eof,
    Reset,
    ReadNoMore,
}

pub(super) struct PushCaller {
    /// Begins at 1, because pushes of control have 0.
    number: u64,
    pub(super) socket: CallerSocket,
    limits: CallerLimits,
    reads: Reads,
    fault: Option<Fault>,
    requests_before_fault: u32,
    has_erred: bool,
    /// After its fault it waits for the server to end the connection, even at a quiet point.
    is_stubborn: bool,
    /// Pushes may find a full queue, or too much memory in use.
    may_be_refused: bool,
    may_be_ended: bool,
    has_other_token: bool,
    connected_at: Millis,
    pub(super) is_finished: bool,
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    /// Requests without a reply.
    asked: VecDeque<Asked>,
    next_id: u32,
    has_reply: bool,
    pushes: u64,
    pub(super) is_over: bool,
}

struct Asked {
    id: u32,
    at: Millis,
    what: What,
}

enum What {
    Token,
    Push(MadePush),
    /// It must be refused with this status, and the push must not be made.
    Refused(u32, Option<u64>),
    /// It comes behind the last request that the shard reads.
    Unread(Option<u64>),
}

impl PushCaller {
    pub(super) fn new(rng: &mut Rng, plan: &Plan, number: u64, now: Millis) -> Self {
        let faults = [
            Fault::WrongToken,
            Fault::Garbage,
            Fault::Half,
            Fault::Silent,
            Fault::Eof,
            Fault::Reset,
            Fault::ReadNoMore,
        ];
        let fault = rng.percent(50).then(|| rng.pick(&faults));
        let limits = plan.limits.callers.clone();
        let has_other_token = plan.has_caller_tokens && plan.is_configured && rng.percent(50);
        let mut caller = Self {
            number,
            socket: CallerSocket::new(rng.pick(plan.socket_bytes)),
            reads: if rng.percent(plan.slow_percent) { Reads::Slowly } else { Reads::Promptly },
            fault,
            requests_before_fault: rng.pick(&[0, 2, 10]),
            has_erred: false,
            is_stubborn: rng.percent(10),
            may_be_refused: plan.shards > 1 || plan.is_configured,
            may_be_ended: limits.connections < 64 || has_other_token,
            has_other_token,
            connected_at: now,
            is_finished: false,
            outgoing: VecDeque::new(),
            incoming: Vec::new(),
            asked: VecDeque::new(),
            next_id: 1,
            has_reply: false,
            pushes: 0,
            is_over: false,
            limits,
        };
        if fault == Some(Fault::Silent) {
            caller.requests_before_fault = 0;
        } else if plan.has_caller_tokens {
            let token = if has_other_token { OTHER_CALLER_TOKEN } else { CALLER_TOKEN };
            caller.ask(now, PushTarget::Token, frame(token.as_bytes()), What::Token);
        }
        caller
    }

    /// Whether neither side has anything to do.
    pub(super) fn is_idle(&self) -> bool {
        let waits_for_end = self.has_erred && self.fault.is_some();
        self.is_over
            || !waits_for_end
                && self.outgoing.is_empty()
                && self.asked.is_empty()
                && self.socket.is_idle()
    }

    // ---- requests ------------------------------------------------------------------------------

    /// `next_call` is the next call of control.
    pub(super) fn write(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        (next_call, now): (u64, Millis),
        is_quiet: bool,
    ) {
        // Its first request, which may arrive in small pieces, may be too late.
        let is_first_late = now >= self.connected_at.after(CALLER_FIRST_MS / 2);
        self.may_be_ended |= !self.has_reply && is_first_late;
        let may_ask = !self.has_erred && !self.socket.has_ended() && self.asked.len() < ASKED_MAX;
        if !is_quiet && may_ask && rng.percent(40) {
            for _ in 0..rng.pick(&[1, 1, 3, 12]) {
                if let Some(fault) = self.fault.filter(|_| self.requests_before_fault == 0) {
                    self.err(rng, plan, (next_call, now), fault);
                    break;
                }
                self.requests_before_fault = self.requests_before_fault.saturating_sub(1);
                self.request(rng, plan, (next_call, now));
                if self.has_erred {
                    break;
                }
            }
        }
        if is_quiet && self.has_erred && !self.is_stubborn {
            match self.fault {
                Some(Fault::ReadNoMore) => self.reset(),
                Some(Fault::Silent) => self.end(End::Eof),
                _ => {}
            }
        }
        if is_quiet && self.reads == Reads::NoMore && !self.socket.is_sending() {
            self.reset();
        }
        let most = if is_quiet { usize::MAX } else { rng.pick(&[1, 30, 500, 1 << 20]) };
        let most = most.min(self.outgoing.len());
        // Requests that are written slowly or are delayed may time out.
        let is_slow = most < self.outgoing.len() || self.socket.has_unreceived();
        self.may_be_ended |= is_slow && self.limits.timeout_ms < 5_000;
        self.socket.write(self.outgoing.drain(..most));
    }

    fn request(&mut self, rng: &mut Rng, plan: &Plan, (next_call, now): (u64, Millis)) {
        if rng.percent(5) {
            let target = rng.pick(&[PushTarget::Key(""), PushTarget::Room("")]);
            return self.ask(now, target, frame(b""), What::Refused(INVALID_ARGUMENT, None));
        }
        let key = rng.pick(&KEYS);
        let user = rng.below(USERS as usize) as i64;
        let room = rng.below(ROOMS.len()) as u8;
        let (kind, target) = match rng.below(4) {
            0 => (Kind::Keys, PushTarget::Key(key)),
            1 => (Kind::Users, PushTarget::User(user)),
            2 => (Kind::Room(room), PushTarget::Room(ROOMS[usize::from(room)])),
            _ => (Kind::All, PushTarget::All),
        };
        self.pushes += 1;
        let stamp = self.number << 32 | self.pushes;
        let operation = rng.pick(&OPERATIONS);
        let (wire_operation, sequence, body) = request::body(rng, plan, stamp, kind, operation);
        let frame = Frame { version: 1, operation: wire_operation, sequence, body: &body };
        let mut bytes = Vec::new();
        PushRequest { id: self.next_id, target, accept: operation, frame }.encode(&mut bytes);
        let mut id = self.next_id;
        self.next_id += 1;
        let what = if bytes.len() > PUSH_HEADER_LEN + NAME_MAX + self.limits.frame_max {
            id = 0;
            self.fault = Some(Fault::Garbage);
            self.has_erred = true;
            self.may_be_ended = true;
            What::Refused(OUT_OF_RANGE, Some(stamp))
        } else if body.len() > self.limits.frame_max {
            What::Refused(INVALID_ARGUMENT, Some(stamp))
        } else {
            // What a client knew before control's next call, it knew before this push.
            What::Push(MadePush::new(stamp, next_call - 1, (kind, operation), target))
        };
        self.asked.push_back(Asked { id, at: now, what });
        self.outgoing.extend(bytes);
    }

    fn ask(&mut self, now: Millis, target: PushTarget<'_>, frame: Frame<'_>, what: What) {
        let id = self.next_id;
        self.next_id += 1;
        self.asked.push_back(Asked { id, at: now, what });
        let mut bytes = Vec::new();
        PushRequest { id, target, accept: 0, frame }.encode(&mut bytes);
        self.outgoing.extend(bytes);
    }

    fn err(&mut self, rng: &mut Rng, plan: &Plan, (next_call, now): (u64, Millis), fault: Fault) {
        self.has_erred = true;
        self.may_be_ended = true;
        match fault {
            Fault::WrongToken if plan.has_caller_tokens => {
                let what = What::Refused(UNAUTHENTICATED, None);
                self.ask(now, PushTarget::Token, frame(b"wrong"), what);
                self.request(rng, plan, (next_call, now));
                // Requests behind it are not read.
                if let Some(Asked { what, .. }) = self.asked.back_mut() {
                    match what {
                        What::Push(MadePush { stamp, .. }) | What::Refused(_, Some(stamp)) => {
                            *what = What::Unread(Some(*stamp));
                        }
                        _ => *what = What::Unread(None),
                    }
                }
            }
            Fault::WrongToken => {
                self.ask(now, PushTarget::Token, frame(b"any"), What::Token);
                self.fault = None;
                self.has_erred = false;
            }
            Fault::Garbage => {
                let (status, bytes): (u32, &[u8]) = rng.pick(&[
                    (OUT_OF_RANGE, &[0xff; 40]),
                    (INVALID_ARGUMENT, &[0, 0, 0, 5, 0, 28]),
                    (INVALID_ARGUMENT, &[0, 0, 0, 100, 0, 16]),
                    (INVALID_ARGUMENT, b"GET / HTTP/1.1\r\n\r\n"),
                ]);
                let status = if bytes[0] == b'G' { OUT_OF_RANGE } else { status };
                self.asked.push_back(Asked { id: 0, at: now, what: What::Refused(status, None) });
                self.outgoing.extend(bytes);
            }
            Fault::Half => {
                let mut bytes = Vec::new();
                let frame = frame(b"half of it");
                PushRequest { id: 0, target: PushTarget::All, accept: 0, frame }.encode(&mut bytes);
                bytes.truncate(rng.pick(&[1, PUSH_HEADER_LEN, bytes.len() - 1]));
                self.outgoing.extend(bytes);
            }
            Fault::Silent => {}
            Fault::Eof => self.end(End::Eof),
            Fault::Reset => self.reset(),
            Fault::ReadNoMore => {
                self.reads = Reads::NoMore;
                self.fault = None;
                self.has_erred = false;
            }
        }
    }

    fn end(&mut self, how: End) {
        let outgoing = std::mem::take(&mut self.outgoing);
        self.socket.write(outgoing);
        self.socket.end(how);
        self.may_be_ended = true;
    }

    fn reset(&mut self) {
        self.outgoing.clear();
        self.end(End::Reset);
    }

    // ---- replies -------------------------------------------------------------------------------

    pub(super) fn read(
        &mut self,
        rng: &mut Rng,
        account: &mut Account,
        now: Millis,
        is_quiet: bool,
    ) -> Result<(), String> {
        let most = match self.reads {
            Reads::NoMore => 0,
            Reads::Slowly if !is_quiet => rng.pick(&[0, 1, 20, 100]),
            Reads::Slowly | Reads::Promptly => usize::MAX,
        };
        self.incoming.extend(self.socket.read(most));
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..];
        while let Some((reply, length)) =
            PushReply::decode(rest, 1 << 20).map_err(|fault| format!("a reply: {fault}"))?
        {
            rest = &rest[length..];
            self.has_reply = true;
            account.statuses[reply.status as usize] += 1;
            let asked = self.asked.pop_front().ok_or("a reply that nothing asked for")?;
            let (id, status) = (asked.id, reply.status);
            if reply.id != id {
                return Err(format!("a reply to {} instead of {id}", reply.id));
            }
            self.check(asked, reply, account, now)
                .map_err(|what| format!("reply {status} to {id}: {what}"))?;
        }
        self.incoming = rest.to_vec();
        let reads_no_more = self.reads == Reads::NoMore && self.socket.is_ended_by_server();
        self.is_over |= self.socket.is_at_end() || self.socket.is_reset() || reads_no_more;
        if !self.is_over {
            return Ok(());
        }
        // Only a caller that takes its replies too slowly may lose the rest of one.
        let is_cut = !self.incoming.is_empty() && self.reads == Reads::Promptly;
        if is_cut && !self.is_finished && !self.socket.has_ended() {
            return Err(format!("the end in the middle of a reply: {:?}", self.incoming));
        }
        if !self.may_be_ended && !self.is_finished {
            return Err("the connection was ended for nothing".to_owned());
        }
        self.give_up(account);
        Ok(())
    }

    /// No more replies will come.
    fn give_up(&mut self, account: &mut Account) {
        for Asked { what, .. } in self.asked.drain(..) {
            match what {
                What::Push(_) => account.unknown += 1,
                What::Unread(stamp) | What::Refused(_, stamp) => account.refused.extend(stamp),
                What::Token => {}
            }
        }
    }

    fn check(
        &mut self,
        asked: Asked,
        reply: PushReply<'_>,
        account: &mut Account,
        now: Millis,
    ) -> Result<(), String> {
        let is_known_end = self.is_finished && reply.status == UNAVAILABLE;
        match (asked.what, reply.status) {
            (What::Push(push), 0) => return account.add(push, reply.body),
            (What::Push(_), DEADLINE_EXCEEDED)
                if now >= asked.at.after(self.limits.timeout_ms.into()) =>
            {
                account.unknown += 1;
            }
            (What::Push(_), RESOURCE_EXHAUSTED) if self.may_be_refused => account.unknown += 1,
            (What::Push(_), _) if is_known_end => account.unknown += 1,
            (What::Refused(right, stamp), status)
                if status == right
                    || is_known_end
                    // It may be refused before its body is read.
                    || (stamp.is_some() && self.may_be_refused && status == RESOURCE_EXHAUSTED) =>
            {
                account.refused.extend(stamp);
            }
            (What::Unread(stamp), _) if is_known_end => account.refused.extend(stamp),
            (What::Token, 0) if reply.body.is_empty() => {}
            (What::Token, _) if is_known_end => {}
            (What::Token, UNAUTHENTICATED) if self.has_other_token => {}
            _ => return Err(String::from_utf8_lossy(reply.body).into_owned()),
        }
        Ok(())
    }
}

fn frame(body: &[u8]) -> Frame<'_> {
    Frame { version: 1, operation: 5, sequence: 0, body }
}
