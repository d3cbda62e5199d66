//! `comet logic` and what does not serve: a comet that is stopped, one whose queue of connections is full, one
//! that speaks something else, a Redis that lost its master. None of them holds up a push to the others.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use comet_client::Transport;
use serde_json::{Value, json};

use crate::logic_process::own_address;
use crate::logic_reload::HeldComet;
use crate::logic_rig::{post, request};
use crate::process::{Running, Server, addresses, comet, line_with, with_sets};
use crate::redis::RedisServer;
use crate::support::{Metrics, two_cores, until, until_in_time};

/// How long a comet and Redis have to answer `comet logic`.
const COMET_DEADLINE: Duration = Duration::from_secs(2);
const REDIS_DEADLINE: Duration = Duration::from_secs(1);

/// Listens and never accepts; its queue is full, so that the kernel drops who comes.
struct FullQueue {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl FullQueue {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Again, with the shortest queue.
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        // A thread that stands still may take a connection that is there for late.
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let queued = std::iter::from_fn(|| connect().or_else(connect)).take(8).collect();
        assert!(connect().is_none(), "the queue is full");
        Self { listener, _queued: queued }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }
}

/// Answers whoever connects with something that is no HTTP/2.
fn garbage() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        // Open, as a connection that is reset may lose the answer.
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The other side may have left.
            let _ = stream.write_all(&[0xff; 64]);
            open.push(stream);
        }
    });
    address
}

/// A comet of one core, which is at `grpc`.
pub(crate) fn other_comet() -> (Running, SocketAddr) {
    let cores = two_cores();
    let first = cores.split([',', '-']).next().unwrap();
    let sets = with_sets(&["server.id=\"stopped\""]);
    let arguments = [&["--cores", first][..], &sets].concat();
    let (process, log) = Running::start(comet(&arguments));
    let [grpc, _] = addresses(&line_with(&log, "stat ["));
    thread::spawn(move || log.into_iter().for_each(drop));
    (process, grpc)
}

/// `comet logic` with these settings: the process, its log, where it pushes and where its metrics are.
fn logic(more: &[String]) -> (Running, Receiver<String>, SocketAddr, SocketAddr) {
    let (http, stat) = (own_address(), own_address());
    let sets = [
        format!("logic_server.http=[\"{http}\"]"),
        format!("logic_server.stat=[\"{stat}\"]"),
        "logic_server.grpc=[]".to_owned(),
    ];
    let sets = sets.iter().chain(more).flat_map(|set| ["--set", set]);
    let arguments: Vec<&str> = ["logic"].into_iter().chain(sets).collect();
    let (process, log) = Running::start(comet(&arguments));
    // Lines about comets may come before those about listeners, and no line is to be missed.
    until("comet logic to listen", || TcpStream::connect(stat).is_ok());
    (process, log, http, stat)
}

/// Who did not take a push to everybody, and why.
fn failed(data: &Value) -> Vec<(&str, &str)> {
    let failed = data["failed"].as_array().map(Vec::as_slice).unwrap_or_default();
    failed
        .iter()
        .map(|failed| (failed["server"].as_str().unwrap(), failed["message"].as_str().unwrap()))
        .collect()
}

