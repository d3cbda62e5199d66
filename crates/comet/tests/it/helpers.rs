//! `comet listen` and `comet push`, against the default server and others.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use comet::blocking_client::PushClient;
use comet_client::Transport;
use comet_wire::goim::comet::comet_server::{Comet, CometServer};
use comet_wire::goim::comet::{
    BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, Ledger, PushMsgReply,
    PushMsgReq, RoomsReply, RoomsReq,
};
use tokio::runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::logic_process::own_address;
use crate::logic_tokens::{SECRET, SecretFile, token};
use crate::process::{self, Running, comet, line_with, run};
use crate::support::{self, Metrics, To, push, queued, until};

#[test]
fn listen_prints_what_push_pushes() {
    let server = process::Server::start(&[]);
    let grpc = server.grpc.to_string();
    for (transport, address) in [("--user=42", server.tcp), ("--ws", server.websocket)] {
        let address = address.to_string();
        let arguments = ["listen", "--room", "r", "--user", "42", "--addr", &address];
        let mut arguments = arguments.to_vec();
        if transport == "--ws" {
            arguments.push(transport);
        }
        let (mut listener, errors) = Running::start(comet(&arguments));
        line_with(&errors, "connected to ");
        let mut out = BufReader::new(listener.0.stdout.take().unwrap()).lines();
        let cases: &[(&[&str], i32, &str, Option<&str>)] = &[
            (&["room", "r", "to the room"], 0, "matched 1 queued 1", Some("op 5: to the room")),
            (&["user", "42", "to the user"], 0, "matched 1 queued 1", Some("op 5: to the user")),
            (&["key", "42_1", "to the key"], 0, "matched 1 queued 1", Some("op 5: to the key")),
            (&["key", "42_9", "to no key"], 3, "matched 0 queued 0 absent 1", None),
            (&["user", "43", "to no user"], 3, "matched 0 queued 0 absent 1", None),
            (&["room", "1", "to an empty room"], 3, "matched 0 queued 0", None),
            (
                &["all", "to all", "--operation", "1000"],
                0,
                "matched 1 queued 1",
                Some("op 1000: to all"),
            ),
            (
                &["all", "paced", "--speed", "100"],
                0,
                "matched 0 queued 0 scheduled 1",
                Some("op 5: paced"),
            ),
        ];
        for (target, code, ledger, printed) in cases {
            let arguments = [&["push", "--grpc", &grpc][..], target].concat();
            let (ended, stdout, stderr) = run(&arguments);
            assert_eq!((ended, stdout.trim(), &*stderr), (*code, *ledger, ""), "{target:?}");
            if let Some(printed) = printed {
                assert_eq!(out.next().unwrap().unwrap(), *printed);
            }
        }
        drop(listener);
        until("the listener to be gone", || {
            Metrics::read(server.stat).value("comet_connections") == 0
        });
    }
    for target in [&["all", "text"][..], &["all", "text", "--speed", "1"]] {
        let arguments = [&["push", "--grpc", &grpc][..], target].concat();
        assert_eq!(run(&arguments), (3, "matched 0 queued 0\n".to_owned(), String::new()));
    }
    let (code, _, stderr) = run(&["push", "--grpc", &grpc, "room", "", "text"]);
    assert_eq!(
        (code, stderr.trim()),
        (1, "comet: roomID is empty: name the room (InvalidArgument)")
    );
}

