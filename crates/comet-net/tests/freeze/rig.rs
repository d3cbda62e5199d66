//! One core, and clients that check every byte of their pushes.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use comet_core::{
    CallId, Counters, Limits, Logic, Message, Push, Report, Settings, ShardId, Transport,
    distribute,
};
use comet_logic::UnverifiedTokens;
use comet_mesh::{EventFd, Inbox, Pulse, Sender, inbox, priority_inbox};
use comet_net::{
    Arrived, ArrivedSocket, Core, CoreSettings, ListenOptions, Listener, MeshEndpoints, ProxyFrom,
    Tls, bind,
};
use comet_proto::{Encoded, Frame, op};

/// The time after which a test fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Connections from this address begin with a PROXY header.
pub(crate) const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// Bytes of a push.
const BODY: usize = 1_000;

pub(crate) fn frame(operation: i32, body: &[u8]) -> Vec<u8> {
    Encoded::frame(&Frame { version: 1, operation, sequence: 1, body }).for_tcp().to_vec()
}

/// Reads a frame: its operation and its body.
pub(crate) fn read(mut stream: impl Read) -> io::Result<(i32, Vec<u8>)> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
    let mut body = vec![0; length - head.len()];
    stream.read_exact(&mut body)?;
    Ok((i32::from_be_bytes(head[8..12].try_into().unwrap()), body))
}

/// A push whose bytes depend on its number.
pub(crate) fn push(number: u32) -> Push {
    let body: Vec<u8> = (0..BODY as u32).map(|at| (number.wrapping_mul(31) + at) as u8).collect();
    let body = [&number.to_be_bytes()[..], &body].concat();
    Push::new(5, Encoded::frame(&Frame { version: 1, operation: 5, sequence: 0, body: &body }))
}

/// Reads pushes up to the one with number `last`, and checks that each comes once and whole.
pub(crate) fn expect_pushes(mut stream: impl Read, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let (operation, body) = read(&mut stream).unwrap();
        let raw = push(number).frame.for_tcp().to_vec();
        assert_eq!(operation, 5);
        assert!(raw.ends_with(&body), "push {number}, got {:?}", &body[..4]);
    }
}

pub(crate) fn listen() -> (SocketAddr, OwnedFd) {
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

/// One core with one TCP listener.
pub(crate) struct Rig {
    pub(crate) core: Core,
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
        has_other_hosts: false,
    }
}

pub(crate) fn limits() -> Arc<Limits> {
    // A busy host may take longer for a test than the usual deadlines allow.
    Arc::new(Limits {
        svr_proto: 4_000,
        handshake_ms: 300_000,
        write_ms: 300_000,
        ..Limits::default()
    })
}

impl Rig {
    pub(crate) fn start(listener: OwnedFd, tls: Option<Tls>, arrived: Option<Arrived>) -> Self {
        Self::try_start(listener, tls, &limits(), arrived).unwrap()
    }

    fn try_start(
        listener: OwnedFd,
        tls: Option<Tls>,
        limits: &Arc<Limits>,
        arrived: Option<Arrived>,
    ) -> Result<Self, String> {
        let wakeup = Arc::new(EventFd::new().unwrap());
        let (sender, inbox_end) = priority_inbox(4_096, wakeup.clone());
        let (control, reports) = inbox(65_536, Arc::new(EventFd::new().unwrap()));
        let settings = CoreSettings {
            cpu: None,
            shard: settings(limits),
            listeners: vec![Listener {
                socket: listener,
                transport: Transport::Tcp,
                tls,
                proxy_from: Some(ProxyFrom::new(|peer| peer == PROXY)),
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
        let pulse = Arc::new(Pulse::new(wakeup.clone(), 0));
        let peers = vec![sender.clone()];
        let endpoints = MeshEndpoints { inbox: inbox_end, wakeup, pulse, peers, control };
        let (ready, is_ready) = mpsc::channel();
        let core = Core::start(settings, endpoints, UnverifiedTokens, ready).unwrap();
        is_ready.recv().unwrap().map_err(|error| error.to_string())?;
        if let Some(arrived) = arrived {
            core.adopt(arrived).wait(LIMIT).unwrap()?;
        }
        Ok(Self { core, inbox: sender, reports })
    }

    /// A frozen core with the state that another one has offered, encoded and decoded again.
    pub(crate) fn adopt(
        listener: OwnedFd,
        tls: Option<Tls>,
        offered: (comet_handover::Shard, Vec<OwnedFd>),
    ) -> Result<Self, String> {
        Self::adopt_with(listener, tls, &limits(), offered)
    }

    /// The same with other limits.
    pub(crate) fn adopt_with(
        listener: OwnedFd,
        tls: Option<Tls>,
        limits: &Arc<Limits>,
        (state, sockets): (comet_handover::Shard, Vec<OwnedFd>),
    ) -> Result<Self, String> {
        let state = comet_handover::Shard::decode(&state.encode()).unwrap();
        let sockets = sockets.into_iter().map(|fd| ArrivedSocket { fd, peer: None }).collect();
        let (part, sockets) = distribute(vec![(state, sockets)], 1).unwrap().pop().unwrap();
        Self::try_start(listener, tls, limits, Some(Arrived { part, sockets }))
    }

    /// The former process ends; it must not end the connections. Then `next` goes on.
    pub(crate) fn give_way(self, next: &Self) {
        self.core.release().wait(LIMIT).unwrap().unwrap();
        self.core.stop().unwrap();
        next.core.thaw().wait(LIMIT).unwrap().unwrap();
    }

    pub(crate) fn push_all(&self, number: u32) {
        let (call, push) = (CallId(number.into()), push(number));
        self.inbox.try_send(Message::Broadcast { call, push, speed: None }).unwrap();
    }

    /// Waits until this many calls have been reported.
    pub(crate) fn wait_for_calls(&self, calls: usize) {
        let begin = Instant::now();
        let mut done = 0;
        while done < calls {
            done += usize::from(self.reports.try_recv().is_some());
            assert!(begin.elapsed() < LIMIT, "{done} of {calls} calls are reported");
            std::thread::yield_now();
        }
    }

    pub(crate) fn counters(&self) -> Box<Counters> {
        self.inbox.post_priority(Message::Snapshot { call: CallId(0) }).unwrap();
        self.inbox.notify();
        let begin = Instant::now();
        loop {
            if let Some(Report::Snapshot { counters, .. }) = self.reports.try_recv() {
                return counters;
            }
            assert!(begin.elapsed() < LIMIT, "no snapshot");
            std::thread::yield_now();
        }
    }

    pub(crate) fn freeze(&self) {
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

    /// Offers the sockets, and returns the state and sockets for the other process.
    pub(crate) fn offer(&self) -> (comet_handover::Shard, Vec<OwnedFd>) {
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

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&frame(op::AUTH, b"")).unwrap();
    assert_eq!(read(&stream).unwrap().0, op::AUTH_REPLY);
    stream
}

pub(crate) fn beat(stream: &mut TcpStream) {
    stream.write_all(&frame(op::HEARTBEAT, b"")).unwrap();
    assert_eq!(read(&*stream).unwrap().0, op::HEARTBEAT_REPLY);
}

/// More pushes than the sockets of clients that do not read can hold.
pub(crate) const PUSHES: u32 = 600;

/// Four clients that read nothing, so that a send of each is under way.
pub(crate) fn stalled<C>(rig: &Rig, connect: impl Fn(usize) -> C) -> Vec<C> {
    let clients = (0..4).map(connect).collect();
    for number in 0..PUSHES {
        rig.push_all(number);
    }
    rig.wait_for_calls(PUSHES as usize);
    clients
}
