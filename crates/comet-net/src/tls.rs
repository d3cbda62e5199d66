//! TLS of one connection: ciphertext in and out, plaintext to and from the shard.
//!
//! Between the calls a session holds what rustls needs to go on, and bytes only while they are in
//! flight: the start of a record whose rest has not come, and ciphertext the kernel has not taken.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{Error, ServerConfig};

/// Plaintext of one record (RFC 8446, section 5.1); a transmit is cut to it. So a slow reader holds
/// one record of ciphertext, and the shard sees it move record by record.
const RECORD_MAX: usize = 16 << 10;
/// What a record has beside its plaintext, at most.
const RECORD_BESIDE: usize = 32;
/// Ciphertext kept until the rest of its record or handshake message comes. A record has at most
/// 18,437 bytes; the rest is for handshake messages in several records, and honest ones are short.
const HELD_MAX: usize = 32 << 10;

pub(crate) struct TlsSession {
    rustls: UnbufferedServerConnection,
    /// The start of a record or of a handshake message.
    held: Vec<u8>,
    /// What the kernel reads: its bytes stay as they are until [`TlsSession::sent`] or
    /// [`TlsSession::fail`].
    under_way: Sealed,
    /// Bytes of it that the kernel took.
    taken: usize,
    /// Goes after it. rustls bounds what peers can make it answer without reading.
    next: Sealed,
    life: Life,
    /// Its next [`TlsSession::receive`] is promised.
    is_deferred: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    /// The peer sends no more.
    PeerClosed,
    /// rustls is not to be asked again.
    Failed,
}

/// Ciphertext, and how many bytes of a transmit are in it. Only one transmit is ever there.
#[derive(Default)]
struct Sealed {
    bytes: Vec<u8>,
    plain: usize,
}

/// What became of the reading side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// It goes on.
    Open,
    /// The peer said that it will send no more.
    Closed,
}

/// What to put on the wire once the handshake is done.
#[derive(Clone, Copy)]
enum Say<'a> {
    Nothing,
    Record(&'a [u8]),
    Goodbye,
}

/// Where rustls came to rest.
enum Rest {
    /// The handshake waits for the peer.
    Handshake,
    Open,
    Closed,
}

impl TlsSession {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Self {
        let rustls = UnbufferedServerConnection::new(config)
            .expect("only a fragment size of one's own could be refused");
        Self {
            rustls,
            held: Vec::new(),
            under_way: Sealed::default(),
            taken: 0,
            next: Sealed::default(),
            life: Life::Open,
            is_deferred: false,
        }
    }

    /// Keeps `bytes` for the next [`TlsSession::receive`] if they are part of a handshake, whose
    /// computations are dear. `false`: they are not, or there are too many of them to keep.
    pub(crate) fn defer(&mut self, bytes: &[u8]) -> bool {
        let defers = self.life == Life::Open
            && self.rustls.is_handshaking()
            && self.held.len() + bytes.len() <= HELD_MAX;
        if defers {
            self.held.extend_from_slice(bytes);
            self.is_deferred = true;
        }
        defers
    }

    pub(crate) fn is_deferred(&self) -> bool {
        self.is_deferred
    }

    /// Bytes have come, which are decrypted where they are; `hear` gets the plaintext.
    ///
    /// # Errors
    /// What is wrong, for the log. Nothing more is read then; the alert is what is to be sent last.
    pub(crate) fn receive(
        &mut self,
        bytes: &mut [u8],
        mut hear: impl FnMut(&[u8]),
    ) -> Result<Heard, String> {
        self.is_deferred = false;
        if self.life != Life::Open {
            return Ok(Heard::Open);
        }
        let rest = if self.held.is_empty() {
            let (used, rest) = self.advance(bytes, &mut hear, Say::Nothing);
            self.held.extend_from_slice(&bytes[used..]);
            rest
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(bytes);
            let (used, rest) = self.advance(&mut held, &mut hear, Say::Nothing);
            if used < held.len() {
                held.drain(..used);
                self.held = held;
            }
            rest
        };
        let fault = match rest {
            Ok(Rest::Closed) => {
                self.life = Life::PeerClosed;
                self.held = Vec::new();
                return Ok(Heard::Closed);
            }
            Ok(_) if self.held.len() <= HELD_MAX => return Ok(Heard::Open),
            Ok(_) => "a handshake message in too many records".to_owned(),
            Err(error) => error.to_string(),
        };
        self.life = Life::Failed;
        self.held = Vec::new();
        Err(fault)
    }

    /// Encrypts the start of a transmit, to be sent after all that is to be sent already. `false`: the
    /// handshake is not done or has failed, so nobody could read it.
    pub(crate) fn seal(&mut self, transmit: &[u8]) -> bool {
        debug_assert!(self.plain() == 0, "one transmit at a time");
        let record = &transmit[..transmit.len().min(RECORD_MAX)];
        let is_sealed = self.say(Say::Record(record));
        if is_sealed {
            self.next.plain = record.len();
        }
        is_sealed
    }

    /// Tells the peer that nothing more will come, if the handshake got as far as that.
    pub(crate) fn close(&mut self) {
        self.say(Say::Goodbye);
    }

