//! A session: opening and sealing of records, and the parts of the protocol after the handshake.

use crate::fault::{CLOSE_NOTIFY, FATAL, Fault, SealError, USER_CANCELED, WARNING};
use crate::keys::{Direction, Suite, Version};
use crate::record::{self, ALERT, APPLICATION_DATA, HANDSHAKE, HEADER_LEN, PLAINTEXT_MAX, TAG_LEN};

/// Most bytes of a record besides its plaintext.
pub const SEAL_OVERHEAD_MAX: usize = HEADER_LEN + 8 + TAG_LEN;

/// Most records in a row without application data. Each costs as much as one with data, and achieves nothing.
const RECORDS_WITHOUT_DATA_MAX: u8 = 32;

const CLIENT_HELLO: u8 = 1;
const KEY_UPDATE_LEN: usize = 5;
/// What each `KeyUpdate` begins with (RFC 8446, section 4.6.3): its type, and the length of its only field.
const KEY_UPDATE_HEADER: [u8; 4] = [24, 0, 0, 1];
const UPDATE_NOT_REQUESTED: u8 = 0;
const UPDATE_REQUESTED: u8 = 1;

/// The most bytes that [`Session::seal`] appends for `plaintext_len` bytes.
#[must_use]
pub fn sealed_len_max(plaintext_len: usize) -> usize {
    let key_update = KEY_UPDATE_LEN + SEAL_OVERHEAD_MAX;
    plaintext_len + plaintext_len.div_ceil(PLAINTEXT_MAX) * SEAL_OVERHEAD_MAX + key_update
}

/// The keys of both directions, and the state of the protocol.
pub struct Session {
    pub(crate) suite: Suite,
    pub(crate) receive: Direction,
    pub(crate) send: Direction,
    pub(crate) reading: Reading,
    /// An alert was sealed that is the last record of this side.
    pub(crate) has_ended: bool,
    /// The peer has asked for an update of our key.
    pub(crate) owes_key_update: bool,
    pub(crate) records_without_data: u8,
    /// How many bytes of a `KeyUpdate` have arrived: a peer may divide it among records.
    pub(crate) key_update_len: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Open,
    /// The peer has sent its `close_notify`.
    Closed,
    Failed,
}

/// The content of a record.
#[derive(PartialEq, Eq, Debug)]
pub enum Opened<'a> {
    /// Application data, at least one byte.
    Data(&'a [u8]),
    /// Nothing for the application.
    Nothing,
    /// The peer's `close_notify`. Ignore anything behind it.
    Closed,
}

impl Session {
    pub(crate) fn new(suite: Suite, receive: Direction, send: Direction) -> Self {
        Self {
            suite,
            receive,
            send,
            reading: Reading::Open,
            has_ended: false,
            owes_key_update: false,
            records_without_data: 0,
            key_update_len: 0,
        }
    }

    /// The negotiated suite.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Whether the peer has asked for an update of our key. [`Session::seal`] or [`Session::answer_key_update`] sends
    /// it. However often the peer asked, it gets one (RFC 8446, section 4.6.3).
    #[must_use]
    pub fn owes_key_update(&self) -> bool {
        self.owes_key_update
    }

