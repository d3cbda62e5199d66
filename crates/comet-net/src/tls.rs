//! The TLS session of one connection: ciphertext to and from the socket, plaintext to and from the
//! shard.
//!
//! rustls speaks the handshake. Then comet's record layer takes over, so a session is two keys and two counters.
//! Between calls the session holds bytes only while they are in flight: the start of a record whose rest has not
//! arrived, and ciphertext that the kernel has not taken.

mod budget;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handshake;
mod moving;
#[cfg(test)]
mod tests;

use comet_core::limits::HELD_MAX;
use comet_record::{Fault, Opened, PLAINTEXT_MAX, SealError, Session, record_len, sealed_len_max};
use rustls::ServerConfig;

use self::budget::Lease;
pub use self::budget::TLS_TRANSMITS_MAX;
pub(crate) use self::budget::TransmitBudget;
use self::handshake::{Handshake, Progress};

/// Most ciphertext kept until the rest of its record or handshake message arrives. A record has at
/// most 18,437 bytes. The remainder is for handshake messages that span records; those of ordinary
/// clients are short.
const UNPROCESSED_MAX: usize = 32 << 10;
/// Most ciphertext kept for a handshake that waits for its turn. The shard holds as much for a client whose identity it
/// awaits.
const DEFERRED_MAX: usize = HELD_MAX;

pub(crate) struct TlsSession {
    layer: Layer,
    /// Received bytes that are not processed yet: the start of a record or of a handshake message, and the bytes of a
    /// deferred handshake.
    unprocessed: Vec<u8>,
    /// The ciphertext that the kernel reads. It stays unchanged until [`TlsSession::handle_sent`] or
    /// [`TlsSession::handle_send_failed`].
    in_flight: Ciphertext,
    /// Bytes of `in_flight` that the kernel took.
    written: usize,
    /// The ciphertext to send after `in_flight`. A peer that does not read gets a single answer to all its key update
    /// requests.
    queued: Ciphertext,
    state: SessionState,
    /// `unprocessed` has bytes of a handshake, and a call of [`TlsSession::handle_recv`] is due.
    is_deferred: bool,
    /// Our first flight of the handshake, the expensive part, was made.
    has_answered: bool,
}

/// The code that processes the records.
#[allow(clippy::large_enum_variant, reason = "nearly all connections have the large one")]
enum Layer {
    Handshake(Box<Handshake>),
    Records(Session),
    /// The handshake failed. Nothing is processed any more.
    None,
}

/// Part of the memory budget of every connection with TLS, idle or not.
const _: () = assert!(size_of::<TlsSession>() <= 384);

#[derive(Clone, Copy, PartialEq, Eq)]
enum SessionState {
    Open,
    /// The peer has sent its close_notify.
    PeerClosed,
    /// Our close_notify is queued or sent. Nothing is encrypted after it. Further input of the peer is discarded,
    /// because an alert must not follow a close_notify.
    Closed,
    /// The peer has broken the protocol, or has sent an alert. Nothing is processed after it.
    Failed,
}

/// Encrypted bytes, and the number of bytes of a transmit in them. A session has at most one transmit at a time.
#[derive(Default)]
struct Ciphertext {
    bytes: Vec<u8>,
    plaintext_len: usize,
    /// The lease of the transmit, if it is longer than a record.
    lease: Option<Lease>,
}

/// Why a transmit is not encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EncryptError {
    /// The handshake is not done or the session has failed, so the peer could not read it.
    NotReadable,
    /// The session cannot seal it: its key is exhausted.
    NotSealed(SealError),
}

/// Whether more plaintext can arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadSide {
    Open,
    /// The peer has sent its close_notify.
    Closed,
}

impl Layer {
    /// The session, unless its handshake is not done or it has ended or failed. A handshake continues only in
    /// [`TlsSession::handle_recv`], so closing a connection never computes one.
    fn writable(&mut self, state: SessionState) -> Option<&mut Session> {
        match (self, state) {
            (Self::Records(session), SessionState::Open | SessionState::PeerClosed) => {
                Some(session)
            }
            _ => None,
        }
    }
}

