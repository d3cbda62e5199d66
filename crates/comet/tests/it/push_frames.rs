//! Push callers at `push.frames`: the data cores take their pushes.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

use comet_client::{PushLedger, PushTarget, Pusher, Transport};
use comet_proto::Frame;
use comet_proto::push_frame::PushRequest;

use crate::support::{PATIENCE, Server, config, ip, received, until};
use crate::unix_sockets::Folder;

const FRAMES: &str = "push.frames=[\"127.0.0.1:0\"]";
const TOKEN: &str = "a-token-that-nobody-guesses";

fn pusher(server: &Server) -> Pusher {
    Pusher::tcp(ip(&server.app().frames_addrs()[0]), PATIENCE).unwrap()
}

fn queued(queued: u64) -> PushLedger {
    PushLedger { matched: queued, queued, ..PushLedger::default() }
}

fn answered(code: &str) -> String {
    format!("comet_calls_total{{rpc=\"PushFrames\",code=\"{code}\"}}")
}

/// Callers use TCP and Unix sockets. Callers and clients are on both cores.
#[test]
fn pushes_reach_clients_on_all_cores_and_are_answered() {
    let folder = Folder::new();
    let frames = format!("push.frames=[\"{}\", \"127.0.0.1:0\"]", folder.address("frames"));
    let server = Server::start(&[&frames]);
    let transports = [Transport::Tcp, Transport::WebSocket].into_iter().cycle();
    let mut clients: Vec<_> =
        transports.take(8).map(|transport| server.client(transport, "7")).collect();
    let tcp = ip(&server.app().frames_addrs()[1]);
    let mut pushers: Vec<_> = (0..4).map(|_| Pusher::tcp(tcp, PATIENCE).unwrap()).collect();
    pushers.extend((0..4).map(|_| Pusher::unix(folder.file("frames"), PATIENCE).unwrap()));
    for (number, pusher) in (0_u8..).zip(&mut pushers) {
        for (target, count) in [
            (PushTarget::User(7), 8),
            (PushTarget::Room("1"), 8),
            (PushTarget::All, 8),
            (PushTarget::Key("7_1"), 1),
        ] {
            let ledger = pusher.push(target, 5, &[number]).unwrap().unwrap();
            assert_eq!(ledger, queued(count), "{target:?}");
        }
        let nobody = pusher.push(PushTarget::Key("nobody"), 5, b"").unwrap().unwrap();
        assert_eq!(nobody, PushLedger { absent: 1, ..PushLedger::default() });
        assert_eq!(pusher.push(PushTarget::Room(""), 5, b"").unwrap().unwrap_err().status, 3);
    }
    // The first client has the key, so it also gets the pushes by key.
    for (client, pushes) in clients.iter_mut().zip([4].into_iter().chain(std::iter::repeat(3))) {
        for number in 0..8 {
            (0..pushes).for_each(|_| assert_eq!(received(client)[..], [number]));
        }
    }
    let metrics = server.metrics();
    assert_eq!(metrics.value(&answered("Ok")), 40);
    assert_eq!(metrics.value(&answered("InvalidArgument")), 8);
    assert_eq!(metrics.value("comet_api_connections{listener=\"push.frames\"}"), 8);
    drop((clients, pushers));
    server.until("comet_api_connections{listener=\"push.frames\"}", 0);
    server.drain();
    assert!(!folder.file("frames").exists());
}

#[test]
fn many_pushes_under_way_arrive_in_order() {
    const PUSHES: u32 = 5_000;
    // The client reads nothing until all pushes are made.
    let server =
        Server::start(&[FRAMES, "protocol.svr_proto=32768", "protocol.write_timeout=\"60s\""]);
    let mut client = server.client(Transport::Tcp, "7");
    let mut pusher = pusher(&server);
    for number in 0..PUSHES {
        pusher.begin(PushTarget::Room("1"), 5, &number.to_be_bytes());
        if pusher.under_way() >= 500 {
            pusher.flush().unwrap();
            assert_eq!(pusher.next().unwrap().unwrap(), queued(1));
        }
    }
    pusher.flush().unwrap();
    while pusher.under_way() > 0 {
        assert_eq!(pusher.next().unwrap().unwrap(), queued(1));
    }
    for number in 0..PUSHES {
        assert_eq!(received(&mut client), number.to_be_bytes());
    }
}

#[test]
fn callers_must_send_a_token_first() {
    let mut server = Server::start_locked(&[FRAMES, &format!("push.tokens=[\"{TOKEN}\"]")], TOKEN);
    let mut unauthenticated = pusher(&server);
    assert_eq!(unauthenticated.push(PushTarget::All, 5, b"").unwrap().unwrap_err().status, 16);
    assert_eq!(unauthenticated.next().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    let refused = pusher(&server).authenticate("another-token").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    let mut authenticated = pusher(&server);
    authenticated.authenticate(TOKEN).unwrap();
    assert_eq!(authenticated.push(PushTarget::All, 5, b"").unwrap().unwrap(), queued(0));
    let refusals = "comet_api_refused_total{listener=\"push.frames\",reason=\"no_token\"}";
    assert_eq!(server.metric(refusals), 2);
    server.reload(&config(&[FRAMES, "push.tokens=[\"the-next-token-of-all\"]"])).unwrap();
    // The core applies the reload a moment later.
    until("the connection to end", || authenticated.push(PushTarget::All, 5, b"").is_err());
}

/// The server stops reading from a caller that does not read its replies, and does not close it. Others are served meanwhile.
#[test]
fn a_caller_that_does_not_read_delays_no_other_caller() {
    let folder = Folder::new();
    let frames = format!("push.frames=[\"{}\"]", folder.address("frames"));
    let server = Server::start(&[&frames]);
    let mut client = server.client(Transport::Tcp, "7");
    let mut stuck = UnixStream::connect(folder.file("frames")).unwrap();
    stuck.set_nonblocking(true).unwrap();
    let frame = Frame { version: 1, operation: 5, sequence: 0, body: b"" };
    let mut requests = Vec::new();
    let request = PushRequest { id: 1, target: PushTarget::Key("nobody"), accept: 0, frame };
    (0..1_000).for_each(|_| request.encode(&mut requests));
    let mut other = Pusher::unix(folder.file("frames"), PATIENCE).unwrap();
    let mut refusals = 0;
    // Callers take turns: when a push of the other one is answered, the stuck one has had its turn.
    while refusals < 50 {
        match stuck.write(&requests) {
            Ok(written) if written == requests.len() => refusals = 0,
            // The rest of a request that was written in part must come next.
            Ok(written) => requests.rotate_left(written),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                refusals += 1;
            }
        }
        assert_eq!(other.push(PushTarget::User(7), 5, b"x").unwrap().unwrap(), queued(1));
        assert_eq!(received(&mut client), b"x");
    }
    assert_eq!(server.metric("comet_api_connections{listener=\"push.frames\"}"), 2);
}

#[test]
fn callers_are_served_until_the_server_ends() {
    let server = Server::start(&[FRAMES]);
    let mut client = server.client(Transport::Tcp, "7");
    let mut pusher = pusher(&server);
    assert_eq!(pusher.push(PushTarget::User(7), 5, b"x").unwrap().unwrap(), queued(1));
    assert_eq!(received(&mut client), b"x");
    drop(client);
    server.drain();
    pusher.push(PushTarget::User(7), 5, b"x").unwrap_err();
}
