//! One push caller: its input, its requests in order of arrival, and their replies in the same order.

use std::collections::VecDeque;
use std::mem;

use comet_proto::push_frame::{PUSH_HEADER_LEN, PushFrameFault, decode_request};

use crate::callers::{CallerLimits, CallerOperation, CallerTarget};
use crate::ids::CallId;
use crate::ledger::CallerEnd;
use crate::limits::{
    CALLER_CALLS_MAX, CALLER_FIRST_MS, CALLER_INPUT_MAX, CALLER_LINGER_MS, CALLER_OUTPUT_MAX,
    CALLER_TOKEN_MAX, CALLER_WRITE_MS, NAME_MAX,
};
use crate::message::Push;
use crate::time::Millis;

use super::answer::{CallState, Failure};
use super::request::{NO_TOKEN, ParsedRequest, parse_request};

/// The memory that an idle caller keeps for its input and for its replies, bytes.
const IDLE_BYTES: usize = 4 << 10;

pub(crate) struct Caller {
    stage: Stage,
    /// The token that admitted it.
    token: Option<Box<[u8]>>,
    /// Received bytes. Those before `read` are consumed.
    input: Vec<u8>,
    read: usize,
    /// Since when a request has been incomplete. Time in which nothing is received for the caller does not count.
    incomplete_since: Option<Millis>,
    /// When something was last received.
    received_at: Millis,
    /// The latest input has not been looked at.
    has_news: bool,
    has_ended_input: bool,
    is_receiving: bool,
    /// Requests that are not answered.
    calls: VecDeque<Call>,
    /// The number of the first of them.
    first_call: u32,
    /// Replies that wait, and replies that the driver sends. The kernel took the bytes before `sent`.
    output: Vec<u8>,
    sending: Vec<u8>,
    sent: usize,
    is_sending: bool,
    has_called: bool,
    /// When it was accepted; later, when it was last active.
    since: Millis,
    /// When the kernel last took bytes.
    sent_at: Millis,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Requests are read.
    Open,
    /// Reads no more requests. Ends once every reply is sent.
    Ending,
    /// Our write side is to be shut; `Lingering` once it is. Further input is discarded.
    Shutting,
    Lingering(Millis),
    /// The socket is to be closed; `Closed` once it is.
    Failed,
    Closed,
}

/// A request that is not answered yet, because it or an earlier one is under way.
struct Call {
    id: u32,
    begun: Millis,
    /// The length of the request.
    bytes: usize,
    state: CallState,
}

/// The result of reading a request.
pub(crate) enum NextRequest {
    /// No push begins. The request is answered, or will be.
    Answered,
    /// A push to begin.
    Push { call: CallId, target: CallerTarget, push: Push },
}

