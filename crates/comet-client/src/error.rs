//! The errors that end a session or a connection: of the protocol, of TLS, and of the client.

use std::time::Duration;
use std::{error, fmt, io};

use comet_proto::{FrameFault, RoomRefusal};

use crate::retry_after;

/// Why a [`Session`](crate::Session) is over. It takes no more input after any of these.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// The server sent a close notice: operation 6, which has no code, or a WebSocket close.
    Closed {
        /// Close code of RFC 6455 section 7.4.
        code: Option<u16>,
        /// The server's text, which may be empty. Bytes that are not UTF-8 are replaced.
        reason: String,
        /// The delay that the server asks for before the next connection, an hour at most. It is
        /// not part of the reason.
        retry_after: Option<Duration>,
        /// Whether the server had accepted the token before.
        was_accepted: bool,
    },
    /// The server answered the WebSocket upgrade with a status other than 101.
    UpgradeRefused {
        /// HTTP status.
        status: u16,
        /// The delay of the answer's `Retry-After`, an hour at most. A date counts as none.
        retry_after: Option<Duration>,
    },
    /// The server's answer to the WebSocket upgrade breaks RFC 6455 section 4.1.
    BadUpgrade(&'static str),
    /// The server sent a malformed frame, or one beyond the session's limit.
    Frame(FrameFault),
    /// The server sent a batch (operation 9) where none is allowed: over TCP, or inside another
    /// batch.
    StrayBatch,
    /// The server sent a frame about rooms that is malformed, or a push to a room that it has not named.
    BadRoomFrame {
        /// The frame's operation.
        operation: i32,
    },
    /// The server violated RFC 6455.
    WebSocket(WebSocketFault),
    /// The session had ended before.
    Over,
}

/// How a server violated RFC 6455 or a limit of this client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WebSocketFault {
    /// A frame header that cannot be read.
    Header,
    /// An opcode RFC 6455 does not define.
    Opcode,
    /// A reserved bit is set though no extension was agreed on.
    Reserved,
    /// The server masked a frame, which it must not.
    Masked,
    /// A fragmented control frame, or one of more than 125 bytes.
    Control,
    /// A continuation without a message, or a new message inside a fragmented one.
    Fragment,
    /// A text message; frames travel in binary messages.
    Text,
    /// A close frame with half a code or a text that is not UTF-8.
    Close,
    /// A message beyond the session's limit.
    TooLarge,
}

impl SessionError {
    /// The end by a close with the server's `text`, which may end in a delay.
    pub(crate) fn closed(code: Option<u16>, text: &str, was_accepted: bool) -> Self {
        let (reason, retry_after) = retry_after::split(text);
        Self::Closed { code, reason: reason.to_owned(), retry_after, was_accepted }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code: Some(code), reason, .. } => {
                write!(f, "the server closed with code {code}: {reason:?}")
            }
            Self::Closed { code: None, reason, .. } => write!(f, "the server closed: {reason:?}"),
            Self::UpgradeRefused { status, .. } => {
                write!(f, "the server refused the upgrade with status {status}")
            }
            Self::BadUpgrade(what) => write!(f, "bad answer to the upgrade: {what}"),
            Self::Frame(fault) => write!(f, "bad frame: {fault}"),
            Self::BadRoomFrame { operation } => {
                write!(f, "a frame with operation {operation} about no known room")
            }
            Self::StrayBatch => f.write_str("a batch where none is allowed"),
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
            Self::Text => "text instead of binary",
            Self::Close => "malformed close",
            Self::TooLarge => "larger than accepted",
        })
    }
}

impl error::Error for WebSocketFault {}

/// Why a [`Client`](crate::Client) failed. The connection is of no further use, except after
/// [`Error::BodyTooLong`], [`Error::TooManyOperations`], [`Error::NeedsProtocol2`] and [`Error::Room`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The socket failed, or no address could be reached.
    Io(io::Error),
    /// The server closed with a reason, refused, or violated the protocol.
    Session(SessionError),
    /// TLS failed.
    #[cfg(feature = "tls")]
    Tls(TlsError),
    /// The server ended the stream without a close notice.
    Ended,
    /// The server did not accept the connection, or answer a request, within this time.
    Unanswered(Duration),
    /// The server sent nothing for a whole heartbeat interval after a heartbeat.
    Silent,
    /// More messages arrived than may wait for [`Client::receive`](crate::Client::receive).
    Backlog,
    /// The server speaks protocol 1, which cannot renew tokens and has only one room. Nothing was sent.
    NeedsProtocol2,
    /// The server did not let the connection into a room, or out of it.
    Room(RoomRefusal),
    /// A listener was to choose more operations than servers list for a connection: 64. Nothing was sent.
    TooManyOperations,
    /// A body to be sent is longer than servers accept. Nothing was sent.
    BodyTooLong {
        /// Its length in bytes.
        len: usize,
    },
}

/// Why further attempts with the same [`Options`](crate::Options) cannot succeed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Permanent {
    /// The server refused the token: it closed before it accepted, and named no delay.
    Refused,
    /// Another connection with the same key has replaced this one. If both reconnected, they would replace each other
    /// for ever.
    Replaced,
    /// A caller of the push API had the connection closed, and named no delay.
    Kicked,
    /// The server has no WebSocket for this client: a status of 400 to 499, other than 408, 425 and 429, without a
    /// delay.
    NoUpgrade,
    /// The token or the room is longer than servers accept.
    TooLong,
    /// The options for TLS cannot be used.
    #[cfg(feature = "tls")]
    TlsOptions,
}

