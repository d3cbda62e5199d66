//! Outboxes against plain queues, and what they share.

use std::collections::VecDeque;

use comet_proto::Frame;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum OutboxStep {
    /// The same frame to all outboxes of a mask.
    Push {
        mask: u8,
        len: usize,
        is_push: bool,
    },
    Send {
        outbox: usize,
        bytes: usize,
    },
    DropOldest {
        outbox: usize,
    },
    Clear {
        outbox: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<OutboxStep>> {
    let step = prop_oneof![
        5 => (any::<u8>(), prop_oneof![9 => 0..200_usize, 1 => 100_000..150_000_usize], any::<bool>())
            .prop_map(|(mask, len, is_push)| OutboxStep::Push { mask, len, is_push }),
        6 => (0..8_usize, prop_oneof![1..60_usize, Just(usize::MAX)])
            .prop_map(|(outbox, bytes)| OutboxStep::Send { outbox, bytes }),
        1 => (0..8_usize).prop_map(|outbox| OutboxStep::DropOldest { outbox }),
        1 => (0..8_usize).prop_map(|outbox| OutboxStep::Clear { outbox }),
    ];
    prop::collection::vec(step, 1..80)
}

/// An outbox as a plain queue of frames.
#[derive(Default)]
struct Model {
    pending: VecDeque<(Vec<u8>, bool)>,
    in_flight: Vec<u8>,
    in_flight_pushes: u32,
}

fn transport(outbox: usize) -> Transport {
    if outbox.is_multiple_of(2) { Transport::Tcp } else { Transport::WebSocket }
}

proptest! {
    #[test]
    fn sends_what_eight_separate_queues_would(steps in steps()) {
        let mut chains = Chains::new();
        let mut outboxes = [Outbox::EMPTY; 8];
        let mut models: [Model; 8] = Default::default();
        for (step, sequence) in steps.into_iter().zip(1..) {
            match step {
                OutboxStep::Push { mask, len, is_push } => {
                    let body = vec![sequence as u8; len];
                    let frame = Frame { version: 1, operation: 5, sequence, body: &body };
                    let item = chains.item(Encoded::frame(&frame), is_push);
                    let mut memos = [AppendMemo::NONE; 2];
                    for outbox in (0..8).filter(|outbox| mask & (1 << outbox) != 0) {
                        let of_this = transport(outbox) as usize;
                        if !memos[of_this].repeat(&mut outboxes[outbox]) {
                            memos.iter_mut().for_each(|memo| chains.settle(memo));
                            let (memo, mine) = (&mut memos[of_this], &mut outboxes[outbox]);
                            chains.append_and_note(memo, mine, &item);
                        }
                        let bytes = transport(outbox).bytes(&item.frame).to_vec();
                        models[outbox].pending.push_back((bytes, is_push));
                    }
                    memos.iter_mut().for_each(|memo| chains.settle(memo));
                }
                OutboxStep::Send { outbox, bytes } => {
                    let (mine, model) = (&mut outboxes[outbox], &mut models[outbox]);
                    if !mine.is_sending() {
                        let started = chains.start(mine);
                        prop_assert_eq!(started, !model.pending.is_empty());
                        if !started { continue; }
                        for (bytes, is_push) in model.pending.drain(..) {
                            model.in_flight.extend(bytes);
                            model.in_flight_pushes += u32::from(is_push);
                        }
                    }
                    let slice = chains.slice(mine, transport(outbox)).to_vec();
                    prop_assert!(!slice.is_empty());
                    prop_assert_eq!(&slice[..], &model.in_flight[..slice.len()]);
                    let bytes = bytes.min(slice.len());
                    model.in_flight.drain(..bytes);
                    let progress = chains.advance(mine, transport(outbox), bytes);
                    if model.in_flight.is_empty() {
                        let pushes = std::mem::take(&mut model.in_flight_pushes);
                        prop_assert_eq!(progress, SendProgress::Done { pushes });
                    } else {
                        prop_assert_eq!(progress, SendProgress::Partial);
                    }
                }
                OutboxStep::DropOldest { outbox } => {
                    let model = &mut models[outbox].pending;
                    let oldest = model.iter().position(|(_, is_push)| *is_push);
                    let bytes = oldest.and_then(|at| model.remove(at)).map(|(bytes, _)| bytes.len());
                    let mine = &mut outboxes[outbox];
                    prop_assert_eq!(chains.drop_oldest(mine, transport(outbox)), bytes);
                }
                OutboxStep::Clear { outbox } => {
                    let (mine, model) = (&mut outboxes[outbox], &mut models[outbox]);
                    let bytes: usize = model.pending.iter().map(|(bytes, _)| bytes.len()).sum();
                    let waiting = model.pending.drain(..).filter(|(_, is_push)| *is_push).count();
                    let pending = chains.clear_pending(mine, transport(outbox));
                    prop_assert_eq!((pending.lost as usize, pending.bytes as usize), (waiting, bytes));
                    let cut = chains.clear_in_flight(mine, transport(outbox));
                    let pushes = std::mem::take(&mut model.in_flight_pushes);
                    prop_assert_eq!(cut.sent + cut.lost, pushes);
                    prop_assert_eq!(cut.bytes as usize, model.in_flight.len());
                    model.in_flight.clear();
                }
            }
            for (outbox, mine) in outboxes.iter().enumerate() {
                let load = chains.load(mine, transport(outbox));
                let model = &models[outbox];
                let waiting = model.pending.iter().filter(|(_, is_push)| *is_push).count() as u32;
                prop_assert_eq!(load.pushes, waiting + model.in_flight_pushes);
            }
        }
        for (outbox, mine) in outboxes.iter_mut().enumerate() {
            chains.clear_pending(mine, transport(outbox));
            chains.clear_in_flight(mine, transport(outbox));
        }
        prop_assert!(chains.is_empty());
    }
}

#[test]
fn equal_outboxes_share_one_chain_and_one_buffer() {
    let mut chains = Chains::new();
    let mut outboxes = vec![Outbox::EMPTY; 100];
    for sequence in 0..3 {
        let frame = Frame { version: 1, operation: 5, sequence, body: b"shared" };
        let item = chains.item(Encoded::frame(&frame), true);
        for outbox in &mut outboxes {
            chains.append(outbox, &item);
        }
    }
    assert_eq!(chains.chains.len(), 3);
    let mut buffers = Vec::new();
    for outbox in &mut outboxes {
        assert!(chains.start(outbox));
        buffers.push(chains.slice(outbox, Transport::Tcp).as_ptr());
    }
    buffers.dedup();
    assert_eq!(buffers.len(), 1);
    assert_eq!(chains.joined_bytes, 3 * (16 + 6));
}

#[test]
fn a_frame_cut_in_the_middle_is_lost_and_the_ones_before_it_are_sent() {
    let mut chains = Chains::new();
    let mut outbox = Outbox::EMPTY;
    for sequence in 0..3 {
        let frame = Frame { version: 1, operation: 5, sequence, body: b"1234" };
        let item = chains.item(Encoded::frame(&frame), true);
        chains.append(&mut outbox, &item);
    }
    assert!(chains.start(&mut outbox));
    assert_eq!(chains.advance(&mut outbox, Transport::Tcp, 39), SendProgress::Partial);
    let remains = chains.clear_in_flight(&mut outbox, Transport::Tcp);
    assert_eq!(remains, Remains { sent: 1, lost: 2, bytes: 21 });
    assert!(chains.is_empty());
}
