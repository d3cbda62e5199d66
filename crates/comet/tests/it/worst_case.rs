//! The worst-case memory that `comet --check` prints, compared with the memory of a server that fills each bound.

use std::fs;

use comet_client::{Options, PushLedger, PushTarget, Pusher, Transport};

use crate::logic_process::own_address;
use crate::memory::{bytes, resident};
use crate::peer::{Peer, frame, masked};
use crate::process::{Server, comet, run, with_sets};
use crate::support::{Metrics, PATIENCE, Permit, two_cores, until};

/// A size that fills a bound, and is large beside the other memory of a process.
const FULL: u64 = 16 << 20;
/// The other memory of the process: connections, buffers of callers, and what its allocator keeps.
const BESIDE: u64 = 4 << 20;
/// Pushes under way at once.
const WINDOW: usize = 500;
/// Sizes of bodies. With the first, the entries of pushes take more memory than their bytes.
const BODIES: [usize; 2] = [64, 16 << 10];
const CLIENTS: usize = 20;

/// A server of one core, the bytes in the row of its table, and a caller of its push frames.
struct Subject {
    server: Server,
    row: u64,
    pusher: Pusher,
    before: u64,
}

impl Subject {
    fn start(what: &str, sets: &[&str]) -> Self {
        let (frames, cores) = (own_address(), two_cores());
        let frames_set = format!("push.frames=[\"{frames}\"]");
        // A busy machine may need more than the default of 5 s for a window of pushes.
        let own = [&*frames_set, "push.timeout=\"20s\""];
        let sets = with_sets(&[sets, &own].concat());
        let core = cores.split([',', '-']).next().unwrap();
        let arguments = [&["--cores", core][..], &sets].concat();
        let (code, table, said) = run(&[&["--check"][..], &arguments].concat());
        assert_eq!(code, 0, "{said}");
        let row = table.lines().find_map(|line| line.strip_prefix("# ")?.strip_prefix(what));
        let row = row.unwrap_or_else(|| panic!("{what}: {table}"));
        let mebibytes: f64 = row.trim().strip_suffix(" MiB").unwrap().parse().unwrap();
        let server = Server::launch(comet(&arguments), Permit::wait());
        let pusher = Pusher::tcp(frames, PATIENCE).unwrap();
        let row = (mebibytes * f64::from(1 << 20)) as u64;
        Self { server, row, pusher, before: 0 }
    }

    /// Measures the memory before the bound is filled.
    fn begin(&mut self) {
        // This resets the peak so far (proc_pid_clear_refs(5)).
        fs::write(format!("/proc/{}/clear_refs", self.server.pid()), "5").unwrap();
        self.before = resident(&self.server);
    }

    /// Pushes `body` to the target of each number in turn, until no push of a window is taken.
    fn fill(
        &mut self,
        body: usize,
        target: impl Fn(usize) -> PushTarget<'static>,
        is_taken: impl Fn(&PushLedger) -> bool,
    ) {
        let body = vec![b'x'; body];
        let mut is_full = false;
        while !is_full {
            (0..WINDOW).for_each(|number| self.pusher.begin(target(number), 5, &body));
            self.pusher.flush().unwrap();
            is_full = true;
            for _ in 0..WINDOW {
                is_full &= !is_taken(&self.pusher.next().unwrap().unwrap());
            }
        }
    }

    /// Checks that the memory grew by the filled bound, and by no more than the row.
    #[track_caller]
    fn end(self, what: &str) {
        let took = bytes(&self.server, "VmHWM:") - self.before;
        assert!(took > FULL / 4 * 3, "{what}: {took} bytes: the bound was not filled");
        assert!(took <= self.row + BESIDE, "{what}: {took} bytes, and its row has {}", self.row);
    }
}

/// Names with the lifetime of the process.
fn names(prefix: &str, count: usize) -> &'static [String] {
    Vec::leak((0..count).map(|number| format!("{prefix}{number}")).collect())
}

