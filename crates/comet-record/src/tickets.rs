//! Session tickets whose keys another process can continue to use.
//!
//! A server seals the state it needs to resume a session and gives it to the client (RFC 5077, RFC 8446 section 4.6.1).
//! The newest key seals; former keys only open, so that a ticket is valid for a while after its key was replaced.
//! rustls's own ticketer does the same, but does not give out its keys.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;
use zeroize::{Zeroize, Zeroizing};

use crate::state::ImportError;

/// How long a key seals tickets.
pub const TICKET_KEY_ROTATION: Duration = Duration::from_secs(6 * 3600);
/// How long a key opens tickets, and the lifetime that clients are told. Tickets sealed late in the life of a key are
/// valid for less.
const LIFETIME: Duration = TICKET_KEY_ROTATION.saturating_mul(2);
/// Keys that only open.
const FORMER_MAX: usize = 1;
/// The longest ticket that is opened. Without client certificates tickets have some hundred bytes. Long ones help an
/// attacker who guesses keys (<https://eprint.iacr.org/2020/1491>).
const TICKET_LEN_MAX: usize = 4096;

const NAME_LEN: usize = 16;
const SECRET_LEN: usize = 32;
/// Name, secret, and age in milliseconds.
const EXPORTED_LEN: usize = NAME_LEN + SECRET_LEN + 8;
const FORMAT: u8 = 1;

/// The keys of session tickets, for all cores.
pub struct TicketKeys(RwLock<Keys>);

struct Keys {
    newest: Key,
    /// The latest first.
    former: VecDeque<Key>,
}

struct Key {
    /// The first bytes of each ticket.
    name: [u8; NAME_LEN],
    secret: [u8; SECRET_LEN],
    made_at: Instant,
}

impl TicketKeys {
    /// With one key, made `now`.
    ///
    /// # Panics
    /// If the kernel gives no random bytes.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let newest = Key::new(now).expect("the kernel gives random bytes");
        Self(RwLock::new(Keys { newest, former: VecDeque::new() }))
    }

    /// Makes a new key if the newest one has sealed for [`TICKET_KEY_ROTATION`], and drops keys that have opened for
    /// twice as long. Call it regularly.
    pub fn rotate(&self, now: Instant) {
        let age = |key: &Key| now.saturating_duration_since(key.made_at);
        let mut keys = self.write();
        if age(&keys.newest) >= TICKET_KEY_ROTATION
            // Without random bytes the former key stays in use.
            && let Some(newest) = Key::new(now)
        {
            let former = std::mem::replace(&mut keys.newest, newest);
            keys.former.push_front(former);
        }
        keys.former.truncate(FORMER_MAX);
        keys.former.retain(|key| age(key) < LIFETIME);
    }

    /// All keys as bytes, for another process.
    #[must_use]
    pub fn export(&self, now: Instant) -> Zeroizing<Vec<u8>> {
        let keys = self.read();
        // Allocated in its final size: buffers left behind by a growing `Vec` would not be wiped.
        let len = 1 + (1 + keys.former.len()) * EXPORTED_LEN;
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        bytes.push(FORMAT);
        for Key { name, secret, made_at } in keys.all() {
            let age = now.saturating_duration_since(*made_at).as_millis();
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(secret);
            bytes.extend_from_slice(&u64::try_from(age).unwrap_or(u64::MAX).to_be_bytes());
        }
        bytes
    }

    /// Takes the keys that [`TicketKeys::export`] returned, in place of its own.
    ///
    /// # Errors
    /// If `bytes` are not such keys. Nothing has changed then.
    pub fn import(&self, bytes: &[u8], now: Instant) -> Result<(), ImportError> {
        let (&format, keys) = bytes.split_first().ok_or(ImportError)?;
        let (keys, rest) = keys.as_chunks::<EXPORTED_LEN>();
        if format != FORMAT || !rest.is_empty() || keys.len() > 1 + FORMER_MAX {
            return Err(ImportError);
        }
        let mut keys = keys.iter().map(|key| Key::import(key, now));
        let newest = keys.next().ok_or(ImportError)?;
        *self.write() = Keys { newest, former: keys.collect() };
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Keys> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Keys> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).expect("hours")
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.read();
        let key = &keys.newest;
        let mut nonce = [0; NONCE_LEN];
        // Random, because a counter would reveal how many tickets there are.
        SystemRandom::new().fill(&mut nonce).ok()?;
        let begin = NAME_LEN + NONCE_LEN;
        let tag_len = CHACHA20_POLY1305.tag_len();
        let mut ticket = Vec::with_capacity(begin + plain.len() + tag_len);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let name = Aad::from(key.name);
        let tag = key.cipher().seal_in_place_separate_tag(nonce, name, &mut ticket[begin..]);
        ticket.extend_from_slice(tag.ok()?.as_ref());
        (ticket.len() <= TICKET_LEN_MAX).then_some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_LEN_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (&nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.read();
        // The name is no secret: it stands in each ticket.
        let key = keys.all().find(|key| key.name == *name)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let len = key.cipher().open_in_place(nonce, Aad::from(name), &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

impl Keys {
    fn all(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.newest).chain(&self.former)
    }
}

impl Key {
    /// `None`: the kernel gives no random bytes.
    fn new(made_at: Instant) -> Option<Self> {
        let mut key = Self { name: [0; NAME_LEN], secret: [0; SECRET_LEN], made_at };
        let random = SystemRandom::new();
        random.fill(&mut key.name).ok()?;
        random.fill(&mut key.secret).ok()?;
        Some(key)
    }

    fn import(bytes: &[u8; EXPORTED_LEN], now: Instant) -> Self {
        let (name, rest) = bytes.split_first_chunk().expect("a key has a name");
        let (secret, age) = rest.split_first_chunk().expect("a key has a secret");
        let age = u64::from_be_bytes(*age.first_chunk().expect("a key has an age"));
        // A time before the start of this clock cannot be expressed.
        let made_at = now.checked_sub(Duration::from_millis(age)).unwrap_or(now);
        Self { name: *name, secret: *secret, made_at }
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.secret);
        LessSafeKey::new(key.expect("the secret is as long as the key"))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}
