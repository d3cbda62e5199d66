//! A core is frozen in the middle of its work. It goes on as if nothing had been, or another core goes on with its connections.
#![allow(clippy::disallowed_methods, reason = "the test has sockets and a clock")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use comet_core::{
    CallId, Limits, Logic, Message, Push, Report, Settings, ShardId, Transport, distribute,
};
use comet_logic::Embedded;
use comet_mesh::{EventFd, Inbox, Pulse, Sender, express_inbox, inbox};
use comet_net::{
    Arrived, ArrivedSocket, Core, CoreSettings, ListenOptions, Listener, MeshEndpoints, bind,
};
use comet_proto::{Encoded, Frame, op};

/// Ends a test that has failed.
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes of a push.
const BODY: usize = 1_000;

fn frame(operation: i32, body: &[u8]) -> Vec<u8> {
    Encoded::frame(&Frame { version: 1, operation, sequence: 1, body }).for_tcp().to_vec()
}

/// Reads a frame: its operation and its body.
fn read(mut stream: impl Read) -> io::Result<(i32, Vec<u8>)> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
    let mut body = vec![0; length - head.len()];
    stream.read_exact(&mut body)?;
    Ok((i32::from_be_bytes(head[8..12].try_into().unwrap()), body))
}

/// A push whose bytes tell its number.
fn push(number: u32) -> Push {
    let body: Vec<u8> = (0..BODY as u32).map(|at| (number.wrapping_mul(31) + at) as u8).collect();
    let body = [&number.to_be_bytes()[..], &body].concat();
    Push::new(5, Encoded::frame(&Frame { version: 1, operation: 5, sequence: 0, body: &body }))
}

/// Reads pushes up to the one with number `last`, and checks that each comes once and whole.
fn expect_pushes(stream: &TcpStream, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let (operation, body) = read(stream).unwrap();
        let raw = push(number).frame.for_tcp().to_vec();
        assert_eq!(operation, 5);
        assert!(raw.ends_with(&body), "push {number}, got {:?}", &body[..4]);
    }
}

fn listen() -> (SocketAddr, OwnedFd) {
    let options = ListenOptions {
        backlog: 128,
        sndbuf: 16 << 10,
        rcvbuf: 16 << 10,
        keepalive: None,
        user_timeout: None,
        nodelay: true,
        steering: None,
    };
    let (address, mut sockets) = bind(([127, 0, 0, 1], 0).into(), 1, &options).unwrap();
    (address, sockets.pop().unwrap())
}

/// A core of its own, with one TCP listener.
struct Rig {
    core: Core,
    inbox: Sender<Message>,
    reports: Inbox<Report>,
}

fn settings(limits: &Arc<Limits>) -> Settings {
    Settings {
        shard: ShardId(0),
        shards: 1,
        limits: limits.clone(),
        logic: Logic::Embedded,
        hash_seed: 7,
        reports_rooms: false,
    }
}

fn limits() -> Arc<Limits> {
    Arc::new(Limits { svr_proto: 4_000, ..Limits::default() })
}

impl Rig {
    fn start(listener: OwnedFd, arrived: Option<Arrived>) -> Self {
        let wakeup = Arc::new(EventFd::new().unwrap());
        let (sender, inbox_end) = express_inbox(4_096, wakeup.clone());
        let (control, reports) = inbox(65_536, Arc::new(EventFd::new().unwrap()));
        let settings = CoreSettings {
            cpu: None,
            shard: settings(&limits()),
            listeners: vec![Listener {
                socket: listener,
                transport: Transport::Tcp,
                tls: None,
                proxy_from: None,
            }],
            caller_listeners: Vec::new(),
            ring_entries: 64,
            recv_buffers: 64,
            recv_buffer_size: 1024,
            spin: Duration::ZERO,
            busy_poll: Duration::ZERO,
            epoch: Instant::now(),
            is_frozen: arrived.is_some(),
        };
        let pulse = Arc::new(Pulse::new(wakeup.clone()));
        let peers = vec![sender.clone()];
        let endpoints = MeshEndpoints { inbox: inbox_end, wakeup, pulse, peers, control };
        let (ready, is_ready) = mpsc::channel();
        let core = Core::start(settings, endpoints, Embedded, ready).unwrap();
        is_ready.recv().unwrap().unwrap();
        if let Some(arrived) = arrived {
            core.adopt(arrived).wait(LIMIT).unwrap().unwrap();
        }
        Self { core, inbox: sender, reports }
    }

