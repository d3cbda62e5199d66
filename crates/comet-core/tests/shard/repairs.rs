//! Many clients whose outboxes are full now and then: each asks for the pushes that a gap marker names, and so gets every push of
//! its room, in order and once.

use comet_core::{ConnId, Limits, SlowConsumer};
use comet_proto::Position;

use crate::history::{TELL, Told, join_since, rules, told_so_far};
use crate::rig::{Rig, room_at};
use crate::rooms::connect;

/// A client that asks for the pushes of each gap marker.
struct Client {
    conn: ConnId,
    position: Position,
    unread: Vec<u8>,
    /// The client has asked with its position, and ignores pushes until the answer.
    is_asking: bool,
    repairs: u32,
}

impl Client {
    fn new(rig: &mut Rig, number: u16, room: &str) -> Self {
        let (conn, _) = connect(rig, number % 2, &format!("{number}/k{number}//"));
        let bytes = rig.ask(conn, &join_since(room, None));
        let (all, _) = told_so_far(&bytes);
        let [Told::Joined { position: Some(position), .. }] = all[..] else { panic!("{all:?}") };
        Self { conn, position, unread: Vec::new(), is_asking: false, repairs: 0 }
    }

    /// Reads the received frames, and asks for missing pushes.
    fn read(&mut self, rig: &mut Rig, room: &str) {
        self.unread.extend(rig.take(self.conn));
        let (all, rest) = told_so_far(&self.unread);
        let rest = rest.to_vec();
        for told in all {
            match told {
                Told::Joined { position, recovered, .. } => {
                    assert!(std::mem::take(&mut self.is_asking), "it has asked");
                    let missed = u64::from(recovered.expect("the room keeps all"));
                    assert_eq!(position.unwrap().offset, self.position.offset + missed);
                    self.repairs += 1;
                }
                Told::Push { .. } if self.is_asking => {}
                Told::Push { offset, body, .. } => {
                    assert_eq!(offset, self.position.offset + 1, "in order, and once");
                    assert_eq!(body, offset.to_string().into_bytes());
                    self.position.offset = offset;
                }
                Told::Gap(gap) if !self.is_asking && gap.last > self.position.offset => {
                    self.is_asking = true;
                    rig.feed(self.conn, &join_since(room, Some(self.position)));
                }
                Told::Gap(_) => {}
                Told::Left => panic!("it stays"),
            }
        }
        self.unread = rest;
    }
}

#[test]
fn pushes_dropped_by_full_outboxes_are_recovered_in_order_and_once() {
    const CLIENTS: u16 = 20;
    const PUSHES: u64 = 300;
    for slow_consumer in [SlowConsumer::DropNewest, SlowConsumer::DropOldest] {
        let history_rules = rules(10_000);
        let limits = Limits { svr_proto: 6, slow_consumer, history_rules, ..Limits::default() };
        let mut rig = Rig::new(2, limits);
        let room = room_at(1);
        let mut clients: Vec<Client> =
            (0..CLIENTS).map(|number| Client::new(&mut rig, number, &room)).collect();
        // The numbers are the same in each run.
        let mut state = 7_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for offset in 1..=PUSHES {
            rig.push_room(&room, TELL, offset.to_string().as_bytes());
            for client in &mut clients {
                // Most clients read. Some stop for a while, and some take only a part of a frame.
                let window = match random(20) {
                    0 => Some(0),
                    1 => Some(random(200) as usize),
                    2 | 3 => None,
                    _ => continue,
                };
                rig.allow(client.conn, window);
                client.read(&mut rig, &room);
            }
        }
        for client in &mut clients {
            rig.allow(client.conn, None);
        }
        while clients.iter().any(|client| client.position.offset < PUSHES) {
            let before: u64 = clients.iter().map(|client| client.position.offset).sum();
            let asking = clients.iter().filter(|client| client.is_asking).count();
            clients.iter_mut().for_each(|client| client.read(&mut rig, &room));
            let after: u64 = clients.iter().map(|client| client.position.offset).sum();
            let asking_now = clients.iter().filter(|client| client.is_asking).count();
            assert!(after > before || asking != asking_now, "{slow_consumer:?}: it goes on");
        }
        let counters = || rig.shards.iter().map(comet_core::Shard::counters);
        let lost: u64 =
            counters().map(|counted| counted.deliveries.dropped_total() + counted.superseded).sum();
        let offered: u64 = counters().map(|counted| counted.deliveries.matched).sum();
        let repaired: u64 = counters().map(|counted| counted.repaired).sum();
        assert!(lost * 10 >= offered, "{lost} of {offered}: a tenth and more");
        // An earlier answer already contained some of the lost pushes.
        assert!(repaired > lost / 2, "{slow_consumer:?}: {repaired} of {lost}");
        assert!(clients.iter().all(|client| client.repairs > 0));
        assert_eq!(counters().map(|counted| counted.recoveries[0]).sum::<u64>(), 0);
    }
}
