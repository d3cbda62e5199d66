//! The sockets of clients: accepting, receiving, sending and shutting.

use comet_core::{ConnId, Hangup, Slot, SocketShutdown};

use crate::env::Env;
use crate::listings::Known;
use crate::socket::ReceiveCompletion;
use crate::source::address;
use crate::trace::trace;

use super::Driver;

impl Driver {
    pub(super) fn accept(&mut self, env: &mut Env) {
        if self.is_frozen {
            return;
        }
        while let Some(peer) = self.backlog.pop_front() {
            env.note_activity();
            let now = env.now;
            let entry = &mut env.peers[peer];
            let conn = self.shard.handle_accept(entry.client.profile.transport);
            trace!(env, "peer {peer} accepted as {conn:?}");
            let entry = &mut env.peers[peer];
            entry.conn = conn;
            entry.accepted_at = now;
            match conn {
                Some(conn) => {
                    self.hold(env, peer, conn);
                    if self.shard.limits().needs_addresses() {
                        self.shard.handle_source(conn, address(peer));
                    }
                }
                None => entry.socket.release(),
            }
        }
    }

    /// Notes that `peer` holds a slot.
    pub(super) fn hold(&mut self, env: &Env, peer: usize, conn: ConnId) {
        let before = self.slots.insert(conn.slot, peer);
        assert!(before.is_none(), "slot {} is taken", conn.slot);
        let transport = env.peers[peer].client.profile.transport;
        let known = Known { transport, address: address(peer), is_tls: peer.is_multiple_of(3) };
        self.listings.open(conn, known);
    }

    /// Returns whether it took a buffer.
    pub(super) fn receive(&mut self, env: &mut Env, peer: usize) -> bool {
        let entry = &mut env.peers[peer];
        let conn = entry.conn.expect("accepted");
        match entry.socket.receive(&mut env.rng, env.now) {
            None => false,
            Some(ReceiveCompletion::Bytes(bytes)) => {
                entry.received_at = env.now;
                self.shard.handle_recv(conn, &bytes);
                true
            }
            Some(ReceiveCompletion::Hangup(how)) => {
                env.socket_faults.note_hangup(&entry.client.received, entry.closed.is_some());
                trace!(env, "peer {peer} hangs up: {how:?}");
                self.shard.handle_hangup(conn, how);
                false
            }
        }
    }

    pub(super) fn send(&mut self, env: &mut Env, peer: usize) -> Result<(), String> {
        let entry = &mut env.peers[peer];
        let conn = entry.conn.expect("accepted");
        let in_flight = entry.socket.bytes_in_flight();
        match entry.socket.send(&mut env.rng, env.now)? {
            None => {}
            Some(Ok(bytes)) => {
                env.socket_faults.short_sends += u64::from(bytes < in_flight);
                self.shard.handle_sent(conn, bytes);
            }
            Some(Err(error)) => {
                env.socket_faults.failed_sends += 1;
                trace!(env, "peer {peer}: send failed");
                self.shard.handle_send_failed(conn, Hangup::Cut(error));
            }
        }
        Ok(())
    }

    pub(super) fn release(&mut self, env: &mut Env, slot: Slot, peer: usize) {
        let entry = &mut env.peers[peer];
        if !entry.socket.can_release() {
            return;
        }
        let conn = entry.conn.expect("accepted");
        // The receive under way ends. A driver may report that or not.
        if entry.socket.owes_hangup() && env.rng.percent(50) {
            self.shard.handle_hangup(conn, Hangup::Eof);
        }
        self.shard.handle_gone(conn);
        entry.socket.release();
        self.released.add(entry);
        self.slots.remove(&slot);
        self.listings.close(conn);
        trace!(env, "peer {peer} is gone");
        env.note_activity();
    }

    /// Begins the sends that are ready: all or some.
    pub(super) fn poll_transmits(&mut self, env: &mut Env) -> Result<(), String> {
        loop {
            // The ring is full: the other sends wait for the next turn.
            if env.rng.percent(3) {
                self.must_retry = true;
                self.ready_since.get_or_insert(env.now);
                break;
            }
            let Some(transmit) = self.shard.poll_transmit() else {
                self.ready_since = None;
                break;
            };
            let slot = transmit.conn.slot;
            let peer = *self.slots.get(&slot).ok_or("a transmit for nobody")?;
            let entry = &mut env.peers[peer];
            if entry.conn != Some(transmit.conn) {
                return Err(format!("a transmit for {:?}, which is gone", transmit.conn));
            }
            let ready_since = self.ready_since.unwrap_or(env.now);
            let bytes = transmit.slices.collect::<Vec<_>>().concat();
            entry.socket.transmit(&bytes, ready_since, env.now)?;
        }
        Ok(())
    }

    pub(super) fn poll_closes(&mut self, env: &mut Env) -> Result<(), String> {
        while let Some((conn, how)) = self.shard.poll_close() {
            trace!(env, "shut {how:?} {conn:?}");
            let peer = *self.slots.get(&conn.slot).ok_or("a close for nobody")?;
            let entry = &mut env.peers[peer];
            let before = entry.socket.shut.replace(how);
            let is_in_order = match how {
                SocketShutdown::Write => before.is_none() && !entry.socket.is_sending(),
                SocketShutdown::Both => before != Some(SocketShutdown::Both),
            };
            if entry.conn != Some(conn) || !is_in_order {
                return Err(format!("{how:?} for {conn:?} after {before:?}"));
            }
        }
        Ok(())
    }
}
