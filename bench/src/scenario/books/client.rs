//! Clients that record what they receive, connect to another host when theirs is killed, and return to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use comet_client::{Client, Error, Gap, GapState, Message, Options, Position};

use super::record::{Diary, Entry, Kind, Session, VICTIM};
use crate::Result;
use crate::clock::{MILLISECOND_NS, now_ns, sleep_until};

pub(super) const PLAIN: &str = "live://books";
pub(super) const HISTORY: &str = "history://books";
/// The operation of all pushes.
pub(super) const OPERATION: i32 = 1000;
/// Accepted instead by a client that must not get pushes by key.
const OTHER_OPERATION: i32 = 2000;
/// The number of the pushes that mark the end of a run: a client that has received one has everything before it.
pub(super) const END: u64 = u64::MAX;
/// How long a client waits for a push before it checks whether it must do something else.
const QUIET: Duration = Duration::from_millis(50);
const LOOK_NS: u64 = 20 * MILLISECOND_NS;

/// The special behaviour of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Habit {
    Usual,
    /// Reads nothing for a while.
    Slow,
    /// Does not accept pushes by key.
    Deaf,
    /// Only returns to its own host, or reconnects late.
    Late,
}

/// A client of the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub number: usize,
    pub home: usize,
    pub habit: Habit,
}

impl Member {
    pub(super) fn key(self) -> String {
        format!("k{}", self.number)
    }

    /// The kinds of pushes for which it is a target.
    pub(super) fn kinds(self) -> impl Iterator<Item = Kind> {
        let takes = move |kind: &Kind| *kind != Kind::Keys || self.habit != Habit::Deaf;
        Kind::ALL.into_iter().filter(takes)
    }
}

/// State that all clients read.
pub(super) struct Shared {
    /// The addresses of the hosts that run.
    pub hosts: Mutex<Vec<Option<SocketAddr>>>,
    /// The host that was started again has read the stream.
    pub is_settled: AtomicBool,
    pub is_stalled: AtomicBool,
    /// Late clients may connect to any host.
    pub is_late_time: AtomicBool,
    pub is_over: AtomicBool,
    /// By client: one bit for each kind whose end it has received.
    pub ends: Vec<AtomicU8>,
    /// By client: whether it is connected and in its rooms.
    pub ready: Vec<AtomicBool>,
}

impl Shared {
    /// The host where a client should be now; `None` if nowhere.
    fn place(&self, member: Member) -> Option<(usize, SocketAddr)> {
        let hosts = self.hosts.lock().expect("nobody panics with it");
        // Some connect at once to a host that has not read the stream yet.
        let is_patient = member.number % 2 == 1 || member.habit == Habit::Late;
        let is_home = member.home != VICTIM || !is_patient || self.is_settled.load(SeqCst);
        let host = match hosts[member.home] {
            Some(_) if is_home => member.home,
            _ if member.habit == Habit::Late && !self.is_late_time.load(SeqCst) => return None,
            _ => {
                let others = (1..hosts.len()).map(|step| (member.home + step) % hosts.len());
                let mut living = others.filter(|host| hosts[*host].is_some());
                let nth = (member.number / 2) % living.clone().count().max(1);
                living.nth(nth)?
            }
        };
        hosts[host].map(|address| (host, address))
    }
}

/// Starts a client; its thread ends when the run does.
pub(super) fn start(member: Member, shared: Arc<Shared>) -> JoinHandle<Diary> {
    thread::spawn(move || Reader::new(member, shared).run())
}

struct Reader {
    member: Member,
    shared: Arc<Shared>,
    diary: Diary,
    /// The position of the last push of the history room that it has.
    position: Option<Position>,
    /// The number of further pushes of the history room that come from the history.
    recovered: u32,
}

impl Reader {
    fn new(member: Member, shared: Arc<Shared>) -> Self {
        Self { member, shared, diary: Diary::default(), position: None, recovered: 0 }
    }

