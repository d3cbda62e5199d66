//! The positions from which a listener goes on in rooms that keep a history. The room is chosen by the server, the program or both.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use comet_client::tokio::Listener;
use comet_client::{Backoff, Event, Joined, Options, Position};
use comet_proto::{Join, JoinReply, RoomHandle};
use tokio::select;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::yield_now;

use crate::asynchronous::{WELCOME, push};
use crate::wire::{frame_2, read_frame, serve};

const JOIN: i32 = 18;

fn options(address: &str) -> Options {
    let delay = Duration::from_millis(1);
    Options::tcp(address, "42").backoff(Backoff::new(delay, delay))
}

fn at(offset: u64) -> Position {
    Position { epoch: 9, offset }
}

/// Accepts the token. With an offset the token names the room "r", at that offset.
fn welcome(stream: &mut TcpStream, named_at: Option<u64>) {
    assert_eq!(read_frame(stream).0, 7);
    let named = named_at.map(|offset| told(0, offset, None)).unwrap_or_default();
    stream.write_all(&[frame_2(8, 1, &WELCOME), named].concat()).unwrap();
}

/// Operation 19 about "r".
fn told(sequence: i32, offset: u64, recovered: Option<u32>) -> Vec<u8> {
    let (position, is_unasked) = (Some(at(offset)), sequence == 0);
    let reply = JoinReply::joined(RoomHandle(1), b"r");
    let reply = JoinReply { position, is_unasked, recovered, ..reply };
    frame_2(19, sequence, &reply.encode())
}

/// Reads a request to enter "r" with this position, and answers that four pushes up to 9-10 follow.
fn recover(stream: &mut TcpStream, since: Position) {
    let (operation, sequence, body) = read_frame(stream);
    let asked = Join::decode(&body).unwrap();
    assert_eq!((operation, asked.room, asked.since), (JOIN, &b"r"[..], Some(since)));
    stream.write_all(&told(sequence, 10, Some(4))).unwrap();
}

/// The next event about "r".
#[track_caller]
fn room(event: Option<Event>) -> Joined {
    match event {
        Some(Event::Room { room, outcome: Ok(joined) }) if room == "r" => joined,
        other => panic!("{other:?}"),
    }
}

const RECOVERED: Joined =
    Joined { position: Some(Position { epoch: 9, offset: 10 }), recovered: Some(4) };

/// The program asks for the room while there is no connection. The server puts the next connection into the room, or does not.
#[test]
fn a_room_of_the_server_that_the_program_asks_for_between_two_connections_goes_on() {
    for named_at in [Some(10), None] {
        let (address, server) = serve(2, move |connection, mut stream| {
            if connection == 0 {
                welcome(&mut stream, Some(5));
                stream.write_all(&push(1, 5, 6, b"six")).unwrap();
            } else {
                welcome(&mut stream, named_at);
                recover(&mut stream, at(6));
            }
        });
        let mut listener = options(&address).reconnecting();
        assert!(matches!(listener.next(), Some(Event::Connected)));
        room(listener.next());
        assert!(matches!(listener.next(), Some(Event::Message(_))));
        assert!(matches!(listener.next(), Some(Event::Disconnected { .. })));
        listener.add_room("r").unwrap();
        assert!(matches!(listener.next(), Some(Event::Connected)));
        assert_eq!(room(listener.next()), RECOVERED);
        server.join().unwrap();
    }
}

#[test]
fn a_room_that_is_resumed_and_asked_for_before_the_first_connection_goes_on() {
    for named_at in [Some(10), None] {
        let (address, server) = serve(1, move |_, mut stream| {
            welcome(&mut stream, named_at);
            recover(&mut stream, at(6));
        });
        let mut listener = options(&address).resume("r", at(6)).reconnecting();
        listener.add_room("r").unwrap();
        assert!(matches!(listener.next(), Some(Event::Connected)));
        assert_eq!(room(listener.next()), RECOVERED);
        server.join().unwrap();
    }
}

/// Ends the server's side. The client must send nothing more until it ends as well.
fn end(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"", "the room is asked for once");
}

