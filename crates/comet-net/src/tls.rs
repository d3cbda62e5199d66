//! The TLS session of one connection: ciphertext to and from the socket, plaintext to and from the
//! shard.
//!
//! Between calls a session holds what rustls needs, and bytes only while they are in flight: the
//! start of a record whose rest has not arrived, and ciphertext that the kernel has not taken.

mod budget;
mod encode;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use comet_core::limits::HELD_MAX;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{Error, ServerConfig};

use self::budget::Lease;
pub use self::budget::TLS_TRANSMITS_MAX;
pub(crate) use self::budget::TransmitBudget;
use self::encode::{KeysExhausted, append};

/// Most plaintext in one record (RFC 8446, section 5.1).
const RECORD_MAX: usize = 16 << 10;
/// Most bytes of a record besides its plaintext.
const RECORD_OVERHEAD_MAX: usize = 32;
/// Most ciphertext kept until the rest of its record or handshake message arrives. A record has at
/// most 18,437 bytes. The remainder is for handshake messages that span records; those of ordinary
/// clients are short.
const UNPROCESSED_MAX: usize = 32 << 10;
/// Most ciphertext kept for a handshake that waits for its turn: as much as the shard holds of a
/// client whose identity it awaits.
const DEFERRED_MAX: usize = HELD_MAX;

pub(crate) struct TlsSession {
    rustls: UnbufferedServerConnection,
    /// Received bytes that rustls has not consumed: the start of a record or of a handshake
    /// message, and the bytes of a deferred handshake.
    unprocessed: Vec<u8>,
    /// What the kernel reads. Its bytes stay unchanged until [`TlsSession::handle_sent`] or
    /// [`TlsSession::handle_send_failed`].
    in_flight: Ciphertext,
    /// Bytes of `in_flight` that the kernel took.
    written: usize,
    /// What is sent after `in_flight`. rustls bounds how much it answers to a peer that does not
    /// read.
    queued: Ciphertext,
    state: SessionState,
    /// `unprocessed` has bytes of a handshake, and a call of [`TlsSession::handle_recv`] is due.
    is_deferred: bool,
    /// Our first flight of the handshake was made, which is the expensive part.
    has_answered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SessionState {
    Open,
    /// The peer has sent its close_notify.
    PeerClosed,
    /// Our close_notify is queued or sent. Nothing is encrypted after it, and what the peer still sends is
    /// discarded: an alert must not follow a close_notify.
    Closed,
    /// rustls has returned an error and must not be called again.
    Failed,
}

/// Encrypted bytes, and how many bytes of a transmit they contain. A session has at most one
/// transmit at a time.
#[derive(Default)]
struct Ciphertext {
    bytes: Vec<u8>,
    plaintext_len: usize,
    /// Of the transmit, if it is longer than a record.
    lease: Option<Lease>,
}

/// Whether more plaintext can arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadSide {
    Open,
    /// The peer has sent its close_notify.
    Closed,
}

/// What to encrypt once the handshake is done.
#[derive(Clone, Copy)]
enum ToEncrypt<'a> {
    Nothing,
    Data(&'a [u8]),
    CloseNotify,
}

/// The state in which rustls waits for more input or output.
enum Idle {
    Handshaking,
    Open,
    Closed,
}

impl TlsSession {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Self {
        let rustls = UnbufferedServerConnection::new(config)
            .expect("rustls refuses only a maximum fragment size, and none is set");
        Self {
            rustls,
            unprocessed: Vec::new(),
            in_flight: Ciphertext::default(),
            written: 0,
            queued: Ciphertext::default(),
            state: SessionState::Open,
            is_deferred: false,
            has_answered: false,
        }
    }

    /// Keeps `bytes` for the next [`TlsSession::handle_recv`] if the handshake is not done, because
    /// its computations are expensive. Returns false if it is done.
    ///
    /// # Errors
    /// What is wrong, if there are too many bytes to keep. The session has failed then, and nothing
    /// was computed for it.
    pub(crate) fn defer(&mut self, bytes: &[u8]) -> Result<bool, String> {
        if self.state != SessionState::Open || !self.rustls.is_handshaking() {
            return Ok(false);
        }
        if self.unprocessed.len() + bytes.len() > DEFERRED_MAX {
            self.state = SessionState::Failed;
            self.unprocessed = Vec::new();
            self.is_deferred = false;
            return Err(format!("more than {DEFERRED_MAX} bytes before the handshake is done"));
        }
        self.unprocessed.extend_from_slice(bytes);
        self.is_deferred = true;
        Ok(true)
    }

