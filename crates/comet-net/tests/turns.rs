//! Waiting work of a core takes turns with the connected clients.
#![allow(clippy::disallowed_methods, reason = "the test has sockets and a clock")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use comet_core::{
    BlockedNetwork, Blocklist, CallId, Identity, Limits, Logic, Message, MessageClass, Millis,
    Push, Report, Settings, ShardId, Transport,
};
use comet_logic::{Authenticator, Refusal, UnverifiedTokens};
use comet_mesh::{EventFd, Inbox, Pulse, inbox, priority_inbox};
use comet_net::{Core, CoreSettings, ListenOptions, Listener, MeshEndpoints, ProxyFrom, bind};
use comet_proto::{Encoded, Frame, op};

/// Longer than a turn may last.
const SLOW: Duration = Duration::from_millis(20);
/// The time after which a test fails.
const LIMIT: Duration = Duration::from_secs(20);

fn frame(operation: i32, body: &[u8]) -> Vec<u8> {
    Encoded::frame(&Frame { version: 1, operation, sequence: 1, body }).for_tcp().to_vec()
}

/// Reads a frame and returns its operation.
fn read(stream: &mut TcpStream) -> i32 {
    let mut head = [0; 16];
    stream.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
    stream.read_exact(&mut vec![0; length - head.len()]).unwrap();
    i32::from_be_bytes(head[8..12].try_into().unwrap())
}

/// A client that has sent its token.
fn client(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&frame(op::AUTH, b"")).unwrap();
    stream
}

/// An authenticator that is slow for slow tokens.
struct SlowLogic {
    slow: AtomicUsize,
    /// Sent when the check of the first slow token begins.
    begun: Sender<()>,
    /// Received when the input that clients sent meanwhile has arrived.
    is_sent: Mutex<Receiver<()>>,
    /// Received when the event that must not wait for all tokens has happened.
    is_answered: Mutex<Receiver<()>>,
    /// Whether `is_answered` came before `looks_at` slow tokens had been checked.
    in_turn: Sender<bool>,
    looks_at: usize,
}

/// The test's ends of a [`SlowLogic`].
struct SlowLogicEnds {
    is_begun: Receiver<()>,
    sent: Sender<()>,
    answered: Sender<()>,
    is_in_turn: Receiver<bool>,
}

impl SlowLogic {
    fn new(looks_at: usize) -> (Self, SlowLogicEnds) {
        let (begun, is_begun) = mpsc::channel();
        let (sent, is_sent) = mpsc::channel();
        let (answered, is_answered) = mpsc::channel();
        let (in_turn, is_in_turn) = mpsc::channel();
        let (is_sent, is_answered) = (Mutex::new(is_sent), Mutex::new(is_answered));
        let logic =
            Self { slow: AtomicUsize::new(0), begun, is_sent, is_answered, in_turn, looks_at };
        (logic, SlowLogicEnds { is_begun, sent, answered, is_in_turn })
    }
}

impl Authenticator for SlowLogic {
    fn auth(&self, token: &[u8], _: &str) -> Result<Identity, Refusal> {
        if token == b"slow" {
            match self.slow.fetch_add(1, Ordering::SeqCst) {
                0 => {
                    self.begun.send(()).unwrap();
                    self.is_sent.lock().unwrap().recv_timeout(LIMIT).unwrap();
                }
                slow if slow == self.looks_at => {
                    let answered = self.is_answered.lock().unwrap().recv_timeout(LIMIT / 2);
                    self.in_turn.send(answered.is_ok()).unwrap();
                }
                _ => {}
            }
            thread::sleep(SLOW);
        }
        Ok(Identity::default())
    }
}

#[derive(Default)]
struct Setup {
    limits: Limits,
    /// The number of clients in the backlog when the core starts. They have sent their tokens.
    clients: usize,
    is_behind_proxy: bool,
    logic: Logic,
}

/// One core with one TCP listener.
struct Rig {
    core: Core,
    address: SocketAddr,
    messages: comet_mesh::Sender<Message>,
    reports: Inbox<Report>,
}

impl Rig {
    /// `messages` wait in the core's inbox when it starts.
    fn start(
        limits: Limits,
        logic: impl Authenticator + Send + 'static,
        messages: impl IntoIterator<Item = Message>,
    ) -> Self {
        Self::start_with(Setup { limits, ..Setup::default() }, logic, messages).0
    }