/// The program names its position while the first connection is being made, and the token names the room.
#[tokio::test]
async fn a_position_that_comes_while_a_connection_is_made_is_asked_for() {
    for is_connected in [false, true] {
        let (step, mut steps) = unbounded_channel();
        let (go_on, gone_on) = mpsc::channel();
        let (address, server) = serve(1, move |_, mut stream| {
            let mut token = [0; 18];
            stream.read_exact(&mut token).unwrap();
            step.send(()).unwrap();
            gone_on.recv().unwrap();
            stream.write_all(&[frame_2(8, 1, &WELCOME), told(0, 10, None)].concat()).unwrap();
            recover(&mut stream, at(6));
            end(stream);
        });
        let mut listener = Listener::new(options(&address));
        if is_connected {
            select! {
                biased;
                Some(()) = steps.recv() => {}
                event = listener.next() => panic!("{event:?}"),
            }
        } else {
            while !format!("{listener:?}").contains("state: Connecting") {
                let mut next = pin!(listener.next());
                let poll = poll_fn(|context| Poll::Ready(next.as_mut().poll(context)));
                assert!(poll.await.is_pending());
                yield_now().await;
            }
        }
        listener.add_room_since("r", at(6)).await.unwrap();
        go_on.send(()).unwrap();
        assert!(matches!(listener.next().await, Some(Event::Connected)));
        assert_eq!(room(listener.next().await), RECOVERED);
        assert!(matches!(listener.next().await, Some(Event::Disconnected { .. })));
        drop(listener);
        server.join().unwrap();
    }
}

/// The reply is for a future that was dropped. The server has let the client enter nevertheless.
#[tokio::test]
async fn the_position_in_a_room_outlasts_the_future_that_asked_for_it() {
    let (step, mut steps) = unbounded_channel();
    let (go_on, gone_on) = mpsc::channel();
    let (address, server) = serve(2, move |connection, mut stream| {
        welcome(&mut stream, None);
        if connection == 1 {
            return recover(&mut stream, at(6));
        }
        let (operation, sequence, _) = read_frame(&mut stream);
        assert_eq!(operation, JOIN);
        step.send(()).unwrap();
        gone_on.recv().unwrap();
        stream.write_all(&told(sequence, 6, None)).unwrap();
    });
    let mut listener = Listener::new(options(&address));
    assert!(matches!(listener.next().await, Some(Event::Connected)));
    select! {
        biased;
        Some(()) = steps.recv() => {}
        added = listener.add_room("r") => panic!("{added:?}"),
    }
    go_on.send(()).unwrap();
    assert!(matches!(listener.next().await, Some(Event::Disconnected { .. })));
    assert!(matches!(listener.next().await, Some(Event::Connected)));
    assert_eq!(room(listener.next().await), RECOVERED);
    server.join().unwrap();
}

/// The rooms of the tokens change every day. The `Debug` output of a listener shows its state.
#[test]
fn positions_are_kept_of_a_bounded_number_of_rooms_of_the_server() {
    const ROOMS: u32 = 600;
    let name = |room: u32| format!("room {room} of all");
    let (address, server) = serve(2, move |connection, mut stream| {
        welcome(&mut stream, None);
        let rooms = ROOMS * connection as u32..ROOMS * (connection as u32 + 1);
        let told = rooms.flat_map(|room| {
            let room_name = name(room);
            let reply = JoinReply::joined(RoomHandle(room), room_name.as_bytes());
            let reply = JoinReply { position: Some(at(1)), is_unasked: true, ..reply };
            frame_2(19, 0, &reply.encode())
        });
        stream.write_all(&told.collect::<Vec<_>>()).unwrap();
    });
    let mut listener = options(&address).reconnecting();
    let mut ends = 0;
    while ends < 2 {
        ends += usize::from(matches!(listener.next(), Some(Event::Disconnected { .. })));
    }
    let kept = format!("{listener:?}");
    assert_eq!(kept.matches("of all\"").count(), 1_024);
    for (room, is_kept) in [(0, false), (175, false), (176, true), (1_199, true)] {
        assert_eq!(kept.contains(&format!("{:?}", name(room))), is_kept, "{room}");
    }
    server.join().unwrap();
}
