//! A client of protocol 2 in several rooms, on the real server.

use comet_client::tokio::Listener;
use comet_client::{Client, Error, Event, Options, RoomRefusal, Transport, op};

use crate::peer::frame;
use crate::support::{BOTH, Server, To, queued};

/// The rooms and bodies of the next messages.
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

        // The first room changes, and the others stay.
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

#[test]
fn a_listener_can_be_in_several_rooms_until_it_is_stopped() {
    let server = Server::start(&["clients.rooms=2"]);
    let address = server.address(Transport::Tcp).to_string();
    let mut listener = Listener::new(Options::tcp(address, "42"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut rooms = Vec::new();
        for room in ["red", "green", "blue"] {
            listener.add_room(room).await.unwrap();
        }
        assert!(matches!(listener.next().await, Some(Event::Connected)));
        for _ in 0..3 {
            let event = listener.next().await;
            let Some(Event::Room { room, outcome }) = event else { panic!("{event:?}") };
            rooms.push((room, outcome.is_ok()));
        }
        let expected = [("blue", true), ("green", false), ("red", false)];
        assert_eq!(rooms, expected.map(|(room, is_in)| (room.to_owned(), is_in)));
        listener.remove_room("blue").await.unwrap();
        listener.add_room("red").await.unwrap();
        assert!(matches!(listener.next().await, Some(Event::Room { outcome: Ok(_), .. })));
    });
    assert_eq!(server.push(To::Room("red"), 5, b"in red"), queued(1));
    runtime.block_on(async {
        let event = listener.next().await;
        let Some(Event::Message(message)) = event else { panic!("{event:?}") };
        assert_eq!((message.room.as_deref(), &message.body[..]), (Some("red"), &b"in red"[..]));
        listener.stopper().stop();
        assert!(listener.next().await.is_none());
    });
    drop(listener);
    server.until("comet_connections", 0);
}
