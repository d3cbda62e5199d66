//! Profiles of a running server: CPU time, and the memory that each function holds.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use comet::blocking_client::PushClient;
use comet_client::{Transport, op};
use flate2::read::GzDecoder;
use pprof::protos::{self, Message};

use crate::peer::frame;
use crate::process::{Server, line_with};
use crate::support::{Metrics, PATIENCE, To, http, push, queued, until};

/// Starts the server as a process, since a profile covers a whole process. Also returns its debug address.
pub(crate) fn start_process(environment: &[(&str, &str)], sets: &[&str]) -> (Server, SocketAddr) {
    let server = Server::start_in(environment, &[], sets);
    let line = line_with(&server.log, "debug [");
    let debug = line.split(['[', ']']).find_map(|part| part.parse().ok());
    (server, debug.unwrap_or_else(|| panic!("{line}")))
}

/// A profile in the pprof format.
struct Profile(protos::Profile);

impl Profile {
    fn take(debug: SocketAddr, path: &str) -> Self {
        let (status, body) = http(debug, "GET", path, "");
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        let mut bytes = Vec::new();
        GzDecoder::new(body.as_slice()).read_to_end(&mut bytes).unwrap();
        Self(protos::Profile::decode(bytes.as_slice()).unwrap())
    }

    fn string(&self, index: i64) -> &str {
        &self.0.string_table[usize::try_from(index).unwrap()]
    }

    /// Names and units of the values of each sample.
    fn kinds(&self) -> Vec<(&str, &str)> {
        let types = self.0.sample_type.iter();
        types.map(|kind| (self.string(kind.ty), self.string(kind.unit))).collect()
    }

    fn threads(&self) -> impl Iterator<Item = &str> {
        self.0.sample.iter().flat_map(|sample| &sample.label).map(|label| self.string(label.str))
    }

    /// The sum of the values of `kind` under the functions of the crate `name`. A build without debug
    /// information has no file names; a build with line tables only has no paths in function names.
    fn sum_in_crate(&self, kind: &str, name: &str) -> i64 {
        let kind = self.kinds().iter().position(|(found, _)| *found == kind).unwrap();
        let prefix = format!("{}::", name.replace('-', "_"));
        let directory = format!("{name}/src/");
        let functions: HashMap<_, _> = self.0.function.iter().map(|f| (f.id, f)).collect();
        let is_inside = |line: &protos::Line| {
            let function = functions[&line.function_id];
            self.string(function.name).contains(&prefix)
                || self.string(function.filename).contains(&directory)
        };
        let locations: HashMap<_, _> = self.0.location.iter().map(|l| (l.id, l)).collect();
        let holds = |sample: &&protos::Sample| {
            let mut lines = sample.location_id.iter().flat_map(|id| &locations[id].line);
            lines.any(is_inside)
        };
        self.0.sample.iter().filter(holds).map(|sample| sample.value[kind]).sum()
    }
}

#[test]
fn a_heap_profile_shows_the_memory_of_queued_pushes() {
    const BODY: usize = 256 << 10;
    // The socket takes some of the pushes; the rest stays in the outbox.
    let sets = [
        "tcp.sndbuf=65536",
        "protocol.outbox_bytes=\"64MiB\"",
        "protocol.svr_proto=1000",
        "protocol.write_timeout=\"1h\"",
    ];
    let (server, debug) = start_process(&[], &sets);
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    let _stuck = server.live(Transport::Tcp, "1");
    let body = vec![7; BODY];
    // If the pushes came too late for one profile, another one is taken.
    until("a profile to contain the pushes", || {
        thread::scope(|scope| {
            let profile = scope.spawn(|| Profile::take(debug, "/debug/pprof/heap?seconds=1"));
            line_with(&server.log, "taking a heap profile for 1 s");
            for _ in 0..8 {
                assert_eq!(push(&caller, To::All, 5, &body), queued(1));
            }
            let profile = profile.join().unwrap();
            assert_eq!(
                profile.kinds(),
                [
                    ("alloc_objects", "count"),
                    ("alloc_space", "bytes"),
                    ("inuse_objects", "count"),
                    ("inuse_space", "bytes"),
                ]
            );
            assert_eq!(profile.string(profile.0.default_sample_type), "inuse_space");
            let [taken, held] = ["alloc_space", "inuse_space"]
                .map(|kind| profile.sum_in_crate(kind, "comet-proto"));
            assert!(held <= taken, "{held} {taken}");
            // Bodies of this size are sampled every time.
            held >= BODY as i64
        })
    });
    let (status, svg) = http(debug, "GET", "/debug/pprof/heap/flamegraph?seconds=1", "");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&svg));
    assert!(svg.starts_with(b"<svg ") && svg.ends_with(b"</svg>\n"));
}