#[test]
fn comets_that_do_not_serve_hold_up_no_push() {
    let good = Server::start(&["server.id=\"good\""]);
    let (stopped, at) = other_comet();
    let full = FullQueue::new();
    let comets = [
        format!("good={}", good.grpc),
        format!("stopped={at}"),
        format!("full={}", full.address()),
        format!("garbage={}", garbage()),
    ];
    let (_logic, log, http, stat) = logic(&[format!("logic_server.comets={comets:?}")]);
    let is_up = |comet: &str, up: u64| {
        let sample = format!("comet_logic_comet_up{{server={comet:?}}}");
        until("its health to be known", || Metrics::read(stat).value(&sample) == up);
    };
    is_up("good", 1);
    is_up("stopped", 1);
    let mut client = good.live(Transport::Tcp, "42");

    stopped.pause(true);
    is_up("stopped", 0);
    let mut unnamed = BTreeSet::from(["full", "garbage", "stopped"]);
    while !unnamed.is_empty() {
        let line = line_with(&log, " is gone: ");
        let named = unnamed.extract_if(.., |name| line.contains(&format!("comet {name:?} at ")));
        assert_eq!(named.count(), 1, "{line}");
        assert_eq!(line.contains(": \"no HTTP/2, but "), line.contains("garbage"), "{line}");
    }
    for number in 0..100_u8 {
        let data = post(http, "all?operation=5", &[number]);
        assert_eq!(data["queued"], 1, "{data}");
        let failed = failed(&data);
        let names: Vec<_> = failed.iter().map(|(server, _)| *server).collect();
        assert_eq!(names, ["full", "garbage", "stopped"], "{data}");
        // Nobody waited for them.
        assert!(failed.iter().all(|(_, message)| message.starts_with("it is gone: ")), "{data}");
        assert_eq!(client.recv().body, [number]);
    }
    let failures = "comet_logic_push_failures_total{server=\"stopped\"}";
    assert!(Metrics::read(stat).value(failures) >= 100);

    stopped.pause(false);
    is_up("stopped", 1);
    let data = post(http, "all?operation=5", b"again");
    assert_eq!(failed(&data).len(), 2, "{data}");
    // A push that fails makes no line.
    let lines: Vec<_> = log.try_iter().collect();
    assert!(lines.len() < 20, "{lines:?}");
}

#[test]
fn a_redis_that_cannot_serve_is_one_line_until_it_can() {
    let Some(redis) = RedisServer::start() else { return };
    let (_logic, log, http, stat) = logic(&redis.sets());
    let push = || request(http, "POST", "/goim/push/keys?operation=5&keys=k", b"hi");
    assert_eq!(push()["code"], 0);
    // Those that are not up are left out.
    let up = || Metrics::read(stat).by_label("comet_logic_redis_up").len();
    assert_eq!(up(), 1);

    // It says so itself.
    redis.run_command("CONFIG SET replica-serve-stale-data no");
    redis.run_command("REPLICAOF 127.0.0.1 1");
    for _ in 0..20 {
        assert_eq!(push()["code"], -500);
    }
    assert_eq!(up(), 0);
    let line = line_with(&log, "does not serve: ");
    assert!(line.contains("MasterDown"), "{line}");
    redis.run_command("REPLICAOF NO ONE");
    until("pushes to be taken again", || push()["code"] == 0);

    // It says nothing.
    redis.pause(true);
    assert_eq!(push()["code"], -500);
    assert_eq!(up(), 0);
    redis.pause(false);
    until("pushes to be taken again", || push()["code"] == 0);
    assert_eq!(up(), 1);
    let lines: Vec<_> = log.try_iter().filter(|line| line.contains("session store")).collect();
    assert!(lines.len() < 4, "{lines:?}");
}

/// `comet logic` stands still for longer than its deadlines. What comets answered meanwhile counts: none of them
/// is taken for gone, and the push that waits for them leaves none out.
#[test]
fn answers_of_comets_that_arrived_meanwhile_count() {
    until_in_time(an_answer_of_a_comet_arrives_while_logic_stands_still);
}

fn an_answer_of_a_comet_arrives_while_logic_stands_still() -> bool {
    let (stopped, at) = other_comet();
    let (at, passages) = watched(at);
    let sets =
        [format!("logic_server.comets=[\"stopped={at}\"]"), "push.timeout=\"4s\"".to_owned()];
    let (logic, log, http, stat) = logic(&sets);
    let is_up = "comet_logic_comet_up{server=\"stopped\"}";
    until("the comet to be there", || Metrics::read(stat).value(is_up) == 1);
    // What it has not answered yet is not much older.
    let begun = Instant::now();
    stopped.pause(true);
    // Its health is asked for once a second, and has to be known two seconds later.
    while passages.try_recv().is_ok() {}
    passages.recv().unwrap();
    let body = b"a push that waits";
    let pushing = thread::spawn(move || request(http, "POST", "/goim/push/all?operation=5", body));
    let has_body = |bytes: Vec<u8>| bytes.windows(body.len()).any(|part| part == body);
    assert!(passages.iter().any(has_body), "the push is under way");
    logic.pause(true);
    if begun.elapsed() > COMET_DEADLINE / 10 * 9 {
        return false;
    }
    stopped.pause(false);
    thread::sleep(Duration::from_secs(5));
    logic.pause(false);
    let answer = pushing.join().unwrap();
    assert_eq!((&answer["code"], failed(&answer["data"])), (&0.into(), vec![]), "{answer}");
    assert_eq!(Metrics::read(stat).value(is_up), 1);
    assert!(log.try_iter().all(|line| !line.contains("gone")));
    true
}

