//! The asynchronous client, over streams in memory and against a server on a thread.

use std::io::{Read, Write};
use std::time::Duration;

use comet_client::tokio::{Client, Listener};
use comet_client::{Backoff, Error, Event, Joined, Message, Options, Permanent, Position, op};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::yield_now;
use tokio::{join, select};

use crate::wire::{authenticate, frame, frame_2, read_frame, serve};

/// The body of an auth reply of protocol 2.
pub(crate) const WELCOME: [u8; 12] = [2, 0, 0, 0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0];

/// The reply of the server about a room that keeps a history.
pub(crate) fn joined(
    handle: u8,
    room: &str,
    [epoch, offset]: [u8; 2],
    recovered: Option<u8>,
) -> Vec<u8> {
    let flags = if recovered.is_some() { 3 } else { 1 };
    let mut body = vec![0, flags, 0, 0, 0, 0, 0, handle];
    for number in [epoch, offset] {
        body.extend([0, 0, 0, 0, 0, 0, 0, number]);
    }
    body.extend([0, 0, 0, recovered.unwrap_or(0)]);
    body.extend(room.as_bytes());
    body
}

/// A push to a room that keeps a history.
pub(crate) fn push(handle: u8, operation: u8, offset: u8, body: &[u8]) -> Vec<u8> {
    let head = [0, 0, 0, handle, 0, 0, 0, operation, 0, 0, 0, 0, 0, 0, 0, offset];
    frame_2(20, 0, &[&head, body].concat())
}

async fn read(server: &mut DuplexStream) -> (i32, i32, Vec<u8>) {
    let mut header = [0; 16];
    server.read_exact(&mut header).await.unwrap();
    let length = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
    let mut bytes = header.to_vec();
    bytes.resize(length, 0);
    server.read_exact(&mut bytes[16..]).await.unwrap();
    read_frame(&mut &bytes[..])
}

async fn connected(buffer: usize) -> (Client, DuplexStream) {
    let (near, mut far) = tokio::io::duplex(buffer);
    let accept = async {
        assert_eq!(read(&mut far).await, (7, 1, b"42".to_vec()));
        far.write_all(&frame_2(8, 1, &WELCOME)).await.unwrap();
    };
    let options = Options::tcp("in memory", "42");
    let (client, ()) = join!(Client::over(near, &options), accept);
    (client.unwrap(), far)
}

fn message(offset: u64, body: &[u8]) -> Message {
    let position = Some(Position { epoch: 7, offset });
    Message { operation: 5, sequence: 0, body: body.to_vec(), room: Some("a".into()), position }
}

#[tokio::test]
async fn requests_and_messages_with_their_positions() {
    let (mut client, mut server) = connected(1 << 10).await;
    let serving = async {
        let (operation, sequence, body) = read(&mut server).await;
        assert_eq!(
            (operation, &body[..]),
            (18, &b"\x01\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x03a"[..])
        );
        let run = [frame(5, 0, b"four"), frame(5, 0, b"five")].concat();
        let reply = frame_2(19, sequence, &joined(1, "a", [7, 5], Some(2)));
        server.write_all(&[reply, push(1, 9, 5, &run)].concat()).await.unwrap();
        let (operation, sequence, body) = read(&mut server).await;
        assert_eq!((operation, &body[..]), (12, &b"b"[..]));
        server
            .write_all(&[push(1, 5, 6, b"six"), frame(13, sequence, b"")].concat())
            .await
            .unwrap();
        let (operation, _, body) = read(&mut server).await;
        assert_eq!((operation, body), (4, vec![1; 4096]), "more than the stream holds");
        server
    };
    let asking = async {
        let since = Position { epoch: 7, offset: 3 };
        let joined = client.add_room_since("a", since).await.unwrap();
        let position = Some(Position { epoch: 7, offset: 5 });
        assert_eq!(joined, Joined { position, recovered: Some(2) });
        client.join("b").await.unwrap();
        client.send(op::SEND, &[1; 4096]).await.unwrap();
        client
    };
    let (server, mut client) = join!(serving, asking);
    for (offset, body) in [(4, &b"four"[..]), (5, b"five"), (6, b"six")] {
        assert_eq!(client.receive().await.unwrap(), Some(message(offset, body)));
    }
    assert_eq!(client.receive_timeout(Duration::from_millis(1)).await.unwrap(), None);
    drop(server);
    assert_eq!(client.receive().await.unwrap(), None);
}

/// The stream takes four bytes at a time, and each future is dropped after one poll.
#[tokio::test]
async fn a_dropped_future_loses_nothing_and_sends_nothing_twice() {
    let (mut client, mut server) = connected(4).await;
    let sent = [frame(5, 0, b"one"), frame(5, 0, b"two")].concat();
    let mut received = Vec::new();
    let serving = async {
        let mut arrived = vec![0; 16 + 9];
        let (mut reading, mut writing) = tokio::io::split(&mut server);
        let (read, wrote) = join!(reading.read_exact(&mut arrived), writing.write_all(&sent));
        read.unwrap();
        wrote.unwrap();
        arrived
    };
    let asking = async {
        select! {
            biased;
            joined = client.join("live room") => panic!("{joined:?}"),
            () = yield_now() => {}
        }
        while received.len() < 2 {
            select! {
                biased;
                message = client.receive() => received.push(message.unwrap().unwrap().body),
                () = yield_now() => {}
            }
        }
        client
    };
    let (arrived, _client) = join!(serving, asking);
    assert_eq!(arrived, frame(12, 2, b"live room"));
    assert_eq!(received, [b"one", b"two"]);
}