/// A connection that matched and did not get the push is in the ledger; the code says that it was there.
#[test]
fn a_dropped_push_has_matched() {
    let server = support::Server::start(&[]);
    let client = server.client(Transport::Tcp, r#"{"mid":7,"key":"k","accepts":[6]}"#);
    let (code, stdout, _) = run(&["push", "--grpc", &server.grpc().to_string(), "key", "k", "hi"]);
    assert_eq!((code, stdout.trim()), (0, "matched 1 queued 0 dropped(filtered) 1"));
    drop(client);
}

#[test]
fn listen_takes_any_token_and_path() {
    let secret = SecretFile::new("listen-secret", SECRET);
    let sets = secret.sets();
    let mut sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    sets.push(r#"websocket.path="/push""#);
    let server = support::Server::start(&sets);
    let signed = token(SECRET, 60);
    // The newline is the editor's.
    let file = SecretFile::new("listen-token", format!("{signed}\n").as_bytes());
    let named = format!("@{}", file.path());
    let tcp = server.address(Transport::Tcp).to_string();
    let websocket = server.address(Transport::WebSocket).to_string();
    let cases: [(&[&str], &str); 3] = [
        // The token names the room `r`.
        (&["--token", &signed, "--addr", &tcp], "r"),
        (&["--token", &named, "--addr", &tcp, "--room", "s"], "s"),
        (&["--token", &named, "--addr", &websocket, "--ws", "--path", "/push"], "r"),
    ];
    for (arguments, room) in cases {
        let (mut listener, errors) = Running::start(comet(&[&["listen"], arguments].concat()));
        line_with(&errors, "connected to ");
        assert_eq!(server.push(To::Room(room), 1000, b"hello"), queued(1), "{arguments:?}");
        let mut line = String::new();
        BufReader::new(listener.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "op 1000: hello\n");
        drop(listener);
        server.until("comet_connections", 0);
    }
    let (code, _, stderr) = run(&["listen", "--token", "@/no/such/file", "--addr", &tcp]);
    let expected = "comet: --token /no/such/file: No such file or directory (os error 2)\n";
    assert_eq!((code, stderr.as_str()), (1, expected));
}

#[test]
fn a_message_is_read_from_standard_input_as_it_is() {
    let server = support::Server::start(&[]);
    let mut client = server.client(Transport::Tcp, "42");
    let grpc = server.grpc().to_string();
    for body in [&b"two\nlines\n"[..], b"\xff\0", b""] {
        let mut command = comet(&["push", "--grpc", &grpc, "user", "42", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(body).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), &*output.stdout),
            (Some(0), &b"matched 1 queued 1\n"[..])
        );
        assert_eq!(support::received(&mut client), body);
    }
    let mut closed = comet(&["push", "--grpc", &grpc, "user", "42", "-"]);
    let output = closed.stdin(std::fs::File::open("/").unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "comet: standard input: Is a directory (os error 21)\n");
}

/// As behind `tail -f`: a line does not wait for the next one.
#[test]
fn lines_are_pushed_as_they_are_read() {
    let server = support::Server::start(&[]);
    let mut client = server.client(Transport::Tcp, "42");
    let grpc = server.grpc().to_string();
    let mut command = comet(&["push", "--grpc", &grpc, "user", "42", "--lines", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for (line, body) in [("one\n", &b"one"[..]), ("\n", b""), ("the last", b"the last")] {
        input.write_all(line.as_bytes()).unwrap();
        if line.ends_with('\n') {
            assert_eq!(support::received(&mut client), body);
        }
    }
    drop(input);
    assert_eq!(support::received(&mut client), b"the last");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"pushes 3 matched 3 queued 3\n");
}

/// 1,001 keys are two pushes, a key that is named twice counts once, and sums are over all.
#[test]
fn many_keys_and_messages_are_summed_up() {
    let server = support::Server::start(&[]);
    let mut clients = ["a", "b"].map(|key| {
        server.client(Transport::Tcp, &format!(r#"{{"mid":7,"key":"{key}","accepts":[5]}}"#))
    });
    let nobodies: String = (0..999).map(|number| format!("n{number}\n")).collect();
    let keys = SecretFile::new("push-keys", format!("a\nb\n{nobodies}\n").as_bytes());
    let messages = SecretFile::new("push-messages", b"one\r\ntwo\n");
    let grpc = server.grpc().to_string();
    let push = ["push", "--grpc", &grpc, "keys", "--from", keys.path(), "--name", "b"];
    let file = ["--file", messages.path()];

    let begin = Instant::now();
    let lines = run(&[&push[..], &file, &["--lines", "--rate", "20"]].concat());
    let sum = "pushes 4 matched 4 queued 4 absent 1998\n".to_owned();
    assert_eq!(lines, (0, sum, String::new()));
    assert!(begin.elapsed() >= Duration::from_millis(150), "four at 20 a second");
    let whole = run(&[&push[..], &file].concat());
    assert_eq!(whole, (0, "pushes 2 matched 2 queued 2 absent 999\n".to_owned(), String::new()));
    for client in &mut clients {
        for body in [&b"one"[..], b"two", b"one\r\ntwo\n"] {
            assert_eq!(support::received(client), body);
        }
    }

    let nobody = ["push", "--grpc", &grpc, "keys", "--name", "x", "--name", "y", "hello"];
    assert_eq!(run(&nobody), (3, "matched 0 queued 0 absent 2\n".to_owned(), String::new()));
    let (code, _, stderr) = run(&["push", "--grpc", &grpc, "keys", "--from", "/none", "hello"]);
    let expected = "comet: /none: No such file or directory (os error 2)\n";
    assert_eq!((code, stderr.as_str()), (1, expected));
}

#[test]
fn a_push_that_is_refused_ends_the_others_after_their_sum() {
    let server = support::Server::start(&["push.frame_max=4096"]);
    let mut client = server.client(Transport::Tcp, "42");
    let grpc = server.grpc().to_string();
    let text = format!("one\n{}\nthree", "x".repeat(5000));
    let (code, stdout, stderr) = run(&["push", "--grpc", &grpc, "user", "42", "--lines", &text]);
    assert_eq!((code, &*stdout), (1, "pushes 1 matched 1 queued 1\n"));
    assert!(stderr.starts_with("comet: push 2: ") && stderr.contains("4096"), "{stderr}");
    assert_eq!(support::received(&mut client), b"one");
}

/// The pipe behind `comet listen | head -1` is closed: it ends, and that is no failure.
#[test]
fn listen_ends_when_nobody_reads_it() {
    let server = process::Server::start(&[]);
    let address = server.tcp.to_string();
    let (mut listener, errors) =
        Running::start(comet(&["listen", "--room", "r", "--addr", &address]));
    line_with(&errors, "connected to ");
    drop(listener.0.stdout.take());
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    assert_eq!(push(&caller, To::Room("r"), 5, b"hi"), queued(1));
    until("it to end", || {
        // A process that another test has just begun has our end of the pipe, too, until it is its own.
        push(&caller, To::Room("r"), 5, b"hi");
        listener.0.try_wait().unwrap().is_some()
    });
    assert_eq!(listener.0.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    errors.iter().for_each(|line| rest.push_str(&line));
    assert!(!rest.contains("panicked"), "{rest}");
}

/// An unreachable push server is reported in one line.
#[test]
fn push_to_nobody_fails_with_a_sentence() {
    let free = own_address().to_string();
    let (code, stdout, stderr) = run(&["push", "--grpc", &free, "all", "text"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with(&format!("comet: no push server at {free}: ")), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// Like goim's comet, it sends no ledger. It takes pushes with the right token alone. Broadcasts it answers as one of
/// several comets, of which another one is away.
struct Goim;

#[tonic::async_trait]
impl Comet for Goim {
    async fn push_msg(&self, push: Request<PushMsgReq>) -> Result<Response<PushMsgReply>, Status> {
        match push.metadata().get("authorization") {
            Some(value) if value == "Bearer right" => Ok(Response::new(PushMsgReply::default())),
            _ => Err(Status::unauthenticated("a token is missing")),
        }
    }

    async fn broadcast(
        &self,
        broadcast: Request<BroadcastReq>,
    ) -> Result<Response<BroadcastReply>, Status> {
        let is_first = broadcast.into_inner().proto.is_some_and(|proto| *proto.body == *b"one");
        let hosts: &[&str] = if is_first { &["*", "b"] } else { &["b"] };
        let unanswered = hosts.iter().map(ToString::to_string).collect();
        let ledger = Ledger { matched: 1, queued: 1, unanswered, ..Ledger::default() };
        Ok(Response::new(BroadcastReply { ledger: Some(ledger) }))
    }

    async fn broadcast_room(
        &self,
        _: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn rooms(&self, _: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Serves until the test process ends.
fn serve(listener: TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
        let server = tonic::transport::Server::builder().add_service(CometServer::new(Goim));
        server.serve_with_incoming(incoming).await.unwrap();
    });
}

#[test]
fn push_brings_its_token_and_needs_no_ledger() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let grpc = listener.local_addr().unwrap().to_string();
    thread::spawn(|| serve(listener));
    let file = SecretFile::new("push-token", b"right\n");
    let named = format!("@{}", file.path());
    let done = (0, "pushed; the server sends no ledger\n".to_owned(), String::new());
    let refused = (1, String::new(), "comet: a token is missing (Unauthenticated)\n".to_owned());
    let unprintable =
        (1, String::new(), "comet: the token is not one line of printable ASCII\n".to_owned());
    let cases: [(&[&str], _); 5] = [
        (&["--token", "right"], &done),
        (&["--token", &named], &done),
        (&["--token", "wrong"], &refused),
        (&[], &refused),
        (&["--token", "two\nlines"], &unprintable),
    ];
    for (arguments, expected) in cases {
        let arguments = [&["push", "--grpc", &grpc, "key", "k", "hi"], arguments].concat();
        assert_eq!(run(&arguments), *expected, "{arguments:?}");
    }
}

/// With several hosts, a push that one of them did not answer is not known to have reached all.
#[test]
fn push_prints_hosts_that_did_not_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let grpc = listener.local_addr().unwrap().to_string();
    thread::spawn(|| serve(listener));
    let push = ["push", "--grpc", &grpc, "all", "--lines", "one\ntwo"];
    let sum = "pushes 2 matched 2 queued 2 unanswered(*) 1 unanswered(b) 2\n";
    assert_eq!(run(&push), (0, sum.to_owned(), String::new()));
}