impl TlsSession {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        Self {
            layer: Layer::Handshake(Box::new(Handshake::new(config))),
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
    /// What is wrong, if there are too many bytes to keep. The session has failed then, without any computation.
    pub(crate) fn defer(&mut self, bytes: &[u8]) -> Result<bool, String> {
        if self.state != SessionState::Open || !self.is_handshaking() {
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
        let processed = if self.unprocessed.is_empty() {
            let (used, processed) = self.process(bytes, &mut on_plaintext);
            self.unprocessed.extend_from_slice(&bytes[used..]);
            processed
        } else {
            let mut input = std::mem::take(&mut self.unprocessed);
            input.extend_from_slice(bytes);
            let (used, processed) = self.process(&mut input, &mut on_plaintext);
            if used < input.len() {
                input.drain(..used);
                self.unprocessed = input;
            }
            processed
        };
        self.has_answered |= !self.queued.bytes.is_empty();
        let fault = match processed {
            Ok(ReadSide::Closed) => {
                self.state = SessionState::PeerClosed;
                self.unprocessed = Vec::new();
                return Ok(ReadSide::Closed);
            }
            Ok(ReadSide::Open) if self.unprocessed.len() <= UNPROCESSED_MAX => {
                return Ok(ReadSide::Open);
            }
            Ok(ReadSide::Open) => "a handshake message in too many records".to_owned(),
            Err(fault) => fault,
        };
        self.state = SessionState::Failed;
        self.unprocessed = Vec::new();
        Err(fault)
    }

    /// Encrypts as much of a transmit as the budget has left, and at least one record, and queues
    /// it behind what is queued already.
    ///
    /// # Errors
    /// Why nothing is encrypted.
    pub(crate) fn encrypt(
        &mut self,
        transmit: &[u8],
        budget: &TransmitBudget,
    ) -> Result<(), EncryptError> {
        debug_assert!(!self.has_transmit(), "one transmit at a time");
        let session = self.layer.writable(self.state).ok_or(EncryptError::NotReadable)?;
        let lease = budget.lease(transmit.len().saturating_sub(PLAINTEXT_MAX));
        let most = PLAINTEXT_MAX + lease.as_ref().map_or(0, Lease::bytes);
        let plaintext = &transmit[..transmit.len().min(most)];
        let queued = &mut self.queued.bytes;
        queued.reserve_exact(sealed_len_max(plaintext.len()));
        if let Err(error) = session.seal(plaintext, queued) {
            self.state = SessionState::Failed;
            return Err(EncryptError::NotSealed(error));
        }
        self.queued.plaintext_len = plaintext.len();
        self.queued.lease = lease;
        Ok(())
    }

    /// Queues a close_notify, if the handshake is done. From then on received bytes are discarded.
    pub(crate) fn close(&mut self) {
        if let Some(session) = self.layer.writable(self.state) {
            session.close(&mut self.queued.bytes);
            self.state = SessionState::Closed;
            self.unprocessed = Vec::new();
        }
    }

    /// The bytes to send next. Their address and content stay unchanged until [`TlsSession::handle_sent`] or
    /// [`TlsSession::handle_send_failed`].
    pub(crate) fn poll_transmit(&mut self) -> Option<&[u8]> {
        if self.in_flight.bytes.is_empty() {
            self.in_flight = std::mem::take(&mut self.queued);
        }
        let rest = &self.in_flight.bytes[self.written..];
        (!rest.is_empty()).then_some(rest)
    }

    /// The kernel took `bytes` of the ciphertext in flight. Returns how many bytes of the shard's transmit are sent by
    /// that: all that were encrypted once the last byte is taken, before that 0.
    pub(crate) fn handle_sent(&mut self, bytes: usize) -> usize {
        self.written += bytes;
        assert!(
            self.written <= self.in_flight.bytes.len(),
            "the kernel took more than it was given"
        );
        if self.written < self.in_flight.bytes.len() {
            return 0;
        }
        self.written = 0;
        std::mem::take(&mut self.in_flight).plaintext_len
    }

    /// A send failed: drops the ciphertext in flight and queued. Returns whether it included a transmit of the shard.
    pub(crate) fn handle_send_failed(&mut self) -> bool {
        let had_transmit = self.has_transmit();
        self.in_flight = Ciphertext::default();
        self.written = 0;
        self.queued = Ciphertext::default();
        had_transmit
    }

    /// Whether a transmit of the shard is on its way to the kernel.
    pub(crate) fn is_sending_transmit(&self) -> bool {
        self.in_flight.plaintext_len > 0
    }

    /// Whether a transmit of the shard is sealed and not yet sent.
    pub(crate) fn has_transmit(&self) -> bool {
        self.plaintext_len() > 0
    }

    fn plaintext_len(&self) -> usize {
        self.in_flight.plaintext_len + self.queued.plaintext_len
    }

    fn is_handshaking(&self) -> bool {
        matches!(self.layer, Layer::Handshake(_))
    }

    /// Processes all records in `input` that are complete. Returns how many bytes of it were used.
    fn process(
        &mut self,
        input: &mut [u8],
        on_plaintext: &mut impl FnMut(&[u8]),
    ) -> (usize, Result<ReadSide, String>) {
        let mut used = 0;
        if let Layer::Handshake(handshake) = &mut self.layer {
            let (in_handshake, progress) = handshake.process(input, &mut self.queued.bytes);
            used = in_handshake;
            match progress {
                Ok(Progress::Waiting) => return (used, Ok(ReadSide::Open)),
                Ok(Progress::Done) => {
                    if let Err(fault) = self.switch_to_records() {
                        return (used, Err(fault));
                    }
                }
                Err(error) => {
                    self.layer = Layer::None;
                    return (used, Err(error.to_string()));
                }
            }
        }
        let Layer::Records(session) = &mut self.layer else { return (used, Ok(ReadSide::Open)) };
        let opened = open(session, input, &mut used, on_plaintext);
        if let Err(fault) = opened {
            session.end(fault, &mut self.queued.bytes);
        } else if self.in_flight.bytes.is_empty() && self.queued.bytes.is_empty() {
            // If something is under way, the answer waits for the next transmit. So answers cannot pile up for a peer
            // that does not read.
            session.answer_key_update(&mut self.queued.bytes);
        }
        (used, opened.map_err(|fault| fault.to_string()))
    }

    fn switch_to_records(&mut self) -> Result<(), String> {
        let Layer::Handshake(handshake) = std::mem::replace(&mut self.layer, Layer::None) else {
            unreachable!("only a handshake that is done is taken over");
        };
        self.layer = Layer::Records(handshake.into_session()?);
        Ok(())
    }
}

/// Opens the records of `input` from `used` on, and moves `used` behind them.
fn open(
    session: &mut Session,
    input: &mut [u8],
    used: &mut usize,
    on_plaintext: &mut impl FnMut(&[u8]),
) -> Result<ReadSide, Fault> {
    while let Some(len) = record_len(&input[*used..])? {
        let Some(record) = input.get_mut(*used..*used + len) else { break };
        *used += len;
        match session.open(record)? {
            Opened::Data(plaintext) => on_plaintext(plaintext),
            Opened::Nothing => {}
            Opened::Closed => return Ok(ReadSide::Closed),
        }
    }
    Ok(ReadSide::Open)
}