impl Caller {
    /// Requests that are not answered.
    pub(crate) fn calls(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn new(first_call: u32, now: Millis) -> Self {
        Self {
            stage: Stage::Open,
            token: None,
            input: Vec::new(),
            read: 0,
            incomplete_since: None,
            received_at: now,
            has_news: false,
            has_ended_input: false,
            is_receiving: false,
            calls: VecDeque::new(),
            first_call,
            output: Vec::new(),
            sending: Vec::new(),
            sent: 0,
            is_sending: false,
            has_called: false,
            since: now,
            sent_at: now,
        }
    }

    fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// The rank by which callers are ended in favour of new ones; `None` while it is not idle.
    pub(crate) fn idle_since(&self) -> Option<(bool, Millis)> {
        let is_idle = self.is_open() && self.calls.is_empty() && self.unsent().is_none();
        is_idle.then_some((self.has_called, self.since))
    }

    // ---- deadlines -----------------------------------------------------------------------------

    /// When [`Caller::expire`] has something to do next, if nothing happens before.
    pub(crate) fn next_due(&self, limits: &CallerLimits) -> Option<Millis> {
        let timeout_ms = u64::from(limits.timeout_ms);
        let first = self.owes_first_request().then(|| self.since.after(CALLER_FIRST_MS));
        let incomplete = self.awaits_rest_since().map(|since| since.after(timeout_ms));
        // Complete calls have no deadline: they wait until the caller has taken the earlier replies.
        let call = self.calls.iter().find(|call| !call.state.is_complete());
        let call = call.map(|call| call.begun.after(timeout_ms));
        let write = self.is_sending.then(|| self.sent_at.after(CALLER_WRITE_MS));
        let linger = match self.stage {
            Stage::Lingering(since) => Some(since.after(CALLER_LINGER_MS)),
            _ => None,
        };
        if matches!(self.stage, Stage::Failed | Stage::Closed) {
            return None;
        }
        [first, incomplete, call, write, linger].into_iter().flatten().min()
    }

    /// Whether no request has arrived yet. Input that was not looked at may be one.
    fn owes_first_request(&self) -> bool {
        self.is_open() && !self.has_called && !self.has_news
    }

    /// Since when the caller owes the rest of a request. `None` while input is not looked at or nothing is received.
    fn awaits_rest_since(&self) -> Option<Millis> {
        self.incomplete_since.filter(|_| self.is_receiving && !self.has_news)
    }

    /// Since when a request has been incomplete.
    pub(crate) fn incomplete_since(&self) -> Option<Millis> {
        self.incomplete_since
    }

    /// Discards unread input once no input is read any more. Returns the number of bytes.
    pub(crate) fn drop_input(&mut self) -> usize {
        if self.is_open() {
            return 0;
        }
        let bytes = self.unread();
        (self.input, self.read) = (Vec::new(), 0);
        bytes
    }

    /// Answers calls that have timed out. Returns the reason if the connection ends.
    pub(crate) fn expire(&mut self, limits: &CallerLimits, now: Millis) -> Option<CallerEnd> {
        let timeout_ms = u64::from(limits.timeout_ms);
        for call in &mut self.calls {
            if call.begun.after(timeout_ms) > now {
                break;
            }
            if !call.state.is_complete() {
                let sentence = format!("reports are still missing after {timeout_ms} ms");
                call.state.give_up(Failure::DEADLINE_EXCEEDED, &sentence);
            }
        }
        if let Stage::Lingering(since) = self.stage
            && since.after(CALLER_LINGER_MS) <= now
        {
            self.stage = Stage::Failed;
        }
        if self.is_sending && self.sent_at.after(CALLER_WRITE_MS) <= now {
            return Some(CallerEnd::WriteTimeout);
        }
        if !self.is_open() {
            return None;
        }
        if self.awaits_rest_since().is_some_and(|since| since.after(timeout_ms) <= now) {
            return Some(CallerEnd::Late);
        }
        let is_silent = self.owes_first_request() && self.since.after(CALLER_FIRST_MS) <= now;
        is_silent.then_some(CallerEnd::Silent)
    }

    /// Ends the connection. With a reason, replies to the requests under way are sent first, if the caller takes them.
    /// Returns whether this ended an open connection for that reason.
    pub(crate) fn end(&mut self, reason: Option<CallerEnd>) -> bool {
        let was_open = self.is_open();
        match (reason, self.stage) {
            (_, Stage::Failed | Stage::Closed) => {}
            (None, _) => self.stage = Stage::Failed,
            (Some(CallerEnd::WriteTimeout), _) => {
                self.stage = Stage::Failed;
                return true;
            }
            (Some(_), Stage::Open) => self.stage = Stage::Ending,
            (Some(_), _) => {}
        }
        self.incomplete_since = None;
        was_open && reason.is_some()
    }

    // ---- the driver ----------------------------------------------------------------------------

    pub(crate) fn has_operation(&self, has_bytes: bool) -> bool {
        self.stage == Stage::Failed
            || self.wants_to_send()
            || self.stage == Stage::Shutting
            || self.wants_to_receive(has_bytes)
    }

    pub(crate) fn next_operation(
        &mut self,
        has_bytes: bool,
        now: Millis,
    ) -> Option<CallerOperation<'_>> {
        if self.stage == Stage::Failed {
            self.stage = Stage::Closed;
            return Some(CallerOperation::Close);
        }
        if self.wants_to_send() {
            if self.sent == self.sending.len() {
                self.sending.clear();
                self.sending.shrink_to(IDLE_BYTES);
                self.sent = 0;
                mem::swap(&mut self.sending, &mut self.output);
            }
            self.is_sending = true;
            self.sent_at = now;
            return Some(CallerOperation::Send(&self.sending[self.sent..]));
        }
        if self.stage == Stage::Shutting {
            self.stage = Stage::Lingering(now);
            return Some(CallerOperation::ShutWrite);
        }
        self.wants_to_receive(has_bytes).then(|| {
            self.is_receiving = true;
            let held_ms = now.0 - self.received_at.0;
            self.incomplete_since = self.incomplete_since.map(|since| since.after(held_ms));
            CallerOperation::Receive
        })
    }

