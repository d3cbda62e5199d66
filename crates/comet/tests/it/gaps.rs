//! Rooms that keep a history, between the clients and the real server: what a slow client loses is repaired, and one that comes back
//! goes on where it was.

use comet_client::tokio::Listener as AsyncListener;
use comet_client::{Event, GapState, Joined, Message, Options, Transport};

use crate::support::{BOTH, Server, To, http, until};

const ROOM: &str = "h://1";
const TOKEN: &str = r#"{"mid":42,"key":"k","room_id":"h://1","accepts":[5]}"#;
const DROPPED: &str = "comet_dropped_total{reason=\"outbox_full\"}";

/// A room that keeps all of a test, and outboxes that are full soon.
fn server() -> Server {
    Server::start(&[
        "history.rules=[{rooms=\"h://\", pushes=1000, bytes=\"1MiB\"}]",
        "tcp.sndbuf=65536",
        "protocol.svr_proto=8",
        "protocol.write_timeout=\"1h\"",
    ])
}

fn push(server: &Server, pushed: &mut u64) {
    *pushed += 1;
    let mut body = vec![b'.'; 16 << 10];
    body[..8].copy_from_slice(&pushed.to_be_bytes());
    server.push(To::Room(ROOM), 5, &body);
}

/// The offset of a message, which its body has as well.
fn offset(message: &Message) -> u64 {
    let offset = message.position.expect("the room keeps a history").offset;
    assert_eq!(message.body[..8], offset.to_be_bytes());
    offset
}

/// What a listener is told until it has `last`: it gets each message once and in order. Returns the gaps.
#[derive(Default)]
struct Told {
    latest: u64,
    states: Vec<GapState>,
}

impl Told {
    fn take(&mut self, event: Option<Event>) {
        match event.expect("it goes on") {
            Event::Message(message) => {
                assert_eq!(offset(&message), self.latest + 1, "in order, and once");
                self.latest += 1;
            }
            Event::Gap(gap) => {
                assert_eq!(&*gap.room, ROOM);
                assert!(gap.first > self.latest || gap.state != GapState::Asked);
                self.states.push(gap.state);
            }
            event => panic!("{event:?}"),
        }
    }

    fn assert_repaired(&self) {
        assert!(self.states.contains(&GapState::Asked), "{:?}", self.states);
        for pair in self.states.chunks(2) {
            assert!(matches!(pair, [GapState::Asked, GapState::Repaired { .. }]), "{pair:?}");
        }
    }
}

fn entered(event: Option<Event>) -> Joined {
    let Some(Event::Room { room, outcome }) = event else { panic!("{event:?}") };
    assert_eq!(room, ROOM);
    outcome.unwrap()
}

#[test]
fn what_a_slow_listener_loses_is_repaired() {
    for transport in BOTH {
        let server = server();
        let address = server.address(transport).to_string();
        let options = match transport {
            Transport::Tcp => Options::tcp(address, TOKEN),
            Transport::WebSocket => Options::websocket(address, "/sub", TOKEN),
        };
        let mut listener = options.reconnecting();
        assert!(matches!(listener.next(), Some(Event::Connected)));
        let joined = entered(listener.next());
        assert_eq!((joined.position.unwrap().offset, joined.recovered), (0, None));
        let mut pushed = 0;
        until("some to be dropped", || {
            push(&server, &mut pushed);
            server.metric(DROPPED) >= 5
        });
        let mut told = Told::default();
        while told.latest < pushed {
            told.take(listener.next());
        }
        told.assert_repaired();
        let metrics = server.metrics();
        assert_eq!(metrics.value("comet_repaired_total"), metrics.value(DROPPED));
        push(&server, &mut pushed);
        told.take(listener.next());
        assert_eq!(told.latest, pushed);
    }
}

/// The blocking client repairs as well, and tells of it when it is asked.
#[test]
fn a_client_tells_of_gaps_behind_its_messages() {
    let server = server();
    let mut client = server.client(Transport::Tcp, TOKEN);
    let mut pushed = 0;
    until("some to be dropped", || {
        push(&server, &mut pushed);
        server.metric(DROPPED) >= 5
    });
    let mut states = Vec::new();
    for number in 1..=pushed {
        let message = client.receive().unwrap().unwrap();
        assert_eq!(offset(&message), number);
        while let Some(gap) = client.take_gap() {
            assert!(gap.first <= number);
            states.push(gap.state);
        }
    }
    assert!(matches!(states[..2], [GapState::Asked, GapState::Repaired { .. }]), "{states:?}");
    assert_eq!(client.take_gap(), None);
}

#[test]
fn a_listener_comes_back_into_the_room_of_its_token() {
    let server = server();
    let address = server.address(Transport::Tcp).to_string();
    let mut listener = AsyncListener::new(Options::tcp(address, TOKEN));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut next = || runtime.block_on(listener.next());
    assert!(matches!(next(), Some(Event::Connected)));
    entered(next());
    let mut pushed = 0;
    push(&server, &mut pushed);
    let mut told = Told::default();
    told.take(next());
    let (status, _) =
        http(server.http(), "POST", "/comet/node/move_off?count=1&per_second=1000", b"");
    assert_eq!(status, 200);
    let event = next();
    let Some(Event::Disconnected { retry_in: Some(_), .. }) = event else { panic!("{event:?}") };
    (0..3).for_each(|_| push(&server, &mut pushed));
    assert!(matches!(next(), Some(Event::Connected)));
    let joined = entered(next());
    assert_eq!((joined.position.unwrap().offset, joined.recovered), (4, Some(3)));
    (0..3).for_each(|_| told.take(next()));
    push(&server, &mut pushed);
    told.take(next());
    assert_eq!((told.latest, told.states.len()), (pushed, 0));
}
