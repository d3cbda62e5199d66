//! The attacks, each on its own thread with a lower priority than the clients that are measured.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use comet_client::Transport::{Tcp, WebSocket};
use tokio::runtime;

use super::attacker::{Attacker, LARGEST};
use super::{flood, trickle};
use crate::Result;
use crate::args::{Attack, OverloadArgs};
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, sleep_until};
use crate::dial::begin_to_connect;
use crate::grpc::{Address, Push, Pusher};
use crate::message::{HEADER_LEN, OP_CHANGE_ROOM, OP_HEARTBEAT, OP_SEND, frame};
use crate::scenario::keeps_stalled;
use crate::target::list;
use crate::visitor::Visitor;

/// Accepts a second that the server allows; the attack makes ten times as many.
const ACCEPTS: u64 = 1000;
/// The most connections of that attack that are open at once.
const ACCEPTS_OPEN: usize = 4000;
/// The room of the clients that do not read, the size of a push to it, and the time between pushes.
const STALLED_ROOM: &str = "overload://stalled";
const STALLED_BODY: usize = 8 << 10;
const STALLED_NS: u64 = 50 * MILLISECOND_NS;
/// The number of pushes that nearly fill their outboxes; more are pushed while latencies are measured.
const STALLED_PUSHES: u32 = 250;
/// The same for a room whose members have space for all pushes.
const CROWD_ROOM: &str = "overload://crowd";
const CROWD_BODY: usize = 100;
const CROWD_NS: u64 = 500 * MILLISECOND_NS;
/// Their receive buffer.
const STALLED_BUFFER: usize = 4096;
/// The source address of connections with PROXY headers.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 99, 0, 1);
/// Operation of a subscription, whose body is a list of operations.
const OP_SUBSCRIBE: i32 = 14;

/// A masked ping without a payload (RFC 6455, section 5.5.2).
const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];

/// The settings of the server of an attack; `api` is the address of the attacked API that it would not have otherwise.
pub(super) fn settings(attack: Attack, args: &OverloadArgs, api: SocketAddr) -> Vec<String> {
    match attack {
        Attack::Accepts => vec![format!("clients.accepts={ACCEPTS}")],
        Attack::TrickledProxyHeaders => vec![format!("tcp.proxy_from=[\"{PROXY}/32\"]")],
        Attack::TrickledPushes => vec![list("push.http", api)],
        Attack::TrickledPushFrames => vec![list("push.frames", api)],
        Attack::StalledDropNewest => keeps_stalled("drop-newest"),
        Attack::StalledDropOldest => keeps_stalled("drop-oldest"),
        Attack::StalledClose => keeps_stalled("close"),
        Attack::HalfOpen => vec![format!("clients.handshakes={}", 2 * args.half_open)],
        _ => Vec::new(),
    }
}

/// An attack under way.
pub(crate) struct Assault {
    thread: JoinHandle<Result<u64>>,
    attacker: Arc<Attacker>,
}

impl Assault {
    /// Begins the attack.
    pub(crate) fn begin(attack: Attack, attacker: Attacker) -> Self {
        let attacker = Arc::new(attacker);
        let by = Arc::clone(&attacker);
        let thread = thread::spawn(move || {
            give_way()?;
            commit(attack, &by)
        });
        Self { thread, attacker }
    }

    /// `Some` once the attack has its full strength. Fails if it has ended, which it only does because of a fault.
    pub(crate) fn is_under_way(&self) -> Result<Option<()>> {
        if self.thread.is_finished() {
            return Err("the attack has ended by itself".into());
        }
        Ok(self.attacker.is_under_way.load(Ordering::Relaxed).then_some(()))
    }

    /// Pushes to a crowd so far.
    pub(crate) fn crowd_pushes(&self) -> u64 {
        self.attacker.crowd_pushes.load(Ordering::Relaxed)
    }

