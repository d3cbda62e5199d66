//! A listener between the auth reply and the replies for its rooms: no frame that arrives meanwhile is lost.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::pin::pin;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use comet_client::tokio::Listener;
use comet_client::{Backoff, Error, Event, Options};
use comet_proto::{AuthReply, Join, JoinReply, KeptSession, Position, Resumed, RoomHandle};
use tokio::select;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::wire::{authenticate, frame, frame_2, read_frame, serve};

fn options(address: &str) -> Options {
    options_without_keep(address).keep_session()
}

fn options_without_keep(address: &str) -> Options {
    let delay = Duration::from_millis(1);
    Options::tcp(address, "42").backoff(Backoff::new(delay, delay))
}

/// The auth reply of a resumed session with `parked` pushes, and these pushes.
fn resumed(parked: u32) -> Vec<u8> {
    let resumed = Some(Resumed { parked, lost_full: 0, lost_memory: 0 });
    let reply = AuthReply {
        not_renewed: None,
        heartbeat_ms: 300_000,
        expires_in_ms: None,
        kept: Some(KeptSession { resumed }),
    };
    let pushes = (1..=parked).flat_map(|sequence| frame(5, sequence.cast_signed(), b"parked"));
    [frame_2(8, 1, &reply.encode()), pushes.collect()].concat()
}

fn at(offset: u64) -> Position {
    Position { epoch: 9, offset }
}

fn joined(sequence: i32, handle: u32, room: &[u8], offset: u64) -> Vec<u8> {
    let position = Some(at(offset));
    let reply = JoinReply { position, ..JoinReply::joined(RoomHandle(handle), room) };
    frame_2(19, sequence, &reply.encode())
}

/// A summary of an event.
fn brief(event: Event) -> String {
    match event {
        Event::Connected => "connected".to_owned(),
        Event::Message(message) => format!("message {}", message.sequence),
        Event::Room { room, outcome: Ok(_) } => format!("in {room}"),
        Event::Disconnected { reason, .. } => format!("disconnected: {reason}"),
        other => format!("{other:?}"),
    }
}

/// The server closes before the reply to one of the requests that a new connection makes.
#[test]
fn the_resumed_session_is_reported_though_the_set_up_fails() {
    const REQUESTS: [i32; 3] = [14, 12, 18];
    let (address, server) = serve(REQUESTS.len(), |answered, mut stream| {
        assert_eq!(read_keep_and_token(&mut stream), 7);
        stream.write_all(&resumed(2)).unwrap();
        for (at, request) in REQUESTS.into_iter().enumerate() {
            let (operation, sequence, body) = read_frame(&mut stream);
            assert_eq!(operation, request);
            if at == answered {
                return stream.write_all(&frame(6, 0, b"draining")).unwrap();
            }
            stream.write_all(&frame(request + 1, sequence, &body)).unwrap();
        }
    });
    for _ in REQUESTS {
        let mut listener = options(&address).reconnecting();
        listener.subscribe(&[1000]).unwrap();
        listener.join("a").unwrap();
        listener.add_room("b").unwrap();
        let first = listener.next().map(brief);
        let resumed = listener.client().and_then(|client| client.resumed());
        assert_eq!((first.as_deref(), resumed.unwrap().parked), (Some("connected"), 2));
        let events: Vec<_> = listener.by_ref().take(3).map(brief).collect();
        assert_eq!(events[..2], ["message 1", "message 2"]);
        assert!(events[2].starts_with("disconnected") && events[2].contains("draining"));
    }
    server.join().unwrap();
}

/// Reads the request for a kept session, and the token after it. Returns the operation of the token.
fn read_keep_and_token(stream: &mut impl std::io::Read) -> i32 {
    let mut keep = [0; 17];
    stream.read_exact(&mut keep).unwrap();
    assert_eq!((keep[11], keep[16]), (24, 1));
    read_frame(stream).0
}

/// The next event, unless the server signals earlier that the future is to be dropped.
async fn next_or_dropped(
    listener: &mut Listener,
    steps: &mut UnboundedReceiver<()>,
) -> Option<Event> {
    select! {
        biased;
        Some(()) = steps.recv() => None,
        event = listener.next() => event,
    }
}

