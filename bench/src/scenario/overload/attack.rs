//! The attacks, each on a thread of its own that gives way to the clients that are measured.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use clap::ValueEnum;
use comet_client::Transport;
use rustix::process::setpriority_process;
use serde::Serialize;
use tokio::runtime;

use super::flood::{self, Flood};
use super::trickle::{self, Trickle};
use crate::Result;
use crate::args::OverloadArgs;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, sleep_until};
use crate::dial::begin_to_connect;
use crate::grpc::{Address, Push, Pusher};
use crate::target::{Endpoints, Target, free_ports_at, list};
use crate::visitor::Visitor;

/// The niceness of attackers (setpriority(2)): on the bench's CPU they yield to what measures.
const NICE: i32 = 19;
/// Accepts a second that the server allows where it is asked for ten times as many.
const ACCEPTS: u64 = 1000;
/// Connections of that attack that are open at most.
const ACCEPTS_OPEN: usize = 4000;
/// The room of those that do not read, the bytes that are pushed to it, and how often.
const STALLED_ROOM: &str = "overload://stalled";
const STALLED_BODY: usize = 8 << 10;
const STALLED_NS: u64 = 50 * MILLISECOND_NS;
/// Pushes that nearly fill their outboxes; those that exceed them are pushed while the others are measured.
const STALLED_PUSHES: u32 = 250;
/// Their receive buffer.
const STALLED_BUFFER: usize = 4096;

/// An attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Attack {
    /// Ten times as many connections a second as `clients.accepts` lets in.
    Accepts,
    /// Connections that say nothing.
    HalfOpen,
    /// One byte after the other: a frame's header, an upgrade, a PROXY header, a ClientHello, a push over HTTP.
    TrickledFrames,
    TrickledUpgrades,
    TrickledProxyHeaders,
    TrickledHellos,
    TrickledPushes,
    /// Clients that do not read what is pushed to them, under each policy.
    StalledDropNewest,
    StalledDropOldest,
    StalledClose,
    /// One client that does one thing as fast as it can.
    Heartbeats,
    RoomChanges,
    Subscriptions,
    LargestFrames,
    Pings,
    TlsHandshakes,
}

impl Attack {
    pub(super) const ALL: [Self; 16] = [
        Self::Accepts,
        Self::HalfOpen,
        Self::TrickledFrames,
        Self::TrickledUpgrades,
        Self::TrickledProxyHeaders,
        Self::TrickledHellos,
        Self::TrickledPushes,
        Self::StalledDropNewest,
        Self::StalledDropOldest,
        Self::StalledClose,
        Self::Heartbeats,
        Self::RoomChanges,
        Self::Subscriptions,
        Self::LargestFrames,
        Self::Pings,
        Self::TlsHandshakes,
    ];

    /// Whether all clients of its server connect over TLS.
    pub(super) fn is_of_tls(self) -> bool {
        matches!(self, Self::TrickledHellos | Self::TlsHandshakes)
    }

    /// The settings of its server.
    pub(super) fn settings(self, args: &OverloadArgs, site: &Site) -> Vec<String> {
        let stalled = |policy: &str| {
            vec![
                format!("protocol.slow_consumer=\"{policy}\""),
                // They are to stay, and are not to take all memory of the kernel.
                "protocol.write_timeout=\"1h\"".to_owned(),
                "tcp.sndbuf=16384".to_owned(),
                "protocol.svr_proto=512".to_owned(),
            ]
        };
        match self {
            Self::Accepts => vec![format!("clients.accepts={ACCEPTS}")],
            Self::TrickledProxyHeaders => {
                vec![format!("tcp.proxy_from=[\"{}/32\"]", site.proxy)]
            }
            Self::TrickledPushes => vec![list("push.http", site.http)],
            Self::StalledDropNewest => stalled("drop-newest"),
            Self::StalledDropOldest => stalled("drop-oldest"),
            Self::StalledClose => stalled("close"),
            Self::HalfOpen => vec![format!("clients.handshakes={}", 2 * args.half_open)],
            _ => Vec::new(),
        }
    }
}

/// Addresses beside those of the server.
#[derive(Clone)]
pub(super) struct Site {
    /// The HTTP push API, of the attack on it.
    pub http: SocketAddr,
    /// Where connections with PROXY headers come from.
    pub proxy: Ipv4Addr,
}

impl Site {
    pub(super) fn choose() -> Result<Self> {
        let [http] = free_ports_at(Ipv4Addr::LOCALHOST)?;
        Ok(Self { http, proxy: Ipv4Addr::new(127, 99, 0, 1) })
    }
}

/// An attack under way.
pub(super) struct Assault {
    thread: JoinHandle<Result<u64>>,
    signs: Arc<Signs>,
}

/// What an attack and those who watch it tell each other.
#[derive(Default)]
pub(super) struct Signs {
    is_under_way: AtomicBool,
    is_over: AtomicBool,
}

