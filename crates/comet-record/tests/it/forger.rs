//! Records with any content, sealed apart from the code under test with the key of the client in [`crate::peer`].

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// Seals for the server of `pair(SUITES[0])`, TLS 1.3, or of `pair(SUITES[3])`, TLS 1.2; both with AES-128-GCM.
pub(crate) struct Forger {
    is_tls13: bool,
    key: LessSafeKey,
    iv: Vec<u8>,
    sequence: u64,
}

impl Forger {
    pub(crate) fn tls13() -> Self {
        Self::of_secret(&[1; 32])
    }

    fn of_secret(secret: &[u8]) -> Self {
        let (key, iv) = (expand(secret, "key", 16), expand(secret, "iv", 12));
        Self { is_tls13: true, key: aes(&key), iv, sequence: 0 }
    }

    /// A forger with the key that follows an update.
    pub(crate) fn tls13_updated() -> Self {
        Self::of_secret(&expand(&[1; 32], "traffic upd", 32))
    }

    pub(crate) fn tls12() -> Self {
        Self { is_tls13: false, key: aes(&[1; 16]), iv: vec![1; 12], sequence: 0 }
    }

    /// A record of `content_type`, with this many bytes of padding if it is one of TLS 1.3.
    pub(crate) fn record(&mut self, content_type: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut nonce = self.iv.clone();
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        let mut sealed = content.to_vec();
        let (header, explicit, aad) = if self.is_tls13 {
            sealed.push(content_type);
            sealed.resize(sealed.len() + padding, 0);
            let header = header(23, sealed.len() + 16);
            (header.clone(), Vec::new(), header)
        } else {
            let header = header(content_type, 8 + sealed.len() + 16);
            let number = self.sequence.to_be_bytes();
            let len = u16::try_from(sealed.len()).unwrap().to_be_bytes();
            let aad = [&number[..], &[content_type, 3, 3], &len].concat();
            (header, nonce[4..].to_vec(), aad)
        };
        let nonce = Nonce::try_assume_unique_for_key(&nonce).unwrap();
        self.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).unwrap();
        self.sequence += 1;
        [header, explicit, sealed].concat()
    }
}

fn header(content_type: u8, len: usize) -> Vec<u8> {
    [&[content_type, 3, 3][..], &u16::try_from(len).unwrap().to_be_bytes()].concat()
}

fn aes(key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).unwrap())
}

fn expand(secret: &[u8], label: &str, len: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let head = [0, u8::try_from(len).unwrap(), u8::try_from(label.len()).unwrap()];
    let mut out = vec![0; len];
    let secret = Prk::new_less_safe(HKDF_SHA256, secret);
    secret.expand(&[&head, label.as_bytes(), &[0]], Len(len)).unwrap().fill(&mut out).unwrap();
    out
}