    fn wants_to_send(&self) -> bool {
        !self.is_sending && self.stage != Stage::Closed && self.has_output()
    }

    fn has_output(&self) -> bool {
        self.sent < self.sending.len() || !self.output.is_empty()
    }

    fn wants_to_receive(&self, has_bytes: bool) -> bool {
        if self.is_receiving || self.has_ended_input {
            return false;
        }
        match self.stage {
            Stage::Open => {
                // A request longer than the limit is received until it is complete.
                let has_space = self.unread() < CALLER_INPUT_MAX || self.incomplete_since.is_some();
                has_space && has_bytes && self.has_space_for_reply()
            }
            Stage::Lingering(_) => true,
            Stage::Ending | Stage::Shutting | Stage::Failed | Stage::Closed => false,
        }
    }

    fn has_space_for_reply(&self) -> bool {
        self.calls.len() < CALLER_CALLS_MAX && self.output.len() < CALLER_OUTPUT_MAX
    }

    fn unread(&self) -> usize {
        self.input.len() - self.read
    }

    /// Returns how many bytes were kept.
    pub(crate) fn receive(&mut self, bytes: &[u8], now: Millis) -> usize {
        self.is_receiving = false;
        self.received_at = now;
        self.has_news = true;
        if !self.is_open() {
            return 0;
        }
        self.input.drain(..mem::take(&mut self.read));
        self.input.extend_from_slice(bytes);
        bytes.len()
    }

    /// The peer has shut its write side.
    pub(crate) fn receive_end(&mut self) {
        self.is_receiving = false;
        self.has_ended_input = true;
        if matches!(self.stage, Stage::Lingering(_)) {
            self.stage = Stage::Failed;
        }
    }

    pub(crate) fn sent(&mut self, bytes: usize, now: Millis) {
        self.is_sending = false;
        self.sent += bytes;
        self.sent_at = now;
        debug_assert!(self.sent <= self.sending.len());
    }

    /// Number of the next call.
    pub(crate) fn next_call(&self) -> u32 {
        self.first_call.wrapping_add(self.calls.len() as u32)
    }

    /// For a caller that is gone: the number of calls without a reply, and the bytes of these and of unread input.
    pub(crate) fn left(&self) -> (u64, usize) {
        let bytes: usize = self.calls.iter().map(|call| call.bytes).sum();
        (self.calls.len() as u64, bytes + self.unread())
    }

    /// The bytes that the driver may still send when the server ends; `None` while a send is under way.
    pub(crate) fn unsent(&self) -> Option<[&[u8]; 2]> {
        let is_left = !self.is_sending && self.has_output();
        is_left.then(|| [&self.sending[self.sent..], &self.output[..]])
    }

    // ---- requests ------------------------------------------------------------------------------

    /// Whether there is input to look at, and space for one more call.
    pub(crate) fn may_be_read(&self) -> bool {
        let has_input = self.unread() > 0 || self.has_ended_input;
        self.is_open() && has_input && self.has_space_for_reply()
    }