/// Passes on what goes to `server` and back. Gives what goes there, too.
fn watched(server: SocketAddr) -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (went, passages) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut server) = (stream.unwrap(), TcpStream::connect(server).unwrap());
            let (mut back, mut there) = (server.try_clone().unwrap(), stream.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut back, &mut there));
            let went = went.clone();
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    let bytes = &bytes[..length];
                    if server.write_all(bytes).is_err() || went.send(bytes.to_vec()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, passages)
}

/// The same for its session store.
#[test]
fn an_answer_of_redis_that_arrived_meanwhile_counts() {
    until_in_time(an_answer_of_redis_arrives_while_logic_stands_still);
}

fn an_answer_of_redis_arrives_while_logic_stands_still() -> bool {
    let Some(redis) = RedisServer::start() else { return true };
    let (at, passages) = watched(redis.address());
    let sets = [
        "logic_server.store=\"redis\"".to_owned(),
        format!("logic_server.redis=[\"redis://{at}\"]"),
    ];
    let (logic, _log, http, stat) = logic(&sets);
    let push = move || request(http, "POST", "/goim/push/keys?operation=5&keys=k", b"hi");
    assert_eq!(push()["code"], 0);
    redis.pause(true);
    while passages.try_recv().is_ok() {}
    let begun = Instant::now();
    let pushing = thread::spawn(push);
    passages.recv().unwrap();
    logic.pause(true);
    if begun.elapsed() > REDIS_DEADLINE / 10 * 9 {
        return false;
    }
    redis.pause(false);
    thread::sleep(Duration::from_secs(5));
    logic.pause(false);
    let answer = pushing.join().unwrap();
    assert_eq!(answer["code"], 0, "{answer}");
    assert_eq!(Metrics::read(stat).by_label("comet_logic_redis_failures_total"), []);
    true
}

/// A comet is asked for as much at once as its inboxes take. What is beyond waits for its turn, where those of other
/// callers come between.
#[test]
fn a_comet_is_not_asked_for_everything_at_once() {
    let (held_at, calls, answers) = HeldComet::start();
    let sets =
        [format!("logic_server.comets=[\"held={held_at}\"]"), "push.timeout=\"1m\"".to_owned()];
    let (_logic, _log, http, stat) = logic(&sets);
    let is_up = "comet_logic_comet_up{server=\"held\"}";
    until("the comet to be there", || Metrics::read(stat).value(is_up) == 1);
    let push = move || post(http, "all?operation=5", b"hi")["queued"].clone();
    let pushing: Vec<_> = (0..10).map(|_| thread::spawn(push)).collect();
    (0..8).for_each(|_| calls.recv().unwrap());
    let is_asked_for_more = calls.recv_timeout(Duration::from_millis(500)).is_ok();
    assert!(!is_asked_for_more, "eight broadcasts are a window");
    answers.add_permits(10);
    for pushing in pushing {
        assert_eq!(pushing.join().unwrap(), 7);
    }
    assert_eq!(calls.try_iter().count(), 2);
}

/// Connections that pass on what goes to a comet and back, until they are cut.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<TcpStream>>>);

