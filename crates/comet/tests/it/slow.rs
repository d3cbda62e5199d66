//! Clients that do not read: their outboxes are bounded, losses are counted, and they delay no other client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use comet::blocking_client::Ledger;
use comet_client::{Client, Transport, op};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, SocketType};

use crate::peer::{BINARY, Peer, frame, message, unmasked};
use crate::support::{BOTH, Server, To, dropped, queued, received, until, until_in_time};

/// A small send buffer, so that few pushes fill it. The receive buffer of the client does not grow while it does not read. A
/// smaller one would only make reads slow, by zero-window probes.
const SMALL: [&str; 2] = ["tcp.sndbuf=65536", "protocol.linger=\"20s\""];

fn body(number: u32) -> Vec<u8> {
    let mut body = vec![0; 16 << 10];
    body[..4].copy_from_slice(&number.to_be_bytes());
    body
}

/// The bytes of push `number` as a client of `transport` receives them.
fn on_the_wire(transport: Transport, number: u32) -> Vec<u8> {
    let frame = frame(5, 0, &body(number));
    match transport {
        Transport::Tcp => frame,
        Transport::WebSocket => unmasked(BINARY, &frame),
    }
}

/// A room with two clients: one that reads, and one that does not.
struct Scene {
    healthy: Client,
    stuck: Peer,
    pushed: u32,
    /// Numbers of the pushes that were queued for both clients.
    kept: Vec<u32>,
    /// The last field, as the server drains on drop once both clients have left.
    server: Server,
}

impl Scene {
    fn new(transport: Transport, sets: &[&str]) -> Self {
        Self::with(Peer::live, transport, sets)
    }

    fn with(
        live: impl Fn(&Server, Transport, &str) -> Peer,
        transport: Transport,
        sets: &[&str],
    ) -> Self {
        let server = Server::start(&[&SMALL[..], sets].concat());
        let healthy = server.client(transport, "1");
        let stuck = live(&server, transport, "2");
        Self { healthy, stuck, pushed: 0, kept: Vec::new(), server }
    }

    /// Pushes to the room once. The healthy client gets the push at once, whatever the other one does.
    fn push(&mut self) -> Ledger {
        let number = self.pushed;
        self.pushed += 1;
        let ledger = self.server.push(To::Room("1"), 5, &body(number));
        assert!(received(&mut self.healthy) == body(number), "push {number}");
        if ledger == queued(2) {
            self.kept.push(number);
        }
        ledger
    }

    /// Pushes until `sample` is at least `value`. The number of pushes varies, as the kernel may take more once it gets an
    /// acknowledgement.
    fn push_until(&mut self, sample: &str, value: u64) {
        let full = dropped(queued(1), "outbox_full", 1);
        until(&format!("{sample} to reach {value}"), || {
            let ledger = self.push();
            assert!([queued(2), queued(1), full.clone()].contains(&ledger), "{ledger}");
            self.server.metric(sample) >= value
        });
    }
}

const OUTBOX_FULL: &str = "comet_dropped_total{reason=\"outbox_full\"}";

#[test]
fn a_client_that_reads_nothing_is_closed_after_the_write_timeout() {
    for transport in BOTH {
        let sets = ["protocol.write_timeout=\"500ms\"", "protocol.svr_proto=8"];
        let mut scene = Scene::with(Peer::live_1, transport, &sets);
        scene.push_until("comet_closed_total{reason=\"write_timeout\"}", 1);
        scene.server.until("comet_connections", 1);
        assert_eq!(scene.push(), queued(1));

        // The client got the beginning of its pushes, and nothing else.
        let mut taken = Vec::new();
        scene.stuck.stream.read_to_end(&mut taken).unwrap();
        let pushes: Vec<u8> =
            scene.kept.iter().flat_map(|number| on_the_wire(transport, *number)).collect();
        assert!(!taken.is_empty() && pushes.starts_with(&taken), "{} bytes", taken.len());
        scene.server.until("comet_waiting", 0);
        let lost = scene.server.metric("comet_lost_total");
        assert!((1..=8).contains(&lost), "an outbox of 8 lost {lost}");
    }
}

/// A send waits until a third of the kernel's buffer is free. At 10 KB/s that takes longer than the write timeout.
#[test]
fn a_client_with_a_slow_link_is_not_closed_while_it_reads() {
    for transport in BOTH {
        until_in_time(|| reads_slowly(transport));
    }
}