    /// What to send next; its address and content stay until that was answered with
    /// [`TlsSession::sent`] or [`TlsSession::fail`].
    pub(crate) fn transmit(&mut self) -> Option<&[u8]> {
        if self.under_way.bytes.is_empty() {
            self.under_way = std::mem::take(&mut self.next);
            self.taken = 0;
        }
        let rest = &self.under_way.bytes[self.taken..];
        (!rest.is_empty()).then_some(rest)
    }

    /// The kernel took `bytes` of it. How many bytes of the shard's transmit are out with that.
    pub(crate) fn sent(&mut self, bytes: usize) -> usize {
        self.taken += bytes;
        assert!(self.taken <= self.under_way.bytes.len(), "the kernel took more than it was given");
        if self.taken < self.under_way.bytes.len() {
            return 0;
        }
        std::mem::take(&mut self.under_way).plain
    }

    /// Sending has failed, nothing more is sent. Whether a transmit of the shard is among what is lost.
    pub(crate) fn fail(&mut self) -> bool {
        let had_transmit = self.plain() > 0;
        self.under_way = Sealed::default();
        self.next = Sealed::default();
        had_transmit
    }

    fn plain(&self) -> usize {
        self.under_way.plain + self.next.plain
    }

    fn say(&mut self, say: Say<'_>) -> bool {
        if self.life == Life::Failed {
            return false;
        }
        // `held` is passed again because rustls keeps its position in input that it has not discarded. Bytes that
        // `defer` kept are new to it. It processes them here, and their plaintext is dropped: the shard sends before
        // the handshake is done only to close the connection, and ignores input from then on.
        let mut held = std::mem::take(&mut self.held);
        let (used, rest) = self.advance(&mut held, &mut |_| {}, say);
        held.drain(..used);
        self.held = held;
        matches!(rest, Ok(Rest::Open))
    }

    /// Lets rustls work until it needs more from either side, and says `say` if it may. How much of
    /// `input` was used, and where that ended.
    fn advance(
        &mut self,
        input: &mut [u8],
        hear: &mut impl FnMut(&[u8]),
        say: Say<'_>,
    ) -> (usize, Result<Rest, Error>) {
        let mut used = 0;
        let mut is_closed = false;
        loop {
            let UnbufferedStatus { discard, state, .. } =
                self.rustls.process_tls_records(&mut input[used..]);
            used += discard;
            let next = &mut self.next.bytes;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                used += record.discard;
                                hear(record.payload);
                            }
                            Err(error) => return (used, Err(error)),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(next, 0, |out| data.encode(out).map_err(Short::from))
                        .unwrap_or_else(|Spent| unreachable!("each record is encoded once"));
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => is_closed = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let said = match say {
                        Say::Nothing => Ok(()),
                        Say::Record(plain) => append(next, plain.len() + RECORD_BESIDE, |out| {
                            traffic.encrypt(plain, out).map_err(Short::from)
                        }),
                        Say::Goodbye => append(next, RECORD_BESIDE, |out| {
                            traffic.queue_close_notify(out).map_err(Short::from)
                        }),
                    };
                    let rest = if is_closed { Rest::Closed } else { Rest::Open };
                    return (used, said.map(|()| rest).map_err(|Spent| Error::EncryptError));
                }
                Ok(ConnectionState::BlockedHandshake) => return (used, Ok(Rest::Handshake)),
                Ok(ConnectionState::Closed) => return (used, Ok(Rest::Closed)),
                Ok(_) => return (used, Err(Error::General("early data was not offered".into()))),
                Err(error) => {
                    self.take_alert(&mut input[used..]);
                    return (used, Err(error));
                }
            }
        }
    }

    /// After an error: what is to be sent comes out before rustls looks at `input` again.
    fn take_alert(&mut self, input: &mut [u8]) {
        while self.rustls.wants_write() {
            let status = self.rustls.process_tls_records(input);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else {
                return;
            };
            append(&mut self.next.bytes, 0, |out| data.encode(out).map_err(Short::from))
                .unwrap_or_else(|Spent| unreachable!("each record is encoded once"));
        }
    }
}

/// The keys may not encrypt any more.
struct Spent;

/// Why rustls wrote nothing.
enum Short {
    /// It needs so much room.
    Room(usize),
    Spent,
}

impl From<EncodeError> for Short {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(size) => Self::Room(size.required_size),
            EncodeError::AlreadyEncoded => Self::Spent,
        }
    }
}

impl From<EncryptError> for Short {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(size) => Self::Room(size.required_size),
            EncryptError::EncryptExhausted => Self::Spent,
        }
    }
}

/// Has `write` add to `out`, in as much room as it asks for; `likely` is a first guess.
fn append(
    out: &mut Vec<u8>,
    likely: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Short>,
) -> Result<(), Spent> {
    let begin = out.len();
    let mut room = likely;
    loop {
        out.reserve_exact(room);
        out.resize(begin + room, 0);
        match write(&mut out[begin..]) {
            Ok(written) => {
                out.truncate(begin + written);
                return Ok(());
            }
            Err(Short::Room(required)) if required > room => room = required,
            Err(_) => {
                out.truncate(begin);
                return Err(Spent);
            }
        }
    }
}
