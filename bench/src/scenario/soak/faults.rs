//! The faults that a soak causes while the server has clients. Each fault runs for as long as the phase lasts, and
//! undoes its effects at the end.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use comet_client::Transport;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime;

use super::log::Log;
use crate::Result;
use crate::clock::{MILLISECOND_NS, now_ns, sleep_until};
use crate::grpc::{Address, LedgerSums, Push, Pusher};
use crate::message::{OP_CHANGE_ROOM, OP_HEARTBEAT};
use crate::scenario::logic::Logic;
use crate::succession::Succession;
use crate::visitor::{Visitor, connect};

/// Time between two steps of a fault.
const STEP_NS: u64 = 20 * MILLISECOND_NS;
/// Clients that do not read the pushes to them, and the size of those.
const STALLED: usize = 20;
const STALLED_BODY: usize = 64 << 10;
/// Half-open handshakes.
const HALF_OPEN: usize = 300;
/// How long a caller waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest that a process serves before it hands over to the next one.
const SERVES_NS_MAX: u64 = 500 * MILLISECOND_NS;
/// Callers at once.
const CALLERS: usize = 200;

const GONE: &str = "the thread of the faults has panicked";

/// A fault; its variants can be listed like those of an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Fault {
    /// No fault, and no guests: every delivery is received.
    Nothing,
    /// `comet logic` is stopped, and continued.
    LogicStopped,
    /// `comet logic` is killed, and started again.
    LogicKilled,
    /// `comet logic` is shut down, and started again.
    LogicRestarted,
    /// The configuration changes and is read again.
    Reloads,
    /// The server repeatedly hands over to a new process, with a changed configuration.
    Upgrades,
    /// Some of the members reconnect.
    Reconnects,
    /// Clients that do not read.
    SlowReaders,
    /// Handshakes that do not complete.
    HalfOpen,
    /// Clients that leave with a reset, in the middle of a frame or with unread pushes.
    Resets,
    /// Callers that come in large numbers, push to absent keys, abort, or use another protocol.
    Callers,
    /// Clients that change rooms and send heartbeats as fast as they can.
    Floods,
    /// The log is not read, and there is much to log.
    LogFull,
}

impl Fault {
    /// Whether logic does not answer for a while, so that guests may be refused, and the log says so.
    pub(super) fn is_of_logic(self) -> bool {
        matches!(self, Self::LogicStopped | Self::LogicKilled | Self::LogicRestarted)
    }
}

/// What faults act on. Clones share it.
#[derive(Clone)]
pub(super) struct Site {
    pub tcp: SocketAddr,
    pub websocket: SocketAddr,
    pub grpc: String,
    pub succession: Arc<Mutex<Succession>>,
    /// The server's configuration file.
    pub config: PathBuf,
    pub log: Log,
    pub logic: Arc<Mutex<Logic>>,
    /// Operation of the pushes.
    pub operation: i32,
}

/// The thread that runs the faults, one after the other. It lives as long as the soak: a process is killed with the
/// thread that has started it (prctl(2), `PR_SET_PDEATHSIG`), and logic must outlive its fault.
pub(super) struct Faults {
    culprits: Sender<Culprit>,
    outcomes: Receiver<Result<LedgerSums>>,
}

impl Faults {
    pub(super) fn start() -> Self {
        let (culprits, to_commit) = channel::<Culprit>();
        let (committed, outcomes) = channel();
        thread::spawn(move || {
            for culprit in to_commit {
                if committed.send(culprit.commit()).is_err() {
                    return;
                }
            }
        });
        Self { culprits, outcomes }
    }

    /// Begins a fault.
    pub(super) fn begin(&self, culprit: Culprit) -> Result<()> {
        Ok(self.culprits.send(culprit).map_err(|_| GONE)?)
    }

    /// The ledgers of the fault's own pushes, once it is over. Fails like [`Culprit::commit`].
    pub(super) fn poll_outcome(&self) -> Result<Option<LedgerSums>> {
        match self.outcomes.try_recv() {
            Ok(outcome) => outcome.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(GONE.into()),
        }
    }
}

/// One fault.
pub(super) struct Culprit {
    pub fault: Fault,
    pub site: Site,
    pub random: StdRng,
    pub ends_ns: u64,
}