    /// Reads the next request, as the call `call`. `None`: it is not complete.
    pub(crate) fn read(
        &mut self,
        limits: &CallerLimits,
        refuses_pushes: bool,
        now: Millis,
        call: CallId,
    ) -> Result<Option<NextRequest>, CallerEnd> {
        self.has_news = false;
        let input = &self.input[self.read..];
        let is_authenticated = self.token.is_some() || limits.tokens.is_empty();
        let body_max = if is_authenticated { limits.frame_max } else { CALLER_TOKEN_MAX };
        let length_max = PUSH_HEADER_LEN + NAME_MAX + body_max;
        let (request, length) = match decode_request(input, length_max) {
            Ok(Some(whole)) => whole,
            Ok(None) => return Ok(self.read_no_more(now)),
            Err(PushFrameFault::TooLong { .. }) if !is_authenticated => {
                self.refuse(now, Failure::new(Failure::UNAUTHENTICATED, NO_TOKEN));
                return Err(CallerEnd::NoToken);
            }
            Err(fault) => {
                let status = match fault {
                    PushFrameFault::TooLong { .. } => Failure::OUT_OF_RANGE,
                    _ => Failure::INVALID_ARGUMENT,
                };
                self.refuse(now, Failure::new(status, fault.to_string()));
                return Err(CallerEnd::BadFrame);
            }
        };
        let (id, read) = parse_request(request, is_authenticated, refuses_pushes, limits);
        self.read += length;
        self.incomplete_since = None;
        self.has_called = true;
        self.since = now;
        let (state, next, end) = match read {
            ParsedRequest::Push(target, push) => {
                (CallState::of_push(1), NextRequest::Push { call, target, push }, None)
            }
            ParsedRequest::Token(token) => {
                self.token = Some(token);
                let state = CallState::of_token();
                (state, NextRequest::Answered, None)
            }
            ParsedRequest::Refused(failure) => {
                (CallState::failed(failure), NextRequest::Answered, None)
            }
            ParsedRequest::Unauthenticated(failure) => {
                (CallState::failed(failure), NextRequest::Answered, Some(CallerEnd::NoToken))
            }
        };
        self.calls.push_back(Call { id, begun: now, bytes: length, state });
        end.map_or(Ok(Some(next)), Err)
    }

    /// The rest of the input is not a whole request.
    fn read_no_more(&mut self, now: Millis) -> Option<NextRequest> {
        if self.has_ended_input {
            self.stage = Stage::Ending;
            self.incomplete_since = None;
        } else if self.unread() > 0 {
            self.incomplete_since.get_or_insert(now);
        } else {
            self.input.clear();
            self.read = 0;
            self.input.shrink_to(IDLE_BYTES);
        }
        None
    }

    /// Fails a request whose id is not known.
    fn refuse(&mut self, now: Millis, failure: Failure) {
        let state = CallState::failed(failure);
        self.calls.push_back(Call { id: 0, begun: now, bytes: 0, state });
    }

    /// The call `number`, unless it is answered.
    pub(crate) fn call(&mut self, number: u32) -> Option<&mut CallState> {
        let at = number.wrapping_sub(self.first_call) as usize;
        self.calls.get_mut(at).map(|call| &mut call.state)
    }

    /// Replies to the first requests that are complete, and passes the status of each to `count`. Returns the bytes of
    /// these requests.
    pub(crate) fn answer(&mut self, mut count: impl FnMut(u32)) -> usize {
        let mut bytes = 0;
        while self.output.len() < CALLER_OUTPUT_MAX
            && let Some(call) = self.calls.pop_front_if(|call| call.state.is_complete())
        {
            self.first_call = self.first_call.wrapping_add(1);
            bytes += call.bytes;
            count(call.state.encode(call.id, &mut self.output));
        }
        if self.stage == Stage::Ending
            && self.calls.is_empty()
            && !self.is_sending
            && !self.has_output()
        {
            self.stage = if self.has_ended_input { Stage::Failed } else { Stage::Shutting };
        }
        bytes
    }

    /// Whether its token is not valid any more.
    pub(crate) fn has_lost_token(&self, limits: &CallerLimits) -> bool {
        let is_authenticated =
            self.token.as_ref().is_some_and(|token| limits.tokens.contains(token));
        self.has_called && !limits.tokens.is_empty() && !is_authenticated
    }

    pub(crate) fn give_up_hosts(&mut self) {
        self.calls.iter_mut().for_each(|call| call.state.give_up_hosts());
    }

    /// Answers all requests, because the server ends.
    pub(crate) fn finish(&mut self, limits: &CallerLimits, now: Millis) {
        for call in &mut self.calls {
            if !call.state.is_complete() {
                let sentence = "the server is going down, and what became of the push is not known";
                call.state.give_up(Failure::UNAVAILABLE, sentence);
            }
        }
        let length_max = PUSH_HEADER_LEN + NAME_MAX + limits.frame_max;
        while self.is_open()
            && let Ok(Some((request, length))) =
                decode_request(&self.input[self.read..], length_max)
        {
            let id = request.map_or_else(|(id, _)| id, |request| request.id);
            self.read += length;
            let sentence = "the server is going down, and the push was not made";
            let state = CallState::failed(Failure::new(Failure::UNAVAILABLE, sentence));
            self.calls.push_back(Call { id, begun: now, bytes: length, state });
        }
        self.end(Some(CallerEnd::Evicted));
    }
}
