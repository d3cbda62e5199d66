//! Work that grows with the number of rooms, beside the control thread: pushes go on meanwhile.

use tokio::task::spawn_blocking;

/// Does `work` on a thread of its own, on the CPUs of the control thread. It must come to an end by itself: the
/// runtime waits for it.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("a panic aborts the process, and nothing cancels the work")
}