impl Culprit {
    /// Runs the fault to its end; returns the ledgers of its own pushes. Fails if the host fails, or something that the
    /// fault has stopped does not return.
    fn commit(mut self) -> Result<LedgerSums> {
        match self.fault {
            Fault::Nothing | Fault::Reconnects => {}
            Fault::LogicStopped | Fault::LogicKilled | Fault::LogicRestarted => self.logic()?,
            Fault::Reloads => self.reloads()?,
            Fault::Upgrades => self.upgrades()?,
            Fault::SlowReaders => return self.slow_readers(),
            Fault::HalfOpen => self.half_open()?,
            Fault::Resets => self.resets()?,
            Fault::Callers => self.callers()?,
            Fault::Floods => self.floods()?,
            Fault::LogFull => self.log_full()?,
        }
        Ok(LedgerSums::default())
    }

    /// Waits for the next step; false at the end of the phase.
    fn goes_on(&self) -> bool {
        sleep_until(now_ns() + STEP_NS);
        now_ns() < self.ends_ns
    }

    fn logic(&mut self) -> Result<()> {
        let mut logic = self.site.logic.lock().expect("no culprit panics");
        match self.fault {
            Fault::LogicStopped => logic.signal(Signal::STOP)?,
            Fault::LogicKilled => logic.kill(),
            _ => logic.end()?,
        }
        // Away for part of the phase, and sometimes for all of it.
        let left_ns = self.ends_ns.saturating_sub(now_ns());
        sleep_until(
            now_ns() + (left_ns as f64 * self.random.random_range(0.0..1.2_f64).min(1.0)) as u64,
        );
        match self.fault {
            Fault::LogicStopped => logic.signal(Signal::CONT),
            _ => logic.restart(),
        }
    }

    fn reloads(&mut self) -> Result<()> {
        let pid = self.site.succession.lock().expect("no culprit panics").pid();
        let pid = Pid::from_raw(pid.cast_signed()).expect("a process has an id");
        while self.goes_on() {
            fs::write(&self.site.config, configuration(&mut self.random))?;
            kill_process(pid, Signal::HUP)?;
        }
        Ok(())
    }

    fn upgrades(&mut self) -> Result<()> {
        let mut succession = self.site.succession.lock().expect("no culprit panics");
        while now_ns() < self.ends_ns {
            fs::write(&self.site.config, configuration(&mut self.random))?;
            let order = succession.order();
            let outcome = order.join().map_err(|_| "the order has panicked")??;
            succession.go_on_as(outcome.pid)?;
            sleep_until(now_ns() + self.random.random_range(0..SERVES_NS_MAX));
        }
        Ok(())
    }