impl Wire {
    /// Where it begins.
    fn to(&self, comet: SocketAddr) -> SocketAddr {
        let (listener, wire) = (TcpListener::bind("127.0.0.1:0").unwrap(), self.clone());
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(comet).unwrap());
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let [mut from, mut to] = [from, to].map(|stream| stream.try_clone().unwrap());
                    thread::spawn(move || std::io::copy(&mut from, &mut to));
                }
                wire.0.lock().unwrap().push(near);
            }
        });
        address
    }

    /// Ends the connections that are there.
    fn cut(&self) {
        for near in self.0.lock().unwrap().drain(..) {
            // It may have ended already.
            let _ = near.shutdown(Shutdown::Both);
        }
    }
}

/// A comet that takes a push and closes the connection. Whoever believed that it did not take the push would push again.
#[test]
fn a_comet_whose_answer_is_lost_may_have_taken_the_push() {
    let (held_at, calls, _answers) = HeldComet::start();
    let wire = Wire::default();
    let at = wire.to(held_at);
    let (_logic, log, http, stat) = logic(&[format!("logic_server.comets=[\"held={at}\"]")]);
    // What the comet itself refuses it has not taken.
    let refused = request(http, "POST", "/goim/push/room?operation=5&room=1", b"refused");
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("no comet took it: held: "), "{refused}");
    assert_eq!((&refused["code"], &refused["unanswered"]), (&json!(-500), &Value::Null));
    line_with(&log, "comet \"held\" does not take a push: ");

    let pushing = thread::spawn(move || request(http, "POST", "/goim/push/all?operation=5", b"hi"));
    calls.recv().unwrap();
    wire.cut();
    let answer = pushing.join().unwrap();
    let message = answer["message"].as_str().unwrap();
    let unknown = "no comet is known to have taken it: held: it may have taken its part: ";
    assert!(message.starts_with(unknown), "{answer}");
    assert_eq!((&answer["code"], &answer["unanswered"]), (&json!(-500), &json!(["held"])));
    let metrics = Metrics::read(stat);
    let calls_of = |target: &str, code: &str| {
        let rpc = format!("/goim/push/{target}");
        metrics.value(&format!("comet_calls_total{{rpc={rpc:?},code={code:?}}}"))
    };
    assert_eq!((calls_of("room", "Unavailable"), calls_of("all", "DeadlineExceeded")), (1, 1));
    assert_eq!(metrics.value("comet_logic_push_failures_total{server=\"held\"}"), 2);
}

/// The same beside a comet that answers, and with one that gives none in time.
#[test]
fn comets_that_may_have_taken_a_push_are_told_apart() {
    let good = Server::start(&["server.id=\"good\""]);
    let (held_at, calls, _answers) = HeldComet::start();
    let (wire, away) = (Wire::default(), own_address());
    let comets = [
        format!("good={}", good.grpc),
        format!("held={}", wire.to(held_at)),
        format!("away={away}"),
    ];
    let sets = [format!("logic_server.comets={comets:?}"), "push.timeout=\"100ms\"".to_owned()];
    let (_logic, _log, http, stat) = logic(&sets);
    for comet in ["good", "held"] {
        let is_up = format!("comet_logic_comet_up{{server={comet:?}}}");
        until("the comets to be there", || Metrics::read(stat).value(&is_up) == 1);
    }
    let mut client = good.live(Transport::Tcp, "42");
    let mut check = |cuts: bool, cause: &str| {
        let pushing = thread::spawn(move || post(http, "all?operation=5", b"hi"));
        calls.recv().unwrap();
        assert_eq!(client.recv().body, b"hi");
        if cuts {
            wire.cut();
        }
        let data = pushing.join().unwrap();
        let [("away", refused), ("held", unknown)] = failed(&data)[..] else { panic!("{data}") };
        assert!(!refused.contains("may have taken"), "{data}");
        assert!(unknown.starts_with("it may have taken its part: "), "{data}");
        assert!(unknown.contains(cause), "{data}");
        assert_eq!((&data["queued"], &data["unanswered"]), (&json!(1), &json!(["held"])));
    };
    check(false, "no answer within 1.1s");
    check(true, "");
}
