//! The same story of several clients, with a hand-over in its middle or without.

use std::collections::BTreeMap;

use comet_core::{CoalesceRule, ConnId, Counters, Limits, SlowConsumer, TakeOver, Transport};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, frame_2, masked};

/// The result of a story.
pub(super) struct Story {
    /// All bytes that each client was sent.
    pub(super) outputs: BTreeMap<&'static str, Vec<u8>>,
    /// The counts of all shards together.
    pub(super) totals: BTreeMap<&'static str, u64>,
}

const NAMES: [&str; 8] =
    ["half_received", "half_sent", "stalled", "listed", "web", "text", "stream", "several"];

fn limits() -> Limits {
    let (rooms, operations) = (Some("w".into()), [].into());
    let rule = CoalesceRule { rooms, operations, window_ms: 50, keep_latest: false };
    Limits {
        text: true,
        svr_proto: 6,
        slow_consumer: SlowConsumer::DropOldest,
        coalesce_rules: [rule].into(),
        ..Limits::default()
    }
}

/// The event in the middle of the story.
#[derive(Clone, Copy)]
enum Amid {
    Nothing,
    HandOver(u16),
    /// The state is handed over, but no process takes it.
    Undone,
}

pub(super) struct Clients {
    pub(super) rig: Rig,
    pub(super) conns: BTreeMap<&'static str, ConnId>,
    outputs: BTreeMap<&'static str, Vec<u8>>,
}

impl Story {
    pub(super) fn tell(count: Option<u16>) -> Self {
        Self::tell_with(count.map_or(Amid::Nothing, Amid::HandOver), None)
    }

    /// This many bytes of each send are sealed.
    pub(super) fn tell_sealed(count: u16, sealed: usize) -> Self {
        Self::tell_with(Amid::HandOver(count), Some(sealed))
    }

    pub(super) fn tell_undone(sealed: Option<usize>) -> Self {
        Self::tell_with(Amid::Undone, sealed)
    }

    pub(super) fn assert_as(&self, plain: &Self, what: &str) {
        for (name, bytes) in &plain.outputs {
            assert_eq!(
                self.outputs[name].escape_ascii().to_string(),
                bytes.escape_ascii().to_string(),
                "{name}, {what}"
            );
        }
        assert_eq!(self.totals, plain.totals, "{what}");
    }

    fn tell_with(amid: Amid, sealed: Option<usize>) -> Self {
        let mut clients = Clients::amid_everything();
        clients.rig.sealed = sealed;
        match amid {
            // A hand-over ends windows.
            Amid::Nothing => clients.rig.pass(60),
            Amid::HandOver(count) => {
                let renamed = clients.rig.upgrade(count);
                clients.conns.values_mut().for_each(|conn| *conn = renamed[conn]);
            }
            Amid::Undone => drop(clients.rig.hand_over()),
        }
        clients.end()
    }
}

impl Clients {
    /// Half a frame is received or sent, connections are in rooms, a window of coalescing is under way.
    pub(super) fn amid_everything() -> Self {
        let mut rig = Rig::new(2, limits());
        let mut conns = BTreeMap::new();
        for (number, name) in NAMES[..4].iter().copied().enumerate() {
            let conn = rig.join(number as u16 % 2, &format!("{number}/{name}/r/"));
            conns.insert(name, conn);
        }
        let web = rig.connect(1, Transport::WebSocket);
        rig.ask(web, &[UPGRADE, &masked(0x82, &frame(op::AUTH, 1, b"9/web/r/"))].concat());
        let text = rig.connect(0, Transport::WebSocket);
        let auth = br#"{"ver":1,"op":7,"seq":1,"body":"9/text/r/"}"#;
        rig.ask(text, &[UPGRADE, &masked(0x81, auth)].concat());
        let stream = rig.connect(0, Transport::WebSocket);
        rig.ask(stream, b"GET /sse?token=3/stream/r/&rooms=s HTTP/1.1\r\nHost: h\r\n\r\n");
        let several = rig.connect(1, Transport::Tcp);
        rig.ask(several, &frame_2(op::AUTH, 1, b"4/several/r+s+w/"));
        conns.extend([("web", web), ("text", text), ("stream", stream), ("several", several)]);
        let mut clients = Self { rig, conns, outputs: BTreeMap::new() };
        let rig = &mut clients.rig;
        // Shards know how many members rooms have.
        rig.pass(500);
        rig.feed(clients.conns["listed"], &frame(op::UNSUBSCRIBE, 2, b"5"));
        rig.feed(clients.conns["half_received"], &frame(op::HEARTBEAT, 7, b"")[..9]);
        for name in ["half_sent", "web", "text", "stream"] {
            rig.allow(clients.conns[name], Some(31));
        }
        rig.allow(clients.conns["stalled"], Some(0));
        for body in [&b"one"[..], b"another one"] {
            rig.push_room("r", 5, body);
            rig.push_keys(&["half_sent", "stalled", "web", "text"], 5, body);
            rig.push_room("s", 6, body);
        }
        rig.push_room("w", 5, b"waits in a window");
        clients
    }