impl Signs {
    /// The attack is what it is going to be.
    pub(super) fn set_under_way(&self) {
        self.is_under_way.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// What an attack needs to know.
pub(super) struct Attacker {
    attack: Attack,
    pub endpoints: Endpoints,
    grpc: String,
    pub site: Site,
    half_open: usize,
    stalled: usize,
    operation: i32,
    pub signs: Arc<Signs>,
}

impl Assault {
    /// Begins the attack on `target`.
    pub(super) fn begin(
        attack: Attack,
        args: &OverloadArgs,
        target: &Target,
        site: &Site,
    ) -> Result<Self> {
        let signs = Arc::new(Signs::default());
        let attacker = Attacker {
            attack,
            endpoints: target.endpoints.clone(),
            grpc: target.grpc.clone().ok_or("the server has no push API")?,
            site: site.clone(),
            half_open: args.half_open as usize,
            stalled: args.stalled as usize,
            operation: args.setup.server.operation,
            signs: Arc::clone(&signs),
        };
        let thread = thread::spawn(move || {
            // Of this thread alone, on Linux.
            setpriority_process(None, NICE)?;
            attacker.attack()
        });
        Ok(Self { thread, signs })
    }

    /// Fails if the attack has ended, which it does only for a fault.
    pub(super) fn is_under_way(&self) -> Result<bool> {
        if self.thread.is_finished() {
            return Err("the attack has ended by itself".into());
        }
        Ok(self.signs.is_under_way.load(Ordering::Relaxed))
    }

    /// Ends it; gives how much it has done.
    pub(super) fn end(self) -> Result<u64> {
        self.signs.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the attack has panicked")?
    }
}

impl Attacker {
    fn attack(self) -> Result<u64> {
        match self.attack {
            Attack::Accepts => self.accepts(),
            Attack::HalfOpen => self.half_open(),
            Attack::TrickledFrames => trickle::run(&self, Trickle::Frame),
            Attack::TrickledUpgrades => trickle::run(&self, Trickle::Upgrade),
            Attack::TrickledProxyHeaders => trickle::run(&self, Trickle::ProxyHeader),
            Attack::TrickledHellos => trickle::run(&self, Trickle::Hello),
            Attack::TrickledPushes => trickle::run(&self, Trickle::Push),
            Attack::StalledDropNewest | Attack::StalledDropOldest | Attack::StalledClose => {
                self.stalled()
            }
            Attack::Heartbeats => flood::run(&self, Flood::Heartbeats),
            Attack::RoomChanges => flood::run(&self, Flood::RoomChanges),
            Attack::Subscriptions => flood::run(&self, Flood::Subscriptions),
            Attack::LargestFrames => flood::run(&self, Flood::LargestFrames),
            Attack::Pings => flood::run(&self, Flood::Pings),
            Attack::TlsHandshakes => flood::handshakes(&self),
        }
    }

    /// Connections at a rate, of which the oldest make room.
    fn accepts(&self) -> Result<u64> {
        let (mut open, mut made) = (std::collections::VecDeque::new(), 0);
        let started_ns = now_ns();
        while !self.signs.is_over() {
            // Where the host cannot make so many, it makes as many as it can.
            if made > (now_ns() - started_ns) * 10 * ACCEPTS / SECOND_NS {
                sleep_until(now_ns() + MILLISECOND_NS);
                continue;
            }
            open.push_back(begin_to_connect(self.endpoints.tcp, None, None)?);
            made += 1;
            if open.len() > ACCEPTS_OPEN {
                open.pop_front();
            }
            if made > ACCEPTS {
                self.signs.set_under_way();
            }
        }
        Ok(made)
    }

    /// So many connections that say nothing; those that the server has closed are made again.
    fn half_open(&self) -> Result<u64> {
        let websocket = self.endpoints.websocket.unwrap_or(self.endpoints.tcp);
        let (mut open, mut made, mut at) = (Vec::<TcpStream>::new(), 0_u64, 0);
        while !self.signs.is_over() {
            let address = if made.is_multiple_of(2) { self.endpoints.tcp } else { websocket };
            if open.len() < self.half_open {
                open.push(begin_to_connect(address, None, None)?);
                made += 1;
                continue;
            }
            self.signs.set_under_way();
            for _ in 0..self.half_open.div_ceil(100) {
                at = (at + 1) % open.len();
                let is_closed = !matches!(
                    open[at].peek(&mut [0]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock
                );
                if is_closed {
                    open[at] = begin_to_connect(address, None, None)?;
                    made += 1;
                }
            }
            sleep_until(now_ns() + 10 * MILLISECOND_NS);
        }
        Ok(made)
    }

    /// Clients in a room that is pushed to, of whom none reads.
    fn stalled(&self) -> Result<u64> {
        let mut stalled = Vec::with_capacity(self.stalled);
        for number in 0..self.stalled {
            if self.signs.is_over() {
                break;
            }
            let token = format!(
                r#"{{"mid":{},"key":"stalled-{number}","room_id":"{STALLED_ROOM}","accepts":[]}}"#,
                8_000_000 + number
            );
            let stream = begin_to_connect(self.endpoints.tcp, None, Some(STALLED_BUFFER))?;
            stalled.push(Visitor::enter_on(stream, Transport::Tcp, &token)?);
        }
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut pusher = Pusher::connect(&self.grpc).await?;
            let mut pushes = 0;
            while !self.signs.is_over() {
                let push = Push {
                    to: Address::Room(STALLED_ROOM.to_owned()),
                    operation: self.operation,
                    content: vec![0; STALLED_BODY],
                    is_batch: false,
                };
                pusher.push(push).await?;
                pushes += 1;
                if pushes >= STALLED_PUSHES {
                    self.signs.set_under_way();
                    sleep_until(now_ns() + STALLED_NS);
                }
            }
            Ok(stalled.len() as u64)
        })
    }
}
