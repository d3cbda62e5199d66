//! The frame of a push in each form that clients of a shard use. A form is encoded for the first client that uses it.

use comet_proto::Encoded;

use crate::conn::{COMPRESSED, COMPRESSED_FORMS, EVENT_FORM, PROTOCOL_2_FORMS, TEXT_FORM};
use crate::gaps::Offsets;
use crate::outbox::chains::Chains;
use crate::outbox::{CollapseKey, Item, PushMeta};
use crate::parking::ParkedPush;

/// The frame of a push in its forms. All outboxes of a form get the same item.
pub(super) struct PushForms {
    /// For both transports.
    pub(super) binary: Item,
    /// For clients of the text form; made for the first of them.
    pub(super) text: Option<Item>,
    /// For event streams; made for the first of them.
    pub(super) event: Option<Item>,
    /// A push to a room in the form for members of protocol 2; made for the first of them.
    pub(super) room_push: Option<Item>,
    /// The WebSocket forms for clients that negotiated compression; made for the first of them. The plain item if that
    /// is shorter.
    pub(super) compressed: [Option<Item>; COMPRESSED],
}

/// The forms of a push that took time to encode, if clients used them.
#[derive(Clone, Default)]
pub(super) struct EncodedForms {
    text: Option<Encoded>,
    event: Option<Encoded>,
    compressed: [Option<Encoded>; COMPRESSED],
}

impl EncodedForms {
    /// A push for event streams only.
    pub(super) fn event(event: Encoded) -> Self {
        Self { event: Some(event), ..Self::default() }
    }

    /// The length of the event-stream form, if it was made.
    pub(super) fn event_bytes(&self) -> usize {
        self.event.as_ref().map_or(0, |event| event.for_websocket().len())
    }
}

impl PushForms {
    /// `made` holds forms from an earlier walk.
    pub(super) fn new(chains: &mut Chains, binary: &Encoded, made: &EncodedForms) -> Self {
        let mut item = |frame: &Encoded| chains.item(frame.clone(), true);
        Self {
            binary: item(binary),
            text: made.text.as_ref().map(&mut item),
            event: made.event.as_ref().map(&mut item),
            room_push: None,
            compressed: made.compressed.each_ref().map(|frame| frame.as_ref().map(&mut item)),
        }
    }

    /// The push is about a state, of which clients need only the latest. Must be called before the first walk.
    pub(super) fn set_collapse_key(&mut self, key: CollapseKey) {
        let offsets = self.binary.offsets();
        self.binary.set_meta(
            PushMeta { collapse_key: Some(key), offsets, ..PushMeta::default() }.shared(),
        );
    }

    /// The push has a place in the history of its room. Must be called before the first walk.
    pub(super) fn set_offsets(&mut self, offsets: Offsets) {
        let collapse_key = self.binary.collapse_key().cloned();
        let meta = PushMeta { collapse_key, offsets: Some(offsets), ..PushMeta::default() };
        self.binary.set_meta(meta.shared());
    }

    /// Switches compression off. Missed pushes are encoded for one client, so compressing them is not worth the time.
    pub(super) fn keep_plain(&mut self) {
        self.compressed[COMPRESSED - 1] = Some(self.binary.clone());
    }

    /// The push is to keys or users, and is parked for sessions without a connection. Must be called before the first
    /// walk.
    pub(super) fn set_direct(&mut self, direct: ParkedPush) {
        let meta = PushMeta { direct: Some(direct), ..PushMeta::default() };
        self.binary.set_meta(meta.shared());
    }

    /// The forms to keep for a later walk.
    pub(super) fn made(&self) -> EncodedForms {
        let frame = |item: &Option<Item>| item.as_ref().map(|item| item.frame().clone());
        EncodedForms {
            text: frame(&self.text),
            event: frame(&self.event),
            compressed: self.compressed.each_ref().map(frame),
        }
    }

    /// The frame in the form `form`, which must have been made.
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
