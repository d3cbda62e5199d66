//! Pushes with an entry in the access log: target, time and result. Both APIs push by these functions.

use std::fmt::Arguments;

use comet_serve::{AccessLogEntry, Quoted};
use comet_wire::comet::v1::{ChangeRoomsReply, CountsReply};
use comet_wire::goim::comet::Ledger;
use comet_wire::goim::protocol::Proto;
use tonic::Status;

use crate::backend::{
    ChangeTarget, KickNotice, KickTarget, PushBackend, PushResult, RoomChange, StreamBackend,
};

/// [`PushBackend::to_keys`].
pub(crate) async fn to_keys<B: PushBackend>(
    backend: &B,
    keys: Vec<String>,
    proto: Option<Proto>,
    operation: i32,
) -> Result<PushResult, Status> {
    describe(format_args!("keys={}", keys.len()), proto.as_ref());
    pushed(backend.to_keys(keys, proto, operation).await)
}

/// [`PushBackend::to_users`].
pub(crate) async fn to_users<B: PushBackend>(
    backend: &B,
    users: Vec<i64>,
    proto: Option<Proto>,
    operation: i32,
) -> Result<PushResult, Status> {
    describe(format_args!("users={}", users.len()), proto.as_ref());
    pushed(backend.to_users(users, proto, operation).await)
}

/// [`PushBackend::to_room`].
pub(crate) async fn to_room<B: PushBackend>(
    backend: &B,
    room: String,
    proto: Option<Proto>,
) -> Result<PushResult, Status> {
    describe(format_args!("room={}", Quoted(&room)), proto.as_ref());
    pushed(backend.to_room(room, proto).await)
}

/// [`PushBackend::to_all`].
pub(crate) async fn to_all<B: PushBackend>(
    backend: &B,
    proto: Option<Proto>,
    operation: i32,
    speed: i32,
) -> Result<PushResult, Status> {
    describe(format_args!("speed={speed}"), proto.as_ref());
    pushed(backend.to_all(proto, operation, speed).await)
}

/// [`StreamBackend::kick`].
pub(crate) async fn kick<B: StreamBackend>(
    backend: &B,
    target: KickTarget,
    notice: KickNotice,
) -> Result<Ledger, Status> {
    let access = AccessLogEntry::current();
    match &target {
        KickTarget::Keys(keys) => access.add(format_args!("keys={}", keys.len())),
        KickTarget::Users(users) => access.add(format_args!("users={}", users.len())),
        KickTarget::Room(room) => access.add(format_args!("room={}", Quoted(room))),
        KickTarget::Address(address) => access.add(format_args!("address={}", Quoted(address))),
    }
    let ledger = backend.kick(target, notice).await?;
    access.add(format_args!("closed={}", ledger.queued));
    Ok(ledger)
}

/// [`StreamBackend::counts`].
pub(crate) async fn counts<B: StreamBackend>(
    backend: &B,
    rooms: Vec<String>,
) -> Result<CountsReply, Status> {
    AccessLogEntry::current().add(format_args!("rooms={}", rooms.len()));
    backend.counts(rooms).await
}

/// [`StreamBackend::change_rooms`].
pub(crate) async fn change_rooms<B: StreamBackend>(
    backend: &B,
    change: RoomChange,
) -> Result<ChangeRoomsReply, Status> {
    let access = AccessLogEntry::current();
    match &change.target {
        ChangeTarget::Keys(keys) => access.add(format_args!("keys={}", keys.len())),
        ChangeTarget::Users(users) => access.add(format_args!("users={}", users.len())),
    }
    access.add(format_args!("rooms={}", change.rooms.len()));
    let reply = backend.change_rooms(change).await?;
    access.add(format_args!("changed={} refused={}", reply.changed, reply.refused));
    Ok(reply)
}

fn describe(target: Arguments<'_>, proto: Option<&Proto>) {
    let bytes = proto.map_or(0, |proto| proto.body.len());
    AccessLogEntry::current().add(format_args!("{target} bytes={bytes}"));
}

fn pushed(answer: Result<PushResult, Status>) -> Result<PushResult, Status> {
    let pushed = answer?;
    let Ledger { matched, queued, dropped, absent, scheduled, unanswered, parked } = &pushed.ledger;
    let (dropped, access) = (dropped.values().sum::<u64>(), AccessLogEntry::current());
    access.add(format_args!("matched={matched} queued={queued} dropped={dropped} absent={absent}"));
    if *parked > 0 {
        access.add(format_args!("parked={parked}"));
    }
    if *scheduled > 0 {
        access.add(format_args!("scheduled={scheduled}"));
    }
    if !unanswered.is_empty() {
        access.add(format_args!("unanswered_hosts={}", unanswered.len()));
    }
    if !pushed.failed.is_empty() {
        access.add(format_args!("failed_servers={}", pushed.failed.len()));
    }
    Ok(pushed)
}
