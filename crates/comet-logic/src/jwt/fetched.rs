//! Keys from URLs, shared by the thread that fetches them and the checks of tokens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::Thread;

use super::keys::Key;

/// The keys of a URL; `None`: they were not fetched yet.
pub(super) type UrlKeys = Option<Vec<Key>>;

/// The JWK set from which they were read.
pub(super) type Document = Option<Arc<[u8]>>;

/// The keys of all URLs, in the order of the configuration.
pub(super) struct FetchedKeys {
    sets: RwLock<Arc<[Arc<UrlKeys>]>>,
    /// The documents of the keys, for a process that takes over.
    documents: RwLock<Vec<Document>>,
    /// The servers may have keys that are missing here.
    is_stale: AtomicBool,
    /// A token has named a missing key.
    is_wanted: AtomicBool,
    fetcher: OnceLock<Thread>,
}

impl FetchedKeys {
    pub(super) fn new(urls: usize) -> Self {
        Self {
            sets: RwLock::new((0..urls).map(|_| Arc::default()).collect()),
            documents: RwLock::new(vec![None; urls]),
            is_stale: AtomicBool::new(urls > 0),
            is_wanted: AtomicBool::new(false),
            fetcher: OnceLock::new(),
        }
    }

    pub(super) fn sets(&self) -> Arc<[Arc<UrlKeys>]> {
        Arc::clone(&self.sets.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn documents(&self) -> Vec<Document> {
        self.documents.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the keys of `url` by those of `document`; returns the former ones.
    pub(super) fn replace(&self, url: usize, keys: Vec<Key>, document: &[u8]) -> Arc<UrlKeys> {
        let mut documents = self.documents.write().unwrap_or_else(PoisonError::into_inner);
        documents[url] = Some(document.into());
        drop(documents);
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        let mut newer = sets.to_vec();
        let former = std::mem::replace(&mut newer[url], Arc::new(Some(keys)));
        *sets = newer.into();
        former
    }

    pub(super) fn set_fetcher(&self, thread: Thread) {
        // The fetcher is set once for the lifetime of the keys.
        let _ = self.fetcher.set(thread);
    }

    pub(super) fn set_stale(&self, is_stale: bool) {
        self.is_stale.store(is_stale, Ordering::Relaxed);
    }

    /// Notes a missing key. Returns whether a fetch may bring it; the fetcher is asked for that once. Costs at most one
    /// system call, and never waits.
    pub(super) fn want(&self) -> bool {
        if !self.is_stale.load(Ordering::Relaxed) {
            return false;
        }
        if !self.is_wanted.swap(true, Ordering::Relaxed)
            && let Some(fetcher) = self.fetcher.get()
        {
            fetcher.unpark();
        }
        true
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Notes that a fetch begins that will bring all keys wanted so far.
    pub(super) fn begin(&self) {
        self.is_wanted.store(false, Ordering::Relaxed);
    }
}
