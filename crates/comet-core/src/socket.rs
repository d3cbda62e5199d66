//! What a shard and its driver tell each other about sockets.

use crate::ids::ConnId;
use crate::ledger::CloseReason;
use crate::outbox::Slices;

/// Bytes for one socket.
#[derive(Clone)]
pub struct Transmit<'a> {
    /// The connection to send to.
    pub conn: ConnId,
    /// The bytes to send, in at least one slice, usually exactly one. They keep their address and content until
    /// [`crate::Shard::handle_sent`] or [`crate::Shard::handle_send_failed`] completes this transmit, even if the
    /// connection is closed before.
    pub slices: Slices<'a>,
}

/// Which sides of a socket to shut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketShutdown {
    /// Everything is sent. Shut the write side, and keep reading until the peer closes its side.
    Write,
    /// Shut both sides. Call [`crate::Shard::handle_gone`] once no operation on the socket is left.
    Both,
}

/// How a socket ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hangup {
    /// The peer closed its side.
    Eof,
    /// The peer reset the connection, or the network gave it up; the kernel's error number.
    Cut(i32),
    /// Another failure; the kernel's error number.
    Error(i32),
    /// TLS failed; with the fault.
    Tls(Box<str>),
    /// The PROXY protocol header was missing or malformed; with the fault.
    Proxy(Box<str>),
}

/// A connection that got a close reason, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedEvent {
    /// The connection.
    pub conn: ConnId,
    /// Why it is closed.
    pub reason: CloseReason,
    /// Its key; empty if it never had one.
    pub key: Box<str>,
    /// What was wrong in particular; empty if the reason says everything.
    pub detail: Box<str>,
}
