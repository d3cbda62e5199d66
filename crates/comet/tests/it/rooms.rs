//! A client of protocol 2 in several rooms, on the real server.

use comet_client::{Client, Error, RoomRefusal, Transport, op};

use crate::peer::frame;
use crate::support::{BOTH, Server, To, queued};

/// The next messages: their rooms and bodies.
fn next(client: &mut Client, count: usize) -> Vec<(Option<String>, String)> {
    let messages = (0..count).map(|_| client.receive().unwrap().expect("a message"));
    let text = |body: Vec<u8>| String::from_utf8(body).unwrap();
    messages.map(|message| (message.room.map(Into::into), text(message.body))).collect()
}

fn to(room: &str, body: &str) -> (Option<String>, String) {
    (Some(room.to_owned()), body.to_owned())
}

#[test]
fn a_client_gets_the_pushes_to_all_its_rooms() {
    let server = Server::start(&["clients.rooms=4"]);
    for transport in BOTH {
        let mut client = server.client(transport, "42");
        let mut other = server.client(Transport::Tcp, "43");
        for room in ["red", "green", "blue", "red"] {
            client.add_room(room).unwrap();
        }
        assert_eq!(client.rooms().count(), 4);
        let refused = client.add_room("black");
        assert!(matches!(refused, Err(Error::Room(RoomRefusal::TooManyRooms))), "{refused:?}");
        other.join("green").unwrap();

        for (room, count) in [("1", 1), ("red", 1), ("green", 2), ("blue", 1), ("black", 0)] {
            assert_eq!(server.push(To::Room(room), 5, room.as_bytes()), queued(count), "{room}");
        }
        let run = [frame(5, 0, b"first"), frame(6, 0, b"second")].concat();
        assert_eq!(server.push(To::Room("blue"), op::RAW, &run), queued(1));
        assert_eq!(server.push(To::User(42), 5, b"you"), queued(1));
        let expected = ["1", "red", "green", "blue"].map(|room| to(room, room));
        assert_eq!(next(&mut client, 4), expected);
        assert_eq!(next(&mut client, 2), [to("blue", "first"), to("blue", "second")]);
        assert_eq!(next(&mut client, 1), [(None, "you".to_owned())]);

        // Its first room changes, and the others stay.
        client.join("white").unwrap();
        client.remove_room("red").unwrap();
        let rooms: Vec<&str> = client.rooms().collect();
        assert!(
            rooms.len() == 3 && ["white", "green", "blue"].iter().all(|room| rooms.contains(room))
        );
        for (room, count) in [("1", 0), ("red", 0), ("white", 1), ("green", 2)] {
            assert_eq!(server.push(To::Room(room), 5, b"again"), queued(count), "{room}");
        }
        assert_eq!(next(&mut client, 2), [to("white", "again"), to("green", "again")]);
        server.until("comet_further_rooms", 2);
        drop((client, other));
        server.until("comet_connections", 0);
        server.until("comet_rooms", 0);
    }
    let refused = server.metrics().by_label("comet_rooms_refused_total");
    assert_eq!(refused, [("too_many_rooms".to_owned(), 2)]);
}