#[tokio::test]
async fn a_silent_server_and_a_full_stream_are_errors() {
    let options = Options::tcp("in memory", "42").timeout(Duration::from_millis(20));
    let (near, _far) = tokio::io::duplex(64);
    let unanswered = Client::over(near, &options).await;
    assert!(matches!(unanswered, Err(Error::Unanswered(_))), "{unanswered:?}");
    let (near, _far) = tokio::io::duplex(8);
    let full = Client::over(near, &options).await;
    assert!(matches!(full, Err(Error::Io(_))), "{full:?}");
    let (near, mut far) = tokio::io::duplex(64);
    let options = options.timeout(Duration::from_secs(60)).heartbeat(Duration::from_millis(20));
    far.write_all(&frame(8, 1, b"")).await.unwrap();
    let mut client = Client::over(near, &options).await.unwrap();
    assert!(matches!(client.add_room("a").await, Err(Error::NeedsProtocol2)));
    assert!(matches!(client.receive().await, Err(Error::Silent)));
}

fn listener(address: &str) -> Listener {
    let delay = Duration::from_millis(1);
    Listener::new(Options::tcp(address, "42").backoff(Backoff::new(delay, delay)))
}

#[tokio::test]
async fn a_reconnect_recovers_missed_pushes_and_ends_when_refused() {
    let (address, server) = serve(3, |connection, mut stream| {
        let (_, sequence, _) = read_frame(&mut stream);
        if connection == 2 {
            return stream.write_all(&frame(6, 0, b"banned")).unwrap();
        }
        stream.write_all(&frame_2(8, sequence, &WELCOME)).unwrap();
        let (operation, sequence, asked) = read_frame(&mut stream);
        assert_eq!(operation, 18);
        let (reply, pushed) = if connection == 0 {
            assert_eq!(asked, b"\0\0\0\0a");
            (joined(1, "a", [7, 3], None), push(1, 5, 4, b"four"))
        } else {
            assert_eq!(asked, b"\x01\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x04a");
            (joined(2, "a", [7, 5], Some(1)), push(2, 5, 5, b"five"))
        };
        stream.write_all(&[frame_2(19, sequence, &reply), pushed].concat()).unwrap();
    });
    let mut listener = listener(&address);
    listener.add_room("a").await.unwrap();
    for (offset, recovered, body) in [(3, None, b"four"), (5, Some(1), b"five")] {
        assert!(matches!(listener.next().await, Some(Event::Connected)));
        let event = listener.next().await;
        let Some(Event::Room { room, outcome: Ok(joined) }) = event else { panic!("{event:?}") };
        let position = Some(Position { epoch: 7, offset });
        assert_eq!((&*room, joined), ("a", Joined { position, recovered }));
        let event = listener.next().await;
        let Some(Event::Message(said)) = event else { panic!("{event:?}") };
        assert_eq!(said, message(if recovered.is_some() { 5 } else { 4 }, body));
        let lost = listener.next().await;
        assert!(matches!(lost, Some(Event::Disconnected { retry_in: Some(_), .. })), "{lost:?}");
    }
    let event = listener.next().await;
    let Some(Event::Disconnected { reason, retry_in: None }) = event else { panic!("{event:?}") };
    assert_eq!(reason.permanent(), Some(Permanent::Refused));
    assert!(listener.next().await.is_none());
    server.join().unwrap();
}

#[tokio::test]
async fn a_listener_is_stopped_while_it_receives_and_while_it_waits() {
    let (address, server) = serve(1, |_, mut stream| {
        authenticate(&mut stream);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "until it is stopped");
    });
    let mut receiving = listener(&address);
    let stopper = receiving.stopper();
    assert!(matches!(receiving.next().await, Some(Event::Connected)));
    let (ended, ()) = join!(receiving.next(), async { stopper.stop() });
    assert!(ended.is_none() && receiving.next().await.is_none());
    drop(receiving);
    server.join().unwrap();

    // No process listens there: the kernel assigns this port to none.
    let hour = Duration::from_secs(3600);
    let nobody = Options::tcp("127.0.0.1:1", "42");
    let mut waiting = Listener::new(nobody.backoff(Backoff::new(hour, hour)));
    let stopper = waiting.stopper();
    assert!(matches!(waiting.next().await, Some(Event::Disconnected { .. })));
    let (ended, ()) = join!(waiting.next(), async { stopper.stop() });
    assert!(ended.is_none(), "an hour earlier");
}

/// A listener can then be spawned on a runtime with many threads.
#[test]
fn its_futures_can_move_between_threads() {
    fn check(_: impl Send) {}
    let options = Options::tcp("127.0.0.1:1", "42");
    let mut listener = Listener::new(options.clone());
    check(listener.add_room("a"));
    check(listener.next());
    check(Client::connect(&options));
}
