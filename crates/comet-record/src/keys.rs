//! The key of one direction: its schedule and its limits.

use ring::aead::{self, LessSafeKey, NONCE_LEN, UnboundKey};
use ring::hkdf;
use zeroize::Zeroize;

/// The longest key, of AES-256 and ChaCha20.
pub(crate) const KEY_LEN_MAX: usize = 32;
/// The longest traffic secret, of SHA-384.
pub(crate) const SECRET_LEN_MAX: usize = 48;
/// Most records that one key of AES-GCM seals (RFC 8446, section 5.5, rounded down).
const AES_GCM_RECORDS_MAX: u64 = 1 << 24;
/// Records of these that are left for a `KeyUpdate` and an alert.
const RESERVED_RECORDS: u64 = 4;

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The cipher of a suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aead {
    /// `AES_128_GCM`, with TLS 1.3 beside SHA-256.
    Aes128Gcm,
    /// `AES_256_GCM`, with TLS 1.3 beside SHA-384.
    Aes256Gcm,
    /// `CHACHA20_POLY1305`, with TLS 1.3 beside SHA-256.
    ChaCha20Poly1305,
}

/// The parts of a cipher suite that matter after the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suite {
    /// The version of TLS.
    pub version: Version,
    /// The cipher.
    pub aead: Aead,
}

impl Suite {
    pub(crate) fn key_len(self) -> usize {
        self.algorithm().key_len()
    }

    /// The length of a traffic secret of TLS 1.3.
    pub(crate) fn secret_len(self) -> usize {
        match self.aead {
            Aead::Aes256Gcm => 48,
            Aead::Aes128Gcm | Aead::ChaCha20Poly1305 => 32,
        }
    }

    /// Length of the nonce part that each record carries. Only AES-GCM with TLS 1.2 has one.
    pub(crate) fn explicit_nonce_len(self) -> usize {
        match (self.version, self.aead) {
            (Version::Tls12, Aead::Aes128Gcm | Aead::Aes256Gcm) => 8,
            _ => 0,
        }
    }

    /// The number of the first record that may not be application data: from there on a key seals only a `KeyUpdate` or
    /// an alert.
    pub(crate) fn data_records_max(self) -> u64 {
        let most = match self.aead {
            Aead::Aes128Gcm | Aead::Aes256Gcm => AES_GCM_RECORDS_MAX,
            Aead::ChaCha20Poly1305 => u64::MAX,
        };
        most - RESERVED_RECORDS
    }

    fn algorithm(self) -> &'static aead::Algorithm {
        match self.aead {
            Aead::Aes128Gcm => &aead::AES_128_GCM,
            Aead::Aes256Gcm => &aead::AES_256_GCM,
            Aead::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self.aead {
            Aead::Aes256Gcm => hkdf::HKDF_SHA384,
            Aead::Aes128Gcm | Aead::ChaCha20Poly1305 => hkdf::HKDF_SHA256,
        }
    }
}

/// The key of one direction, and how many records it has protected.
#[derive(Clone)]
pub(crate) struct Direction {
    /// The number of the next record.
    pub(crate) sequence: u64,
    /// The traffic secret of TLS 1.3, from which the next one is derived; unused with TLS 1.2. The suite determines its
    /// length.
    secret: [u8; SECRET_LEN_MAX],
    /// The suite determines its length. The cipher's key schedule is computed for each record: it is more than twice as
    /// long as the rest of a session, and most sessions are idle.
    key: [u8; KEY_LEN_MAX],
    iv: [u8; NONCE_LEN],
    /// Key and IV belong to the secret. They are computed with the first record. So a process that takes over many
    /// sessions at once, most of them idle, spends no time on it.
    has_key: bool,
}

impl Direction {
    /// A direction with TLS 1.3.
    pub(crate) fn of_secret(suite: Suite, secret: &[u8], sequence: u64) -> Self {
        debug_assert_eq!(suite.version, Version::Tls13);
        Self {
            sequence,
            secret: padded(&secret[..suite.secret_len()]),
            key: [0; KEY_LEN_MAX],
            iv: [0; NONCE_LEN],
            has_key: false,
        }
    }

    /// A direction with TLS 1.2.
    pub(crate) fn of_key(suite: Suite, key: &[u8], iv: [u8; NONCE_LEN], sequence: u64) -> Self {
        debug_assert_eq!(suite.version, Version::Tls12);
        let (secret, key) = ([0; SECRET_LEN_MAX], padded(&key[..suite.key_len()]));
        Self { sequence, secret, key, iv, has_key: true }
    }

    pub(crate) fn secret(&self, suite: Suite) -> &[u8] {
        &self.secret[..suite.secret_len()]
    }

    /// The key. Only with TLS 1.2, or after the first record.
    pub(crate) fn key(&self, suite: Suite) -> &[u8] {
        debug_assert!(self.has_key);
        &self.key[..suite.key_len()]
    }

    pub(crate) fn iv(&self) -> &[u8; NONCE_LEN] {
        &self.iv
    }

    /// Switches to the next traffic secret (RFC 8446, section 7.2).
    pub(crate) fn update(&mut self, suite: Suite) {
        let mut next = [0; SECRET_LEN_MAX];
        let len = suite.secret_len();
        expand_label(suite, self.secret(suite), b"traffic upd", &mut next[..len]);
        self.secret = next;
        next.zeroize();
        self.sequence = 0;
        self.has_key = false;
    }

    /// Computes key and IV from the secret (RFC 8446, section 7.3), unless that was done. Call it before each record.
    pub(crate) fn prepare(&mut self, suite: Suite) {
        if std::mem::replace(&mut self.has_key, true) {
            return;
        }
        let (secret, key_len) = (&self.secret[..suite.secret_len()], suite.key_len());
        expand_label(suite, secret, b"key", &mut self.key[..key_len]);
        expand_label(suite, secret, b"iv", &mut self.iv);
    }

    pub(crate) fn cipher(&self, suite: Suite) -> LessSafeKey {
        let key = UnboundKey::new(suite.algorithm(), self.key(suite));
        LessSafeKey::new(key.expect("the key is as long as the suite says"))
    }

    /// The nonce of the next record (RFC 8446, section 5.3). With AES-GCM and TLS 1.2 its last eight bytes are the
    /// explicit part of records that we seal.
    pub(crate) fn nonce(&self) -> [u8; NONCE_LEN] {
        debug_assert!(self.has_key);
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.key.zeroize();
        self.iv.zeroize();
    }
}

fn padded<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
    let mut padded = [0; LEN];
    padded[..bytes.len()].copy_from_slice(bytes);
    padded
}

struct OutputLen(usize);

impl hkdf::KeyType for OutputLen {
    fn len(&self) -> usize {
        self.0
    }
}

/// `HKDF-Expand-Label` with an empty context (RFC 8446, section 7.1).
fn expand_label(suite: Suite, secret: &[u8], label: &[u8], out: &mut [u8]) {
    let len = u16::try_from(out.len()).expect("keys are short").to_be_bytes();
    let label_len = [u8::try_from(6 + label.len()).expect("labels are short")];
    let secret = hkdf::Prk::new_less_safe(suite.hkdf(), secret);
    let info = [&len[..], &label_len, b"tls13 ", label, &[0]];
    secret
        .expand(&info, OutputLen(out.len()))
        .and_then(|key| key.fill(out))
        .expect("keys are shorter than what HKDF gives");
}