impl fmt::Display for Permanent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the server refuses the token",
            Self::Replaced => "another connection has the same key",
            Self::Kicked => "the server's operator has closed the connection for good",
            Self::NoUpgrade => "the server refuses the WebSocket",
            Self::TooLong => "the token or the room is too long",
            #[cfg(feature = "tls")]
            Self::TlsOptions => "the options for TLS cannot be used",
        })
    }
}

/// Labels of a close before the acceptance that do not refer to the token (`docs/PROTOCOL.md`).
const TEMPORARY: [&str; 3] = ["draining", "handshake_timeout", "too_many_sessions"];

/// Codes of servers and proxies that go away, restart or are overloaded (RFC 6455 section 7.4, IANA's registry).
const TEMPORARY_CODES: [u16; 6] = [1000, 1001, 1011, 1012, 1013, 1014];

/// Whether a close before the acceptance does not refer to the token. A close without a code and a text refers to
/// nothing.
fn is_temporary(code: Option<u16>, label: &str) -> bool {
    TEMPORARY.contains(&label)
        || code.map_or(label.is_empty(), |code| TEMPORARY_CODES.contains(&code))
}

impl Error {
    /// Why further attempts cannot succeed; `None`: one may.
    #[must_use]
    pub fn permanent(&self) -> Option<Permanent> {
        match self {
            Self::Session(SessionError::Closed {
                code,
                reason,
                retry_after: None,
                was_accepted,
            }) => match reason.split(':').next().unwrap_or_default() {
                "replaced" => Some(Permanent::Replaced),
                "kicked" => Some(Permanent::Kicked),
                label if *was_accepted || is_temporary(*code, label) => None,
                _ => Some(Permanent::Refused),
            },
            Self::Session(SessionError::UpgradeRefused {
                status: status @ 400..=499,
                retry_after: None,
            }) if ![408, 425, 429].contains(status) => Some(Permanent::NoUpgrade),
            Self::BodyTooLong { .. } => Some(Permanent::TooLong),
            #[cfg(feature = "tls")]
            Self::Tls(
                TlsError::NoAuthority | TlsError::BadAuthority(_) | TlsError::BadServerName(_),
            ) => Some(Permanent::TlsOptions),
            _ => None,
        }
    }

    /// Whether the server closed because the token has expired. A further attempt with the same token is refused;
    /// [`Listener::set_token`](crate::Listener::set_token) gives it another.
    #[must_use]
    pub fn is_token_expired(&self) -> bool {
        matches!(self, Self::Session(SessionError::Closed { reason, .. }) if reason == "token_expired")
    }

    /// Whether the server closed because the client has entered or left rooms too fast.
    pub(crate) fn is_room_rate(&self) -> bool {
        matches!(self, Self::Session(SessionError::Closed { reason, .. })
            if reason.split(':').next() == Some("room_rate"))
    }

    /// The delay that the server asked for when it closed or refused the upgrade, an hour at most.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Session(
                SessionError::Closed { retry_after, .. }
                | SessionError::UpgradeRefused { retry_after, .. },
            ) => *retry_after,
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
            Self::Backlog => f.write_str("too many messages wait to be received"),
            Self::NeedsProtocol2 => f.write_str("the server speaks protocol 1 alone"),
            Self::Room(refusal) => write!(f, "the server refused the room: {}", refusal.label()),
            Self::TooManyOperations => f.write_str("more operations than the 64 of a connection"),
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

/// Why TLS failed.
#[cfg(feature = "tls")]
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The PEM text of the trusted certificates contains none.
    NoAuthority,
    /// One of the trusted certificates cannot be read.
    BadAuthority(String),
    /// The server name is neither a DNS name nor an IP address.
    BadServerName(String),
    /// The server's certificate is not signed by a trusted authority.
    Untrusted,
    /// The server's certificate is for other names; the text lists them.
    OtherName(String),
    /// The server's certificate is that of a certificate authority, which no server may use (RFC
    /// 5280 section 4.2.1.9).
    CaCertificate,
    /// The server does not speak TLS.
    NotTls,
    /// Any other failure of TLS.
    Failed(rustls::Error),
}

#[cfg(feature = "tls")]
impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        use rustls::CertificateError as Fault;
        match error {
            // A bad signature comes from an authority with the name of a trusted one but another key.
            rustls::Error::InvalidCertificate(Fault::UnknownIssuer | Fault::BadSignature) => {
                Self::Untrusted
            }
            rustls::Error::InvalidCertificate(
                fault @ (Fault::NotValidForName | Fault::NotValidForNameContext { .. }),
            ) => Self::OtherName(fault.to_string()),
            // rustls has no variant for this fault. openssl makes such certificates by default.
            rustls::Error::InvalidCertificate(Fault::Other(other))
                if other.to_string() == "CaUsedAsEndEntity" =>
            {
                Self::CaCertificate
            }
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
                Self::NotTls
            }
            error => Self::Failed(error),
        }
    }
}

#[cfg(feature = "tls")]
impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAuthority => f.write_str("no PEM certificate to trust"),
            Self::BadAuthority(what) => {
                write!(f, "a trusted certificate cannot be read: {what}")
            }
            Self::BadServerName(name) => {
                write!(f, "{name:?} is not a valid server name")
            }
            Self::Untrusted => {
                f.write_str("the server's certificate is not signed by a trusted authority")
            }
            Self::OtherName(what) => write!(f, "the server has another name: {what}"),
            Self::CaCertificate => {
                f.write_str("the server's certificate is an authority's, not a server's")
            }
            Self::NotTls => f.write_str("the server speaks no TLS here"),
            Self::Failed(error) => write!(f, "TLS failed: {error}"),
        }
    }
}

#[cfg(feature = "tls")]
impl error::Error for TlsError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}
