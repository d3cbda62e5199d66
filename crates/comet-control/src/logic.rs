//! Logic as another process: what shards ask of it becomes calls of `goim.logic.Logic`, and their
//! answers become messages to the shards.
//!
//! Everything here runs on the control thread. A call under way is a task with a permit, of which there
//! are [`LogicOptions::calls`]; what finds none free is answered at once, and what can wait waits for one.

mod addresses;
mod caller;
mod failure;
mod notices;
mod renewal;
mod stats;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use comet_core::{Accepts, AuthRequest, ConnId, Denied, Identity, Message, Report, home_of_key};
use comet_serve::BadAddress;
use comet_wire::goim::logic::{ConnectReply, ConnectReq, DisconnectReq, HeartbeatReq, ReceiveReq};
use comet_wire::goim::protocol::Proto;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::caller::{Again, Caller};
use self::failure::Failure;
use self::notices::{Notice, Notices, Turn};
use crate::hub::Hub;

pub(crate) use self::stats::LogicStats;

/// How logic services are called.
#[derive(Clone, Debug)]
pub struct LogicOptions {
    /// Where they are (`logic.addrs`), as `host:port`; at least one.
    pub addrs: Vec<String>,
    /// How long a call may take, its second attempt included (`logic.timeout`).
    pub timeout: Duration,
    /// Calls under way at most (`logic.calls`), at least one.
    pub calls: usize,
    /// How often each address is asked whether it is there (`logic.ping`).
    pub ping: Duration,
    /// How often logic hears who is online in which room (`logic.renew`).
    pub renew: Duration,
    /// The longest that clients are told to wait when no logic is there, the shortest is half of it
    /// (`logic.retry_after`). Zero: they are told nothing.
    pub retry_after: Duration,
}

/// How long a notice that was not heard rests: by then it is known which addresses are there.
const NOTICE_REST: Duration = Duration::from_millis(500);

/// How long the end of the server waits for logic to hear who was there.
const HEARD_GRACE: Duration = Duration::from_secs(5);

/// Version of the frame header that goim's logic expects to be told.
const FRAME_VERSION: i32 = 1;

/// Logic, seen from the control thread.
pub(crate) struct Logic {
    /// Id of this server, by which logic sends pushes back.
    server: String,
    caller: Caller,
    notices: Notices,
    renew: Duration,
    retry_after_ms: u32,
    hub: Arc<Hub>,
}

impl Logic {
    /// # Errors
    /// Names the address that is none.
    pub(crate) fn new(
        options: &LogicOptions,
        server: String,
        hub: Arc<Hub>,
    ) -> Result<Self, BadAddress> {
        Ok(Self {
            server,
            caller: Caller::new(options)?,
            notices: Notices::default(),
            renew: options.renew,
            retry_after_ms: u32::try_from(options.retry_after.as_millis()).unwrap_or(u32::MAX),
            hub,
        })
    }