    fn push_all(&self, number: u32) {
        let (call, push) = (CallId(number.into()), push(number));
        self.inbox.try_send(Message::Broadcast { call, push, speed: None }).unwrap();
    }

    /// Waits until so many calls have been reported.
    fn wait_for_calls(&self, calls: usize) {
        let begin = Instant::now();
        let mut done = 0;
        while done < calls {
            done += usize::from(self.reports.try_recv().is_some());
            assert!(begin.elapsed() < LIMIT, "{done} of {calls} calls are reported");
            std::thread::yield_now();
        }
    }

    fn freeze(&self) {
        self.core.stop_accepts().wait(LIMIT).unwrap().unwrap();
        self.core.freeze().wait(LIMIT).unwrap().unwrap();
        let begin = Instant::now();
        loop {
            let turn = self.core.frozen_turn().wait(LIMIT).unwrap();
            if turn.is_still && turn.obstacles.is_none() {
                return;
            }
            assert!(begin.elapsed() < LIMIT, "{turn:?}");
        }
    }

    /// Offers its sockets, and returns what the other process gets.
    fn offer(&self) -> (comet_handover::Shard, Vec<OwnedFd>) {
        let offered = Arc::new(Mutex::new(None));
        let into = offered.clone();
        let taken = self.core.offer(move |offer| {
            let own = |fd: &BorrowedFd<'_>| fd.try_clone_to_owned();
            let sockets = offer.sockets.iter().map(own).collect::<io::Result<Vec<_>>>()?;
            *into.lock().unwrap() = Some((offer.state, sockets));
            Ok(())
        });
        taken.wait(LIMIT).unwrap().unwrap();
        offered.lock().unwrap().take().unwrap()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&frame(op::AUTH, b"")).unwrap();
    assert_eq!(read(&stream).unwrap().0, op::AUTH_REPLY);
    stream
}

fn beat(stream: &mut TcpStream) {
    stream.write_all(&frame(op::HEARTBEAT, b"")).unwrap();
    assert_eq!(read(&*stream).unwrap().0, op::HEARTBEAT_REPLY);
}

/// Pushes that the sockets of clients who do not read cannot hold.
const PUSHES: u32 = 600;

/// Clients that read nothing, so that a send of each is under way.
fn stalled(rig: &Rig, address: SocketAddr) -> Vec<TcpStream> {
    let clients = (0..4).map(|_| connect(address)).collect();
    for number in 0..PUSHES {
        rig.push_all(number);
    }
    rig.wait_for_calls(PUSHES as usize);
    clients
}

#[test]
fn a_core_that_thaws_goes_on_where_it_was() {
    let (address, listener) = listen();
    let rig = Rig::start(listener, None);
    let clients = stalled(&rig, address);
    let mut live = clients[0].try_clone().unwrap();
    // Half a heartbeat is in the shard, the rest comes while it is frozen.
    let heartbeat = frame(op::HEARTBEAT, b"");
    live.write_all(&heartbeat[..7]).unwrap();
    rig.freeze();
    live.write_all(&heartbeat[7..]).unwrap();
    let late = TcpStream::connect(address).unwrap();
    // What is pushed meanwhile waits.
    rig.push_all(PUSHES);
    rig.freeze();
    rig.core.thaw().wait(LIMIT).unwrap().unwrap();
    for client in &clients {
        expect_pushes(client, 0..PUSHES + 1);
    }
    assert_eq!(read(&live).unwrap().0, op::HEARTBEAT_REPLY);
    let mut late = late;
    late.write_all(&frame(op::AUTH, b"")).unwrap();
    assert_eq!(read(&late).unwrap().0, op::AUTH_REPLY);
    rig.core.stop().unwrap();
}

