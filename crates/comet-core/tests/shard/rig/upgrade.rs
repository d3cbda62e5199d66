//! The shards of a rig are handed over to others, and the sockets with them.

use std::collections::BTreeMap;

use comet_core::{ConnId, Limits, Millis, Settings, Shard, TakeOver, distribute};
use comet_handover::{TicketKeys, Tls, feature};

use super::{Rig, Wire, shards_of};

/// The new id of each connection, by its former id.
pub(crate) type Renamed = BTreeMap<ConnId, ConnId>;

impl Rig {
    /// Takes back all sends, as the driver does, and has all shards go on until they are quiescent.
    pub(crate) fn freeze(&mut self) {
        for shard in &mut self.shards {
            shard.begin_hand_over();
        }
        self.run();
        for (&conn, wire) in &mut self.wires {
            let shard = &mut self.shards[usize::from(conn.shard.0)];
            match (&mut wire.in_flight, self.sealed) {
                (None, _) => {}
                (Some(sending), Some(most)) => {
                    sending.truncate(most);
                    shard.handle_send_kept(conn);
                }
                (Some(_), None) => {
                    wire.in_flight = None;
                    shard.handle_send_cancelled(conn);
                }
            }
        }
    }

    /// The state that all shards hand over, as bytes.
    pub(crate) fn hand_over(&mut self) -> Vec<(Vec<u8>, Vec<ConnId>)> {
        self.freeze();
        let wires = &self.wires;
        let handed = self.shards.iter().map(|shard| {
            let (mut handed, conns) = shard.hand_over();
            for (connection, conn) in handed.connections.iter_mut().zip(&conns) {
                connection.tls = wires[conn].in_flight.as_ref().map(|sending| {
                    Box::new(Tls {
                        session: b"keys".to_vec(),
                        received: b"half a record".to_vec(),
                        ciphertext: sending.clone(),
                        sealed: sending.len() as u32,
                    })
                });
            }
            if self.sealed.is_some() {
                handed.required.extend([feature::TLS.into(), feature::TICKET_KEYS.into()]);
                let mut keys = TicketKeys::default();
                keys.keys = b"keys of tickets".to_vec();
                handed.ticket_keys = Some(keys);
            }
            (handed.encode().to_vec(), conns)
        });
        handed.collect()
    }

    /// From now on shards read no input of clients.
    pub(crate) fn hold_input(&mut self) {
        self.holds_input = true;
        self.shards.iter_mut().for_each(Shard::hold_input);
    }

    /// The shards that go on read the held input.
    pub(crate) fn release_input(&mut self) {
        self.holds_input = false;
        self.shards.iter_mut().for_each(Shard::release_input);
    }

    /// Another process with `count` shards and a clock of its own takes over everything.
    pub(crate) fn upgrade(&mut self, count: u16) -> Renamed {
        self.upgrade_with(count, |limits| limits)
    }

    /// The shards, which are new, take over. Returns the connections, each with its socket; all sockets take any number of bytes.
    pub(crate) fn take_over<S>(&mut self, parts: Vec<(TakeOver, Vec<S>)>) -> Vec<(ConnId, S)> {
        let mut all = Vec::new();
        for (shard, (mut part, sockets)) in self.shards.iter_mut().zip(parts) {
            let sending = part.take_tls().into_iter();
            let sending = sending.map(|tls| tls.map(|mut tls| std::mem::take(&mut tls.ciphertext)));
            let conns = shard.take_over(part);
            assert_eq!(conns.len(), sockets.len());
            let wires = sending.map(|in_flight| Wire { in_flight, ..Wire::default() });
            self.wires.extend(conns.iter().copied().zip(wires));
            all.extend(conns.into_iter().zip(sockets));
        }
        if !self.holds_input {
            self.release_input();
        }
        all
    }

    /// As [`Rig::upgrade`]; its limits are others.
    pub(crate) fn upgrade_with(
        &mut self,
        count: u16,
        change: impl FnOnce(Limits) -> Limits,
    ) -> Renamed {
        let handed = self.hand_over();
        let decode = |(bytes, conns): (Vec<u8>, _)| {
            (comet_handover::Shard::decode(&bytes).expect("encoded above"), conns)
        };
        let parts = distribute(handed.into_iter().map(decode).collect(), count).expect("sound");
        let limits = change(Limits::clone(&self.settings.limits)).into();
        self.settings = Settings { shards: count, limits, ..self.settings.clone() };
        self.now += 10_007;
        self.shards = shards_of(&self.settings, Millis(self.now));
        let mut wires = std::mem::take(&mut self.wires);
        let mut renamed = Renamed::new();
        for (conn, former) in self.take_over(parts) {
            self.wires.insert(conn, wires.remove(&former).expect("it has a socket"));
            renamed.insert(former, conn);
        }
        self.closed.clear();
        let addresses = std::mem::take(&mut self.addresses);
        for (former, address) in addresses {
            if let Some(&conn) = renamed.get(&former) {
                self.addresses.insert(conn, address);
                self.shards[usize::from(conn.shard.0)].adopt_source(conn, address);
            }
        }
        self.run();
        renamed
    }
}
