//! Reading a request: whether it is a token or a push, or why it is refused.

use comet_proto::push_frame::{PushRequest, PushTarget, ReadRequest};
use comet_proto::{Encoded, count_frames, op};

use crate::callers::{CallerLimits, CallerTarget};
use crate::limits::{CALLER_TOKEN_MAX, NAME_MAX};
use crate::message::Push;

use super::answer::Failure;

/// What a request turned out to be.
pub(super) enum ParsedRequest {
    Push(CallerTarget, Push),
    Token(Box<[u8]>),
    Refused(Failure),
    Unauthenticated(Failure),
}

pub(super) fn parse_request(
    request: ReadRequest<'_>,
    is_authenticated: bool,
    refuses_pushes: bool,
    limits: &CallerLimits,
) -> (u32, ParsedRequest) {
    let unauthenticated = |sentence: &str| {
        ParsedRequest::Unauthenticated(Failure::new(Failure::UNAUTHENTICATED, sentence))
    };
    let request = match request {
        Ok(request) => request,
        Err((id, bad)) => {
            let read = match is_authenticated {
                true => ParsedRequest::Refused(Failure::invalid(bad.to_string())),
                false => unauthenticated(NO_TOKEN),
            };
            return (id, read);
        }
    };
    let PushRequest { id, target, accept, frame } = request;
    let target = match target {
        PushTarget::Token if limits.tokens.contains(frame.body) => {
            return (id, ParsedRequest::Token(frame.body.into()));
        }
        // While no tokens are required, the token is kept in case they are required later.
        PushTarget::Token if limits.tokens.is_empty() && frame.body.len() <= CALLER_TOKEN_MAX => {
            return (id, ParsedRequest::Token(frame.body.into()));
        }
        PushTarget::Token if limits.tokens.is_empty() => {
            let sentence = format!("a token has {CALLER_TOKEN_MAX} bytes at most");
            return (id, ParsedRequest::Refused(Failure::invalid(sentence)));
        }
        PushTarget::Token => return (id, unauthenticated("the token opens nothing")),
        _ if !is_authenticated => return (id, unauthenticated(NO_TOKEN)),
        PushTarget::Key(key) => CallerTarget::Key(key.into()),
        PushTarget::User(user) => CallerTarget::User(user),
        PushTarget::Room(room) if room.len() > NAME_MAX => {
            let sentence = format!("the name of the room is longer than {NAME_MAX} bytes");
            return (id, ParsedRequest::Refused(Failure::invalid(sentence)));
        }
        PushTarget::Room(room) => CallerTarget::Room(room.into()),
        PushTarget::All => CallerTarget::All,
    };
    let (length, max) = (frame.body.len(), limits.frame_max);
    let failure = if refuses_pushes {
        let sentence = "this server has more memory than limits.memory allows; try again later, or at another one";
        Some(Failure::new(Failure::RESOURCE_EXHAUSTED, sentence))
    } else if length > max {
        let sentence = format!("the body has {length} bytes, more than the {max} allowed");
        Some(Failure::invalid(sentence))
    } else if frame.operation == op::RAW {
        match count_frames(frame.body) {
            Ok(0) => Some(Failure::invalid("the body of operation 9 holds no frame")),
            Ok(_) => None,
            Err(fault) => Some(Failure::invalid(format!(
                "the body of operation 9 is not a run of whole frames: {fault}"
            ))),
        }
    } else {
        None
    };
    if let Some(failure) = failure {
        return (id, ParsedRequest::Refused(failure));
    }
    let operation = if accept == 0 { frame.operation } else { accept };
    (id, ParsedRequest::Push(target, Push::new(operation, Encoded::frame(&frame))))
}

pub(super) const NO_TOKEN: &str = "the first request has to be a token that opens";
