//! The push caller over frames, with a slow server.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, fs, iter, process};

use comet_client::{PushTarget, Pusher};
use comet_proto::push_frame::{PushReply, decode_request};

const TIMEOUT: Duration = Duration::from_millis(200);
const REQUEST_MAX: usize = 1 << 20;

/// A push caller, the sender that lets the server go on, and the server's thread.
fn pusher<T: Send + 'static>(
    name: &str,
    serve: impl FnOnce(UnixStream, Receiver<()>) -> T + Send + 'static,
) -> (Pusher, Sender<()>, JoinHandle<T>) {
    let path: PathBuf = env::temp_dir().join(format!("comet-pusher-{name}-{}", process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let (go_on, gone_on) = channel();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0, gone_on));
    let pusher = Pusher::unix(&path, TIMEOUT).unwrap();
    fs::remove_file(&path).unwrap();
    (pusher, go_on, server)
}

/// The id of the next request; `None` at the end.
fn read_id(stream: &mut UnixStream, input: &mut Vec<u8>) -> Option<u32> {
    loop {
        if let Some((request, len)) = decode_request(input, REQUEST_MAX).unwrap() {
            let id = request.unwrap().id;
            input.drain(..len);
            return Some(id);
        }
        let mut buffer = [0; 16 << 10];
        match stream.read(&mut buffer).unwrap() {
            0 => {
                assert!(input.is_empty(), "the last request is cut");
                return None;
            }
            read => input.extend(&buffer[..read]),
        }
    }
}

/// Tells the caller that `id` pushes were made.
fn reply(stream: &mut UnixStream, id: u32) {
    let mut output = Vec::new();
    PushReply::encode_ledger(&mut output, id, (id.into(), id.into(), 0), (0, 0), iter::empty());
    stream.write_all(&output).unwrap();
}

fn is_late(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[test]
fn a_flush_that_took_too_long_goes_on_where_it_was() {
    const PUSHES: u32 = 64;
    let (mut pusher, go_on, server) = pusher("flush", |mut stream, gone_on| {
        gone_on.recv().unwrap();
        let mut input = Vec::new();
        iter::from_fn(|| read_id(&mut stream, &mut input)).collect::<Vec<_>>()
    });
    for _ in 0..PUSHES {
        pusher.begin(PushTarget::All, 5, &[7; 64 << 10]);
    }
    assert!(is_late(pusher.flush().unwrap_err().kind()));
    go_on.send(()).unwrap();
    while let Err(error) = pusher.flush() {
        assert!(is_late(error.kind()), "{error}");
    }
    drop(pusher);
    assert_eq!(server.join().unwrap(), Vec::from_iter(0..PUSHES));
}

/// A late reply is discarded: it is not taken for the reply to the next push.
#[test]
fn a_push_after_one_that_took_too_long_gets_its_own_reply() {
    let (mut pusher, go_on, server) = pusher("late", |mut stream, gone_on| {
        let mut input = Vec::new();
        while let Some(id) = read_id(&mut stream, &mut input) {
            if id == 0 {
                gone_on.recv().unwrap();
            }
            reply(&mut stream, id);
        }
    });
    let late = pusher.push(PushTarget::All, 5, b"one").unwrap_err();
    assert!(is_late(late.kind()), "{late}");
    assert_eq!(pusher.under_way(), 0, "nobody waits for it");
    let again = pusher.push(PushTarget::All, 5, b"not begun").unwrap_err();
    assert!(is_late(again.kind()), "{again}");
    go_on.send(()).unwrap();
    let made = loop {
        match pusher.push(PushTarget::All, 5, b"two") {
            Ok(made) => break made.unwrap().matched,
            Err(error) => assert!(is_late(error.kind()), "{error}"),
        }
    };
    assert!(made > 0);
    pusher.begin(PushTarget::All, 5, b"three");
    pusher.flush().unwrap();
    let next = loop {
        match pusher.next() {
            Ok(made) => break made.unwrap().matched,
            Err(error) => assert!(is_late(error.kind()), "{error}"),
        }
    };
    assert_eq!(next, made + 1);
    drop(pusher);
    server.join().unwrap();
}

/// A listener with a full queue accepts no connection: the kernel drops the packets. One failure may be due to a busy machine.
#[test]
fn connecting_to_a_silent_server_ends_at_the_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
    let queue: Vec<_> = iter::from_fn(|| connect().or_else(|_| connect()).ok()).collect();
    let (tell, told) = channel();
    thread::spawn(move || tell.send(Pusher::tcp(address, TIMEOUT).map(drop)));
    let outcome = told.recv_timeout(Duration::from_secs(20)).expect("it gives up");
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
    drop(queue);
}