    /// Opens one whole record, of the length that [`record_len`] returns, in place.
    ///
    /// # Errors
    /// What is wrong; [`Session::end`] seals the alert. From then on nothing is opened.
    ///
    /// # Panics
    /// If `record` has another length.
    ///
    /// [`record_len`]: crate::record_len
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<Opened<'a>, Fault> {
        match self.reading {
            Reading::Open => {}
            Reading::Closed => return Ok(Opened::Closed),
            Reading::Failed => return Err(Fault::Ended),
        }
        let opened = self.open_content(record);
        match opened {
            Ok(Opened::Closed) => self.reading = Reading::Closed,
            Ok(_) => {}
            Err(_) => self.reading = Reading::Failed,
        }
        opened
    }

    fn open_content<'a>(&mut self, record: &'a mut [u8]) -> Result<Opened<'a>, Fault> {
        if let Some(len) = record::record_len(record)? {
            assert_eq!(len, record.len(), "one whole record");
        } else {
            panic!("a record without its header");
        }
        let (content_type, range) = record::open(&mut self.receive, self.suite, record)?;
        let content = &record[range];
        // Records of another type must not come between those of a handshake message (RFC 8446, section 5.1).
        if self.key_update_len > 0 && content_type != HANDSHAKE {
            return Err(Fault::Unexpected);
        }
        if content_type == APPLICATION_DATA && !content.is_empty() {
            self.records_without_data = 0;
            return Ok(Opened::Data(content));
        }
        self.records_without_data += 1;
        if self.records_without_data > RECORDS_WITHOUT_DATA_MAX {
            return Err(Fault::NoData);
        }
        match content_type {
            APPLICATION_DATA => Ok(Opened::Nothing),
            ALERT | HANDSHAKE if content.is_empty() => Err(Fault::Unexpected),
            ALERT => self.handle_alert(content),
            HANDSHAKE => self.handle_handshake(content).map(|()| Opened::Nothing),
            _ => Err(Fault::Unexpected),
        }
    }

    fn handle_alert(&self, alert: &[u8]) -> Result<Opened<'static>, Fault> {
        let &[level, description] = alert else { return Err(Fault::Malformed) };
        match (self.suite.version, level, description) {
            (_, _, CLOSE_NOTIFY) => Ok(Opened::Closed),
            // With TLS 1.3 the level of an alert has no meaning; its description decides (RFC 8446, section 6).
            (Version::Tls13, _, USER_CANCELED) | (Version::Tls12, WARNING, _) => {
                Ok(Opened::Nothing)
            }
            (Version::Tls13, _, _) | (Version::Tls12, FATAL, _) => Err(Fault::Alert(description)),
            (Version::Tls12, _, _) => Err(Fault::IllegalParameter),
        }
    }

    fn handle_handshake(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.suite.version == Version::Tls12 {
            let is_hello = bytes[0] == CLIENT_HELLO;
            return Err(if is_hello { Fault::Renegotiation } else { Fault::Unexpected });
        }
        for (at, &byte) in bytes.iter().enumerate() {
            match KEY_UPDATE_HEADER.get(usize::from(self.key_update_len)) {
                Some(&expected) if byte == expected => self.key_update_len += 1,
                Some(_) if self.key_update_len == 0 => return Err(Fault::Unexpected),
                Some(_) => return Err(Fault::Malformed),
                None => {
                    // The bytes that follow use the next key, so they are in the next record (RFC 8446, section 5.1).
                    if at + 1 != bytes.len() {
                        return Err(Fault::Unexpected);
                    }
                    self.handle_key_update(byte)?;
                }
            }
        }
        Ok(())
    }

    fn handle_key_update(&mut self, request: u8) -> Result<(), Fault> {
        match request {
            UPDATE_NOT_REQUESTED => {}
            // Our last record is sealed already if this side has ended.
            UPDATE_REQUESTED => self.owes_key_update = !self.has_ended,
            _ => return Err(Fault::IllegalParameter),
        }
        self.key_update_len = 0;
        self.receive.update(self.suite);
        Ok(())
    }

    /// Appends `plaintext` as records. Before them it appends the `KeyUpdate` that the peer asked for or that the limit
    /// of the key requires. This is at most [`sealed_len_max`] bytes, unless a key reaches its limit within them.
    ///
    /// # Errors
    /// If nothing may be sealed any more. Nothing is appended then.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        if self.has_ended {
            return Err(SealError::Closed);
        }
        let records = plaintext.len().div_ceil(PLAINTEXT_MAX) as u64;
        let left = self.suite.data_records_max().saturating_sub(self.send.sequence);
        if self.suite.version == Version::Tls12 && records > left {
            return Err(SealError::KeyExhausted);
        }
        self.answer_key_update(out);
        for plaintext in plaintext.chunks(PLAINTEXT_MAX) {
            if self.send.sequence >= self.suite.data_records_max() {
                self.seal_key_update(UPDATE_NOT_REQUESTED, out);
            }
            record::seal(&mut self.send, self.suite, APPLICATION_DATA, plaintext, out);
        }
        Ok(())
    }

    /// Appends the `KeyUpdate` that the peer has asked for, if it has.
    pub fn answer_key_update(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.owes_key_update) && !self.has_ended {
            self.seal_key_update(UPDATE_NOT_REQUESTED, out);
        }
    }

    /// Appends a `KeyUpdate` of our own that asks the peer for one, too.
    ///
    /// # Errors
    /// If this side has ended. TLS 1.2 has no updates: its key is exhausted from the start.
    pub fn request_key_update(&mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        match (self.has_ended, self.suite.version) {
            (true, _) => Err(SealError::Closed),
            (false, Version::Tls12) => Err(SealError::KeyExhausted),
            (false, Version::Tls13) => {
                self.owes_key_update = false;
                self.seal_key_update(UPDATE_REQUESTED, out);
                Ok(())
            }
        }
    }

    fn seal_key_update(&mut self, request: u8, out: &mut Vec<u8>) {
        let [kind, high, middle, low] = KEY_UPDATE_HEADER;
        let message: [u8; KEY_UPDATE_LEN] = [kind, high, middle, low, request];
        record::seal(&mut self.send, self.suite, HANDSHAKE, &message, out);
        self.send.update(self.suite);
    }

    /// Appends a `close_notify`, unless this side has ended. Nothing is sealed after it.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.seal_last_alert([WARNING, CLOSE_NOTIFY], out);
    }

    /// Appends the alert that tells the peer of a fault, if there is one and this side has not ended. Nothing is sealed
    /// after it.
    pub fn end(&mut self, fault: Fault, out: &mut Vec<u8>) {
        self.reading = Reading::Failed;
        match fault.alert() {
            Some(alert) => self.seal_last_alert(alert, out),
            None => self.has_ended = true,
        }
    }

    fn seal_last_alert(&mut self, alert: [u8; 2], out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_ended, true) {
            record::seal(&mut self.send, self.suite, ALERT, &alert, out);
        }
    }
}