/// The future is dropped when the server has the token, and before each reply to a request of the new connection.
#[tokio::test]
async fn a_dropped_future_loses_nothing_of_a_new_connection() {
    let (step, mut steps) = unbounded_channel();
    let (go_on, gone_on) = std::sync::mpsc::channel();
    let (address, server) = serve(1, move |_, mut stream| {
        let drop_future = |step: &UnboundedSender<()>| {
            step.send(()).unwrap();
            gone_on.recv().unwrap();
        };
        assert_eq!(read_keep_and_token(&mut stream), 7);
        drop_future(&step);
        stream.write_all(&resumed(1)).unwrap();
        for expected in [14, 12, 18, 18] {
            let (operation, sequence, body) = read_frame(&mut stream);
            assert_eq!(operation, expected, "each once");
            drop_future(&step);
            let reply = match operation {
                18 => joined(sequence, 1, &body[4..], 3),
                _ => frame(operation + 1, sequence, &body),
            };
            stream.write_all(&reply).unwrap();
        }
    });
    let mut listener = Listener::new(options(&address));
    listener.subscribe(&[1000]).await.unwrap();
    listener.join("a").await.unwrap();
    listener.add_room("b").await.unwrap();
    listener.add_room("c").await.unwrap();
    let mut events = Vec::new();
    let mut dropped = 0;
    while events.len() < 5 {
        match next_or_dropped(&mut listener, &mut steps).await {
            Some(event) => events.push(brief(event)),
            None => {
                dropped += 1;
                assert!(listener.client().is_none(), "not before it is where the program wants it");
                go_on.send(()).unwrap();
            }
        }
    }
    assert_eq!(dropped, 5);
    assert_eq!(events[..4], ["connected", "in b", "in c", "message 1"]);
    assert!(events[4].starts_with("disconnected"), "{events:?}");
    server.join().unwrap();
}

/// Each future is dropped after one poll, as by a `select!` whose other branch is faster than the network.
#[tokio::test]
async fn a_dropped_future_leaves_the_connecting_to_the_next_one() {
    let acceptor = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = acceptor.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = acceptor.accept().unwrap();
        assert_eq!(read_keep_and_token(&mut stream), 7);
        stream.write_all(&resumed(0)).unwrap();
        (acceptor, stream)
    });
    let mut listener = Listener::new(options(&address));
    let event = timeout(Duration::from_secs(20), async {
        loop {
            let mut next = pin!(listener.next());
            match poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await {
                Poll::Ready(event) => break event.map(brief),
                Poll::Pending => yield_now().await,
            }
        }
    });
    let event = event.await.expect("it connects");
    assert_eq!(event.as_deref(), Some("connected"));
    let (acceptor, _stream) = server.join().unwrap();
    acceptor.set_nonblocking(true).unwrap();
    assert_eq!(acceptor.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "one connection");
}

/// The program makes requests while the new connection is set up. The set-up is completed first.
#[tokio::test]
async fn requests_wait_until_the_connection_is_set_up() {
    let (step, mut steps) = unbounded_channel();
    let (go_on, gone_on) = std::sync::mpsc::channel();
    let (address, server) = serve(1, move |_, mut stream| {
        assert_eq!(read_keep_and_token(&mut stream), 7);
        stream.write_all(&resumed(1)).unwrap();
        for (at, room) in [&b"a"[..], b"b", b"c"].into_iter().enumerate() {
            let (operation, sequence, body) = read_frame(&mut stream);
            assert_eq!((operation, &body[4..]), (18, room));
            if at == 0 {
                step.send(()).unwrap();
                gone_on.recv().unwrap();
            }
            stream.write_all(&joined(sequence, 1 + at as u32, room, 3)).unwrap();
        }
    });
    let mut listener = Listener::new(options(&address));
    listener.add_room("a").await.unwrap();
    listener.add_room("b").await.unwrap();
    assert!(next_or_dropped(&mut listener, &mut steps).await.is_none());
    go_on.send(()).unwrap();
    listener.add_room("c").await.unwrap();
    let mut events = Vec::new();
    for _ in 0..5 {
        events.extend(listener.next().await.map(brief));
    }
    assert_eq!(events, ["connected", "in a", "in b", "in c", "message 1"]);
    server.join().unwrap();
}

/// Reads a request to enter a room and answers it.
fn enter(stream: &mut (impl std::io::Read + Write), handle: u32) {
    let (operation, sequence, body) = read_frame(stream);
    assert_eq!(operation, 18);
    stream.write_all(&joined(sequence, handle, &body[4..], 3)).unwrap();
}

