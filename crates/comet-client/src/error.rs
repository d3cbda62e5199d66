//! What can end a session or a connection, split by who is at fault.

use std::time::Duration;
use std::{error, fmt, io};

use comet_proto::FrameFault;

use crate::hint;
#[cfg(feature = "tls")]
use crate::tls::TlsError;

/// Why a [`Session`](crate::Session) is over. It takes no more input after any of these.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// The server closed the connection and said so: with operation 6 (then there is no code) or
    /// with a WebSocket close.
    Closed {
        /// Close code of RFC 6455 section 7.4.
        code: Option<u16>,
        /// The server's words, empty where it has none; lossy where they are not UTF-8.
        reason: String,
        /// How long the server asks to be left alone, an hour at most. It is not in the reason.
        retry_after: Option<Duration>,
    },
    /// The server answered the WebSocket upgrade with another status than 101.
    UpgradeRefused {
        /// HTTP status.
        status: u16,
    },
    /// The server's answer to the WebSocket upgrade breaks RFC 6455 section 4.1.
    BadUpgrade(&'static str),
    /// The server sent a frame that is none, or one beyond the session's limit.
    Frame(FrameFault),
    /// The server sent a batch (operation 9) where none can be: over TCP, or inside another.
    StrayBatch,
    /// The server broke RFC 6455.
    WebSocket(WebSocketFault),
    /// The session was over before.
    Over,
}

/// How a server broke RFC 6455, or went beyond what this client accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WebSocketFault {
    /// A frame header that cannot be read.
    Header,
    /// An opcode RFC 6455 does not define.
    Opcode,
    /// A reserved bit is set though no extension was agreed on.
    Reserved,
    /// A server must not mask.
    Masked,
    /// A fragmented control frame, or one of more than 125 bytes.
    Control,
    /// A continuation of nothing, or a new message inside a fragmented one.
    Fragment,
    /// A text message; this protocol is binary.
    Text,
    /// A close frame with half a code or a text that is not UTF-8.
    Close,
    /// A message beyond the session's limit.
    TooLarge,
}

impl SessionError {
    /// A close with the server's `goodbye`, which may end in a delay.
    pub(crate) fn closed(code: Option<u16>, goodbye: &str) -> Self {
        let (reason, retry_after) = hint::split(goodbye);
        Self::Closed { code, reason: reason.to_owned(), retry_after }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code: Some(code), reason, .. } => {
                write!(f, "the server closed with code {code}: {reason:?}")
            }
            Self::Closed { code: None, reason, .. } => write!(f, "the server closed: {reason:?}"),
            Self::UpgradeRefused { status } => {
                write!(f, "the server refused the upgrade with status {status}")
            }
            Self::BadUpgrade(what) => write!(f, "bad answer to the upgrade: {what}"),
            Self::Frame(fault) => write!(f, "bad frame: {fault}"),
            Self::StrayBatch => f.write_str("a batch where none can be"),
            Self::WebSocket(fault) => write!(f, "bad WebSocket frame: {fault}"),
            Self::Over => f.write_str("the session is over"),
        }
    }
}

impl error::Error for SessionError {}

impl From<FrameFault> for SessionError {
    fn from(fault: FrameFault) -> Self {
        Self::Frame(fault)
    }
}

impl From<WebSocketFault> for SessionError {
    fn from(fault: WebSocketFault) -> Self {
        Self::WebSocket(fault)
    }
}

impl fmt::Display for WebSocketFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "unreadable header",
            Self::Opcode => "undefined opcode",
            Self::Reserved => "reserved bit set",
            Self::Masked => "masked by the server",
            Self::Control => "control frame fragmented or too long",
            Self::Fragment => "fragments out of order",
            Self::Text => "text where binary is spoken",
            Self::Close => "malformed close",
            Self::TooLarge => "larger than accepted",
        })
    }
}

impl error::Error for WebSocketFault {}

/// Why a [`Client`](crate::Client) failed. The connection is of no further use, except after
/// [`Error::BodyTooLong`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The socket failed, or no address could be reached.
    Io(io::Error),
    /// The server closed with a reason, refused, or broke the protocol.
    Session(SessionError),
    /// TLS failed, or was not to be had.
    #[cfg(feature = "tls")]
    Tls(TlsError),
    /// The server ended the stream without a word.
    Ended,
    /// The server did not answer within this time: to the connection, or to a request.
    Unanswered(Duration),
    /// Nothing came from the server for a whole heartbeat interval after a heartbeat.
    Silent,
    /// More came than may wait for [`Client::receive`](crate::Client::receive).
    Backlog,
    /// A body to be sent is longer than servers accept. Nothing was sent.
    BodyTooLong {
        /// Its length in bytes.
        len: usize,
    },
}

impl Error {
    /// How long the server asked to be left alone when it closed; an hour at most.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Session(SessionError::Closed { retry_after, .. }) => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Session(error) => error.fmt(f),
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.fmt(f),
            Self::Ended => f.write_str("the server ended the connection"),
            Self::Unanswered(time) => write!(f, "no answer within {time:?}"),
            Self::Silent => f.write_str("no heartbeat was answered"),
            Self::Backlog => f.write_str("too much waits to be received"),
            Self::BodyTooLong { len } => write!(f, "a body of {len} bytes is too long to send"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io(error) => error.source(),
            Self::Session(error) => error.source(),
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.source(),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<SessionError> for Error {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

#[cfg(feature = "tls")]
impl From<TlsError> for Error {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}