    fn run(mut self) -> Diary {
        while !self.shared.is_over.load(SeqCst) {
            let Some((host, address)) = self.shared.place(self.member) else {
                sleep_until(now_ns() + LOOK_NS);
                continue;
            };
            let begin_ns = now_ns();
            let Ok(client) = self.connect(address) else {
                sleep_until(now_ns() + LOOK_NS);
                continue;
            };
            let ready_ns = now_ns();
            self.diary.sessions.push(Session { host, begin_ns, ready_ns, end_ns: None });
            // An error ends the connection; only its end matters.
            let _ = self.read(host, client);
            if !self.shared.is_over.load(SeqCst) {
                let session = self.diary.sessions.last_mut().expect("it was just made");
                session.end_ns = Some(now_ns());
            }
            self.shared.ready[self.member.number].store(false, SeqCst);
        }
        self.diary
    }

    /// Connects, which includes entering the plain room.
    fn connect(&self, address: SocketAddr) -> Result<Client, Error> {
        let accepts = if self.member.habit == Habit::Deaf { OTHER_OPERATION } else { OPERATION };
        let token = format!(
            "{{\"mid\":{},\"key\":{:?},\"room_id\":{PLAIN:?},\"accepts\":[{accepts}]}}",
            self.member.number + 1,
            self.member.key()
        );
        Options::tcp(address.to_string(), token).connect()
    }

    /// Enters the history room and reads, until the connection ends or the client should be at another host.
    fn read(&mut self, host: usize, mut client: Client) -> Result<(), Error> {
        self.recovered = 0;
        let joined = match self.position {
            Some(since) => client.add_room_since(HISTORY, since)?,
            None => client.add_room(HISTORY)?,
        };
        match joined.recovered {
            Some(missed) => self.recovered = missed,
            // Nothing can be missing before the first connection.
            None if self.diary.sessions.len() == 1 => self.position = joined.position,
            None => {
                self.position = joined.position;
                self.diary.entries.push(Entry::Told);
            }
        }
        self.shared.ready[self.member.number].store(true, SeqCst);
        let mut look_ns = now_ns();
        loop {
            let message = client.receive_timeout(QUIET);
            while let Some(gap) = client.take_gap() {
                self.take_gap(&gap);
            }
            if let Some(message) = message? {
                self.take(&message);
            }
            if now_ns() < look_ns {
                continue;
            }
            look_ns = now_ns() + LOOK_NS;
            if self.shared.is_over.load(SeqCst) {
                return Ok(());
            }
            // The host may already be gone from the list while its connection is still open.
            let place = self.shared.place(self.member);
            if place.is_some_and(|(place, _)| place != host) {
                return client.close();
            }
            while self.member.habit == Habit::Slow && self.shared.is_stalled.load(SeqCst) {
                sleep_until(now_ns() + LOOK_NS);
            }
        }
    }

    fn take_gap(&mut self, gap: &Gap) {
        match gap.state {
            GapState::Repaired { missed } => self.recovered = missed,
            GapState::Lost | GapState::Outdated => self.diary.entries.push(Entry::Told),
            GapState::Asked => {}
        }
    }

    fn take(&mut self, message: &Message) {
        let kind = match message.room.as_deref() {
            Some(HISTORY) => Kind::History,
            Some(_) => Kind::Plain,
            None => Kind::Keys,
        };
        let mut is_recovered = false;
        if kind == Kind::History {
            self.position = message.position;
            is_recovered = self.recovered > 0;
            self.recovered = self.recovered.saturating_sub(1);
        }
        let number = message.body.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let number = number.unwrap_or_default();
        if number == END {
            self.shared.ends[self.member.number].fetch_or(1 << kind as u8, SeqCst);
            return;
        }
        let session = self.diary.sessions.len() - 1;
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        self.diary.entries.push(Entry::Push { number, kind, session, is_recovered });
    }
}

/// The body of a push: its number, filled up to `size` bytes.
pub(super) fn body(number: u64, size: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(size.max(body.len()), b'x');
    body
}