    /// Ends it; returns how many actions it made.
    pub(crate) fn end(self) -> Result<u64> {
        self.attacker.is_over.store(true, Ordering::Relaxed);
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

/// Attacks to the end; returns how many actions were made.
fn commit(attack: Attack, by: &Attacker) -> Result<u64> {
    match attack {
        Attack::Accepts => accepts(by),
        Attack::HalfOpen => half_open(by),
        Attack::TrickledFrames => trickle::run(by, trickle::frame),
        Attack::TrickledUpgrades => trickle::run(by, trickle::upgrade),
        Attack::TrickledProxyHeaders => {
            trickle::run(by, |by, _| trickle::proxy_header(by, PROXY.into()))
        }
        Attack::TrickledHellos => trickle::run(by, trickle::hello),
        Attack::TrickledRecords => trickle::run(by, trickle::record),
        Attack::TrickledMessages => trickle::run(by, trickle::message),
        Attack::TrickledPushes => trickle::run(by, trickle::push),
        Attack::TrickledCalls => trickle::run(by, trickle::call),
        Attack::TrickledPushFrames => trickle::run(by, trickle::push_frame),
        Attack::TrickledScrapes => trickle::run(by, trickle::scrape),
        Attack::StalledDropNewest | Attack::StalledDropOldest | Attack::StalledClose => stalled(by),
        Attack::Crowd => crowd(by),
        Attack::Heartbeats => flood::run(by, Tcp, |_| frame(OP_HEARTBEAT, &[])),
        Attack::RoomChanges => flood::run(by, Tcp, |number| {
            frame(OP_CHANGE_ROOM, format!("overload://{number}").as_bytes())
        }),
        Attack::Subscriptions => flood::run(by, Tcp, |number| {
            frame(OP_SUBSCRIBE, (2 + number % 32).to_string().as_bytes())
        }),
        Attack::LargestFrames => {
            flood::run(by, Tcp, |_| frame(OP_SEND, &[b'x'; LARGEST - HEADER_LEN]))
        }
        Attack::Pings => flood::run(by, WebSocket, |_| PING.to_vec()),
        Attack::TlsHandshakes => flood::handshakes(by),
        Attack::AbandonedHellos => flood::abandoned_hellos(by),
    }
}

/// Makes connections at a rate, and closes the oldest to make room.
fn accepts(attacker: &Attacker) -> Result<u64> {
    let (mut open, mut made) = (VecDeque::new(), 0);
    let started_ns = now_ns();
    while !attacker.is_over() {
        // If the host cannot make so many, it makes as many as it can.
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
            attacker.set_under_way();
        }
    }
    Ok(made)
}

/// Opens many connections that say nothing; those that the server closed are opened again.
fn half_open(attacker: &Attacker) -> Result<u64> {
    let (mut open, mut made, mut at) = (Vec::<TcpStream>::new(), 0_u64, 0);
    while !attacker.is_over() {
        let is_even = made.is_multiple_of(2);
        let address = if is_even { attacker.endpoints.tcp } else { attacker.websocket() };
        if open.len() < attacker.half_open {
            open.push(begin_to_connect(address, None, None)?);
            made += 1;
            continue;
        }
        attacker.set_under_way();
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

/// Connects clients to a room; none of them reads.
fn enter(attacker: &Attacker, room: &str) -> Result<Vec<Visitor>> {
    let mut members = Vec::with_capacity(attacker.stalled);
    for number in 0..attacker.stalled {
        if attacker.is_over() {
            break;
        }
        let token = format!(
            r#"{{"mid":{},"key":"member-{number}","room_id":"{room}","accepts":[]}}"#,
            8_000_000 + number
        );
        let stream = begin_to_connect(attacker.endpoints.tcp, None, Some(STALLED_BUFFER))?;
        members.push(Visitor::enter_on(stream, Tcp, &token)?);
    }
    Ok(members)
}

/// Pushes to a room at a steady rate.
fn crowd(attacker: &Attacker) -> Result<u64> {
    let members = enter(attacker, CROWD_ROOM)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut pusher = Pusher::connect(&attacker.grpc).await?;
        while !attacker.is_over() {
            let room = Address::Room(CROWD_ROOM.to_owned());
            pusher.push(Push::new(room, attacker.operation, vec![0; CROWD_BODY])).await?;
            attacker.crowd_pushes.fetch_add(1, Ordering::Relaxed);
            attacker.set_under_way();
            sleep_until(now_ns() + CROWD_NS);
        }
        Ok(members.len() as u64)
    })
}

/// Pushes more to a room than its clients have space for.
fn stalled(attacker: &Attacker) -> Result<u64> {
    let stalled = enter(attacker, STALLED_ROOM)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut pusher = Pusher::connect(&attacker.grpc).await?;
        let mut pushes = 0;
        while !attacker.is_over() {
            let room = Address::Room(STALLED_ROOM.to_owned());
            pusher.push(Push::new(room, attacker.operation, vec![0; STALLED_BODY])).await?;
            pushes += 1;
            if pushes >= STALLED_PUSHES {
                attacker.set_under_way();
                sleep_until(now_ns() + STALLED_NS);
            }
        }
        Ok(stalled.len() as u64)
    })
}