    /// Returns the clients that wait in the backlog as well.
    fn start_with(
        Setup { limits, clients, is_behind_proxy, logic: place }: Setup,
        logic: impl Authenticator + Send + 'static,
        messages: impl IntoIterator<Item = Message>,
    ) -> (Self, Vec<TcpStream>) {
        let options = ListenOptions {
            backlog: 128,
            sndbuf: 0,
            rcvbuf: 0,
            keepalive: None,
            user_timeout: None,
            nodelay: true,
            steering: None,
        };
        let (address, mut sockets) = bind(([127, 0, 0, 1], 0).into(), 1, &options).unwrap();
        let clients = (0..clients).map(|_| client(address)).collect();
        let wakeup = Arc::new(EventFd::new().unwrap());
        let (sender, inbox_end) = priority_inbox(4_096, wakeup.clone());
        for message in messages {
            match message.class() {
                MessageClass::Directory => sender.post_priority(message).unwrap(),
                MessageClass::Push => sender.post(message).unwrap(),
            }
        }
        let (control, reports) = inbox(4_096, Arc::new(EventFd::new().unwrap()));
        let settings = CoreSettings {
            cpu: None,
            shard: Settings {
                shard: ShardId(0),
                shards: 1,
                limits: Arc::new(limits),
                logic: place,
                hash_seed: 7,
                has_other_hosts: false,
            },
            listeners: vec![Listener {
                socket: sockets.pop().unwrap(),
                transport: Transport::Tcp,
                tls: None,
                proxy_from: is_behind_proxy.then(|| ProxyFrom::new(|_| true)),
            }],
            caller_listeners: Vec::new(),
            ring_entries: 64,
            recv_buffers: 64,
            recv_buffer_size: 1024,
            spin: Duration::ZERO,
            busy_poll: Duration::ZERO,
            epoch: Instant::now(),
            is_frozen: false,
        };
        let pulse = Arc::new(Pulse::new(wakeup.clone(), 0));
        let messages = sender.clone();
        let endpoints =
            MeshEndpoints { inbox: inbox_end, wakeup, pulse, peers: vec![sender], control };
        let (ready, is_ready) = mpsc::channel();
        let core = Core::start(settings, endpoints, logic, ready).unwrap();
        is_ready.recv().unwrap().unwrap();
        (Self { core, address, messages, reports }, clients)
    }

    fn send(&self, message: Message) {
        match message.class() {
            MessageClass::Directory => self.messages.post_priority(message).unwrap(),
            MessageClass::Push => self.messages.post(message).unwrap(),
        }
        self.messages.notify();
    }

