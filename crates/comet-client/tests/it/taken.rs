//! A listener whose server takes it out of rooms, and the state that it keeps of rooms that it has left.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use comet_client::{Backoff, Event, Listener, Options};
use comet_proto::{Join, JoinReply, Position, RoomHandle};

use crate::asynchronous::{WELCOME, push};
use crate::wire::{frame, frame_2, read_frame, serve};

const CHANGE: i32 = 12;
const JOIN: i32 = 18;
const LEAVE: i32 = 21;

fn listener(address: String) -> Listener {
    let delay = Duration::from_millis(1);
    Options::tcp(address, "42").backoff(Backoff::new(delay, delay)).reconnecting()
}

fn welcome(stream: &mut TcpStream) {
    assert_eq!(read_frame(stream).0, 7);
    stream.write_all(&frame_2(8, 1, &WELCOME)).unwrap();
}

/// Operation 19 with the position 9-3.
fn told(sequence: i32, handle: u32, room: &[u8], is_primary: bool) -> Vec<u8> {
    let position = Some(Position { epoch: 9, offset: 3 });
    let is_unasked = sequence == 0;
    let reply = JoinReply::joined(RoomHandle(handle), room);
    let reply = JoinReply { position, is_unasked, is_primary, ..reply };
    frame_2(19, sequence, &reply.encode())
}

/// Operation 22 by order of the server.
fn taken(handle: u8) -> Vec<u8> {
    frame_2(22, 0, &[0, 4, 0, 0, 0, 0, 0, handle])
}

/// Reads the request to enter `room` by this operation, and grants it. `before` comes right before the reply.
fn grant(stream: &mut TcpStream, operation: i32, room: &str, handle: u8, before: &[u8]) {
    let (asked, sequence, body) = read_frame(stream);
    assert_eq!(asked, operation);
    let name = if operation == JOIN { Join::decode(&body).unwrap().room } else { &body[..] };
    assert_eq!(name, room.as_bytes());
    let handle = handle.into();
    let reply = match operation {
        JOIN => told(sequence, handle, name, false),
        _ => [frame_2(13, sequence, name), told(0, handle, name, true)].concat(),
    };
    stream.write_all(&[before, &reply].concat()).unwrap();
}

/// The next events until the connection is lost.
fn events(listener: &mut Listener) -> Vec<String> {
    let brief = |event| match event {
        Event::Room { room, outcome: Ok(_) } => format!("in {room}"),
        Event::Left { room } => format!("out of {room}"),
        other => format!("{other:?}"),
    };
    let events = listener.by_ref().map_while(|event| match event {
        Event::Disconnected { .. } => None,
        Event::Connected | Event::Message(_) => Some(String::new()),
        event => Some(brief(event)),
    });
    events.filter(|event| !event.is_empty()).collect()
}

#[test]
fn a_room_the_server_took_away_gives_an_event_and_is_not_entered_again() {
    let (address, server) = serve(3, |connection, mut stream| {
        welcome(&mut stream);
        if connection != 1 {
            grant(&mut stream, CHANGE, "first", 1, b"");
        }
        grant(&mut stream, JOIN, "kept", 2, b"");
        match connection {
            0 => {
                grant(&mut stream, JOIN, "taken", 3, b"");
                stream.write_all(&[taken(3), taken(1)].concat()).unwrap();
            }
            1 => {
                // The program asks again.
                grant(&mut stream, JOIN, "taken", 3, b"");
                grant(&mut stream, CHANGE, "first", 1, b"");
            }
            _ => grant(&mut stream, JOIN, "taken", 3, b""),
        }
    });
    let mut listener = listener(address);
    listener.join("first").unwrap();
    listener.add_room("kept").unwrap();
    listener.add_room("taken").unwrap();
    let first = events(&mut listener);
    assert_eq!(first, ["in kept", "in taken", "in first", "out of taken", "out of first"]);
    assert!(matches!(listener.next(), Some(Event::Connected)));
    listener.add_room("taken").unwrap();
    listener.join("first").unwrap();
    assert_eq!(events(&mut listener), ["in kept", "in taken", "in first"]);
    assert_eq!(events(&mut listener), ["in kept", "in taken", "in first"]);
    server.join().unwrap();
}

