//! The frame of a push in every form that clients of a shard want. Each is made for the first client that wants it.

use comet_proto::Encoded;

use crate::conn::{COMPRESSED, COMPRESSED_FORMS, EVENT_FORM, PROTOCOL_2_FORMS, TEXT_FORM};
use crate::gaps::Offsets;
use crate::outbox::chains::Chains;
use crate::outbox::{Item, State, Subject};
use crate::parking::ParkedPush;

/// The frame of a push, the same for all outboxes of a form.
pub(super) struct Items {
    /// For both transports.
    pub(super) binary: Item,
    /// For clients that speak the text form, from the first of them on.
    pub(super) text: Option<Item>,
    /// For event streams, from the first of them on.
    pub(super) event: Option<Item>,
    /// Of a push to a room, for members of protocol 2, from the first of them on.
    pub(super) room_push: Option<Item>,
    /// The forms of a WebSocket for clients that negotiated compression, from the first of them on: the plain item where
    /// that is shorter.
    pub(super) compressed: [Option<Item>; COMPRESSED],
}

/// The frame of a push in forms that took time to make, as far as clients wanted them.
#[derive(Clone, Default)]
pub(super) struct MadeFrames {
    text: Option<Encoded>,
    event: Option<Encoded>,
    compressed: [Option<Encoded>; COMPRESSED],
}

impl MadeFrames {
    /// The push is for event streams.
    pub(super) fn event(event: Encoded) -> Self {
        Self { event: Some(event), ..Self::default() }
    }

    /// Bytes of the form for event streams, if that was made.
    pub(super) fn event_bytes(&self) -> usize {
        self.event.as_ref().map_or(0, |event| event.for_websocket().len())
    }
}

impl Items {
    /// `made` is there from an earlier walk.
    pub(super) fn new(chains: &mut Chains, binary: &Encoded, made: &MadeFrames) -> Self {
        let mut item = |frame: &Encoded| chains.item(frame.clone(), true);
        Self {
            binary: item(binary),
            text: made.text.as_ref().map(&mut item),
            event: made.event.as_ref().map(&mut item),
            room_push: None,
            compressed: made.compressed.each_ref().map(|frame| frame.as_ref().map(&mut item)),
        }
    }

    /// The push is about a state, of which clients need only the latest. To be called before the first walk.
    pub(super) fn set_state(&mut self, state: State) {
        let offsets = self.binary.offsets();
        self.binary
            .set_subject(Subject { state: Some(state), offsets, ..Subject::default() }.shared());
    }

    /// The push has a place in the history of its room. To be called before the first walk.
    pub(super) fn set_offsets(&mut self, offsets: Offsets) {
        let state = self.binary.state().cloned();
        let subject = Subject { state, offsets: Some(offsets), ..Subject::default() };
        self.binary.set_subject(subject.shared());
    }

    /// What a client missed is for it alone, so it is not worth the time to compress it.
    pub(super) fn keep_plain(&mut self) {
        self.compressed[COMPRESSED - 1] = Some(self.binary.clone());
    }

    /// The push is to keys or users, and is parked for those that are away. To be called before the first walk.
    pub(super) fn set_direct(&mut self, direct: ParkedPush) {
        let subject = Subject { direct: Some(direct), ..Subject::default() };
        self.binary.set_subject(subject.shared());
    }

    /// For a later walk.
    pub(super) fn made(&self) -> MadeFrames {
        let frame = |item: &Option<Item>| item.as_ref().map(|item| item.frame().clone());
        MadeFrames {
            text: frame(&self.text),
            event: frame(&self.event),
            compressed: self.compressed.each_ref().map(frame),
        }
    }

    /// The frame in the form `form`, which was made.
    pub(super) fn of(&self, form: usize) -> &Item {
        let item = match form {
            TEXT_FORM => self.text.as_ref(),
            EVENT_FORM => self.event.as_ref(),
            COMPRESSED_FORMS.. => self.compressed[form - COMPRESSED_FORMS].as_ref(),
            PROTOCOL_2_FORMS.. => self.room_push.as_ref(),
            _ => None,
        };
        item.unwrap_or(&self.binary)
    }
}

/// Length of a frame on each transport.
pub(super) fn lengths(frame: &Encoded) -> [u32; 2] {
    [frame.for_tcp().len() as u32, frame.for_websocket().len() as u32]
}