#[test]
fn a_core_that_offered_its_sockets_in_vain_goes_on() {
    let (address, listener) = listen();
    let rig = Rig::start(listener, None);
    let mut clients = stalled(&rig, address);
    rig.freeze();
    // The other process gets the sockets, and ends.
    drop(rig.offer());
    let refused = rig.core.freeze().wait(LIMIT).unwrap();
    assert_eq!(refused, Err("its sockets are offered".to_owned()));
    rig.core.thaw().wait(LIMIT).unwrap().unwrap();
    for client in &mut clients {
        expect_pushes(client, 0..PUSHES);
        beat(client);
    }
    rig.core.stop().unwrap();
}

#[test]
fn another_core_goes_on_with_the_connections() {
    let (address, listener) = listen();
    let next_listener = listener.try_clone().unwrap();
    let rig = Rig::start(listener, None);
    let mut clients = stalled(&rig, address);
    let heartbeat = frame(op::HEARTBEAT, b"");
    clients[1].write_all(&heartbeat[..7]).unwrap();
    rig.freeze();
    let mut late = TcpStream::connect(address).unwrap();
    late.write_all(&frame(op::AUTH, b"")).unwrap();
    let (state, sockets) = rig.offer();
    assert_eq!(sockets.len(), clients.len());
    assert!(state.connections.iter().all(|conn| !conn.pending.is_empty()), "all are stalled");
    let bytes = state.encode();
    let state = comet_handover::Shard::decode(&bytes).unwrap();
    let sockets = sockets.into_iter().map(|fd| ArrivedSocket { fd, peer: None }).collect();
    let (part, sockets) = distribute(vec![(state, sockets)], 1).unwrap().pop().unwrap();
    let next = Rig::start(next_listener, Some(Arrived { part, sockets }));
    // The former process ends first; it must not end the connections.
    rig.core.release().wait(LIMIT).unwrap().unwrap();
    rig.core.stop().unwrap();
    next.core.thaw().wait(LIMIT).unwrap().unwrap();
    next.push_all(PUSHES);
    for client in &clients {
        expect_pushes(client, 0..PUSHES + 1);
    }
    clients[1].write_all(&heartbeat[7..]).unwrap();
    assert_eq!(read(&clients[1]).unwrap().0, op::HEARTBEAT_REPLY);
    late.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(read(&late).unwrap().0, op::AUTH_REPLY);
    for client in &mut clients {
        beat(client);
    }
    next.core.stop().unwrap();
}

#[test]
fn a_core_that_adopts_does_nothing_before_it_thaws() {
    let (address, listener) = listen();
    let next_listener = listener.try_clone().unwrap();
    let rig = Rig::start(listener, None);
    let mut client = connect(address);
    rig.freeze();
    let (state, sockets) = rig.offer();
    let sockets = sockets.into_iter().map(|fd| ArrivedSocket { fd, peer: None }).collect();
    let (part, sockets) = distribute(vec![(state, sockets)], 1).unwrap().pop().unwrap();
    let next = Rig::start(next_listener, Some(Arrived { part, sockets }));
    client.write_all(&frame(op::HEARTBEAT, b"")).unwrap();
    // It ends without having read the heartbeat, which the former core answers.
    next.core.release().wait(LIMIT).unwrap().unwrap();
    next.core.stop().unwrap();
    rig.core.thaw().wait(LIMIT).unwrap().unwrap();
    assert_eq!(read(&client).unwrap().0, op::HEARTBEAT_REPLY);
    rig.core.stop().unwrap();
}
