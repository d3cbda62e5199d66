//! Which method handles each message.

use crate::home::RecoveryRequest;
use crate::home::keys::Claim;
use crate::ids::{CallId, Slot};
use crate::message::Message;

use super::Shard;
use super::conn_lists::ConnLists;
use super::parking::Claiming;
use super::push_task::{Crowd, Names, Owners, TallyKind, Target};

impl Shard {
    /// Handles the messages of this shard to itself, until none is left.
    pub(super) fn dispatch_local(&mut self) {
        while let Some(message) = self.messages.pop_local() {
            self.dispatch(message);
        }
    }

    fn dispatch(&mut self, message: Message) {
        match message {
            Message::PushKeys { call, keys, push } => {
                self.push_names(call, Names::Keys(keys.into_iter()), push);
            }
            Message::PushUsers { call, users, push } => {
                self.push_names(call, Names::Users(users.into_iter()), push);
            }
            Message::PushRoom { call, room, push } => self.push_room(call, room, push),
            Message::PushFromStream { call, room, push, age_ms } => {
                self.push_from_stream(call, room, push, age_ms);
            }
            Message::RefuseFromStream { call, room, offset } => {
                self.refuse_from_stream(call, &room, offset);
            }
            Message::Stream { call, state, is_settled } => self.set_stream(call, state, is_settled),
            Message::Broadcast { call, push, speed } => self.broadcast(call, push, speed),
            Message::KickNetwork { call, network, push } => {
                let target = Target::Network(network, Slot(0));
                self.begin_push(call, push, target, TallyKind::Tally { partials: 0 });
            }
            Message::CancelBroadcast { call } => self.cancel_broadcast(call),
            Message::DeliverConns { call, conns, push } => {
                let target = Target::Crowd(Crowd::Conns(ConnLists::new(conns)));
                self.begin_push(call, push, target, partial_tally(call, 1));
            }
            Message::DeliverRoom { call, room, push } => {
                let target = Target::Crowd(Crowd::Room(room));
                self.begin_push(call, push, target, partial_tally(call, 1));
            }
            Message::PushKept { call, keys, push } => {
                let tally_kind = partial_tally(call, keys.len() as u32);
                let target = Target::Owners(Names::Kept(keys.into_iter()), Owners::default());
                self.begin_push(call, push, target, tally_kind);
            }
            Message::Resume { conn, pushes } => self.deliver_parked(conn, pushes),

            Message::Tallied { call, tally, partials } => self.callers.add(call, *tally, partials),
            Message::PartiallyTallied { call, tally, settles } => {
                self.callers.add_partial(call, *tally, settles);
            }
            Message::OtherHostsTallied { call, tally } => self.callers.add_elsewhere(call, &tally),

            Message::Snapshot { call } => self.snapshot(call),
            Message::Rooms { call } => self.home.rooms.list(call),
            Message::CountRooms { call, rooms } => self.home.rooms.count(call, rooms),
            Message::Connections { call, query } => self.begin_listing(call, query),
            Message::Top { call } => self.begin_top(call),
            Message::History { call, query } => self.report_history(call, &query),
            Message::Drain { over_ms, retry_after_ms } => self.drain(over_ms, retry_after_ms),
            Message::MoveOff { most, over_ms, retry_after_ms } => {
                self.move_off(most, over_ms, retry_after_ms);
            }
            Message::Configure { limits } => self.configure(limits),
            Message::RemoteRoomCounts { rooms } => self.home.rooms.set_remote_counts(rooms),
            Message::WatchKeys => self.home.keys.watch(),
            Message::ListKeys { since, table } => self.list_keys(since, table),
            Message::HeldElsewhere { keys, wins_ties } => self.held_elsewhere(keys, wins_ties),
            Message::Identified { conn, answer } => self.identified(conn, answer),
            Message::Receipt { conn, outcome } => self.receipt(conn, outcome),
            Message::RenewalFailed { key } => self.renewal_failed(&key),

            Message::Register { conn, token_at, user, key, is_kept } => {
                self.register((conn, token_at), user, key, is_kept);
            }
            Message::Claim { conn, token_at, user, seq, key, is_given, is_kept, is_beyond } => {
                let claim = Claim { token_at, is_given, is_kept };
                self.claim(key, Claiming { conn, user, seq, claim }, is_beyond);
            }
            Message::Registered { conn, user, seq, key, kept } => {
                self.registered(conn, (user, seq), key, kept);
            }
            Message::Evict { conn, reason } => self.evict(conn, reason),
            Message::EnterSource { conn, source } => self.enter_source(conn, &source),
            Message::LeaveSource { source } => self.home.sources.leave(&source),
            Message::EndSession { conn, user, seq } => self.end_session(conn, user, seq),
            Message::Release { conn, user, key } => self.release(conn, user, key),
            Message::Park { conn, user, key, leaving } => {
                self.park_session(conn, user, key, *leaving);
            }
            Message::Rest { conn, key, rest } => self.take_rest(conn, &key, *rest),
            Message::Ready { conn, key } => self.resume_session(conn, &key),
            Message::GiveUp { user, key, conn } => {
                self.home.kept_users.give_up(user, &key, conn);
            }
            Message::OrphanedSession { user, key } => self.end_orphaned_session(user, key),
            Message::Renew { conn, user, key } => self.renew_owner(conn, user, key),
            Message::RenewAgain { conn } => self.renew_again(conn),

            Message::JoinRoom { shard, room } => {
                let elsewhere = self.home_join(&room, shard);
                self.messages.send(shard, Message::RoomJoined { room, elsewhere });
            }
            Message::RoomJoined { room, elsewhere } => self.room_joined(&room, elsewhere),
            Message::RoomMembers { shard, room, members } => {
                self.home_set_members(&room, shard, members);
            }
            Message::Recover { shard, conn, room, handle, since } => {
                self.recover(RecoveryRequest { shard, conn, room, handle, since });
            }
            Message::Recovered { conn, room, recovery } => {
                self.queue_recovery(conn, room, recovery);
            }
            Message::Presence { room, user, key, is_join } => {
                self.gather_presence(room, (user, key), is_join);
            }
            Message::RoomOnline { room, elsewhere } => self.set_elsewhere(&room, elsewhere),
        }
    }
}

/// How a push that another shard has sent here is reported.
fn partial_tally(call: CallId, settles: u32) -> TallyKind {
    match call {
        CallId::NONE => TallyKind::None,
        _ => TallyKind::PartialTally { settles },
    }
}
