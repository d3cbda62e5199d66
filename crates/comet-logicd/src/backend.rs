//! The comets as the backend of the HTTP push API.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;

use comet_hub::fanout::{Fanout, Target};
use comet_push::{CallLimits, Clients, OfAllHosts, PushBackend, PushResult, pace};
use comet_router::Sessions;
use comet_serve::poll_offloaded;
use comet_wire::goim::comet::{BroadcastReq, BroadcastRoomReq, PushMsgReq};
use comet_wire::goim::protocol::Proto;
use tonic::Status;

use crate::comet::Request;
use crate::comets::{Comets, unavailable};

/// Users whose sessions are looked up together.
const USERS: usize = 256;
/// Most sessions of the users of one push, for each key that a call may name; and in total, some 100 MB.
const SESSIONS: usize = 16;
const SESSIONS_MAX: usize = 1 << 20;

impl PushBackend for Comets {
    fn bounds(&self) -> CallLimits {
        self.bounds
    }

    async fn to_keys(
        &self,
        keys: Vec<String>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<PushResult, Status> {
        self.bounds.check_count("key", keys.len())?;
        let proto = self.bounds.check_proto(proto)?;
        let _permit = self.permit()?;
        let keys = once(keys);
        let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
        let servers = self.sessions.servers_of_keys(&asked).await.map_err(unavailable)?;
        let sessions = keys.into_iter().zip(servers);
        let request = |target| to_keys(target, &proto, operation);
        self.carry(|fanout| fanout.to_sessions(sessions, 0), request).await
    }

    async fn to_users(
        &self,
        users: Vec<i64>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<PushResult, Status> {
        self.bounds.check_count("user", users.len())?;
        let proto = self.bounds.check_proto(proto)?;
        let _permit = self.permit()?;
        let users = once(users);
        let keys = self.bounds.keys_max;
        let most = (SESSIONS * keys).min(SESSIONS_MAX).max(keys);
        let (mut found, mut absent) = (Vec::new(), 0);
        // Done in parts, so that a push to more sessions than allowed is refused before all of them are in memory.
        for users in users.chunks(USERS) {
            for (_, sessions) in self.sessions.sessions_of(users).await.map_err(unavailable)? {
                absent += u64::from(sessions.is_empty());
                found.extend(sessions);
            }
            if found.len() > most {
                return Err(Status::resource_exhausted(format!(
                    "the users have more than {most} sessions; push to fewer users at once"
                )));
            }
        }
        let sessions = found.into_iter().map(|(key, server)| (key, Some(server)));
        let request = |target| to_keys(target, &proto, operation);
        self.carry(|fanout| fanout.to_sessions(sessions, absent), request).await
    }

    async fn to_room(&self, room: String, proto: Option<Proto>) -> Result<PushResult, Status> {
        let proto = self.bounds.check_proto(proto)?;
        self.check_comets()?;
        let _permit = self.permit()?;
        let request = BroadcastRoomReq { room_id: room, proto: Some(proto) };
        self.carry(Fanout::to_room, |_| Request::Room(request.clone())).await
    }

    async fn to_all(
        &self,
        proto: Option<Proto>,
        operation: i32,
        speed: i32,
    ) -> Result<PushResult, Status> {
        let speed = pace(speed)?;
        let proto = self.bounds.check_proto(proto)?;
        self.check_comets()?;
        let _permit = self.permit()?;
        let live = match speed {
            None => BTreeMap::new(),
            Some(_) => self.live_by_comet().await,
        };
        let request = |target| {
            let speed = match target {
                Target::All { speed } => speed.map_or(0, NonZeroU32::get),
                Target::Keys(_) | Target::Room => unreachable!("a push to everybody"),
            };
            let speed = i32::try_from(speed).unwrap_or(i32::MAX);
            Request::All(BroadcastReq { proto_op: operation, proto: Some(proto.clone()), speed })
        };
        self.carry(|fanout| fanout.to_all(speed.map(|speed| (speed, &live))), request).await
    }

    /// The counts that the comets have last reported.
    async fn rooms<T: Send + 'static>(
        &self,
        make: impl FnOnce(Vec<(Arc<str>, u32)>) -> T + Send + 'static,
    ) -> Result<OfAllHosts<T>, Status> {
        let sessions = Arc::clone(&self.sessions);
        let made = async move {
            let rooms = sessions.room_counts().await.map_err(unavailable)?.into_iter();
            Ok::<_, Status>(make(rooms.map(|(room, online)| (room.into(), online)).collect()))
        };
        Ok(OfAllHosts { value: poll_offloaded(made).await?, unanswered: Vec::new() })
    }

    async fn members_of(&self, rooms: Vec<String>) -> Result<OfAllHosts<Vec<u64>>, Status> {
        let sessions = Arc::clone(&self.sessions);
        let members = async move { sessions.members_of(&rooms).await.map_err(unavailable) };
        let members = poll_offloaded(members).await?.into_iter().map(u64::from);
        Ok(OfAllHosts { value: members.collect(), unanswered: Vec::new() })
    }

    /// The number of sessions. Their addresses are unknown.
    async fn clients(&self) -> Result<OfAllHosts<Clients>, Status> {
        let live = self.sessions.counts().await.map_err(unavailable)?.sessions;
        Ok(OfAllHosts { value: Clients { live, addresses: 0 }, unanswered: Vec::new() })
    }
}

/// Each name once, in the order of first mentions.
fn once<T: Clone + Eq + Hash>(mut names: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::with_capacity(names.len());
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn to_keys(target: Target, proto: &Proto, operation: i32) -> Request {
    let Target::Keys(keys) = target else { unreachable!("a push to keys") };
    Request::Keys(PushMsgReq { keys, proto: Some(proto.clone()), proto_op: operation })
}