    /// The clients of a hand-over; each key is the name of its client.
    pub(super) fn from_parts(parts: Vec<(TakeOver, Vec<String>)>) -> Self {
        let mut rig = Rig::new(parts.len() as u16, limits());
        let mut conns = BTreeMap::new();
        for (conn, key) in rig.take_over(parts) {
            let name = NAMES.into_iter().find(|name| *name == key).expect("a client of the story");
            conns.insert(name, conn);
        }
        Self { rig, conns, outputs: BTreeMap::new() }
    }

    fn take_all(&mut self) {
        for (&name, &conn) in &self.conns {
            self.outputs.entry(name).or_default().extend(self.rig.take(conn));
        }
    }

    /// The rest of the story. All clients read all their output.
    pub(super) fn end(mut self) -> Story {
        let rig = &mut self.rig;
        rig.feed(self.conns["half_received"], &frame(op::HEARTBEAT, 7, b"")[9..]);
        rig.push_room("r", 5, b"after");
        rig.push_all(8, b"to all", None);
        rig.allow(self.conns["half_sent"], Some(1));
        for &conn in self.conns.values() {
            rig.allow(conn, None);
        }
        rig.pass(100);
        rig.push_keys(&["listed", "stream", "several"], 5, b"by key");
        rig.push_user(9, 5, b"by user");
        rig.push_room("s", 5, b"to a further room");
        self.take_all();
        let totals = totals(&self.rig);
        Story { outputs: self.outputs, totals }
    }
}

/// The counts that do not depend on the number of attempts.
fn totals(rig: &Rig) -> BTreeMap<&'static str, u64> {
    let mut totals: BTreeMap<&'static str, u64> = BTreeMap::new();
    for shard in &rig.shards {
        let counters = shard.counters();
        let Counters { deliveries, sent, lost, superseded, waiting, .. } = &counters;
        assert_eq!(deliveries.queued, sent + lost + superseded + waiting);
        assert_eq!(deliveries.matched, deliveries.queued + deliveries.dropped_total());
        for (name, total) in [
            ("accepted_tcp", counters.accepted_tcp),
            ("accepted_websocket", counters.accepted_websocket),
            ("event_streams", counters.event_streams),
            ("authenticated", counters.authenticated),
            ("queued", deliveries.queued),
            ("matched", deliveries.matched),
            ("sent", *sent),
            ("lost", *lost),
            ("superseded", *superseded),
            ("waiting", *waiting),
            ("waiting_bytes", counters.waiting_bytes),
            ("frames_in", counters.frames_in),
            ("bytes_in", counters.bytes_in),
            ("bytes_out", counters.bytes_out),
            ("heartbeats", counters.heartbeats),
            ("coalesced", counters.coalesced),
            ("live", counters.live),
            ("connections", counters.connections),
            ("keys", counters.keys),
            ("users", counters.users),
            ("rooms", counters.rooms),
            ("further_rooms", counters.further_rooms),
            ("handshakes timed", counters.handshake_times.count()),
        ] {
            *totals.entry(name).or_default() += total;
        }
    }
    totals
}
