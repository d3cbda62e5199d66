//! The hand-over of gaps to another process.

use comet_handover as handed;
use comet_proto::RoomHandle;

use crate::ids::Slot;

use super::{Gap, Gaps, LostRange};

impl Gaps {
    /// The gaps of a connection.
    pub(crate) fn hand_over(&self, slot: Slot) -> Vec<handed::Gap> {
        let gaps = self.by_conn.get(&slot).map_or(&[][..], Vec::as_slice);
        gaps.iter()
            .map(|gap| {
                let Gap { room, is_left, first, pushes, needed, untold } = gap;
                handed::Gap {
                    room: room.0,
                    is_left: *is_left,
                    first: *first,
                    pushes: *pushes,
                    needed: *needed,
                    untold: untold.map(
                        |LostRange {
                             room: _,
                             first,
                             last,
                             pushes: _,
                             is_outdated,
                             generation: _,
                         }| {
                            handed::UntoldGap { first, last, is_outdated }
                        },
                    ),
                }
            })
            .collect()
    }

    /// Takes over the result of [`Gaps::hand_over`], with the handles of this process.
    pub(crate) fn take_over(&mut self, slot: Slot, gaps: Vec<handed::Gap>) {
        if gaps.is_empty() {
            return;
        }
        let here = |gap: handed::Gap| {
            let handed::Gap { room, is_left, first, pushes, needed, untold } = gap;
            let room = RoomHandle(room);
            let untold = untold.map(|handed::UntoldGap { first, last, is_outdated }| LostRange {
                room,
                first,
                last,
                // The gap counts them already.
                pushes: 0,
                is_outdated,
                generation: None,
            });
            Gap { room, is_left, first, pushes, needed, untold }
        };
        self.by_conn.insert(slot, gaps.into_iter().map(here).collect());
        self.untold += usize::from(self.by_conn[&slot].iter().any(|gap| gap.untold.is_some()));
    }
}
