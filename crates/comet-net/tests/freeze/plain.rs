//! Clients without TLS.

use std::io::Write;
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;

use comet_core::{Limits, SourceLimits};
use comet_proto::op;
use rustix::net::{AddressFamily, SocketType, bind, connect as connect_to, socket};

use crate::rig::{
    LIMIT, PROXY, PUSHES, Rig, beat, connect, expect_pushes, frame, limits, listen, read, stalled,
};

/// A connection that the proxy has opened for itself.
fn connect_proxy(address: SocketAddr) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(PROXY, 0)).unwrap();
    connect_to(&socket, &address).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let header = b"PROXY UNKNOWN\r\n";
    stream.write_all(&[header, &*frame(op::AUTH, b"")].concat()).unwrap();
    assert_eq!(read(&stream).unwrap().0, op::AUTH_REPLY);
    stream
}

#[test]
fn a_core_that_thaws_goes_on_where_it_was() {
    let (address, listener) = listen();
    let rig = Rig::start(listener, None, None);
    let clients = stalled(&rig, |_| connect(address));
    let mut live = clients[0].try_clone().unwrap();
    // Half a heartbeat is in the shard, the rest comes while it is frozen.
    let heartbeat = frame(op::HEARTBEAT, b"");
    live.write_all(&heartbeat[..7]).unwrap();
    rig.freeze();
    live.write_all(&heartbeat[7..]).unwrap();
    let late = TcpStream::connect(address).unwrap();
    // Pushes that arrive meanwhile wait.
    rig.push_all(PUSHES);
    rig.freeze();
    rig.core.thaw().wait(LIMIT).unwrap().unwrap();
    for client in &clients {
        expect_pushes(client, 0..PUSHES + 1);
    }
    assert_eq!(read(&live).unwrap().0, op::HEARTBEAT_REPLY);
    let mut late = late;
    late.write_all(&frame(op::AUTH, b"")).unwrap();
    assert_eq!(read(&late).unwrap().0, op::AUTH_REPLY);
    rig.core.stop().unwrap();
}

#[test]
fn a_core_that_offered_its_sockets_in_vain_goes_on() {
    let (address, listener) = listen();
    let rig = Rig::start(listener, None, None);
    let mut clients = stalled(&rig, |_| connect(address));
    rig.freeze();
    // The other process gets the sockets, and ends.
    drop(rig.offer());
    let refused = rig.core.freeze().wait(LIMIT).unwrap();
    assert_eq!(refused, Err("its sockets are offered".to_owned()));
    rig.core.thaw().wait(LIMIT).unwrap().unwrap();
    for client in &mut clients {
        expect_pushes(&mut *client, 0..PUSHES);
        beat(client);
    }
    rig.core.stop().unwrap();
}

#[test]
fn another_core_goes_on_with_the_connections() {
    let (address, listener) = listen();
    let next_listener = listener.try_clone().unwrap();
    let rig = Rig::start(listener, None, None);
    let mut clients = stalled(&rig, |_| connect(address));
    let heartbeat = frame(op::HEARTBEAT, b"");
    clients[1].write_all(&heartbeat[..7]).unwrap();
    rig.freeze();
    let mut late = TcpStream::connect(address).unwrap();
    late.write_all(&frame(op::AUTH, b"")).unwrap();
    let (state, sockets) = rig.offer();
    assert_eq!(sockets.len(), clients.len());
    assert!(state.connections.iter().all(|conn| !conn.pending.is_empty()), "all are stalled");
    let next = Rig::adopt(next_listener, None, (state, sockets)).unwrap();
    rig.give_way(&next);
    next.push_all(PUSHES);
    for client in &clients {
        expect_pushes(client, 0..PUSHES + 1);
    }
    clients[1].write_all(&heartbeat[7..]).unwrap();
    assert_eq!(read(&clients[1]).unwrap().0, op::HEARTBEAT_REPLY);
    late.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(read(&late).unwrap().0, op::AUTH_REPLY);
    for client in &mut clients {
        beat(client);
    }
    next.core.stop().unwrap();
}

#[test]
fn a_core_that_adopts_does_nothing_before_it_thaws() {
    let (address, listener) = listen();
    let next_listener = listener.try_clone().unwrap();
    let rig = Rig::start(listener, None, None);
    let mut client = connect(address);
    rig.freeze();
    let next = Rig::adopt(next_listener, None, rig.offer()).unwrap();
    client.write_all(&frame(op::HEARTBEAT, b"")).unwrap();
    // The new core ends without having read the heartbeat. The former core answers it.
    next.core.release().wait(LIMIT).unwrap().unwrap();
    next.core.stop().unwrap();
    rig.core.thaw().wait(LIMIT).unwrap().unwrap();
    assert_eq!(read(&client).unwrap().0, op::HEARTBEAT_REPLY);
    rig.core.stop().unwrap();
}

/// The connections came before the limit was set. A proxy's own connections count for no client address.
#[test]
fn another_core_counts_the_connections_and_closes_none() {
    let (address, listener) = listen();
    let next_listener = listener.try_clone().unwrap();
    let rig = Rig::start(listener, None, None);
    let mut clients: Vec<_> = (0..3).map(|_| connect(address)).collect();
    clients.extend((0..2).map(|_| connect_proxy(address)));
    rig.freeze();
    let sources = SourceLimits { per_address: 1, ..SourceLimits::default() };
    let limits = Arc::new(Limits { sources, ..Limits::clone(&limits()) });
    let next = Rig::adopt_with(next_listener, None, &limits, rig.offer()).unwrap();
    rig.give_way(&next);
    for client in &mut clients {
        beat(client);
    }
    let counters = next.counters();
    // An address and its subnet.
    assert_eq!((counters.sources, counters.live), (2, 5));
    next.core.stop().unwrap();
}
