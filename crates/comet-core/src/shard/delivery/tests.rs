use comet_proto::{Encoded, Frame};

use super::super::push_forms::EncodedForms;
use super::*;
use crate::ids::ShardId;
use crate::outbox::visits;
use crate::state::ConnState;
use crate::time::{Millis, Tick};
use crate::transport::Transport;

/// Every other client does not read. Each push replaces the oldest push of these clients, and the frames are examined
/// for only one of them.
#[test]
fn full_outboxes_between_idle_ones_share_the_work() {
    const MEMBERS: u64 = 100;
    let slow_consumer = SlowConsumer::DropOldest;
    let limits = Limits { svr_proto: 8, slow_consumer, ..Limits::default() };
    let mut conns = Connections::new(ShardId(0), Millis(0));
    let mut outboxes = Outboxes::new(7, Millis(0));
    let slots: Vec<Slot> =
        (0..MEMBERS).map(|_| conns.insert(Transport::Tcp, Millis(0), Tick(1))).collect();
    slots.iter().for_each(|&slot| conns[slot].state = ConnState::Live);
    let frame = Frame { version: 1, operation: 5, sequence: 0, body: b"push" };
    let push = Push::new(5, Encoded::frame(&frame));
    for number in 0..20 {
        visits::take();
        let mut items = PushForms::new(&mut outboxes.chains, &push.frame, &EncodedForms::default());
        let mut delivery = Delivery::new(
            &mut conns,
            &mut outboxes,
            &limits,
            &push,
            &mut items,
            DeliveryMode::Offer,
        );
        slots.iter().for_each(|&slot| delivery.offer(slot));
        let Delivered { tally, superseded, .. } = delivery.finish();
        assert_eq!(tally.queued, MEMBERS);
        // One is under way and seven wait.
        assert_eq!(superseded, if number < 8 { 0 } else { MEMBERS / 2 });
        assert!(visits::take() <= 4, "a look at what is dropped, and one behind it, twice");
        for (number, &slot) in slots.iter().enumerate() {
            let Conn { outbox, transport, .. } = &mut conns[slot];
            if number % 2 == 0 {
                outboxes.chains.start(outbox);
                outboxes.chains.advance(outbox, *transport, frame.body.len() + 16);
            } else if !outbox.is_sending() {
                outboxes.chains.start(outbox);
            }
        }
    }
}
