//! The position up to which a host has read the stream, and its decisions about the messages found there. No I/O.

use comet_core::StreamState;
use comet_core::limits::STREAM_FRAMES_MAX as FRAMES_MAX;
use comet_hub::cluster::StreamPosition;

#[derive(Default)]
pub(super) struct ReadPosition {
    /// Distinguishes the stream from an earlier one of the same name.
    created: i128,
    /// If the stream had lost its last messages: the sequence number after which it continued. From there on numbers
    /// stand for other messages.
    cut: u64,
    /// Sequence of the last message that was read.
    pub(super) last: u64,
    /// When the stream got it, in milliseconds since 1970; 0: unknown.
    last_unix_ms: u64,
    /// Messages up to this number may be lost.
    lost: u64,
    /// Sequence number of the last message that existed at the start.
    end: u64,
    pub(super) is_read: bool,
    /// The position that was announced to homes.
    pub(super) announced: StreamPosition,
}

/// The state of the stream.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) created: i128,
    /// The first sequence number; without messages, the one after the last.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) messages: u64,
}

/// Lost messages.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Loss {
    /// The stream has lost messages that this host has read, up to the last. `first` is the number where this shows.
    Tail { first: u64, last: u64 },
    /// The stream has dropped messages that this host has not read.
    Unread { first: u64, last: u64 },
}

/// The meaning of a message from the consumer.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// The next one.
    Next,
    /// The next one, because those before it no longer exist. `None`: this host did not have to read them.
    Behind(Option<Loss>),
    /// It was read before.
    Known,
    /// Messages before it are missing.
    Early,
    /// It differs from the message that was read at this number. The stream begins anew.
    Other(Loss),
}

impl ReadPosition {
    pub(super) fn announced(&self) -> StreamPosition {
        let state = StreamState {
            epoch: epoch(self.created, self.cut),
            floor: self.lost * FRAMES_MAX,
            seen: self.last * FRAMES_MAX,
            is_read: self.is_read,
        };
        StreamPosition { state, cut: self.cut, seen_unix_ms: self.last_unix_ms }
    }

    /// Continues at the position up to which another process of this host has read the stream. `None`: it was another
    /// stream.
    pub(super) fn resume(created: i128, position: StreamPosition) -> Option<Self> {
        let StreamPosition { state, cut, seen_unix_ms } = position;
        let StreamState { epoch: known, floor, seen, is_read } = state;
        (is_read && known == epoch(created, cut)).then_some(Self {
            created,
            cut,
            last: seen / FRAMES_MAX,
            last_unix_ms: seen_unix_ms,
            lost: floor / FRAMES_MAX,
            is_read,
            ..Self::default()
        })
    }

    /// Continues the stream at the known position, or begins at its start if it is another stream.
    pub(super) fn begin(&mut self, found: Found) -> Option<Loss> {
        let Found { created, first, last, messages } = found;
        let mut loss = None;
        if created != self.created {
            // Members have had no message of a stream that was made meanwhile.
            let is_younger = self.created != 0 && created > self.created;
            *self = Self { created, is_read: is_younger, ..Self::default() };
        } else if last < self.last {
            loss = Some(self.cut_at(last + 1));
        }
        if !self.is_read && self.last == 0 {
            self.end = last;
        }
        if !self.is_read && (messages == 0 || first > self.end) {
            // None of the messages that existed at the start is left.
            self.skip_to(self.last.max(first.saturating_sub(1)));
            self.is_read = true;
        } else if self.is_read && first > self.last + 1 {
            loss = Some(self.lose_before(first));
        }
        loss
    }

    /// The sequence number at which a consumer has to begin: that of the last message that was read, to see whether it
    /// is still the same. 0: the first one.
    pub(super) fn start(&self) -> u64 {
        if self.last_unix_ms == 0 && self.last > 0 { self.last + 1 } else { self.last }
    }

    /// Decides about an arrived message; `is_first`: it is the first unknown one of its consumer. A repeated call with
    /// the same message has the same result.
    pub(super) fn arrive(&mut self, sequence: u64, unix_ms: u64, is_first: bool) -> Arrival {
        if sequence == self.last && ![0, unix_ms].contains(&self.last_unix_ms) {
            return Arrival::Other(self.cut_at(sequence));
        }
        if sequence <= self.last {
            return Arrival::Known;
        }
        if sequence == self.last + 1 {
            return Arrival::Next;
        }
        if !is_first {
            return Arrival::Early;
        }
        let is_begin = self.last == 0;
        let loss = self.lose_before(sequence);
        Arrival::Behind((!is_begin).then_some(loss))
    }

    /// Notes that the message is read. `true`: with it, all messages that existed at the start are read.
    pub(super) fn advance(&mut self, sequence: u64, unix_ms: u64) -> bool {
        (self.last, self.last_unix_ms) = (sequence, unix_ms);
        let has_ended = !self.is_read && sequence >= self.end;
        self.is_read |= has_ended;
        has_ended
    }

    fn cut_at(&mut self, first: u64) -> Loss {
        let Self { created, last, .. } = *self;
        *self = Self { created, cut: last, ..Self::default() };
        Loss::Tail { first, last }
    }

    fn lose_before(&mut self, next: u64) -> Loss {
        let first = self.last + 1;
        self.skip_to(next - 1);
        Loss::Unread { first, last: next - 1 }
    }

    fn skip_to(&mut self, last: u64) {
        (self.last, self.last_unix_ms, self.lost) = (last, 0, last);
    }
}