/// Returns whether the client has read in time.
fn reads_slowly(transport: Transport) -> bool {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let sets = ["protocol.write_timeout=\"2s\"", "protocol.svr_proto=8"];
    let live = |server: &Server, transport, token: &str| {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        // A receive window of a few kilobytes. It must be set before the connect, which negotiates the window scale.
        set_socket_recv_buffer_size(&socket, 4 << 10).unwrap();
        rustix::net::connect(&socket, &server.address(transport)).unwrap();
        let mut peer = Peer::over(TcpStream::from(socket), transport);
        peer.upgrade();
        peer.authenticate_1(token);
        peer
    };
    let mut scene = Scene::with(live, transport, &sets);
    scene.push_until(OUTBOX_FULL, 1);
    let (begin, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    while begin.elapsed() < 3 * TIMEOUT {
        match scene.stuck.stream.read(&mut [0; 512]) {
            Ok(bytes) if bytes > 0 => {}
            // Closed. Whether that is an error depends on the time between two reads.
            _ => break,
        }
        longest = longest.max(last.elapsed());
        last = Instant::now();
        // The speed of the link.
        thread::sleep(Duration::from_millis(50));
    }
    if longest.max(last.elapsed()) > TIMEOUT / 4 {
        return false;
    }
    assert_eq!(scene.server.metrics().closed("write_timeout"), 0);
    assert!(begin.elapsed() >= 3 * TIMEOUT, "closed although the client has read");
    // The client reads no more.
    scene.server.until("comet_closed_total{reason=\"write_timeout\"}", 1);
    true
}

#[test]
fn drop_newest_keeps_the_oldest_pushes() {
    let by_count = ["protocol.svr_proto=8"];
    let by_bytes =
        ["protocol.svr_proto=60000", "push.frame_max=\"32KiB\"", "protocol.outbox_bytes=\"64KiB\""];
    for (transport, sets) in [(BOTH[0], &by_count[..]), (BOTH[1], &by_bytes), (BOTH[1], &by_count)]
    {
        let sets = [sets, &["protocol.write_timeout=\"1h\""]].concat();
        let mut scene = Scene::new(transport, &sets);
        scene.push_until(OUTBOX_FULL, 10);
        // The client reads again: it gets all queued pushes, and new ones are queued.
        for number in std::mem::take(&mut scene.kept) {
            assert_eq!(scene.stuck.recv(), message(5, 0, &body(number)));
        }
        assert_eq!(scene.stuck.online(), 2);
        assert_eq!(scene.push(), queued(2));
        assert_eq!(scene.stuck.recv(), message(5, 0, &body(scene.pushed - 1)));
    }
}

#[test]
fn drop_oldest_keeps_the_newest_pushes() {
    for transport in BOTH {
        let sets = [
            "protocol.slow_consumer=\"drop-oldest\"",
            "protocol.svr_proto=8",
            "protocol.write_timeout=\"1h\"",
        ];
        let mut scene = Scene::new(transport, &sets);
        while scene.server.metric("comet_superseded_total") < 20 {
            assert_eq!(scene.push(), queued(2));
        }
        // The client gets the pushes in the kernel and in flight, then, after the dropped ones, the newest.
        let mut got = Vec::new();
        while got.last() != scene.kept.last() {
            let number = scene.stuck.recv().body[..4].try_into().unwrap();
            got.push(u32::from_be_bytes(number));
        }
        assert!(got.is_sorted_by(|one, next| one < next), "{got:?}");
        let superseded = scene.server.metric("comet_superseded_total");
        assert_eq!(got.len() as u64, scene.kept.len() as u64 - superseded);
        assert!(got.iter().all(|number| scene.kept.contains(number)), "{got:?}");
        assert_eq!(scene.stuck.online(), 2);
    }
}

#[test]
fn the_policy_close_sends_its_notice_after_queued_pushes() {
    for transport in BOTH {
        let sets = [
            "protocol.slow_consumer=\"close\"",
            "protocol.svr_proto=8",
            "protocol.write_timeout=\"1h\"",
        ];
        let mut scene = Scene::new(transport, &sets);
        scene.push_until(OUTBOX_FULL, 1);
        assert_eq!(scene.server.metrics().closed("slow_consumer"), 1);
        assert_eq!(scene.push(), queued(1));
        for number in &scene.kept {
            assert_eq!(scene.stuck.recv(), message(5, 0, &body(*number)));
        }
        let notice = scene.stuck.close_notice();
        assert_eq!(notice.reason, "slow_consumer");
        let close = (transport == Transport::WebSocket).then_some(1008);
        assert_eq!(notice.close.map(|(code, _)| code), close);
        drop(scene.stuck);
        scene.server.until("comet_connections", 1);
        assert_eq!(scene.server.metric("comet_lost_total"), 0);
    }
}

#[test]
fn a_client_that_sends_requests_without_reading_is_closed() {
    for transport in BOTH {
        let mut scene = Scene::new(transport, &["protocol.cli_proto=16"]);
        let heartbeats = scene.stuck.wrap(&frame(op::HEARTBEAT, 1, b"")).repeat(1000);
        until("a reply overflow", || {
            // After the close the write may fail in the middle.
            let _ = scene.stuck.stream.write_all(&heartbeats);
            scene.server.metrics().closed("reply_overflow") == 1
        });
        assert_eq!(scene.push(), queued(1));
    }
}
