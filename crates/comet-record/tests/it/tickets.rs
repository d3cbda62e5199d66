//! Keys of tickets that rotate and move.
#![allow(clippy::disallowed_methods, reason = "a time to begin with; the rest is added to it")]

use std::time::{Duration, Instant};

use comet_record::{TICKET_KEY_ROTATION, TicketKeys};
use rustls::server::ProducesTickets;

/// Encrypts a ticket, and decrypts it after this many rotations.
fn opened_after(rotations: u32) -> Option<Vec<u8>> {
    let begin = Instant::now();
    let keys = TicketKeys::new(begin);
    let ticket = keys.encrypt(b"resume").unwrap();
    for rotation in 1..=rotations {
        keys.rotate(begin + TICKET_KEY_ROTATION * rotation);
    }
    keys.decrypt(&ticket)
}

#[test]
fn a_ticket_is_good_while_its_key_is_kept() {
    for rotations in 0..=1 {
        assert_eq!(opened_after(rotations).unwrap(), b"resume", "{rotations} rotations");
    }
    assert_eq!(opened_after(2), None);
}

#[test]
fn a_key_is_replaced_once_it_is_due() {
    let begin = Instant::now();
    let keys = TicketKeys::new(begin);
    let name = |keys: &TicketKeys| keys.encrypt(b"").unwrap()[..16].to_vec();
    let first = name(&keys);
    keys.rotate(begin + TICKET_KEY_ROTATION - Duration::from_millis(1));
    assert_eq!(name(&keys), first);
    keys.rotate(begin + TICKET_KEY_ROTATION);
    let second = name(&keys);
    assert_ne!(second, first);
    keys.rotate(begin + TICKET_KEY_ROTATION);
    assert_eq!(name(&keys), second);
    // There was no rotation for a long time, so none of these tickets is valid any more.
    keys.rotate(begin + TICKET_KEY_ROTATION * 9);
    assert_eq!(keys.export(begin).len(), 1 + 56);
}

#[test]
fn a_changed_ticket_is_refused() {
    let keys = TicketKeys::new(Instant::now());
    let ticket = keys.encrypt(b"resume").unwrap();
    for bit in 0..ticket.len() * 8 {
        let mut changed = ticket.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(keys.decrypt(&changed), None, "bit {bit}");
    }
    for len in 0..ticket.len() {
        assert_eq!(keys.decrypt(&ticket[..len]), None, "{len} bytes");
    }
    assert_eq!(keys.decrypt(&[&ticket[..], &[0]].concat()), None);
    assert_eq!(keys.decrypt(&vec![7; 1 << 20]), None);
    assert_eq!(TicketKeys::new(Instant::now()).decrypt(&ticket), None, "another server's");
}

#[test]
fn keys_move_with_their_age() {
    let begin = Instant::now();
    let keys = TicketKeys::new(begin);
    let old = keys.encrypt(b"old").unwrap();
    keys.rotate(begin + TICKET_KEY_ROTATION);
    let new = keys.encrypt(b"new").unwrap();
    let hour = Duration::from_secs(3600);
    let bytes = keys.export(begin + TICKET_KEY_ROTATION + hour);
    // The clock of the other process shows another time.
    let now = begin + hour * 100;
    let next = TicketKeys::new(now);
    let own = next.encrypt(b"own").unwrap();
    next.import(&bytes, now).unwrap();
    assert_eq!(next.decrypt(&old).unwrap(), b"old");
    assert_eq!(next.decrypt(&new).unwrap(), b"new");
    assert_eq!(next.decrypt(&own), None, "its own key is forgotten");
    assert_eq!(*next.export(now), *bytes);
    assert_eq!(keys.decrypt(&next.encrypt(b"next").unwrap()).unwrap(), b"next");
    // The key goes on for the rest of its time.
    next.rotate(now + TICKET_KEY_ROTATION - hour - Duration::from_millis(1));
    assert_eq!(next.encrypt(b"").unwrap()[..16], new[..16]);
    next.rotate(now + TICKET_KEY_ROTATION - hour);
    assert_ne!(next.encrypt(b"").unwrap()[..16], new[..16]);
    assert_eq!(next.decrypt(&new).unwrap(), b"new");
    assert_eq!(next.decrypt(&old), None);
}

#[test]
fn bytes_that_are_no_keys_are_refused() {
    let now = Instant::now();
    let keys = TicketKeys::new(now);
    let ticket = keys.encrypt(b"resume").unwrap();
    let good = keys.export(now);
    for len in 0..good.len() {
        keys.import(&good[..len], now).unwrap_err();
    }
    keys.import(&[&[2], &good[1..]].concat(), now).unwrap_err();
    keys.import(&[&good[..], &good[1..].repeat(3)].concat(), now).unwrap_err();
    assert_eq!(keys.decrypt(&ticket).unwrap(), b"resume", "nothing has changed");
    // A key that is older than the clock.
    let mut old = good.to_vec();
    let age = old.len() - 8;
    old[age..].fill(0xff);
    keys.import(&old, now).unwrap();
}

/// Later versions read the output of this one.
#[test]
fn the_format_is_fixed() {
    let now = Instant::now();
    let keys = TicketKeys::new(now);
    let bytes = [&[1][..], &[7; 16], &[8; 32], &1_500_u64.to_be_bytes()].concat();
    keys.import(&bytes, now).unwrap();
    assert_eq!(**keys.export(now), *bytes);
}