fn token(key: &str) -> String {
    format!(r#"{{"mid":1,"key":"{key}","accepts":[5]}}"#)
}

#[test]
fn unfinished_frames_take_no_more_than_the_printed_memory() {
    const BODY: usize = 256 << 10;
    const COUNT: usize = FULL as usize / BODY;
    let frame = frame(4, 1, &[0; BODY]);
    // A frame without its last byte, and a message in two fragments, the second one without its last byte.
    let in_fragments =
        [masked(0x02, &frame[..BODY / 2]), masked(0x80, &frame[BODY / 2..])].concat();
    for (transport, whole) in [(Transport::Tcp, &frame), (Transport::WebSocket, &in_fragments)] {
        let (body, connections) =
            (format!("protocol.body_max={BODY}"), format!("limits.connections={COUNT}"));
        let what = "if every client leaves a frame unfinished";
        let mut subject = Subject::start(what, &[&body, &connections]);
        let mut peers: Vec<_> = (0..COUNT).map(|_| subject.server.live(transport, "1")).collect();
        subject.begin();
        peers.iter_mut().for_each(|peer| peer.write(&whole[..whole.len() - 1]));
        let received = || Metrics::read(subject.server.stat).value("comet_bytes_in_total");
        until("all frames to be received", || received() >= (COUNT * BODY) as u64);
        subject.end(what);
    }
}

#[test]
fn waiting_pushes_take_no_more_than_the_printed_memory() {
    let keys = names("k", CLIENTS);
    for body in BODIES {
        let memory = format!("limits.outbox_memory={FULL}");
        let sets = [
            "protocol.svr_proto=65535",
            "tcp.sndbuf=65536",
            "protocol.write_timeout=\"1h\"",
            &memory,
        ];
        let mut subject = Subject::start("pushes that clients leave waiting", &sets);
        let _peers: Vec<Peer> =
            keys.iter().map(|key| subject.server.live(Transport::Tcp, &token(key))).collect();
        subject.begin();
        let target = |number: usize| PushTarget::Key(keys[number % CLIENTS].as_str());
        subject.fill(body, target, |ledger| ledger.queued > 0);
        subject.end(&format!("bodies of {body} bytes"));
    }
}

#[test]
fn histories_take_no_more_than_the_printed_memory() {
    let rooms = names("h://", 5 * CLIENTS);
    for body in BODIES {
        let memory = format!("limits.history_memory={FULL}");
        let sets = [&*memory, "history.rules=[{rooms=\"h://\", pushes=100000, bytes=\"1MiB\"}]"];
        let mut subject = Subject::start("histories of rooms", &sets);
        subject.begin();
        // Each new push is kept, and replaces older ones.
        let windows = 2 * FULL as usize / body.max(256) / WINDOW;
        for _ in 0..=windows {
            subject.fill(
                body,
                |number| PushTarget::Room(rooms[number % rooms.len()].as_str()),
                |_| false,
            );
        }
        subject.end(&format!("bodies of {body} bytes"));
    }
}

#[test]
fn parked_sessions_take_no_more_than_the_printed_memory() {
    let keys = names("k", CLIENTS);
    for body in BODIES {
        let memory = format!("resume.memory={FULL}");
        let sets = [
            "resume.window=\"1h\"",
            "resume.messages=65535",
            "resume.bytes=\"1GiB\"",
            // An outbox must have space for the parked pushes.
            "protocol.svr_proto=65535",
            "protocol.outbox_bytes=\"1GiB\"",
            &memory,
        ];
        let mut subject = Subject::start("parked sessions", &sets);
        for key in keys {
            let options = Options::tcp(subject.server.tcp.to_string(), token(key));
            // Without a goodbye the session is parked.
            drop(options.keep_session().timeout(PATIENCE).connect().unwrap());
        }
        let parked = || Metrics::read(subject.server.stat).value("comet_sessions_parked_total");
        until("all sessions to be parked", || parked() == CLIENTS as u64);
        subject.begin();
        let target = |number: usize| PushTarget::Key(keys[number % CLIENTS].as_str());
        subject.fill(body, target, |ledger| ledger.parked > 0);
        subject.end(&format!("bodies of {body} bytes"));
    }
}
