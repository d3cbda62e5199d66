//! Memory of the requests that are being received or answered, over all callers: one bound in bytes.
//!
//! Bytes count as they arrive. When the bound is reached, the oldest incomplete request ends, because an honest request
//! is complete soon. Complete requests keep their bytes until they are answered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

/// Memory of a request beside its bytes: its task, its stream and the buffers of the decoder.
pub(crate) const OVERHEAD: usize = 16 << 10;

/// Memory of a stream's message beside its bytes: the pieces it consists of, and what its service keeps until it has
/// handled it. The memory of the stream itself is counted with its answer.
pub(crate) const MESSAGE_OVERHEAD: usize = 256;

/// Bytes of all requests at once.
pub(crate) struct RequestMemory {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bytes: usize,
    next: u64,
    /// Requests that are not complete, the oldest first.
    incomplete: BTreeMap<u64, Incomplete>,
}

struct Incomplete {
    bytes: usize,
    given_up: Arc<Notify>,
}

/// A request that is coming in.
pub(crate) struct IncompleteRequest {
    memory: Arc<RequestMemory>,
    id: u64,
    given_up: Arc<Notify>,
}

/// The bytes of a complete request, counted until this is dropped.
pub(crate) struct Complete {
    memory: Arc<RequestMemory>,
    bytes: usize,
}

/// The bound is reached, and no other request is older and incomplete.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Full;

impl RequestMemory {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default() }
    }

    /// Bytes of all requests at most.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes of all requests now.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Begins a request, or a message of a stream, which takes `overhead` beside its bytes.
    pub(crate) fn begin(self: &Arc<Self>, overhead: usize) -> Result<IncompleteRequest, Full> {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let given_up = Arc::new(Notify::new());
        let incomplete = Incomplete { bytes: 0, given_up: Arc::clone(&given_up) };
        state.incomplete.insert(id, incomplete);
        state.grow(id, overhead, self.bytes_max)?;
        Ok(IncompleteRequest { memory: Arc::clone(self), id, given_up })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics between lock and unlock")
    }
}

impl State {
    /// Counts `more` bytes for the incomplete request `id`, or gives the request up.
    fn grow(&mut self, id: u64, more: usize, bytes_max: usize) -> Result<(), Full> {
        while self.bytes + more > bytes_max {
            let (&oldest, _) = self.incomplete.first_key_value().ok_or(Full)?;
            self.give_up(oldest);
        }
        match self.incomplete.get_mut(&id) {
            Some(incomplete) => {
                incomplete.bytes += more;
                self.bytes += more;
                Ok(())
            }
            None => Err(Full),
        }
    }

    fn give_up(&mut self, id: u64) {
        if let Some(incomplete) = self.incomplete.remove(&id) {
            self.bytes -= incomplete.bytes;
            incomplete.given_up.notify_one();
        }
    }
}

impl IncompleteRequest {
    /// Counts `more` bytes that have come.
    ///
    /// # Errors
    /// If there is no space for them, or the request was given up before. Then it counts no more.
    pub(crate) fn grow(&self, more: usize) -> Result<(), Full> {
        self.memory.lock().grow(self.id, more, self.memory.bytes_max)
    }

    /// Marks the request as complete: all bytes have arrived.
    ///
    /// # Errors
    /// If it was given up before.
    pub(crate) fn complete(self) -> Result<Complete, Full> {
        // A request removed here is not given up when `self` is dropped.
        let incomplete = self.memory.lock().incomplete.remove(&self.id).ok_or(Full)?;
        Ok(Complete { memory: Arc::clone(&self.memory), bytes: incomplete.bytes })
    }

    /// Notified once when the request is given up.
    pub(crate) fn given_up(&self) -> Arc<Notify> {
        Arc::clone(&self.given_up)
    }
}

impl Drop for IncompleteRequest {
    fn drop(&mut self) {
        self.memory.lock().give_up(self.id);
    }
}

impl Drop for Complete {
    fn drop(&mut self) {
        self.memory.lock().bytes -= self.bytes;
    }
}

impl fmt::Debug for RequestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestMemory({} of {})", self.bytes(), self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(requests: usize) -> Arc<RequestMemory> {
        Arc::new(RequestMemory::new(requests * OVERHEAD))
    }

    #[test]
    fn bytes_count_until_the_answer() {
        let memory = memory(2);
        let request = memory.begin(OVERHEAD).unwrap();
        request.grow(100).unwrap();
        assert_eq!(memory.bytes(), OVERHEAD + 100);
        let complete = request.complete().unwrap();
        assert_eq!(memory.bytes(), OVERHEAD + 100);
        drop(complete);
        assert_eq!(memory.bytes(), 0);
    }

    #[tokio::test]
    async fn the_oldest_incomplete_request_makes_room() {
        let memory = memory(3);
        let [slow, slower] = [(); 2].map(|()| memory.begin(OVERHEAD).unwrap());
        let complete = memory.begin(OVERHEAD).unwrap().complete().unwrap();
        let honest = memory.begin(OVERHEAD).unwrap();
        slow.given_up().notified().await;
        assert_eq!(slow.grow(1), Err(Full));
        assert_eq!(honest.grow(OVERHEAD), Ok(()));
        slower.given_up().notified().await;
        assert!(slower.complete().is_err());
        // This one is the oldest now.
        assert_eq!(honest.grow(1), Err(Full));
        drop((slow, honest, complete));
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn complete_requests_are_not_given_up() {
        let memory = memory(1);
        let complete = memory.begin(OVERHEAD).unwrap().complete().unwrap();
        assert!(memory.begin(OVERHEAD).is_err());
        assert_eq!(memory.bytes(), OVERHEAD);
        drop(complete);
        assert!(memory.begin(OVERHEAD).is_ok());
    }
}
