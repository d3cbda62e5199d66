//! Questions to all hosts about their connections: the answer combines this host's part with those of the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comet_core::limits::LISTED_MAX;
use comet_hub::cluster::{
    HostMember, HostName, MembersCursor, Order, Page, Pages, Question, QuestionReply, add_counts,
    merge_members, merge_rooms,
};
use comet_push::{CallLimits, Clients, OfAllHosts, RoomsPage, RoomsQuery};
use comet_wire::comet::v1::{CountsReply, Member, MembersReply, MembersReq};
use tonic::Status;

use crate::cluster::ClusterDriver;
use crate::counts::count;
use crate::hub::HubDriver;
use crate::inspector::Inspector;
use crate::members;
use crate::room_lists::RoomLists;
use crate::status::status;

/// Most rooms in an answer without pages: a million rooms of this host, and as many of others.
const ROOMS_MAX: usize = 2 << 20;

/// Asks the questions, and answers those of other hosts.
pub(crate) struct Questions {
    hub: Arc<HubDriver>,
    inspector: Arc<Inspector>,
    room_lists: RoomLists,
    bounds: CallLimits,
    /// Other hosts; `None`: there are none.
    cluster: Option<Arc<ClusterDriver>>,
}

/// The answers of all hosts, this one included.
struct Answers {
    counts: Vec<u64>,
    pages: Pages,
    unanswered: Vec<String>,
}

impl Questions {
    pub(crate) fn new(
        hub: Arc<HubDriver>,
        inspector: Arc<Inspector>,
        bounds: CallLimits,
        cluster: Option<Arc<ClusterDriver>>,
    ) -> Self {
        let room_lists = RoomLists::new(Arc::clone(&hub));
        Self { hub, inspector, room_lists, bounds, cluster }
    }

    /// The answer of this host alone.
    pub(crate) async fn answer(&self, question: Question) -> Result<QuestionReply, Status> {
        let own = self.cluster.as_ref().map(|cluster| Arc::clone(cluster.host()));
        let limit = self.bounds.timeout;
        Ok(match question {
            Question::Counts { rooms } => {
                if !rooms.is_empty() {
                    self.bounds.check_count("room", rooms.len())?;
                }
                let counts = count(Arc::clone(&self.hub), limit, rooms).await?;
                QuestionReply { counts, page: None }
            }
            Question::Rooms { prefix, after, limit: most } => {
                let page = self.room_lists.page(limit, (prefix, after), most as usize).await;
                QuestionReply { counts: Vec::new(), page: Some(page.map_err(status)?) }
            }
            Question::Members { room, after, limit } => {
                let own = own.unwrap_or_default();
                let (cursor, is_over) = match after {
                    Some(MembersCursor { host, .. }) if own < host => (String::new(), true),
                    Some(MembersCursor { host, place }) if own == host => (place.into(), false),
                    _ => (String::new(), false),
                };
                // A page that is already complete is requested nevertheless, because the answer contains the count.
                let limit = if is_over { 1 } else { limit.min(LISTED_MAX as u32) };
                let request = members::connections(MembersReq { room, limit, cursor })?;
                let (page, count) = self.inspector.members(&request).await?;
                let nothing = Page::Members { members: Vec::new(), is_cut: false };
                let page = if is_over { nothing } else { page };
                QuestionReply { counts: vec![count], page: Some(page) }
            }
        })
    }

    /// Asks all hosts, this one included.
    async fn ask(&self, limit: Duration, question: Question) -> Result<Answers, Status> {
        let there =
            self.cluster.as_ref().map(|it| (it, it.order(limit, Order::Tell(question.clone()))));
        let QuestionReply { mut counts, page } = self.answer(question).await?;
        let own = self.cluster.as_ref().map(|cluster| Arc::clone(cluster.host()));
        let mut pages: Pages =
            page.map(|page| (own.unwrap_or_default(), page)).into_iter().collect();
        let mut unanswered = Vec::new();
        if let Some((_, there)) = there {
            let there = there.await?;
            add_counts(&mut counts, &there.counts);
            pages.extend(there.pages);
            unanswered = there.unanswered.iter().map(ToString::to_string).collect();
        }
        Ok(Answers { counts, pages, unanswered })
    }

    /// The members of each room, in their order.
    pub(crate) async fn members_of(
        &self,
        rooms: Vec<String>,
    ) -> Result<OfAllHosts<Vec<u64>>, Status> {
        let most = rooms.len();
        let Answers { counts, unanswered, .. } =
            self.ask(self.bounds.timeout, Question::Counts { rooms }).await?;
        let members = counts.into_iter().skip(1).take(most).collect();
        Ok(OfAllHosts { value: members, unanswered })
    }

