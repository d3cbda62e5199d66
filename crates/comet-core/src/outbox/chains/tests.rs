//! Compares outboxes with plain queues, and checks what they share and how many frames they look at.

use std::collections::VecDeque;

use comet_proto::Frame;
use proptest::prelude::*;

use super::*;
use crate::limits::{JOINED_BYTES_MAX, SLICES_MAX, WINDOW};
use crate::outbox::frames::ENTRY_BYTES;
use crate::outbox::frames::bytes_of;
use crate::outbox::log::visits;
use crate::outbox::{CollapseKey, PushMeta, Remains, SendProgress, Slices};

#[derive(Clone, Debug)]
enum OutboxStep {
    /// Appends the same frame to all outboxes of a mask. A push drops older ones until fewer than `pushes_max` are
    /// left, or wait if it is about a state.
    Append {
        mask: u8,
        len: usize,
        is_push: bool,
        state: Option<u8>,
        pushes_max: u32,
    },
    Send {
        outbox: usize,
        bytes: usize,
    },
    Clear {
        outbox: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<OutboxStep>> {
    let len = prop_oneof![18 => 0..200_usize, 1 => 100_000..150_000_usize, 1 => Just(300_000)];
    let pushes_max = prop_oneof![Just(u32::MAX), 1..8_u32];
    let step = prop_oneof![
        7 => (any::<u8>(), len, prop::bool::weighted(0.8), prop::option::of(0..3_u8), pushes_max)
            .prop_map(|(mask, len, is_push, state, pushes_max)| {
                let state = state.filter(|_| is_push);
                OutboxStep::Append { mask, len, is_push, state, pushes_max }
            }),
        6 => (0..8_usize, prop_oneof![1..60_usize, 1..200_000_usize, Just(usize::MAX)])
            .prop_map(|(outbox, bytes)| OutboxStep::Send { outbox, bytes }),
        1 => (0..8_usize).prop_map(|outbox| OutboxStep::Clear { outbox }),
    ];
    prop::collection::vec(step, 1..120)
}

struct ModelFrame {
    bytes: Vec<u8>,
    /// Length on a WebSocket.
    longest: usize,
    is_push: bool,
    state: Option<u8>,
}

/// An outbox as two plain queues.
#[derive(Default)]
struct Model {
    pending: VecDeque<ModelFrame>,
    in_flight: VecDeque<ModelFrame>,
}

impl Model {
    fn start(&mut self) {
        let mut longest = 0;
        while longest <= WINDOW
            && let Some(frame) = self.pending.pop_front()
        {
            longest += frame.longest;
            self.in_flight.push_back(frame);
        }
    }

    fn in_flight_bytes(&self) -> Vec<u8> {
        self.in_flight.iter().flat_map(|frame| frame.bytes.clone()).collect()
    }

    /// Returns the number of pushes that were taken to the last byte.
    fn take(&mut self, mut bytes: usize) -> u32 {
        let mut pushes = 0;
        while let Some(first) = self.in_flight.front_mut() {
            let taken = bytes.min(first.bytes.len());
            first.bytes.drain(..taken);
            bytes -= taken;
            if !first.bytes.is_empty() {
                break;
            }
            pushes += u32::from(first.is_push);
            self.in_flight.pop_front();
        }
        pushes
    }

    fn frames(&self) -> impl Iterator<Item = &ModelFrame> {
        self.pending.iter().chain(&self.in_flight)
    }

    fn load(&self) -> Load {
        let pushes = self.frames().filter(|frame| frame.is_push).count() as u32;
        Load {
            pushes,
            replies: self.frames().count() as u32 - pushes,
            bytes: self.frames().map(|frame| frame.bytes.len() as u32).sum(),
        }
    }

    fn drop_oldest(&mut self, pushes_max: u32) {
        while self.load().pushes >= pushes_max
            && let Some(oldest) = self.pending.iter().position(|frame| frame.is_push)
        {
            self.pending.remove(oldest);
        }
    }

    /// `false`: there is no space for a push about `state`.
    fn drop_outdated(&mut self, state: u8, pushes_max: u32) -> bool {
        let waiting = |model: &Self| model.pending.iter().filter(|frame| frame.is_push).count();
        if self.load().pushes < pushes_max {
            return true;
        }
        let plain = self.pending.iter().filter(|frame| frame.is_push && frame.state.is_none());
        let of_other_states = |frame: &&ModelFrame| frame.state.is_some_and(|other| other != state);
        let others = self.pending.iter().filter(of_other_states).count();
        if others >= pushes_max as usize {
            return false;
        }
        let mut to_drop = (plain.count() + others + 1).saturating_sub(pushes_max as usize);
        self.pending.retain(|frame| {
            let is_dropped =
                frame.state == Some(state) || to_drop > 0 && frame.is_push && frame.state.is_none();
            to_drop -= usize::from(is_dropped && frame.state.is_none());
            !is_dropped
        });
        debug_assert!(waiting(self) < pushes_max as usize);
        true
    }
}

fn transport(outbox: usize) -> Transport {
    if outbox.is_multiple_of(2) { Transport::Tcp } else { Transport::WebSocket }
}

fn concat(slices: Slices<'_>) -> Vec<u8> {
    slices.collect::<Vec<_>>().concat()
}

proptest! {
    #[test]
    fn shared_outboxes_send_the_same_as_eight_separate_queues(steps in steps()) {
        let mut chains = Chains::new();
        let mut outboxes = [Outbox::EMPTY; 8];
        let mut models: [Model; 8] = Default::default();
        for (step, sequence) in steps.into_iter().zip(1..) {
            match step {
                OutboxStep::Append { mask, len, is_push, state, pushes_max } => {
                    let body = vec![sequence as u8; len];
                    let frame = Frame { version: 1, operation: 5, sequence, body: &body };
                    let mut item = chains.item(Encoded::frame(&frame), is_push);
                    item.set_meta(state.and_then(|id| {
                        let id = id.to_string().into();
PushMeta { collapse_key: Some(CollapseKey { room: None, id }), ..PushMeta::default() }.shared()
                    }));
                    let mut memos = [AppendMemo::NONE; 2];
                    for outbox in (0..8).filter(|outbox| mask & (1 << outbox) != 0) {
                        let of_this = transport(outbox) as usize;
                        if !memos[of_this].repeat(&mut outboxes[outbox]) {
                            memos.iter_mut().for_each(|memo| { chains.settle(memo); });
                            let (memo, mine) = (&mut memos[of_this], &mut outboxes[outbox]);
                            let fits = |load: Load| !is_push || load.pushes < pushes_max;
                            let load = chains.load(mine, transport(outbox));
                            let superseded = match state {
                                Some(_) if !fits(load) => {
                                    chains.outdated(mine, transport(outbox), &item, fits)
                                }
                                _ => Some(chains.oldest(mine, transport(outbox), fits)),
                            };
                            if let Some(superseded) = superseded {
                                chains.append_and_note(memo, mine, &item, superseded);
                            } else {
                                prop_assert!(!models[outbox].drop_outdated(state.unwrap_or(0), pushes_max));
                                continue;
                            }
                        }
                        let bytes = transport(outbox).bytes(&item.frame).to_vec();
                        let longest = item.frame.for_websocket().len();
                        let model = &mut models[outbox];
                        match state {
                            Some(state) => prop_assert!(model.drop_outdated(state, pushes_max)),
                            None if is_push => model.drop_oldest(pushes_max),
                            None => {}
                        }
                        model.pending.push_back(ModelFrame { bytes, longest, is_push, state });
                    }
                    memos.iter_mut().for_each(|memo| { chains.settle(memo); });
                }
                OutboxStep::Send { outbox, bytes } => {
                    let (mine, model) = (&mut outboxes[outbox], &mut models[outbox]);
                    if !mine.is_sending() {
                        let started = chains.start(mine);
                        prop_assert_eq!(started, !model.pending.is_empty());
                        if !started { continue; }
                        model.start();
                    }
                    let slices = concat(chains.slices(mine, transport(outbox)));
                    prop_assert_eq!(&slices, &model.in_flight_bytes());
                    let bytes = bytes.min(slices.len());
                    let progress = chains.advance(mine, transport(outbox), bytes);
                    let pushes = model.take(bytes);
                    let is_done = model.in_flight.is_empty();
                    prop_assert_eq!(progress, SendProgress { pushes, is_done });
                }
                OutboxStep::Clear { outbox } => {
                    let (mine, model) = (&mut outboxes[outbox], &mut models[outbox]);
                    let Load { pushes, bytes, .. } = model.load();
                    let pending = chains.clear_pending(mine, transport(outbox));
                    let in_flight = chains.clear_in_flight(mine, transport(outbox));
                    prop_assert_eq!(pending.pushes + in_flight.pushes, pushes);
                    prop_assert_eq!(pending.bytes + in_flight.bytes, bytes);
                    *model = Model::default();
                }
            }
            for (outbox, mine) in outboxes.iter().enumerate() {
                prop_assert_eq!(chains.load(mine, transport(outbox)), models[outbox].load());
            }
            prop_assert_eq!(chains.held_bytes(), held_anew(&chains));
        }
        for (outbox, mine) in outboxes.iter_mut().enumerate() {
            chains.clear_pending(mine, transport(outbox));
            chains.clear_in_flight(mine, transport(outbox));
        }
        prop_assert!(chains.is_empty());
    }
}

fn item(chains: &mut Chains, body: &[u8], is_push: bool) -> Item {
    let frame = Frame { version: 1, operation: 5, sequence: 0, body };
    chains.item(Encoded::frame(&frame), is_push)
}

/// Appends a push to each of `outboxes`, which then hold at most `pushes_max` pushes.
fn push(chains: &mut Chains, outboxes: &mut [Outbox], body: &[u8], pushes_max: u32) {
    let item = item(chains, body, true);
    let mut unused = AppendMemo::NONE;
    for outbox in outboxes {
        let fits = |load: Load| load.pushes < pushes_max;
        let superseded = chains.oldest(outbox, Transport::Tcp, fits);
        chains.append_and_note(&mut unused, outbox, &item, superseded);
    }
}

/// The frames of all logs, once for each log.
fn frames_logged(chains: &Chains) -> Vec<FrameId> {
    let logs = chains.logs.indices().filter(|&log| chains.logs.is_taken(log));
    logs.flat_map(|log| {
        let log = &chains.logs[log];
        let places = std::iter::successors(Some(log.begin()), |at| Some(at.next()));
        places.map_while(|at| log.get(at))
    })
    .collect()
}

fn frames_held(chains: &Chains) -> usize {
    frames_logged(chains).len()
}

/// [`Chains::held_bytes`], counted anew.
fn held_anew(chains: &Chains) -> usize {
    let mut frames = frames_logged(chains);
    let entries = frames.len() * ENTRY_BYTES;
    frames.sort_by_key(|frame| frame.0);
    frames.dedup();
    entries + frames.into_iter().map(|frame| bytes_of(&chains.frames[frame])).sum::<usize>()
}

#[test]
fn equal_outboxes_share_one_chain_and_one_buffer() {
    let mut chains = Chains::new();
    let mut outboxes = vec![Outbox::EMPTY; 100];
    for _ in 0..3 {
        push(&mut chains, &mut outboxes, b"shared", u32::MAX);
    }
    assert_eq!(chains.chains.len(), 1);
    assert_eq!(frames_held(&chains), 3);
    let mut buffers = Vec::new();
    for outbox in &mut outboxes {
        assert!(chains.start(outbox));
        let mut slices = chains.slices(outbox, Transport::Tcp);
        buffers.push(slices.next().expect("bytes").as_ptr());
        assert!(slices.next().is_none());
    }
    buffers.dedup();
    assert_eq!(buffers.len(), 1);
    assert_eq!(chains.joined_bytes, 3 * (16 + 6));
}

#[test]
fn a_frame_cut_in_the_middle_is_lost_and_the_ones_before_it_are_sent() {
    let mut chains = Chains::new();
    let mut outboxes = [Outbox::EMPTY];
    for _ in 0..3 {
        push(&mut chains, &mut outboxes, b"1234", u32::MAX);
    }
    let [mut outbox] = outboxes;
    assert!(chains.start(&mut outbox));
    assert_eq!(chains.slices(&outbox, Transport::Tcp).count(), 1);
    let progress = chains.advance(&mut outbox, Transport::Tcp, 39);
    assert_eq!(progress, SendProgress { pushes: 1, is_done: false });
    let remains = chains.clear_in_flight(&mut outbox, Transport::Tcp);
    assert_eq!(remains, Remains { pushes: 2, bytes: 21 });
    assert!(chains.is_empty());
}

/// Each frame is looked at once for its window and once for its buffer, however long the backlog is.
#[test]
fn the_cost_of_a_backlog_is_linear_in_its_frames() {
    const FRAMES: u64 = 65_000;
    const READERS: usize = 10;
    let mut chains = Chains::new();
    let mut outboxes = vec![Outbox::EMPTY; READERS];
    for _ in 0..FRAMES {
        push(&mut chains, &mut outboxes, b"1234", u32::MAX);
    }
    visits::take();
    let total = chains.load(&outboxes[0], Transport::WebSocket).bytes as usize;
    let mut windows = 0;
    while !outboxes[0].is_empty() {
        let mut sending = Vec::new();
        for outbox in &mut outboxes {
            assert!(chains.start(outbox));
            sending.push(concat(chains.slices(outbox, Transport::Tcp)).len());
        }
        // The first half of each window, then the rest.
        for (outbox, bytes) in outboxes.iter_mut().zip(sending) {
            for part in [bytes / 2, bytes - bytes / 2] {
                chains.advance(outbox, Transport::Tcp, part);
            }
        }
        windows += 1;
    }
    assert!(windows <= total / WINDOW + 1, "{windows} windows");
    let visits = visits::take();
    assert!((FRAMES..=2 * FRAMES + 100).contains(&visits), "{visits} visits");
    assert!(chains.is_empty());
}

#[test]
fn without_memory_for_buffers_a_send_still_takes_a_window() {
    const FRAMES: u64 = 3_000;
    let mut chains = Chains::new();
    chains.joined_bytes = JOINED_BYTES_MAX;
    let mut outboxes = [Outbox::EMPTY];
    for _ in 0..FRAMES {
        push(&mut chains, &mut outboxes, &[0; 84], u32::MAX);
    }
    let [mut outbox] = outboxes;
    visits::take();
    assert!(chains.start(&mut outbox));
    let mut sends = 0;
    while outbox.is_sending() {
        let slices = chains.slices(&outbox, Transport::Tcp);
        let bytes = slices.clone().map(<[u8]>::len).sum();
        assert!(slices.count() == SLICES_MAX || sends == 2);
        // Cut in the middle of a frame.
        let bytes = if sends < 2 { bytes - 50 } else { bytes };
        chains.advance(&mut outbox, Transport::Tcp, bytes);
        sends += 1;
    }
    assert_eq!(sends, 3);
    assert_eq!(chains.joined_bytes, JOINED_BYTES_MAX);
}

/// A push to a full outbox looks at the frame that is dropped, but not at those behind it, whether the outboxes are
/// equal or not.
#[test]
fn dropping_the_oldest_is_constant_work() {
    const PUSHES_MAX: u32 = 512;
    const OUTBOXES: u64 = 100;
    const PUSHES: u64 = 2_000;
    for (case, has_own_replies) in [("alike", false), ("each with a reply of its own", true)] {
        let mut chains = Chains::new();
        let mut outboxes = vec![Outbox::EMPTY; OUTBOXES as usize];
        push(&mut chains, &mut outboxes, b"in flight", PUSHES_MAX);
        for outbox in &mut outboxes {
            assert!(chains.start(outbox));
        }
        for number in 0..PUSHES_MAX {
            push(&mut chains, &mut outboxes, b"waits", PUSHES_MAX);
            if number == 100 && has_own_replies {
                for outbox in &mut outboxes {
                    let reply = item(&mut chains, b"reply", false);
                    chains.append(outbox, &reply);
                }
            }
        }
        visits::take();
        for _ in 0..PUSHES {
            push(&mut chains, &mut outboxes, b"newer", PUSHES_MAX);
        }
        let visits = visits::take() as f64 / (PUSHES * OUTBOXES) as f64;
        // A look at the dropped frame and at the one behind it; in addition, from time to time a copy of a whole log.
        assert!(visits < 8.0, "{case}: {visits} frames for each push and outbox");
        // The frame in flight keeps the front of its log.
        let logs = if has_own_replies { OUTBOXES as usize } else { 1 };
        assert!(frames_held(&chains) <= logs * 3 * PUSHES_MAX as usize, "{case}");
        for outbox in &mut outboxes {
            let load = chains.load(outbox, Transport::Tcp);
            assert_eq!((load.pushes, load.replies), (PUSHES_MAX, u32::from(has_own_replies)));
            chains.clear_pending(outbox, Transport::Tcp);
            chains.clear_in_flight(outbox, Transport::Tcp);
        }
        assert!(chains.is_empty());
    }
}
