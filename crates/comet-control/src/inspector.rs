//! Queries of callers about clients and rooms: the shards make lists, which are merged into one answer on the blocking
//! pool.

use std::sync::Arc;
use std::time::Duration;

use comet_core::{CallId, ConnPage, Message, Top, home_of_room};
use comet_hub::CallResult;
use comet_hub::cluster::Page;
use comet_wire::comet::v1::{ConnectionsReply, ConnectionsReq, HistoryReply, HistoryReq, TopReply};
use tokio::sync::Semaphore;
use tonic::Status;

use crate::connections;
use crate::history;
use crate::hub::HubDriver;
use crate::members;
use crate::status::status;
use crate::top;

/// How long a caller waits for a list: a core with a million connections visits them in slices.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// Most lists under way. A shard takes more, so it can make these beside lists whose callers have left.
const LISTS_MAX: usize = 4;

/// Asks the shards for lists.
pub(crate) struct Inspector {
    hub: Arc<HubDriver>,
    lists: Arc<Semaphore>,
}

impl Inspector {
    pub(crate) fn new(hub: Arc<HubDriver>) -> Self {
        Self { hub, lists: Arc::new(Semaphore::new(LISTS_MAX)) }
    }

    /// Lists connections, and applies a function to the list on the blocking pool.
    ///
    /// # Errors
    /// If the request cannot be read, too many lists are being made, or a shard does not answer in time.
    pub(crate) async fn connections<T: Send + 'static>(
        &self,
        request: &ConnectionsReq,
        make: impl FnOnce(ConnectionsReply) -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.pages(request, move |pages, limit| make(connections::reply(pages, limit))).await
    }

    /// The members of a room: a page for another host, and how many there are.
    ///
    /// # Errors
    /// As [`Inspector::connections`].
    pub(crate) async fn members(&self, request: &ConnectionsReq) -> Result<(Page, u64), Status> {
        self.pages(request, |pages, limit| members::told(connections::merge(pages, limit))).await
    }

    async fn pages<T: Send + 'static>(
        &self,
        request: &ConnectionsReq,
        make: impl FnOnce(Vec<ConnPage>, usize) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let query = Arc::new(connections::query(request)?);
        let limit = query.limit;
        let message = move |call| Message::Connections { call, query: Arc::clone(&query) };
        let make = move |pages: Vec<ConnPage>| make(pages, limit);
        self.lists(message, |listed| listed.connections, make).await
    }

    /// Lists the busiest rooms and the slowest and busiest clients, and applies a function to the lists on the blocking
    /// pool.
    ///
    /// # Errors
    /// As [`Inspector::connections`].
    pub(crate) async fn top<T: Send + 'static>(
        &self,
        limit: u32,
        make: impl FnOnce(TopReply) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let limit = top::limit(limit)?;
        let make = move |tops: Vec<Top>| make(top::reply(tops, limit));
        self.lists(|call| Message::Top { call }, |listed| listed.tops, make).await
    }

    /// Reads a page of the history of a room, and applies a function to it on the blocking pool.
    ///
    /// # Errors
    /// As [`Inspector::connections`], and if no rule covers the room.
    pub(crate) async fn history<T: Send + 'static>(
        &self,
        request: HistoryReq,
        make: impl FnOnce(HistoryReply) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let query = Arc::new(history::query(request)?);
        let place = Arc::clone(&self.lists).try_acquire_owned().map_err(|_| too_many())?;
        let home = home_of_room(&query.room, self.hub.shards());
        let asked = Arc::clone(&query);
        let make = move |read: CallResult| {
            let page = read.history.flatten();
            let reply = page.map(|page| make(history::reply(&page, &query)));
            drop(place);
            reply.ok_or_else(|| history::no_rule(&query.room))
        };
        let message = |call| Message::History { call, query: asked };
        self.hub.list_of(LIST_TIMEOUT, home, message, make).await.map_err(status)?
    }

    /// Sends `message` to every shard. `lists` takes the lists out of the result. A list is missing if a shard is
    /// making too many already.
    async fn lists<L: Send + 'static, T: Send + 'static>(
        &self,
        message: impl Fn(CallId) -> Message,
        lists: fn(CallResult) -> Vec<Option<Box<L>>>,
        make: impl FnOnce(Vec<L>) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let place = Arc::clone(&self.lists).try_acquire_owned().map_err(|_| too_many())?;
        let make = move |listed: CallResult| {
            let lists: Option<Vec<L>> =
                lists(listed).into_iter().map(|list| list.map(|list| *list)).collect();
            let made = lists.map(make).ok_or_else(too_many);
            drop(place);
            made
        };
        self.hub.lists(LIST_TIMEOUT, message, make).await.map_err(status)?
    }
}

fn too_many() -> Status {
    Status::resource_exhausted("too many lists are being made; try again")
}