#[test]
fn a_heap_sampled_from_the_start_needs_no_duration() {
    let kept = [("_RJEM_MALLOC_CONF", "prof_active:true")];
    let (_server, debug) = start_process(&kept, &[]);
    let profile = Profile::take(debug, "/debug/pprof/heap");
    // The inbox of reports, allocated at the start, is much larger than the sampling interval.
    let held = profile.sum_in_crate("inuse_space", "comet-mesh");
    assert!(held >= 1 << 20, "{held}");
    let (status, svg) = http(debug, "GET", "/debug/pprof/heap/flamegraph", "");
    let svg = String::from_utf8(svg).unwrap();
    assert_eq!(status, 200, "{svg}");
    assert!(svg.contains("inuse_space: ") && svg.contains(" bytes, 100.00%</title>"), "{svg}");
    let (status, sentence) = http(debug, "GET", "/debug/pprof/heap?seconds=1", "");
    let sentence = String::from_utf8(sentence).unwrap();
    assert_eq!(status, 400);
    assert!(sentence.starts_with("seconds: this process samples its heap"), "{sentence}");
}

#[test]
fn a_heap_profile_ends_with_its_connection() {
    let (server, debug) = start_process(&[], &[]);
    let mut stream = TcpStream::connect(debug).unwrap();
    stream
        .write_all(b"GET /debug/pprof/heap?seconds=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    line_with(&server.log, "taking a heap profile for 60 s");
    assert_eq!(http(debug, "GET", "/debug/pprof/heap?seconds=1", "").0, 409);
    drop(stream);
    until("another profile to be taken", || {
        http(debug, "GET", "/debug/pprof/heap?seconds=1", "").0 == 200
    });
}

#[test]
fn a_profile_of_a_busy_server_shows_its_cores_and_closes_no_client() {
    let (server, debug) = start_process(&[], &[]);
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    // Fewer than protocol.cli_proto, so that there are never too many replies.
    let burst = frame(op::HEARTBEAT, 1, b"").repeat(100);
    let is_done = AtomicBool::new(false);
    let begin = Instant::now();
    thread::scope(|scope| {
        let peers = [Transport::Tcp; 4].map(|transport| {
            let mut peer = server.live(transport, "1");
            let (burst, is_done) = (&burst, &is_done);
            scope.spawn(move || {
                // A limit of time, so that a failure below cannot hang the test.
                while !is_done.load(Ordering::Relaxed) && begin.elapsed() < 3 * PATIENCE {
                    peer.write(burst);
                    for _ in 0..100 {
                        assert_eq!(peer.recv().operation, op::HEARTBEAT_REPLY);
                    }
                }
                peer
            })
        });
        // A core is sampled once it has had the CPU for 10 ms.
        let core_is_in = || {
            let profile = Profile::take(debug, "/debug/pprof/profile?seconds=1");
            assert_eq!(profile.kinds(), [("samples", "count"), ("cpu", "nanoseconds")]);
            profile.threads().any(|thread| thread.starts_with("comet-core-"))
        };
        until("a sample on a core", core_is_in);
        let (status, svg) = http(debug, "GET", "/debug/pprof/flamegraph?seconds=1", "");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&svg));
        assert!(svg.starts_with(b"<svg ") && svg.ends_with(b"</svg>\n"));
        let metrics = Metrics::read(server.stat);
        assert_eq!(
            (metrics.value("comet_live"), metrics.by_label("comet_closed_total")),
            (4, vec![])
        );
        is_done.store(true, Ordering::Relaxed);
        let mut peers = peers.map(|peer| peer.join().unwrap());
        assert_eq!(push(&caller, To::All, 5, b"end"), queued(4));
        for peer in &mut peers {
            assert_eq!(peer.recv().body, b"end");
        }
    });
}

#[test]
fn a_second_profile_at_the_same_time_is_refused() {
    let (server, debug) = start_process(&[], &[]);
    thread::scope(|scope| {
        let long = scope.spawn(|| http(debug, "GET", "/debug/pprof/profile?seconds=2", "").0);
        line_with(&server.log, "taking a CPU profile for 2 s");
        // The first request may not have reached the profiler yet; then the second one succeeds.
        let second = || http(debug, "GET", "/debug/pprof/flamegraph?seconds=1", "").0;
        let statuses = [second(), long.join().unwrap()];
        assert!(statuses.contains(&200), "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    });
}
