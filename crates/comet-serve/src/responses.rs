//! Answers over gRPC, from their beginning until their caller has taken the last byte: how many there may be, and how
//! long one may wait for its caller.
//!
//! In HTTP/2 a caller may take nothing of one answer and yet everything else (RFC 9113, section 5.2), so no deadline of
//! the socket notices it. Each part given to the HTTP library is therefore tracked here until the library has written
//! it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::active_time::sleep_active;

/// Bytes given to the HTTP library at once. The caller has to take each such part in time; a long answer may take
/// longer.
const PART: usize = 16 << 10;

/// Parts shorter than this are copied. Otherwise they would keep the whole buffer of their encoder.
const COPIED: usize = 4 << 10;

/// Time that a caller has after a stall of the server, however long ago its part was handed over.
const AFTER_STALL: Duration = Duration::from_secs(1);

/// Answers that have begun and not ended, over all callers.
pub(crate) struct OpenResponses {
    permits_max: usize,
    bytes_max: usize,
    permits: AtomicUsize,
    /// Bytes that are encoded and not yet taken by callers.
    bytes: AtomicUsize,
}

/// What an answer counts as until its end.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// A call: the encoded bytes that are left of it.
    Call,
    /// A stream: its producer, for as long as it lasts.
    Stream,
}

impl Kind {
    fn permits(self) -> usize {
        match self {
            Self::Call => 1,
            Self::Stream => 4,
        }
    }
}

impl OpenResponses {
    pub(crate) fn new(permits_max: usize, bytes_max: usize) -> Arc<Self> {
        let (permits, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { permits_max, bytes_max, permits, bytes })
    }

    /// Whether no further request may begin; `is_long` if its answer may be long. Requests under way are answered in
    /// any case, because an answer takes less memory than its request did.
    pub(crate) fn is_full(&self, is_long: bool) -> bool {
        let is_long_full = is_long && self.bytes.load(Relaxed) >= self.bytes_max;
        is_long_full || self.permits.load(Relaxed) >= self.permits_max
    }
}

/// The permit of an answer, held until this is dropped.
struct ResponsePermit {
    responses: Arc<OpenResponses>,
    kind: Kind,
}

impl Drop for ResponsePermit {
    fn drop(&mut self) {
        self.responses.permits.fetch_sub(self.kind.permits(), Relaxed);
    }
}

/// An answer that has begun.
pub(crate) struct TrackedBody {
    /// `None` at its end.
    source: Option<Body>,
    /// Frames that were read from `source` and not yet handed over.
    read: VecDeque<Result<Frame<Bytes>, Error>>,
    /// Bytes in `read`.
    read_len: usize,
    permit: Arc<ResponsePermit>,
    unsent: Arc<UnsentChunks>,
}

impl TrackedBody {
    /// `unsent` belongs to the connection of the answer.
    pub(crate) fn new(
        source: Body,
        responses: &Arc<OpenResponses>,
        kind: Kind,
        unsent: &Arc<UnsentChunks>,
    ) -> Self {
        responses.permits.fetch_add(kind.permits(), Relaxed);
        let permit = Arc::new(ResponsePermit { responses: Arc::clone(responses), kind });
        let unsent = Arc::clone(unsent);
        Self { source: Some(source), read: VecDeque::new(), read_len: 0, permit, unsent }
    }

    /// Reads the next frame, if one is ready. Returns whether there was one.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(source) = &mut self.source else { return Poll::Ready(false) };
        let Some(read) = ready!(Pin::new(source).poll_frame(cx)) else {
            self.source = None;
            return Poll::Ready(false);
        };
        match &read {
            Ok(frame) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.read_len += length;
                self.permit.responses.bytes.fetch_add(length, Relaxed);
                if frame.is_trailers() {
                    self.source = None;
                }
            }
            Err(_) => self.source = None,
        }
        self.read.push_back(read);
        Poll::Ready(true)
    }

    /// The next part of these bytes. The rest goes back to the front of the queue.
    fn part(&mut self, mut bytes: Bytes) -> Bytes {
        let part = bytes.split_to(bytes.len().min(PART));
        if !bytes.is_empty() {
            self.read.push_front(Ok(Frame::data(bytes)));
        }
        self.read_len -= part.len();
        let part = if part.len() < COPIED { Bytes::copy_from_slice(&part) } else { part };
        let id = self.unsent.begin();
        let (permit, unsent) = (Arc::clone(&self.permit), Arc::clone(&self.unsent));
        Bytes::from_owner(Part { bytes: part, id, permit, unsent })
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if this.read.is_empty() {
            if !ready!(this.poll_read(cx)) {
                return Poll::Ready(None);
            }
            if matches!(this.permit.kind, Kind::Call) {
                // Most answers end with this frame. Reading on drops their producer at once, whenever the caller takes
                // the bytes.
                let _ = this.poll_read(cx);
            }
        }
        let next = this.read.pop_front().map(|read| {
            read.map(|frame| match frame.into_data() {
                Ok(bytes) => Frame::data(this.part(bytes)),
                Err(trailers) => trailers,
            })
        });
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.source.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Some(source) if self.read.is_empty() => source.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.permit.responses.bytes.fetch_sub(self.read_len, Relaxed);
    }
}

/// Bytes that the HTTP library holds until it has written them.
struct Part {
    bytes: Bytes,
    id: u64,
    /// Keeps the answer counted until this part is written.
    permit: Arc<ResponsePermit>,
    unsent: Arc<UnsentChunks>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.permit.responses.bytes.fetch_sub(self.bytes.len(), Relaxed);
        self.unsent.end(self.id);
    }
}

