//! Makes the connections of a run, so many handshakes at a time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

use comet_client::{Session, Transport};
use indicatif::ProgressBar;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::Result;
use crate::args::ServerArgs;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns};
use crate::receiver::Receiver;
use crate::target::Target;
use crate::tls::Tls;

/// Connections from one loopback address. connect(2) looks for a free port in the even half of the usual
/// range first, 14,116 ports, and takes a millisecond and more when that is nearly full.
const CONNECTIONS_PER_SOURCE: usize = 8_000;
/// Connections begun between two looks at those under way.
const BURST: usize = 16;
/// How long nothing may happen while handshakes are under way.
const STALL_NS: u64 = 10 * SECOND_NS;
/// Descriptors of a process that are not connections.
const DESCRIPTORS_BESIDE: u64 = 64;

/// What each connection is told to be.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    pub connections: usize,
    /// 0 for none.
    pub rooms: usize,
    pub streams: Streams,
    pub websocket_share: f64,
    websocket_path: String,
    token: String,
    key: String,
    room: String,
}

/// What a connection receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Streams {
    /// One stream for each room.
    Rooms,
    /// One stream for each connection.
    Keys,
}

impl Crowd {
    /// Connections to a server, by its templates.
    pub(crate) fn of_server(
        server: &ServerArgs,
        connections: usize,
        rooms: usize,
        streams: Streams,
    ) -> Self {
        Self {
            connections,
            rooms,
            streams,
            websocket_share: server.ws_share,
            websocket_path: server.ws_path.clone(),
            token: server.token.clone(),
            key: server.key.clone(),
            room: server.room.clone(),
        }
    }

    /// Connections to a yardstick: all TCP, and all of one stream.
    pub(crate) fn of_yardstick(connections: usize) -> Self {
        Self {
            connections,
            rooms: 1,
            streams: Streams::Rooms,
            websocket_share: 0.0,
            websocket_path: String::new(),
            token: "%d".to_owned(),
            key: String::new(),
            room: String::new(),
        }
    }

    /// The key of a connection.
    pub(crate) fn key(&self, connection: usize) -> String {
        numbered(&self.key, connection)
    }

    /// The id of a room.
    pub(crate) fn room(&self, room: usize) -> String {
        numbered(&self.room, room)
    }

    /// How many connections each stream has.
    pub(crate) fn members(&self) -> Vec<u64> {
        let streams = match self.streams {
            Streams::Rooms => self.rooms,
            Streams::Keys => self.connections,
        };
        let mut members = vec![0; streams];
        for connection in 0..self.connections {
            members[self.stream(connection)] += 1;
        }
        members
    }

    fn stream(&self, connection: usize) -> usize {
        match self.streams {
            Streams::Rooms => self.room_of(connection).unwrap_or(0),
            Streams::Keys => connection,
        }
    }

    /// Rooms are runs of connections, and so each has its share of every transport.
    fn room_of(&self, connection: usize) -> Option<usize> {
        (self.rooms > 0).then(|| connection * self.rooms / self.connections)
    }

    fn token(&self, connection: usize) -> String {
        let room = self.room_of(connection).map(|room| self.room(room)).unwrap_or_default();
        numbered(&self.token.replace("%k", &self.key(connection)).replace("%r", &room), connection)
    }

    fn transport(&self, connection: usize) -> Transport {
        let websockets = |connections: usize| (connections as f64 * self.websocket_share).floor();
        let is_websocket = websockets(connection + 1) > websockets(connection);
        if is_websocket { Transport::WebSocket } else { Transport::Tcp }
    }
}

/// Makes connections `which` to `target`, at most `in_flight` at a time; returns when all are live.
///
/// # Errors
///
/// A connection was refused, closed, or nothing happened for ten seconds.
pub(crate) fn dial(
    receiver: &mut Receiver,
    target: &Target,
    crowd: &Crowd,
    which: Range<usize>,
    in_flight: usize,
    bar: &ProgressBar,
) -> Result<()> {
    let mut waiting = which.clone();
    let mut live = receiver.live();
    let mut moved_ns = now_ns();
    while receiver.live() < which.end {
        let room = in_flight.saturating_sub(receiver.opening());
        for connection in waiting.by_ref().take(room.min(BURST)) {
            open(receiver, target, crowd, connection)?;
        }
        let has_room = !waiting.is_empty() && receiver.opening() < in_flight;
        receiver.turn(if has_room { 0 } else { 100 * MILLISECOND_NS })?;
        if let Some((reason, count)) = receiver.close_reasons().first_key_value() {
            return Err(format!("{count} connections failed: {reason}").into());
        }
        if receiver.live() > live {
            (live, moved_ns) = (receiver.live(), now_ns());
            bar.set_position(live as u64);
        } else if now_ns() > moved_ns + STALL_NS {
            let opening = receiver.opening();
            return Err(format!("{opening} handshakes are not answered; {live} were").into());
        }
    }
    Ok(())
}

