//! Looking up the names of other servers, with few lookups of one name at once.
//!
//! The system looks a name up on a thread that stays occupied until it is done, which may take a minute if the name
//! servers are silent. A connection that is given up ends its wait, but does not free that thread.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};
use std::vec;

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tonic::codegen::Service;

/// Most lookups of one name under way. One may hang while the next does not.
const LOOKUPS_MAX: usize = 2;

type Found = io::Result<vec::IntoIter<SocketAddr>>;

/// See the module.
#[derive(Clone)]
pub(crate) struct Resolver {
    names: Arc<Names>,
    lookup: Arc<dyn Fn(&str) -> Found + Send + Sync>,
}

/// The names that are being waited for.
type Names = Mutex<BTreeMap<String, Waited>>;

struct Waited {
    /// How many wait for it.
    by: usize,
    places: Arc<Semaphore>,
}

impl Resolver {
    /// The resolver of the system. All instances share their places.
    pub(crate) fn of_system() -> Self {
        static NAMES: LazyLock<Arc<Names>> = LazyLock::new(Arc::default);
        let names = Arc::clone(&NAMES);
        Self { names, lookup: Arc::new(|name| (name, 0).to_socket_addrs()) }
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Found> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let waiting = Waiting::begin(Arc::clone(&self.names), name.as_str().to_owned());
        let lookup = Arc::clone(&self.lookup);
        Box::pin(async move {
            let place = Arc::clone(&waiting.places).acquire_owned().await;
            let place = place.expect("nobody closes the semaphore");
            // If the waiting connection leaves meanwhile, the thread still keeps both.
            let looked_up = spawn_blocking(move || {
                let _place = place;
                lookup(&waiting.name)
            });
            looked_up.await.map_err(io::Error::other)?
        })
    }
}

/// A connection that waits for a name, or a thread that looks it up.
struct Waiting {
    names: Arc<Names>,
    name: String,
    places: Arc<Semaphore>,
}

impl Waiting {
    fn begin(names: Arc<Names>, name: String) -> Self {
        let mut table = names.lock().expect(NO_PANIC);
        let waited = table
            .entry(name.clone())
            .or_insert_with(|| Waited { by: 0, places: Arc::new(Semaphore::new(LOOKUPS_MAX)) });
        waited.by += 1;
        let places = Arc::clone(&waited.places);
        drop(table);
        Self { names, name, places }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut table = self.names.lock().expect(NO_PANIC);
        if let Some(waited) = table.get_mut(&self.name) {
            waited.by -= 1;
            if waited.by == 0 {
                table.remove(&self.name);
            }
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::Waker;
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn lookups_that_hang_take_few_threads() {
        let (begun, begins) = mpsc::channel();
        let (held, hangs) = mpsc::channel::<()>();
        let hangs = Mutex::new(hangs);
        let lookup = move |name: &str| {
            begun.send(name.to_owned()).unwrap();
            if name == "hangs" {
                let _ = hangs.lock().unwrap().recv();
            }
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))].into_iter())
        };
        let mut resolver = Resolver { names: Arc::default(), lookup: Arc::new(lookup) };
        let mut call = |name: &str| resolver.call(name.parse().unwrap());
        for _ in 0..100 {
            // Each lookup is given up as soon as it waits.
            let waits = call("hangs").as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(waits.is_pending());
        }
        let last = call("hangs");
        // Other names are still found.
        assert_eq!(call("other").await.unwrap().len(), 1);
        drop(held);
        assert_eq!(last.await.unwrap().len(), 1);
        let mut begun = Vec::from_iter(begins.try_iter());
        begun.sort_unstable();
        assert_eq!(begun, ["hangs", "hangs", "hangs", "other"]);
        let table = Arc::clone(&resolver.names);
        // The other thread ends, too.
        let emptied = move || {
            while !table.lock().unwrap().is_empty() {
                thread::yield_now();
            }
        };
        spawn_blocking(emptied).await.unwrap();
    }
}