    /// Clients in a separate room, to which large messages are pushed.
    fn slow_readers(&mut self) -> Result<LedgerSums> {
        let mut stalled = Vec::new();
        for number in 0..STALLED {
            stalled.push(self.enter(number, "soak://slow")?);
        }
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.push_to_slow(stalled))
    }

    async fn push_to_slow(&self, mut stalled: Vec<Visitor>) -> Result<LedgerSums> {
        let mut sums = LedgerSums::default();
        let mut pusher = Pusher::connect(&self.site.grpc).await?;
        for visitor in &stalled {
            visitor.stream.set_nonblocking(true)?;
        }
        while self.goes_on() {
            // Half of them read a little from time to time.
            for visitor in stalled.iter_mut().step_by(2) {
                let _ = visitor.stream.read(&mut [0; 1024]);
            }
            let room = Address::Room("soak://slow".to_owned());
            let push = Push::new(room, self.site.operation, vec![0; STALLED_BODY]);
            sums.add(&pusher.push(push).await?.ok_or("a push has no ledger")?);
        }
        Ok(sums)
    }

    fn half_open(&mut self) -> Result<()> {
        let mut open: Vec<TcpStream> = Vec::new();
        while self.goes_on() {
            for _ in 0..HALF_OPEN / 10 {
                let (address, head) = *[
                    (self.site.tcp, &b""[..]),
                    (self.site.tcp, b"\0\0\0\x20\0\x10\0\x01\0"),
                    (self.site.websocket, b"GET /sub HTTP/1.1\r\nHost: comet\r\nUpgr"),
                    (self.site.websocket, b""),
                ]
                .choose(&mut self.random)
                .expect("there are some");
                let mut stream = connect(address)?;
                stream.write_all(head)?;
                open.push(stream);
            }
            let leave = open.len().saturating_sub(HALF_OPEN);
            open.drain(..leave);
        }
        Ok(())
    }

    fn resets(&mut self) -> Result<()> {
        let mut number = 0;
        while self.goes_on() {
            let mut visitors = Vec::new();
            for _ in 0..10 {
                number += 1;
                visitors.push(self.enter(number, "live://1")?);
            }
            for mut visitor in visitors {
                if self.random.random() {
                    // The beginning of a frame.
                    visitor.stream.write_all(b"\0\0\0\x20\0\x10")?;
                }
                visitor.reset()?;
            }
        }
        Ok(())
    }

    fn callers(&mut self) -> Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let grpc: SocketAddr = self.site.grpc.parse()?;
        let mut broken: Vec<TcpStream> = Vec::new();
        runtime.block_on(async {
            while self.goes_on() {
                for _ in 0..CALLERS / 20 {
                    let head =
                        *[&b""[..], b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n", &[0xff; 64]]
                            .choose(&mut self.random)
                            .expect("there are some");
                    // Connections beyond the limits may be closed at once.
                    if let Ok(mut stream) = connect(grpc) {
                        let _ = stream.write_all(head);
                        broken.push(stream);
                    }
                }
                let leave = broken.len().saturating_sub(CALLERS);
                broken.drain(..leave);
                // It may have to wait for a place; the other callers do not.
                let connected = tokio::time::timeout(PATIENCE, Pusher::connect(&self.site.grpc));
                let Ok(Ok(mut pusher)) = connected.await else { continue };
                for _ in 0..10 {
                    let keys = Address::Keys(vec!["nobody".to_owned(); 100]);
                    let push = Push::new(keys, self.site.operation, vec![0; 1024]);
                    // Some are aborted at once.
                    let patience = PATIENCE * u32::from(self.random.random::<bool>());
                    let _ = tokio::time::timeout(patience, pusher.push(push)).await;
                }
            }
        });
        Ok(())
    }

    fn floods(&mut self) -> Result<()> {
        let mut visitors = Vec::new();
        for number in 0..4 {
            visitors.push(self.enter(number, "soak://flood")?);
        }
        let mut buffer = vec![0; 64 << 10];
        while self.goes_on() {
            for visitor in &mut visitors {
                for _ in 0..50 {
                    let room = format!("soak://flood-{}", self.random.random_range(0..100));
                    visitor.send(OP_CHANGE_ROOM, room.as_bytes())?;
                    visitor.send(OP_HEARTBEAT, &[])?;
                }
                // The answers, or as many as have arrived.
                let _ = visitor.stream.read(&mut buffer);
            }
        }
        Ok(())
    }

    fn log_full(&mut self) -> Result<()> {
        self.site.log.hold();
        let made = self.bad_frames();
        self.site.log.resume();
        made
    }

    /// Each of them writes a line to the log.
    fn bad_frames(&mut self) -> Result<()> {
        while self.goes_on() {
            for _ in 0..10 {
                connect(self.site.tcp)?.write_all(&[0; 16])?;
            }
        }
        Ok(())
    }

    /// An authenticated client in a room.
    fn enter(&mut self, number: usize, room: &str) -> Result<Visitor> {
        let token =
            format!(r#"{{"mid":9000000,"key":"soak-{number}","room_id":"{room}","accepts":[]}}"#);
        let (transport, address) =
            *[(Transport::Tcp, self.site.tcp), (Transport::WebSocket, self.site.websocket)]
                .choose(&mut self.random)
                .expect("there are some");
        let entered = Visitor::enter(address, transport, &token);
        entered.map_err(|error| format!("a client was not taken: {error}").into())
    }
}

/// A configuration with other values of settings that can change at runtime, all of them harmless to members.
pub(super) fn configuration(random: &mut StdRng) -> String {
    let policies = ["drop-newest", "drop-oldest", "close"];
    format!(
        "[log]\nlevel = \"{}\"\n\
         [protocol]\nheartbeat = \"{}s\"\nheartbeat_coalesce = \"{}ms\"\nsvr_proto = {}\n\
         slow_consumer = \"{}\"\nhandshake_timeout = \"{}s\"\n\
         [clients]\naccepts = {}\nper_address = {}\n",
        ["info", "debug"].choose(random).expect("there are some"),
        random.random_range(100..300),
        random.random_range(0..50),
        random.random_range(512..2048),
        policies.choose(random).expect("there are some"),
        random.random_range(10..20),
        [0, 5_000].choose(random).expect("there are some"),
        [0, 100_000].choose(random).expect("there are some"),
    )
}
