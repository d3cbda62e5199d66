//! The pushes to keys and users in an outbox. They are parked if the connection ends first.

use crate::index::Index;
use crate::outbox::chain::Chain;
use crate::outbox::{ChainId, Outbox};
use crate::parking::{ParkedFrame, ParkedPush};
use crate::transport::Transport;

use super::Chains;

impl Chains {
    /// The pushes among the pending frames. Those in flight are left out.
    pub(crate) fn direct_waiting(&self, outbox: &Outbox) -> Vec<ParkedPush> {
        self.direct(outbox.pending, [0; 2])
    }

    /// The pushes among the frames in flight that the kernel has not taken to the last byte.
    pub(crate) fn direct_in_flight(
        &self,
        outbox: &Outbox,
        transport: Transport,
    ) -> Vec<ParkedPush> {
        let Outbox { in_flight, taken, .. } = *outbox;
        let skipped = match taken {
            0 => [0; 2],
            _ => {
                let whole = self.whole(in_flight, transport, taken);
                let in_parcel = self.whole_of_parcel(in_flight, transport, whole, taken);
                [whole.frames, in_parcel.map_or(0, |(pushes, _)| pushes)]
                    .map(|count| count as usize)
            }
        };
        self.direct(in_flight, skipped)
    }

    /// The pushes of a chain, without its first `frames` frames and the first `in_parcel` pushes of a parcel that comes
    /// next.
    fn direct(&self, index: ChainId, [frames, mut in_parcel]: [usize; 2]) -> Vec<ParkedPush> {
        if index == ChainId::NONE {
            return Vec::new();
        }
        let Chain { log, run, .. } = self.chains[index];
        let mut pushes = Vec::new();
        for (_, item) in self.logs[log].frames(&self.frames, run).skip(frames) {
            let skipped = std::mem::take(&mut in_parcel);
            match item.parcel() {
                None => pushes.extend(item.direct().cloned()),
                Some(parcel) => {
                    pushes.extend(parcel.iter().skip(skipped).map(ParkedFrame::to_push));
                }
            }
        }
        pushes
    }
}

#[cfg(test)]
mod tests {
    use comet_proto::{Encoded, Frame};

    use crate::outbox::{Load, Outbox, Remains, SendProgress};
    use crate::parking::ParkedFrames;

    use super::*;

    fn frame(body: &[u8]) -> Encoded {
        Encoded::frame(&Frame { version: 1, operation: 5, sequence: 0, body })
    }

    #[test]
    fn a_parcel_is_one_slice_of_a_send_and_as_many_pushes_as_were_parked() {
        for transport in [Transport::Tcp, Transport::WebSocket] {
            let frames = [frame(b"1"), frame(b"2 2"), frame(b"3 3 3")];
            let mut parked = ParkedFrames::default();
            frames.iter().for_each(|frame| parked.push(ParkedFrame::new(5, frame, true)));
            let lengths = frames.each_ref().map(|frame| transport.bytes(frame).len());
            let all: usize = lengths.iter().sum();
            let mut chains = Chains::new();
            let mut outbox = Outbox::EMPTY;
            let parcel = chains.parcel(parked, transport);
            chains.append(&mut outbox, &parcel);
            let load = chains.load(&outbox, transport);
            assert_eq!(load, Load { pushes: 3, replies: 0, bytes: all as u32 });
            assert!(chains.start(&mut outbox));
            assert_eq!(chains.slices(&outbox, transport).count(), 1);
            let taken = lengths[0] + 1;
            let progress = chains.advance(&mut outbox, transport, taken);
            assert_eq!(progress, SendProgress { pushes: 1, is_done: false });
            assert_eq!(chains.load(&outbox, transport).pushes, 2);
            let progress = chains.advance(&mut outbox, transport, lengths[1] - 1);
            assert_eq!(progress, SendProgress { pushes: 1, is_done: false });
            let rest = chains.direct_in_flight(&outbox, transport);
            let [ParkedPush { operation: 5, frame, is_accepted: true }] = &rest[..] else {
                panic!("{rest:?}")
            };
            assert_eq!(frame.parts(), frames[2].parts());
            let remains = chains.clear_in_flight(&mut outbox, transport);
            assert_eq!(remains, Remains { pushes: 1, bytes: lengths[2] as u32 });
            drop(parcel);
            assert!(chains.is_empty());
        }
    }
}
