//! The hand-over of parked sessions to another process.

use comet_handover as handed;
use comet_handover::Fault;
use comet_proto::Encoded;

use crate::ids::ConnId;
use crate::limits::NAME_MAX;
use crate::operation_filter::OperationFilter;
use crate::parking::{ParkedFrame, ParkedPush};

use super::operation_filter::accepts_from;

/// A session whose key has no connection.
pub(crate) struct ArrivedSession {
    pub(crate) key: Box<str>,
    pub(crate) user: i64,
    pub(crate) left_ms: u64,
    pub(crate) accepts: Option<OperationFilter>,
    pub(crate) pushes: Vec<ParkedPush>,
    pub(crate) lost: [u32; 2],
}

/// A key by way of which the user's home sends pushes.
pub(crate) struct ArrivedKept {
    pub(crate) user: i64,
    pub(crate) key: Box<str>,
    /// `None`: the session is parked.
    pub(crate) conn: Option<ConnId>,
}

pub(crate) fn to_message(push: ParkedFrame<'_>) -> handed::ParkedFrame {
    let ParkedFrame { operation, bytes, tcp_at, is_accepted } = push;
    handed::ParkedFrame { operation, bytes: bytes.to_vec(), tcp_at: tcp_at as u32, is_accepted }
}

pub(super) fn push_from(push: handed::ParkedFrame) -> Result<ParkedPush, Fault> {
    let handed::ParkedFrame { operation, bytes, tcp_at, is_accepted } = push;
    match Encoded::from_parts(&bytes, tcp_at as usize) {
        Some(frame) => Ok(ParkedPush { operation, frame, is_accepted }),
        None => Err(Fault::Inconsistent("a parked frame that is none".into())),
    }
}

pub(super) fn session_from(session: handed::ParkedSession) -> Result<ArrivedSession, Fault> {
    let handed::ParkedSession {
        key,
        user,
        left_ms,
        has_accepts,
        accepts,
        pushes,
        lost_full,
        lost_memory,
    } = session;
    if key.is_empty() || key.len() > NAME_MAX {
        return Err(Fault::Inconsistent(format!("a parked key of {} bytes", key.len())));
    }
    let accepts = accepts_from(accepts)?;
    Ok(ArrivedSession {
        key: key.into(),
        user,
        left_ms,
        accepts: has_accepts.then_some(accepts),
        pushes: pushes.into_iter().map(push_from).collect::<Result<_, _>>()?,
        lost: [lost_full, lost_memory],
    })
}
