//! The client as seen by its driver, which is the test here.

mod calls;
mod notices;
mod renewals;

use comet_core::{CloseReason, Denied, Generation, Identity, Slot, home_of_key};

use super::*;

const TIMEOUT_MS: u64 = 1_000;
const RENEW_MS: u64 = 60_000;

struct Rig {
    client: LogicClient,
    now: Millis,
}

/// A request on its way.
type Sent = (AttemptId, ConnectionId, Request);

impl Rig {
    /// A client with this many available addresses, after the first renewal of rooms.
    fn new(addresses: usize, calls: usize) -> Self {
        let mut rig = Self::unavailable(addresses, calls);
        for address in 0..addresses {
            rig.make_available(ConnectionId { address, generation: 0 });
        }
        if addresses > 0 {
            rig.client.handle_rooms(rig.now, None);
        }
        rig.actions();
        rig
    }

    fn unavailable(addresses: usize, calls: usize) -> Self {
        let config = LogicConfig {
            addresses: (0..addresses).map(|index| format!("logic-{index}").into()).collect(),
            timeout_ms: TIMEOUT_MS,
            calls,
            ping_ms: 10_000,
            renew_ms: RENEW_MS,
            retry_after_ms: 4_000,
            unknown: UnknownCode::Refuse,
            shards: 2,
            seed: 1,
        };
        Self { client: LogicClient::new(config, Millis(0)), now: Millis(0) }
    }

    fn make_available(&mut self, connection: ConnectionId) {
        self.client.handle_connected(self.now, connection);
        self.client.handle_ping(self.now, connection, PingOutcome::Answered);
    }

    /// The first connection to the first address is there.
    fn pinged(&mut self) {
        let connection = ConnectionId { address: 0, generation: 0 };
        self.client.handle_ping(self.now, connection, PingOutcome::Answered);
    }

    /// Waits in steps, as a thread that is not held up, with an answered ping in each.
    fn wait_pinged(&mut self, millis: u64) {
        for _ in 0..millis / 1_000 {
            self.wait(1_000);
            self.pinged();
        }
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.client.poll_action()).collect()
    }

    fn messages(&mut self) -> Vec<(ShardId, Message)> {
        std::iter::from_fn(|| self.client.poll_message()).collect()
    }

    /// The argument for cutting the rooms, if they are to be counted.
    fn sent_rooms(&mut self) -> Option<Option<SentRooms>> {
        self.actions().into_iter().find_map(|action| match action {
            Action::CountRooms { sent_rooms } => Some(sent_rooms),
            _ => None,
        })
    }

    fn last_line(&mut self) -> String {
        std::iter::from_fn(|| self.client.poll_event()).last().unwrap().to_string()
    }

    /// The requests that are sent; other actions are dropped.
    fn sent(&mut self) -> Vec<Sent> {
        let send = |action| match action {
            Action::Send { attempt, connection, request } => {
                Some((attempt, connection, Request::clone(&request)))
            }
            _ => None,
        };
        self.actions().into_iter().filter_map(send).collect()
    }

    #[track_caller]
    fn only_sent(&mut self) -> Sent {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn identify(&mut self) {
        let request = AuthRequest { conn: conn(), token: (*b"t").into(), cookie: "c".into() };
        self.client.handle_report(self.now, Report::Identify(request));
    }

    fn receive(&mut self) {
        self.client.handle_report(
            self.now,
            Report::Receive {
                conn: conn(),
                user: 42,
                key: "k".into(),
                operation: 4,
                sequence: 9,
                body: (*b"hello").into(),
            },
        );
    }

    fn renewed(&mut self, key: &str) {
        self.client.handle_report(self.now, Report::Heartbeat { user: 1, key: key.into() });
    }

    fn ended(&mut self, key: &str) {
        self.client.handle_report(self.now, Report::Disconnected { user: 1, key: key.into() });
    }

    fn reply(&mut self, sent: &Sent, outcome: AttemptOutcome) {
        self.client.handle_reply(self.now, sent.0, outcome);
    }

    fn done(&mut self, sent: &Sent) {
        self.reply(sent, AttemptOutcome::Replied(Reply::Done));
    }

    fn connected(&mut self, sent: &Sent, key: &str) {
        let identity = Identity { user: 1, key: Some(key.into()), ..Identity::default() };
        self.reply(sent, AttemptOutcome::Replied(Reply::Connected(identity)));
    }

    fn wait(&mut self, millis: u64) {
        self.now = self.now.after(millis);
        self.client.handle_timeout(self.now);
    }

    /// The answer to the one question of [`conn`].
    #[track_caller]
    fn answer(&mut self) -> Result<Identity, Denied> {
        match &self.messages()[..] {
            [(ShardId(1), Message::Identified { conn: asked, answer })] => {
                assert_eq!(*asked, conn());
                answer.clone()
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn receipt(&mut self) -> Result<(), Box<str>> {
        match &self.messages()[..] {
            [(ShardId(1), Message::Receipt { conn: asked, outcome })] => {
                assert_eq!(*asked, conn());
                outcome.clone()
            }
            other => panic!("{other:?}"),
        }
    }

    fn counted(&self, rpc: &str, code: StatusCode) -> u64 {
        let mut counts = self.client.call_counts();
        counts.find(|(name, of, _)| (*name, *of) == (rpc, code)).map_or(0, |(.., count)| count)
    }
}

fn conn() -> ConnId {
    ConnId { shard: ShardId(1), slot: Slot(3), generation: Generation(7) }
}

fn refused(code: i32) -> AttemptOutcome {
    AttemptOutcome::Refused { code: StatusCode(code), sentence: "so be it".into() }
}