    /// The number of connections accepted so far.
    fn accepted(&self) -> u64 {
        self.send(Message::Snapshot { call: CallId(1) });
        loop {
            if let Report::Snapshot { counters, .. } = self.next_report() {
                return counters.accepted_tcp;
            }
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn next_report(&self) -> Report {
        let begin = Instant::now();
        loop {
            if let Some(report) = self.reports.try_recv() {
                return report;
            }
            assert!(begin.elapsed() < LIMIT, "no report");
            thread::yield_now();
        }
    }
}

/// The bounds on pushes delay no other messages.
#[test]
fn a_snapshot_does_not_wait_for_the_pushes_before_it() {
    const PUSHES: u64 = 2_000;
    // One push a turn.
    let limits = Limits { svr_proto: 1, ..Limits::default() };
    let push = Push::new(5, Encoded::verbatim(b"x"));
    let pushes = (1..=PUSHES).map(CallId).map(|call| {
        let (room, push) = ("r".into(), push.clone());
        Message::PushRoom { call, room, push }
    });
    let snapshot = Message::Snapshot { call: CallId(PUSHES + 1) };
    let rig = Rig::start(limits, UnverifiedTokens, pushes.chain([snapshot]));
    let is_snapshot = |report: &Report| matches!(report, Report::Snapshot { .. });
    let before = (0..=PUSHES).take_while(|_| !is_snapshot(&rig.next_report())).count();
    assert!(before < 10, "it came after {before} pushes");
    rig.core.stop().unwrap();
}

#[test]
fn a_heartbeat_does_not_wait_for_the_tokens_of_others() {
    let (logic, ends) = SlowLogic::new(2);
    // The timeout is long, so that no waiting client is closed.
    let limits = Limits { handshake_ms: 300_000, ..Limits::default() };
    let rig = Rig::start(limits, logic, []);
    let mut live = rig.connect();
    live.write_all(&frame(op::AUTH, b"")).unwrap();
    assert_eq!(read(&mut live), op::AUTH_REPLY);
    let mut others: Vec<TcpStream> = (0..8).map(|_| rig.connect()).collect();
    others[0].write_all(&frame(op::AUTH, b"slow")).unwrap();
    ends.is_begun.recv_timeout(LIMIT).unwrap();
    for other in &mut others[1..] {
        other.write_all(&frame(op::AUTH, b"slow")).unwrap();
    }
    live.write_all(&frame(op::HEARTBEAT, b"")).unwrap();
    ends.sent.send(()).unwrap();
    assert_eq!(read(&mut live), op::HEARTBEAT_REPLY);
    ends.answered.send(()).unwrap();
    assert_eq!(ends.is_in_turn.recv_timeout(LIMIT), Ok(true), "all tokens in one turn");
    for other in &mut others {
        assert_eq!(read(other), op::AUTH_REPLY);
    }
    rig.core.stop().unwrap();
}

/// Slow tokens use up the time of each turn before its sockets are handled.
#[test]
fn the_sockets_of_clients_that_leave_are_closed_however_long_the_turns_are() {
    let (logic, ends) = SlowLogic::new(20);
    let limits = Limits { handshake_ms: 300_000, ..Limits::default() };
    let rig = Rig::start(limits, logic, []);
    let mut leaving: Vec<TcpStream> = (0..40).map(|_| client(rig.address)).collect();
    for client in &mut leaving {
        assert_eq!(read(client), op::AUTH_REPLY);
    }
    let mut others: Vec<TcpStream> = (0..24).map(|_| rig.connect()).collect();
    others[0].write_all(&frame(op::AUTH, b"slow")).unwrap();
    ends.is_begun.recv_timeout(LIMIT).unwrap();
    for other in &mut others[1..] {
        other.write_all(&frame(op::AUTH, b"slow")).unwrap();
    }
    for client in &leaving {
        client.shutdown(Shutdown::Write).unwrap();
    }
    ends.sent.send(()).unwrap();
    for client in &mut leaving {
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    ends.answered.send(()).unwrap();
    assert_eq!(ends.is_in_turn.recv_timeout(LIMIT), Ok(true), "a socket a turn");
    rig.core.stop().unwrap();
}

/// With a rate of one connection a second, a core accepts at most one in each second that has begun.
#[track_caller]
fn check_rate(rig: &Rig, before: u64, begin: Instant) {
    let accepted = rig.accepted() - before;
    let most = begin.elapsed().as_secs() + 1;
    assert!(accepted <= most, "{accepted} accepts in {most} s");
}

const CLIENTS: usize = 8;

#[test]
fn connects_that_wait_are_accepted_at_the_rate() {
    let begin = Instant::now();
    let limits = Limits { accept_rate: 1, handshake_ms: 300_000, ..Limits::default() };
    let setup = Setup { limits, clients: CLIENTS, ..Setup::default() };
    let (rig, mut clients) = Rig::start_with(setup, UnverifiedTokens, []);
    for client in &mut clients[..2] {
        assert_eq!(read(client), op::AUTH_REPLY);
        check_rate(&rig, 0, begin);
    }
    rig.core.stop().unwrap();
}

#[test]
fn a_rate_of_accepts_is_set_and_taken_away_alive() {
    let without = Limits { handshake_ms: 300_000, ..Limits::default() };
    let with = Limits { accept_rate: 1, ..without.clone() };
    let rig = Rig::start(without.clone(), UnverifiedTokens, []);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| client(rig.address)).collect();
    for client in &mut clients {
        assert_eq!(read(client), op::AUTH_REPLY);
    }
    rig.send(Message::Configure { limits: Arc::new(with) });
    let before = rig.accepted();
    let begin = Instant::now();
    let mut later: Vec<_> = (0..CLIENTS).map(|_| client(rig.address)).collect();
    assert_eq!(read(&mut later[0]), op::AUTH_REPLY);
    check_rate(&rig, before, begin);
    rig.send(Message::Configure { limits: Arc::new(without) });
    for client in &mut later[1..] {
        assert_eq!(read(client), op::AUTH_REPLY);
    }
    rig.core.stop().unwrap();
}

/// The header and the first bytes behind it may come together.
#[test]
fn nothing_is_read_of_a_blocked_client_behind_a_proxy() {
    let block = BlockedNetwork { network: "192.0.2.1".parse().unwrap(), until: Millis(u64::MAX) };
    let blocklist = Blocklist::default().with(Millis(0), block).unwrap();
    let limits = Limits { blocklist, handshake_ms: 300_000, ..Limits::default() };
    let logic = Logic::Remote { renew_ms: (60_000, 90_000) };
    let setup = Setup { limits, is_behind_proxy: true, logic, ..Setup::default() };
    let (rig, _) = Rig::start_with(setup, UnverifiedTokens, []);
    let connect = |client: &str| {
        let mut stream = rig.connect();
        let header = format!("PROXY TCP4 {client} 198.51.100.1 1000 1001\r\n");
        let token = frame(op::AUTH, client.as_bytes());
        stream.write_all(&[header.as_bytes(), &token].concat()).unwrap();
        stream
    };
    let mut blocked = connect("192.0.2.1");
    // The connection is closed, perhaps by a reset.
    assert_eq!(blocked.read(&mut [0]).unwrap_or(0), 0);
    let _other = connect("192.0.2.2");
    let Report::Identify(request) = rig.next_report() else { panic!("no token") };
    assert_eq!(*request.token, *b"192.0.2.2");
    rig.core.stop().unwrap();
}
