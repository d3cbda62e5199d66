//! The attacks, each on a thread of its own that gives way to the clients that are measured.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use comet_client::Transport;
use tokio::runtime;

use super::attacker::{Attacker, Signs, Site};
use super::flood::{self, Flood};
use super::trickle::{self, Trickle};
use crate::Result;
use crate::args::{Attack, OverloadArgs};
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, sleep_until};
use crate::dial::begin_to_connect;
use crate::grpc::{Address, Push, Pusher};
use crate::target::{Target, list};
use crate::visitor::Visitor;

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

/// The settings of the server of an attack.
pub(super) fn settings(attack: Attack, args: &OverloadArgs, site: &Site) -> Vec<String> {
    let stalled = |policy: &str| {
        vec![
            format!("protocol.slow_consumer=\"{policy}\""),
            // They are to stay, and are not to take all memory of the kernel.
            "protocol.write_timeout=\"1h\"".to_owned(),
            "tcp.sndbuf=16384".to_owned(),
            "protocol.svr_proto=512".to_owned(),
        ]
    };
    match attack {
        Attack::Accepts => vec![format!("clients.accepts={ACCEPTS}")],
        Attack::TrickledProxyHeaders => {
            vec![format!("tcp.proxy_from=[\"{}/32\"]", site.proxy)]
        }
        Attack::TrickledPushes => vec![list("push.http", site.http)],
        Attack::StalledDropNewest => stalled("drop-newest"),
        Attack::StalledDropOldest => stalled("drop-oldest"),
        Attack::StalledClose => stalled("close"),
        Attack::HalfOpen => vec![format!("clients.handshakes={}", 2 * args.half_open)],
        _ => Vec::new(),
    }
}

/// An attack under way.
pub(super) struct Assault {
    thread: JoinHandle<Result<u64>>,
    signs: Arc<Signs>,
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
            give_way()?;
            attack_as(&attacker)
        });
        Ok(Self { thread, signs })
    }

    /// Fails if the attack has ended, which it does only for a fault.
    pub(super) fn is_under_way(&self) -> Result<bool> {
        if self.thread.is_finished() {
            return Err("the attack has ended by itself".into());
        }
        Ok(self.signs.is_under_way())
    }

    /// Ends it; gives how much it has done.
    pub(super) fn end(self) -> Result<u64> {
        self.signs.set_over();
        self.thread.join().map_err(|_| "the attack has panicked")?
    }
}

/// Lets the scheduler take the CPU from this thread as soon as a thread that measures wants it. With a low priority
/// alone (nice 19) it would run to the end of its time slice, 3 ms.
#[allow(unsafe_code, reason = "a system call that no crate of the bench wraps")]
fn give_way() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel only reads `parameters`, and only during the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Attacks to the end; gives how much was done.
fn attack_as(attacker: &Attacker) -> Result<u64> {
    match attacker.attack {
        Attack::Accepts => accepts(attacker),
        Attack::HalfOpen => half_open(attacker),
        Attack::TrickledFrames => trickle::run(attacker, Trickle::Frame),
        Attack::TrickledUpgrades => trickle::run(attacker, Trickle::Upgrade),
        Attack::TrickledProxyHeaders => trickle::run(attacker, Trickle::ProxyHeader),
        Attack::TrickledHellos => trickle::run(attacker, Trickle::Hello),
        Attack::TrickledPushes => trickle::run(attacker, Trickle::Push),
        Attack::StalledDropNewest | Attack::StalledDropOldest | Attack::StalledClose => {
            stalled(attacker)
        }
        Attack::Heartbeats => flood::run(attacker, Flood::Heartbeats),
        Attack::RoomChanges => flood::run(attacker, Flood::RoomChanges),
        Attack::Subscriptions => flood::run(attacker, Flood::Subscriptions),
        Attack::LargestFrames => flood::run(attacker, Flood::LargestFrames),
        Attack::Pings => flood::run(attacker, Flood::Pings),
        Attack::TlsHandshakes => flood::handshakes(attacker),
    }
}

/// Connections at a rate, of which the oldest make room.
fn accepts(attacker: &Attacker) -> Result<u64> {
    let (mut open, mut made) = (std::collections::VecDeque::new(), 0);
    let started_ns = now_ns();
    while !attacker.signs.is_over() {
        // Where the host cannot make so many, it makes as many as it can.
        if made > (now_ns() - started_ns) * 10 * ACCEPTS / SECOND_NS {
            sleep_until(now_ns() + MILLISECOND_NS);
            continue;
        }
        open.push_back(begin_to_connect(attacker.endpoints.tcp, None, None)?);
        made += 1;
        if open.len() > ACCEPTS_OPEN {
            open.pop_front();
        }
        if made > ACCEPTS {
            attacker.signs.set_under_way();
        }
    }
    Ok(made)
}

/// So many connections that say nothing; those that the server has closed are made again.
fn half_open(attacker: &Attacker) -> Result<u64> {
    let websocket = attacker.endpoints.websocket.unwrap_or(attacker.endpoints.tcp);
    let (mut open, mut made, mut at) = (Vec::<TcpStream>::new(), 0_u64, 0);
    while !attacker.signs.is_over() {
        let address = if made.is_multiple_of(2) { attacker.endpoints.tcp } else { websocket };
        if open.len() < attacker.half_open {
            open.push(begin_to_connect(address, None, None)?);
            made += 1;
            continue;
        }
        attacker.signs.set_under_way();
        for _ in 0..attacker.half_open.div_ceil(100) {
            at = (at + 1) % open.len();
            let is_closed = !matches!(
                open[at].peek(&mut [0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock
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
fn stalled(attacker: &Attacker) -> Result<u64> {
    let mut stalled = Vec::with_capacity(attacker.stalled);
    for number in 0..attacker.stalled {
        if attacker.signs.is_over() {
            break;
        }
        let token = format!(
            r#"{{"mid":{},"key":"stalled-{number}","room_id":"{STALLED_ROOM}","accepts":[]}}"#,
            8_000_000 + number
        );
        let stream = begin_to_connect(attacker.endpoints.tcp, None, Some(STALLED_BUFFER))?;
        stalled.push(Visitor::enter_on(stream, Transport::Tcp, &token)?);
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut pusher = Pusher::connect(&attacker.grpc).await?;
        let mut pushes = 0;
        while !attacker.signs.is_over() {
            let push = Push {
                to: Address::Room(STALLED_ROOM.to_owned()),
                operation: attacker.operation,
                content: vec![0; STALLED_BODY],
                is_batch: false,
            };
            pusher.push(push).await?;
            pushes += 1;
            if pushes >= STALLED_PUSHES {
                attacker.signs.set_under_way();
                sleep_until(now_ns() + STALLED_NS);
            }
        }
        Ok(stalled.len() as u64)
    })
}