/// The order waits to be read when the program asks for the room, or crosses the request.
#[test]
fn a_later_join_counts_more_than_an_order_to_leave() {
    for request in [JOIN, CHANGE] {
        for is_crossing in [false, true] {
            let (address, server) = serve(2, move |connection, mut stream| {
                welcome(&mut stream);
                if connection == 1 {
                    return grant(&mut stream, request, "r", 2, b"");
                }
                stream.write_all(&told(0, 1, b"r", false)).unwrap();
                let (operation, sequence, body) = read_frame(&mut stream);
                assert_eq!(operation, 14);
                let order = taken(1);
                let (before, crossing) =
                    if is_crossing { (&[][..], &order[..]) } else { (&order[..], &[][..]) };
                let reply = frame_2(15, sequence, &body);
                stream.write_all(&[before, &reply].concat()).unwrap();
                grant(&mut stream, request, "r", 2, crossing);
                // A request that is not repeated by the next connection.
                read_frame(&mut stream);
            });
            let mut listener = listener(address);
            assert!(matches!(listener.next(), Some(Event::Connected)));
            let client = listener.client().unwrap();
            client.subscribe(&[1]).unwrap();
            match request {
                JOIN => listener.add_room("r").unwrap(),
                _ => listener.join("r").unwrap(),
            }
            listener.client().unwrap().send(4, b"").unwrap();
            let told = events(&mut listener);
            assert!(!told.iter().any(|event| event.starts_with("out")), "{told:?}");
            assert!(matches!(listener.next(), Some(Event::Connected)));
            server.join().unwrap();
        }
    }
}

/// Pushes that wait behind the reply to a leave were sent before it. The `Debug` output of a listener shows its state.
#[test]
fn nothing_is_kept_of_rooms_that_were_left() {
    let (address, server) = serve(1, move |_, mut stream| {
        welcome(&mut stream);
        stream.write_all(&told(0, 1, b"room of the server", false)).unwrap();
        let mut handle = 2;
        loop {
            let (operation, sequence, body) = read_frame(&mut stream);
            let answer = match operation {
                JOIN if body[4..].ends_with(b"server") => told(sequence, 1, &body[4..], false),
                JOIN => told(sequence, handle, &body[4..], false),
                CHANGE => {
                    let reply = frame_2(13, sequence, &body);
                    [reply, told(0, handle, &body, true), push(handle as u8, 5, 4, b"")].concat()
                }
                LEAVE => {
                    let reply = [&[0; 4][..], &body].concat();
                    [push(body[3], 5, 4, b""), frame_2(22, sequence, &reply)].concat()
                }
                14 => [taken(handle as u8 - 1), frame(15, sequence, &body)].concat(),
                _ => return stream.write_all(&frame(5, 77, b"last")).unwrap(),
            };
            handle += 1;
            stream.write_all(&answer).unwrap();
        }
    });
    let mut listener = listener(address);
    assert!(matches!(listener.next(), Some(Event::Connected)));
    listener.add_room("room of the program").unwrap();
    for room in ["room of the program", "room of the server"] {
        listener.remove_room(room).unwrap();
    }
    for room in ["room 1", "room 2", "room 3"] {
        listener.join(room).unwrap();
        let is_told = |event| matches!(event, Event::Room { room: told, .. } if told == room);
        while !is_told(listener.next().unwrap()) {}
    }
    // The server takes the listener out of the last room.
    listener.subscribe(&[1]).unwrap();
    listener.client().unwrap().send(4, b"").unwrap();
    while !matches!(listener.next().unwrap(), Event::Message(last) if last.sequence == 77) {}
    let kept = format!("{listener:?}");
    assert!(!kept.contains("\"room"), "{kept}");
    server.join().unwrap();
}