    /// Starts looking after the addresses and what has to be said without being asked. It ends with
    /// the set.
    pub(crate) fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for index in 0..self.caller.addresses().len() {
            let logic = Arc::clone(self);
            tasks.spawn(async move { match logic.caller.addresses().tend(index).await {} });
        }
        let logic = Arc::clone(self);
        tasks.spawn(async move { match logic.renew_rooms().await {} });
        let logic = Arc::clone(self);
        tasks.spawn(async move { match logic.give_notice().await {} });
        tasks
    }

    /// Takes what a shard asks of logic.
    pub(crate) fn take(self: &Arc<Self>, report: Report) {
        match report {
            Report::Identify(request) => self.identify(request),
            Report::Receive { conn, user, operation, sequence, body, .. } => {
                let proto =
                    Proto { ver: FRAME_VERSION, op: operation, seq: sequence, body: body.into() };
                self.receive(conn, ReceiveReq { mid: user, proto: Some(proto) });
            }
            Report::Heartbeat { user, key } => self.notify(Notice::new(user, key, Turn::Goes)),
            Report::Disconnected { user, key } => self.notify(Notice::new(user, key, Turn::Ended)),
            other => unreachable!("{other:?} is not for logic"),
        }
    }

    pub(crate) fn stats(&self) -> LogicStats {
        LogicStats::of(&self.caller, &self.notices)
    }

    /// Resolves when logic has heard everything, is away, or has had [`HEARD_GRACE`].
    pub(crate) async fn until_all_heard(&self) {
        if self.caller.addresses().live() > 0 {
            // What it has not heard by now, it learns by expiry.
            let _ = timeout(HEARD_GRACE, self.notices.until_all_heard()).await;
        }
    }

    fn identify(self: &Arc<Self>, request: AuthRequest) {
        let AuthRequest { conn, token, cookie } = request;
        let Some(permit) = self.caller.permit("Connect") else {
            let answer = Err(self.denied(&Failure::Crowded));
            return self.tell(conn, Message::Identified { conn, answer });
        };
        let request =
            ConnectReq { server: self.server.clone(), cookie: cookie.into(), token: token.into() };
        let asked = self.notices.now();
        let logic = Arc::clone(self);
        tokio::spawn(async move {
            // If the answer comes too late, logic may have made a session whose key nobody here ever
            // hears of. It goes with its expiry: only a live connection's heartbeats renew it.
            let connected = logic
                .caller
                .call("Connect", Again::Always, request, async |mut client, request| {
                    client.connect(request).await
                })
                .await;
            drop(permit);
            let answer = match connected {
                Ok(reply) => {
                    let identity = identity(reply);
                    if let Some(key) = &identity.key {
                        logic.give_up(logic.notices.key_in_use(identity.user, key, asked));
                    }
                    Ok(identity)
                }
                Err(failure) => Err(logic.denied(&failure)),
            };
            logic.tell(conn, Message::Identified { conn, answer });
        });
    }

    fn receive(self: &Arc<Self>, conn: ConnId, request: ReceiveReq) {
        let Some(permit) = self.caller.permit("Receive") else {
            let outcome = Err(Failure::Crowded.sentence());
            return self.tell(conn, Message::Receipt { conn, outcome });
        };
        let logic = Arc::clone(self);
        tokio::spawn(async move {
            // Logic hands on what clients say: it must not hear it twice.
            let received = logic
                .caller
                .call("Receive", Again::IfUnsent, request, async |mut client, request| {
                    client.receive(request).await
                })
                .await;
            drop(permit);
            let outcome = received.map(drop).map_err(|failure| failure.sentence());
            logic.tell(conn, Message::Receipt { conn, outcome });
        });
    }

    fn notify(&self, notice: Notice) {
        self.give_up(self.notices.add(notice));
    }

    /// Of an end that it does not hear logic learns by expiry. But a renewal must not be lost: the shard has
    /// planned the next one already, and by then the session may have expired under a client that is there.
    fn give_up(&self, notice: Option<Notice>) {
        if let Some(Notice { key, turn: Turn::Goes, .. }) = notice {
            self.hub.tell(home_of_key(&key, self.hub.shards()), Message::RenewalFailed { key });
        }
    }

    /// Tells logic what became of sessions, for as long as it is polled: whenever logic is there, each
    /// a few times if need be.
    async fn give_notice(self: &Arc<Self>) -> Infallible {
        loop {
            self.notices.until_one_waits().await;
            self.caller.addresses().until_live().await;
            // What waited may have been taken back meanwhile.
            let Some(notice) = self.notices.begin() else { continue };
            let logic = Arc::clone(self);
            tokio::spawn(async move {
                let permit = logic.caller.wait_for_permit().await;
                let heard = logic.say(&notice).await;
                drop(permit);
                if !heard {
                    sleep(NOTICE_REST).await;
                }
                logic.give_up(logic.notices.end(notice, heard));
            });
        }
    }

    /// Did logic hear it?
    async fn say(&self, notice: &Notice) -> bool {
        let (mid, key, server) = (notice.user, String::from(&*notice.key), self.server.clone());
        match notice.turn {
            Turn::Goes => {
                let request = HeartbeatReq { mid, key, server };
                let heartbeat = self.caller.call(
                    "Heartbeat",
                    Again::Always,
                    request,
                    async |mut client, request| client.heartbeat(request).await,
                );
                heartbeat.await.is_ok()
            }
            Turn::Ended => {
                let request = DisconnectReq { mid, key, server };
                let disconnect = self.caller.call(
                    "Disconnect",
                    Again::Always,
                    request,
                    async |mut client, request| client.disconnect(request).await,
                );
                disconnect.await.is_ok()
            }
        }
    }

    fn denied(&self, failure: &Failure) -> Denied {
        failure.denied(self.retry_after_ms)
    }

    fn tell(&self, conn: ConnId, message: Message) {
        self.hub.tell(conn.shard, message);
    }
}

fn identity(reply: ConnectReply) -> Identity {
    let named = |name: String| (!name.is_empty()).then(|| name.into_boxed_str());
    Identity {
        user: reply.mid,
        key: named(reply.key),
        room: named(reply.room_id),
        accepts: match reply.accepts_all {
            true => Accepts::All,
            false => Accepts::Only(reply.accepts.into()),
        },
        heartbeat_ms: heartbeat_ms(reply.heartbeat),
    }
}

/// Logic says nanoseconds, as Go's `time.Duration` has them.
fn heartbeat_ms(nanos: i64) -> Option<u32> {
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0)?;
    Some(u32::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_rounded_up_to_milliseconds() {
        let check = |nanos, millis| assert_eq!(heartbeat_ms(nanos), millis, "{nanos}");
        check(0, None);
        check(-1, None);
        check(i64::MIN, None);
        check(1, Some(1));
        check(1_000_000, Some(1));
        check(1_000_001, Some(2));
        check(240_000_000_000, Some(240_000));
        check(i64::MAX, Some(u32::MAX));
    }

    #[test]
    fn a_reply_without_names_leaves_them_to_the_shard() {
        let reply = ConnectReply { mid: 42, ..ConnectReply::default() };
        let nobody_named =
            Identity { user: 42, accepts: Accepts::Only(Box::default()), ..Identity::default() };
        assert_eq!(identity(reply), nobody_named);
    }
}