/// The same on all hosts, and never 0.
fn epoch(created: i128, cut: u64) -> u64 {
    let mixed = (created as u64) ^ cut.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that was made at 7, with the messages `first` to `last`.
    fn found(first: u64, last: u64) -> Found {
        Found { created: 7, first, last, messages: last + 1 - first }
    }

    /// A host that has read the messages 1 to 100; each arrived at ten times its number.
    fn read() -> ReadPosition {
        let mut position = ReadPosition::default();
        assert_eq!(position.begin(found(1, 100)), None);
        for number in 1..=100 {
            assert_eq!(position.arrive(number, number * 10, number == 1), Arrival::Next);
            assert_eq!(position.advance(number, number * 10), number == 100);
        }
        assert!(position.is_read);
        position
    }

    #[test]
    fn a_stream_is_read_on_behind_its_last_message_if_that_is_still_there() {
        let mut position = read();
        assert_eq!(position.begin(found(50, 105)), None);
        assert_eq!(position.start(), 100);
        assert_eq!(position.arrive(100, 1_000, true), Arrival::Known);
        assert_eq!(position.arrive(101, 1_010, true), Arrival::Next);
        assert!(!position.advance(101, 1_010));
        // A gap between the messages of a consumer.
        assert_eq!(position.arrive(103, 1_030, false), Arrival::Early);
        assert_eq!((position.last, position.lost), (101, 0));
    }

    /// The stream comes back with the messages up to 95, and others publish 96 to 105 before this host looks.
    #[test]
    fn a_stream_that_has_lost_its_tail_and_got_another_begins_anew() {
        let mut position = read();
        let before = position.announced();
        assert_eq!(position.begin(found(1, 105)), None, "it is as long as it was");
        let lost = Loss::Tail { first: 100, last: 100 };
        assert_eq!(position.arrive(100, 9_000, true), Arrival::Other(lost));
        assert_ne!(position.announced().state.epoch, before.state.epoch);
        assert_eq!(position.begin(found(1, 105)), None);
        assert_eq!((position.start(), position.end, position.is_read), (0, 105, false));
        assert_eq!(position.arrive(1, 10, true), Arrival::Next);
    }

    #[test]
    fn a_stream_that_is_shorter_begins_anew() {
        let mut position = read();
        assert_eq!(position.begin(found(1, 95)), Some(Loss::Tail { first: 96, last: 100 }));
        assert_eq!(
            (position.last, position.end, position.cut, position.is_read),
            (0, 95, 100, false)
        );
        // Another process of this host decides in the same way.
        let mut next = ReadPosition::resume(7, read().announced()).expect("it is the same stream");
        next.begin(found(1, 105));
        let lost = Loss::Tail { first: 100, last: 100 };
        assert_eq!(next.arrive(100, 9_000, true), Arrival::Other(lost));
    }

    /// No message shows the loss: the stream is empty, or nothing is published.
    #[test]
    fn messages_dropped_by_the_stream_are_detected_at_once() {
        for (first, last) in [(201, 200), (201, 300)] {
            let mut position = read();
            assert_eq!(
                position.begin(found(first, last)),
                Some(Loss::Unread { first: 101, last: 200 })
            );
            let StreamState { floor, seen, is_read, .. } = position.announced().state;
            assert_eq!((floor, seen, is_read), (200 * FRAMES_MAX, 200 * FRAMES_MAX, true));
            assert_eq!(position.start(), 201, "there is nothing to compare");
            assert_eq!(position.begin(found(first, last)), None, "it is told once");
        }
        assert_eq!(read().begin(found(101, 100)), None, "all of it was read");
    }

    #[test]
    fn messages_that_go_while_a_consumer_is_made_are_lost() {
        let mut position = read();
        position.begin(found(50, 105));
        let lost = Loss::Unread { first: 101, last: 149 };
        assert_eq!(position.arrive(150, 1_500, true), Arrival::Behind(Some(lost)));
        assert_eq!(position.arrive(150, 1_500, true), Arrival::Next, "it was not read yet");
        let mut begins = ReadPosition::default();
        begins.begin(found(5, 9));
        assert_eq!(begins.arrive(5, 50, true), Arrival::Behind(None), "nobody had to read them");
        assert_eq!(begins.lost, 4);
    }

    #[test]
    fn a_stream_without_messages_is_read_at_once() {
        for (first, last) in [(0, 0), (1, 0), (9, 8)] {
            let mut position = ReadPosition::default();
            let found = Found { created: 7, first, last, messages: 0 };
            assert_eq!(
                (position.begin(found), position.is_read, position.lost),
                (None, true, last)
            );
        }
    }

    #[test]
    fn another_stream_has_another_epoch() {
        assert_ne!(epoch(7, 0), epoch(8, 0));
        assert_ne!(epoch(7, 0), epoch(7, 1));
        assert_eq!(epoch(0, 0), 1, "0 stands for none");
        let mut position = read();
        assert_eq!(position.begin(Found { created: 8, ..found(1, 3) }), None);
        assert_eq!((position.last, position.is_read), (0, true), "no member has had its messages");
        assert_eq!(position.begin(Found { created: 6, ..found(1, 3) }), None);
        assert_eq!((position.last, position.is_read), (0, false), "it is older");
    }

    #[test]
    fn a_stream_is_read_on_where_another_process_was() {
        for cut in [0, 5] {
            let former = ReadPosition { cut, lost: 3, ..read() };
            let next = ReadPosition::resume(7, former.announced()).expect("it is the same stream");
            assert_eq!((next.last, next.lost, next.start()), (100, 3, 100));
            assert_eq!(
                (next.announced(), next.announced),
                (former.announced(), StreamPosition::default())
            );
            assert!(ReadPosition::resume(8, former.announced()).is_none(), "it was made anew");
        }
        let began = ReadPosition { created: 7, ..ReadPosition::default() };
        assert!(ReadPosition::resume(7, began.announced()).is_none(), "it was not read yet");
    }
}