    pub(crate) fn is_deferred(&self) -> bool {
        self.is_deferred
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Decrypts received bytes in place and calls `on_plaintext` with the result.
    ///
    /// # Errors
    /// What is wrong, for the log. Nothing more is decrypted after it; an alert is queued.
    pub(crate) fn handle_recv(
        &mut self,
        bytes: &mut [u8],
        mut on_plaintext: impl FnMut(&[u8]),
    ) -> Result<ReadSide, String> {
        self.is_deferred = false;
        if self.state != SessionState::Open {
            return Ok(ReadSide::Open);
        }
        let idle = if self.unprocessed.is_empty() {
            let (used, idle) = self.process(bytes, &mut on_plaintext, ToEncrypt::Nothing);
            self.unprocessed.extend_from_slice(&bytes[used..]);
            idle
        } else {
            let mut input = std::mem::take(&mut self.unprocessed);
            input.extend_from_slice(bytes);
            let (used, idle) = self.process(&mut input, &mut on_plaintext, ToEncrypt::Nothing);
            if used < input.len() {
                input.drain(..used);
                self.unprocessed = input;
            }
            idle
        };
        self.has_answered |= !self.queued.bytes.is_empty();
        let fault = match idle {
            Ok(Idle::Closed) => {
                self.state = SessionState::PeerClosed;
                self.unprocessed = Vec::new();
                return Ok(ReadSide::Closed);
            }
            Ok(_) if self.unprocessed.len() <= UNPROCESSED_MAX => return Ok(ReadSide::Open),
            Ok(_) => "a handshake message in too many records".to_owned(),
            Err(error) => error.to_string(),
        };
        self.state = SessionState::Failed;
        self.unprocessed = Vec::new();
        Err(fault)
    }

    /// Encrypts as much of a transmit as the budget has left, and at least one record, and queues
    /// it behind what is queued already. Returns false if the handshake is not done or the session
    /// has failed: the peer could not read it.
    pub(crate) fn encrypt(&mut self, transmit: &[u8], budget: &TransmitBudget) -> bool {
        debug_assert!(self.plaintext_len() == 0, "one transmit at a time");
        let lease = budget.lease(transmit.len().saturating_sub(RECORD_MAX));
        let most = RECORD_MAX + lease.as_ref().map_or(0, Lease::bytes);
        let plaintext = &transmit[..transmit.len().min(most)];
        let is_encrypted = self.queue(ToEncrypt::Data(plaintext));
        if is_encrypted {
            self.queued.plaintext_len = plaintext.len();
            self.queued.lease = lease;
        }
        is_encrypted
    }

    /// Queues a close_notify, if the handshake is done. From then on received bytes are discarded.
    pub(crate) fn close(&mut self) {
        self.queue(ToEncrypt::CloseNotify);
    }

    /// The bytes to send next. Their address and content stay unchanged until
    /// [`TlsSession::handle_sent`] or [`TlsSession::handle_send_failed`].
    pub(crate) fn poll_transmit(&mut self) -> Option<&[u8]> {
        if self.in_flight.bytes.is_empty() {
            self.in_flight = std::mem::take(&mut self.queued);
            self.written = 0;
        }
        let rest = &self.in_flight.bytes[self.written..];
        (!rest.is_empty()).then_some(rest)
    }

    /// The kernel took `bytes` of what is in flight. Returns how many bytes of the shard's transmit
    /// are sent by that: all that was encrypted once its last byte is taken, else 0.
    pub(crate) fn handle_sent(&mut self, bytes: usize) -> usize {
        self.written += bytes;
        assert!(
            self.written <= self.in_flight.bytes.len(),
            "the kernel took more than it was given"
        );
        if self.written < self.in_flight.bytes.len() {
            return 0;
        }
        std::mem::take(&mut self.in_flight).plaintext_len
    }

    /// A send failed: drops what is in flight and queued. Returns whether that includes a transmit
    /// of the shard.
    pub(crate) fn handle_send_failed(&mut self) -> bool {
        let had_transmit = self.plaintext_len() > 0;
        self.in_flight = Ciphertext::default();
        self.queued = Ciphertext::default();
        had_transmit
    }

    /// Whether a transmit of the shard is on its way to the kernel.
    pub(crate) fn is_sending_transmit(&self) -> bool {
        self.in_flight.plaintext_len > 0
    }

    fn plaintext_len(&self) -> usize {
        self.in_flight.plaintext_len + self.queued.plaintext_len
    }

    /// Encrypts `to_encrypt` into the queue. Returns false if the handshake is not done or the
    /// session has ended or failed. A handshake goes on in [`TlsSession::handle_recv`] alone, so the
    /// end of a connection computes none.
    fn queue(&mut self, to_encrypt: ToEncrypt<'_>) -> bool {
        if matches!(self.state, SessionState::Closed | SessionState::Failed)
            || self.rustls.is_handshaking()
        {
            return false;
        }
        // The input is passed again because rustls keeps its position in input that it has not
        // discarded.
        let mut input = std::mem::take(&mut self.unprocessed);
        let (used, idle) = self.process(&mut input, &mut |_| {}, to_encrypt);
        if idle.is_err() {
            self.state = SessionState::Failed;
        } else if let ToEncrypt::CloseNotify = to_encrypt {
            self.state = SessionState::Closed;
        } else {
            input.drain(..used);
            self.unprocessed = input;
        }
        matches!(idle, Ok(Idle::Open))
    }

    /// Lets rustls process `input` until it waits for either side. Encrypts `to_encrypt` if the
    /// handshake is done by then. Returns how many bytes of `input` were used, and the state that
    /// was reached.
    fn process(
        &mut self,
        input: &mut [u8],
        on_plaintext: &mut impl FnMut(&[u8]),
        to_encrypt: ToEncrypt<'_>,
    ) -> (usize, Result<Idle, Error>) {
        let mut used = 0;
        let mut is_closed = false;
        loop {
            let UnbufferedStatus { discard, state, .. } =
                self.rustls.process_tls_records(&mut input[used..]);
            used += discard;
            let queued = &mut self.queued.bytes;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                used += record.discard;
                                on_plaintext(record.payload);
                            }
                            Err(error) => return (used, Err(error)),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(queued, 0, |out| data.encode(out)).unwrap_or_else(|KeysExhausted| {
                        unreachable!("each record is encoded once")
                    });
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => is_closed = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let encrypted = match to_encrypt {
                        ToEncrypt::Nothing => Ok(()),
                        ToEncrypt::Data(plaintext) => {
                            let records = plaintext.len().div_ceil(RECORD_MAX);
                            append(queued, plaintext.len() + records * RECORD_OVERHEAD_MAX, |out| {
                                traffic.encrypt(plaintext, out)
                            })
                        }
                        ToEncrypt::CloseNotify => append(queued, RECORD_OVERHEAD_MAX, |out| {
                            traffic.queue_close_notify(out)
                        }),
                    };
                    let idle = if is_closed { Idle::Closed } else { Idle::Open };
                    let result = encrypted.map(|()| idle);
                    return (used, result.map_err(|KeysExhausted| Error::EncryptError));
                }
                Ok(ConnectionState::BlockedHandshake) => return (used, Ok(Idle::Handshaking)),
                Ok(ConnectionState::Closed) => return (used, Ok(Idle::Closed)),
                Ok(_) => return (used, Err(Error::General("early data was not offered".into()))),
                Err(error) => {
                    self.queue_alert(&mut input[used..]);
                    return (used, Err(error));
                }
            }
        }
    }

    /// Queues the alert of an error. rustls returns what it has to send before it reads `input`
    /// again.
    fn queue_alert(&mut self, input: &mut [u8]) {
        while self.rustls.wants_write() {
            let status = self.rustls.process_tls_records(input);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else {
                return;
            };
            append(&mut self.queued.bytes, 0, |out| data.encode(out))
                .unwrap_or_else(|KeysExhausted| unreachable!("each record is encoded once"));
        }
    }
}