/// Raises the limit of open files as far as the host lets it, and checks it against `connections`.
///
/// # Errors
///
/// It stays below what they need.
pub(crate) fn ensure_descriptors(connections: usize) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    check_descriptors(connections, limit.maximum)
}

fn check_descriptors(connections: usize, limit: Option<u64>) -> Result<()> {
    let needed = connections as u64 + DESCRIPTORS_BESIDE;
    match limit.filter(|&limit| limit < needed) {
        None => Ok(()),
        Some(limit) => Err(format!(
            "{connections} connections need {needed} open files, and the limit is {limit}: \
             raise it with `ulimit -Hn {needed}`"
        )
        .into()),
    }
}

fn open(receiver: &mut Receiver, target: &Target, crowd: &Crowd, connection: usize) -> Result<()> {
    let transport = crowd.transport(connection);
    let address = match transport {
        Transport::Tcp => target.tcp,
        Transport::WebSocket => target.websocket.ok_or("no WebSocket address: name --ws-addr")?,
    };
    let token = crowd.token(connection);
    let host = address.to_string();
    let session = Session::new(transport, &host, &crowd.websocket_path, token.as_bytes());
    let stream = u32::try_from(crowd.stream(connection))?;
    let tls = target.tls.as_ref().map(|clients| Tls::new(clients, address.ip())).transpose()?;
    let since_ns = now_ns();
    let socket = begin_to_connect(address, connection)
        .map_err(|error| format!("connection {connection} to {address}: {error}"))?;
    receiver.add(socket, tls, session, stream, since_ns)?;
    Ok(())
}

fn begin_to_connect(address: SocketAddr, connection: usize) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // Closed by a reset: ports that wait for the end of TIME_WAIT would slow down the turns to come.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    if let Some(source) = source_of(address.ip(), connection) {
        bind(&socket, &SocketAddr::from((source, 0)))?;
    }
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// On the loopback, the address beyond the first that so many connections need.
fn source_of(destination: IpAddr, connection: usize) -> Option<Ipv4Addr> {
    let block = u32::try_from(connection / CONNECTIONS_PER_SOURCE).ok()?;
    let has_sources = destination.is_loopback() && destination.is_ipv4() && block > 0;
    has_sources.then(|| Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + block))
}

fn numbered(template: &str, index: usize) -> String {
    template.replace("%d", &(index + 1).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(connections: usize, rooms: usize, streams: Streams) -> Crowd {
        Crowd {
            rooms,
            streams,
            token: r#"{"mid":%d,"key":"%k","room_id":"%r"}"#.to_owned(),
            key: "k%d".to_owned(),
            room: "live://%d".to_owned(),
            ..Crowd::of_yardstick(connections)
        }
    }

    #[test]
    fn templates_are_filled_in() {
        let crowd = crowd(4, 2, Streams::Rooms);
        assert_eq!(crowd.token(2), r#"{"mid":3,"key":"k3","room_id":"live://2"}"#);
        let homeless = Crowd { rooms: 0, ..crowd };
        assert_eq!(homeless.token(0), r#"{"mid":1,"key":"k1","room_id":""}"#);
    }

    #[test]
    fn every_connection_is_in_one_stream() {
        assert_eq!(crowd(10, 3, Streams::Rooms).members(), [4, 3, 3]);
        assert_eq!(crowd(3, 2, Streams::Keys).members(), [1, 1, 1]);
    }

    #[test]
    fn transports_divide_evenly_in_every_room() {
        for (share, expected) in [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)] {
            let crowd = Crowd { websocket_share: share, ..crowd(100, 5, Streams::Rooms) };
            for room in 0..5 {
                let websockets = (room * 20..(room + 1) * 20)
                    .filter(|&connection| crowd.transport(connection) == Transport::WebSocket);
                assert_eq!(websockets.count(), expected, "share {share}, room {room}");
            }
        }
    }

    #[test]
    fn sources_change_before_ports_run_out() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source_of(loopback, 7_999), None);
        assert_eq!(source_of(loopback, 8_000), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(source_of(loopback, 16_000), Some(Ipv4Addr::new(127, 0, 0, 3)));
        assert_eq!(source_of(IpAddr::from([10, 0, 0, 1]), 16_000), None);
    }

    #[test]
    fn too_few_descriptors_are_said_with_what_to_do() {
        assert!(check_descriptors(1000, None).is_ok());
        assert!(check_descriptors(1000, Some(1064)).is_ok());
        let error = check_descriptors(1000, Some(1063)).unwrap_err().to_string();
        assert!(error.contains("ulimit -Hn 1064"), "{error}");
    }
}