/// The bytes of its answers that the caller of one connection has not taken. A stream that waits for more has none
/// here.
#[derive(Default)]
pub(crate) struct UnsentChunks {
    parts: Mutex<Parts>,
    /// Notified when there is something.
    begun: Notify,
}

#[derive(Default)]
struct Parts {
    next: u64,
    /// The times since when parts wait, oldest first.
    since: BTreeMap<u64, Instant>,
}

impl UnsentChunks {
    /// Resolves when a part has not been taken for `limit` of active time.
    pub(crate) async fn overdue(&self, limit: Duration) {
        loop {
            let begun = self.begun.notified();
            let Some((oldest, since)) = self.oldest() else {
                begun.await;
                continue;
            };
            sleep_active(limit.saturating_sub(since.elapsed()).max(AFTER_STALL)).await;
            let is_left = self.oldest().is_some_and(|(id, _)| id == oldest);
            if is_left && since.elapsed() >= limit {
                return;
            }
        }
    }

    fn begin(&self) -> u64 {
        let mut parts = self.lock();
        let id = parts.next;
        parts.next += 1;
        parts.since.insert(id, Instant::now());
        if parts.since.len() == 1 {
            self.begun.notify_one();
        }
        id
    }

    fn end(&self, id: u64) {
        self.lock().since.remove(&id);
    }

    fn oldest(&self) -> Option<(u64, Instant)> {
        self.lock().since.first_key_value().map(|(id, since)| (*id, *since))
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().expect("nothing panics between lock and unlock")
    }
}

impl fmt::Debug for OpenResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenResponses({} of {})", self.permits.load(Relaxed), self.permits_max)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Waker;

    use axum::http::HeaderMap;
    use tokio::time::advance;

    use crate::offload::Frames;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    async fn next(answer: &mut TrackedBody) -> Option<Frame<Bytes>> {
        poll_fn(|cx| Pin::new(&mut *answer).poll_frame(cx)).await.map(Result::unwrap)
    }

    /// A body with `length` bytes and trailers.
    async fn body(length: usize) -> Body {
        struct Source(VecDeque<Frame<Bytes>>);
        impl HttpBody for Source {
            type Data = Bytes;
            type Error = Error;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
                Poll::Ready(self.0.pop_front().map(Ok))
            }
        }
        let frames = [Frame::data(vec![7; length].into()), Frame::trailers(HeaderMap::new())];
        Body::new(Frames::of(Source(frames.into())).await)
    }

    #[tokio::test]
    async fn an_answer_counts_until_its_last_byte_is_written() {
        let (responses, unsent) = (OpenResponses::new(2, 40_000), Arc::default());
        let mut answer = TrackedBody::new(body(40_000).await, &responses, Kind::Call, &unsent);
        assert!(!responses.is_full(true));
        let mut parts = Vec::new();
        while let Some(frame) = next(&mut answer).await {
            assert!(responses.is_full(true) && !responses.is_full(false));
            parts.extend(frame.into_data());
        }
        assert!(answer.is_end_stream());
        let lengths = parts.iter().map(Bytes::len);
        assert_eq!(lengths.collect::<Vec<_>>(), [PART, PART, 40_000 - 2 * PART]);
        assert_eq!(parts.concat(), [7; 40_000]);
        let other = TrackedBody::new(body(1).await, &responses, Kind::Call, &unsent);
        drop(answer);
        // The library still has its bytes.
        assert!(responses.is_full(false));
        parts.truncate(1);
        assert!(responses.is_full(false));
        assert_eq!(unsent.oldest().map(|(id, _)| id), Some(0));
        parts.clear();
        assert!(!responses.is_full(false));
        drop(other);
        let left = (responses.permits.load(Relaxed), responses.bytes.load(Relaxed));
        assert_eq!((left, unsent.oldest()), ((0, 0), None));
    }

    #[tokio::test]
    async fn a_stream_takes_more_permits() {
        let (responses, unsent) = (OpenResponses::new(4, 1), Arc::default());
        let mut answer = TrackedBody::new(body(100).await, &responses, Kind::Stream, &unsent);
        assert!(responses.is_full(false));
        let part = next(&mut answer).await;
        drop(answer);
        assert!(responses.is_full(false));
        drop(part);
        assert!(!responses.is_full(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_overdue_after_its_time() {
        let unsent = UnsentChunks::default();
        let mut overdue = pin!(unsent.overdue(LIMIT));
        let mut is_overdue =
            || overdue.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        // Nothing waits for the caller.
        assert!(!is_overdue());
        advance(100 * LIMIT).await;
        assert!(!is_overdue());
        let begin = Instant::now();
        let first = unsent.begin();
        let second = unsent.begin();
        unsent.end(first);
        assert!(!is_overdue());
        unsent.overdue(LIMIT).await;
        assert_eq!(begin.elapsed(), LIMIT);
        unsent.end(second);
        assert!(!is_overdue());
    }

    /// Bytes may have been taken while the process was stopped and could not see it.
    #[tokio::test(start_paused = true)]
    async fn a_stall_is_no_part_of_the_time() {
        let unsent = UnsentChunks::default();
        unsent.begin();
        advance(2 * LIMIT).await;
        let begin = Instant::now();
        unsent.overdue(LIMIT).await;
        assert_eq!(begin.elapsed(), AFTER_STALL);
    }
}