/// Sixteen requests are under way at once. The connection is lost after the answers to some of them.
#[test]
fn rooms_are_asked_for_without_waiting_for_each_answer() {
    let room = |number: usize| format!("{number:02}");
    let (address, server) = serve(2, move |connection, mut stream| {
        assert_eq!(read_keep_and_token(&mut stream), 7);
        stream.write_all(&resumed(0)).unwrap();
        let mut rooms = 0..20;
        while !rooms.is_empty() {
            let batch = rooms.by_ref().take(16).map(|number| {
                let (operation, sequence, body) = read_frame(&mut stream);
                let join = Join::decode(&body).unwrap();
                assert_eq!((operation, join.room), (18, room(number).as_bytes()));
                let known = (connection == 1 && number < 17).then_some(at(3));
                assert_eq!(join.since, known, "{number}");
                joined(sequence, 1 + number as u32, join.room, 3)
            });
            let mut answers: Vec<_> = batch.collect();
            stream.set_nonblocking(true).unwrap();
            assert_eq!(stream.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            stream.set_nonblocking(false).unwrap();
            if connection == 0 && rooms.is_empty() {
                answers.truncate(1);
            }
            stream.write_all(&answers.concat()).unwrap();
        }
    });
    let mut listener = options(&address).reconnecting();
    for number in 0..20 {
        listener.add_room(&room(number)).unwrap();
    }
    for answered in [17, 20] {
        let events: Vec<_> = listener.by_ref().take(answered + 2).map(brief).collect();
        let rooms = (0..answered).map(|number| format!("in {}", room(number)));
        let expected: Vec<_> = ["connected".to_owned()].into_iter().chain(rooms).collect();
        assert_eq!(events[..=answered], expected);
        assert!(events[answered + 1].starts_with("disconnected"), "{events:?}");
    }
    server.join().unwrap();
}

/// The server limits the rate of room changes. The second connection enters its rooms one by one, and its messages do not wait
/// for that.
#[test]
#[allow(clippy::disallowed_methods, reason = "the time between rooms is what it tests")]
fn rooms_are_entered_more_slowly_after_a_close_for_their_rate() {
    let (address, server) = serve(2, |connection, mut stream| {
        assert_eq!(read_keep_and_token(&mut stream), 7);
        stream.write_all(&resumed(1)).unwrap();
        enter(&mut stream, 1);
        if connection == 0 {
            // Unread bytes would reset the connection.
            read_frame(&mut stream);
            read_frame(&mut stream);
            return stream.write_all(&frame(6, 0, b"room_rate; retry_after_ms=0")).unwrap();
        }
        enter(&mut stream, 2);
        enter(&mut stream, 3);
    });
    let mut listener = options(&address).reconnecting();
    for room in ["a", "b", "c"] {
        listener.add_room(room).unwrap();
    }
    let first: Vec<_> = listener.by_ref().take(4).map(brief).collect();
    assert_eq!(first[..3], ["connected", "in a", "message 1"]);
    assert!(first[3].contains("room_rate"), "{first:?}");
    assert_eq!(listener.next().map(brief).as_deref(), Some("connected"));
    assert!(listener.client().is_some());
    let begin = Instant::now();
    let second: Vec<_> = listener.by_ref().take(4).map(brief).collect();
    assert!(second.contains(&"message 1".to_owned()), "{second:?}");
    let rooms: Vec<_> = second.iter().filter(|event| *event != "message 1").collect();
    assert_eq!(rooms, ["in a", "in b", "in c"]);
    assert!(begin.elapsed() >= Duration::from_millis(500), "a quarter of a second for each");
    server.join().unwrap();
}

/// Reads operation 14 or 16 and answers it. Returns which, and the operations that it names.
fn read_operations(stream: &mut (impl std::io::Read + Write)) -> (i32, Vec<i32>) {
    let (request, sequence, body) = read_frame(stream);
    stream.write_all(&frame(request + 1, sequence, &body)).unwrap();
    let names = String::from_utf8(body).unwrap();
    (request, names.split(',').map(|name| name.parse().unwrap()).collect())
}

/// The token has 40 operations, and the program unsubscribes from 30. The server allows 64 for a connection, and closes one with
/// more.
#[test]
fn operations_are_restored_without_being_too_many_in_between() {
    let (address, server) = serve(2, |connection, mut stream| {
        authenticate(&mut stream);
        let mut listed: BTreeSet<i32> = (1..=40).collect();
        for _ in 0..2 {
            let (request, operations) = read_operations(&mut stream);
            for operation in operations {
                match request {
                    14 => listed.insert(operation),
                    _ => listed.remove(&operation),
                };
            }
            assert!(listed.len() <= 64, "connection {connection}, operation {request}");
        }
        assert_eq!(listed, (31..=40).chain(100..140).collect());
    });
    let mut listener = options_without_keep(&address).reconnecting();
    assert!(matches!(listener.next(), Some(Event::Connected)));
    listener.unsubscribe(&(1..=30).collect::<Vec<_>>()).unwrap();
    listener.subscribe(&(100..140).collect::<Vec<_>>()).unwrap();
    assert!(matches!(listener.next(), Some(Event::Disconnected { .. })));
    assert!(matches!(listener.next(), Some(Event::Connected)));
    server.join().unwrap();
}

/// A listener with ever more subscriptions would be closed by each server, and one with ever more unsubscriptions would send
/// ever longer requests.
#[test]
fn a_listener_chooses_a_bounded_number_of_operations() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        assert_eq!(read_operations(&mut stream), (16, (1_001..1_064).chain([3]).collect()));
        assert_eq!(read_operations(&mut stream), (14, (1..65).filter(|of| *of != 3).collect()));
    });
    let mut listener = options_without_keep(&address).reconnecting();
    listener.subscribe(&(1..64).collect::<Vec<_>>()).unwrap();
    listener.subscribe(&[64, 1, 64]).unwrap();
    let refused = listener.subscribe(&[65]);
    assert!(matches!(refused, Err(Error::TooManyOperations)), "{refused:?}");
    let refused = listener.unsubscribe(&(0..65).collect::<Vec<_>>());
    assert!(matches!(refused, Err(Error::TooManyOperations)), "{refused:?}");
    for operation in (1_000..1_064).chain([3]) {
        listener.unsubscribe(&[operation]).unwrap();
    }
    assert!(matches!(listener.next(), Some(Event::Connected)));
    server.join().unwrap();
}