    pub(crate) async fn clients(&self) -> Result<OfAllHosts<Clients>, Status> {
        let question = Question::Counts { rooms: Vec::new() };
        let Answers { counts, unanswered, .. } = self.ask(self.bounds.timeout, question).await?;
        let mut counts = counts.into_iter();
        let mut next = || counts.next().unwrap_or_default();
        Ok(OfAllHosts { value: Clients { live: next(), addresses: next() }, unanswered })
    }

    pub(crate) async fn counts(&self, rooms: Vec<String>) -> Result<CountsReply, Status> {
        let question = Question::Counts { rooms: rooms.clone() };
        let Answers { counts, unanswered, .. } = self.ask(self.bounds.timeout, question).await?;
        // The count of addresses follows those of the rooms.
        let mut counts = counts.into_iter();
        let clients = counts.next().unwrap_or_default();
        Ok(CountsReply { clients, rooms: rooms.into_iter().zip(counts).collect(), unanswered })
    }

    /// A page of the rooms with members.
    pub(crate) async fn rooms_page(&self, query: RoomsQuery) -> Result<RoomsPage, Status> {
        self.rooms_page_within(self.bounds.timeout, query).await
    }

    async fn rooms_page_within(
        &self,
        limit: Duration,
        RoomsQuery { prefix, after, limit: most }: RoomsQuery,
    ) -> Result<RoomsPage, Status> {
        let question = Question::Rooms { prefix, after, limit: most as u32 };
        let Answers { pages, unanswered, .. } = self.ask(limit, question).await?;
        // The pages of many hosts would take this thread too long to merge.
        let (rooms, has_more) = comet_serve::offload(move || merge_rooms(pages, most)).await;
        Ok(RoomsPage { rooms, has_more, unanswered })
    }

    /// All rooms with members, page by page.
    pub(crate) async fn rooms<T: Send + 'static>(
        &self,
        make: impl FnOnce(Vec<(Arc<str>, u32)>) -> T + Send + 'static,
    ) -> Result<OfAllHosts<T>, Status> {
        let timeout = self.bounds.timeout;
        if self.cluster.is_none() {
            let value = self.hub.rooms(timeout, make).await.map_err(status)?;
            return Ok(OfAllHosts { value, unanswered: Vec::new() });
        }
        let end = Instant::now() + timeout;
        let mut all: Vec<(Arc<str>, u32)> = Vec::new();
        let mut unanswered = BTreeSet::new();
        let mut after = String::new();
        loop {
            let query = RoomsQuery { prefix: String::new(), after, limit: RoomsQuery::LIMIT_MAX };
            let left = end.saturating_duration_since(Instant::now());
            let page = self.rooms_page_within(left, query).await?;
            unanswered.extend(page.unanswered);
            let count = |members: u64| u32::try_from(members).unwrap_or(u32::MAX);
            all.extend(page.rooms.into_iter().map(|(room, members)| (room, count(members))));
            let Some((last, _)) = all.last().filter(|_| page.has_more) else { break };
            if all.len() > ROOMS_MAX || Instant::now() >= end {
                return Err(Status::deadline_exceeded(format!(
                    "the rooms of all hosts are more than {} or take longer than {timeout:?}: ask for pages",
                    all.len()
                )));
            }
            after = String::from(&**last);
        }
        let value = comet_serve::offload(move || make(all)).await;
        Ok(OfAllHosts { value, unanswered: unanswered.into_iter().collect() })
    }

    /// A page of the members of a room.
    pub(crate) async fn members(&self, request: MembersReq) -> Result<MembersReply, Status> {
        if self.cluster.is_none() {
            let request = members::connections(request)?;
            return self.inspector.connections(&request, members::reply).await;
        }
        let MembersReq { room, limit, cursor } = request;
        let limit = if limit == 0 { LISTED_MAX as u32 } else { limit };
        let after = members::cursor(&cursor)?;
        let question = Question::Members { room, after, limit };
        let Answers { counts, pages, unanswered } = self.ask(self.bounds.timeout, question).await?;
        let merge = move || merge_members(pages, limit as usize);
        let (members, next) = comet_serve::offload(merge).await;
        let member = |(host, member): (HostName, HostMember)| Member {
            key: member.key.into(),
            mid: member.user,
            connected_seconds: member.connected_seconds,
            host: String::from(&*host),
        };
        Ok(MembersReply {
            members: members.into_iter().map(member).collect(),
            count: counts.first().copied().unwrap_or_default(),
            next: next.map(|cursor| members::cursor_text(&cursor)).unwrap_or_default(),
            unanswered,
        })
    }
}
