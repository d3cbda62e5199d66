//! The connections of a run: their keys and rooms, their transport, how they read.

use comet_client::Transport;
use serde::{Deserialize, Serialize};

use crate::args::{ServerArgs, SetupArgs};
use crate::grpc::Address;

/// The properties of each connection. Connections are numbered from 0; those from `connections` on are guests.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Crowd {
    pub connections: usize,
    /// 0 for none.
    pub rooms: usize,
    /// Rooms have sizes in proportion to 1, 1/2, 1/3 and so on, instead of equal ones.
    pub zipf: bool,
    /// The number of rooms that each connection may enter besides its own, which takes protocol 2; and the number of
    /// all such rooms.
    pub further: usize,
    pub further_of: usize,
    /// The connections speak protocol 2: they rejoin a room with their position, and ask for what they missed.
    pub keeps_positions: bool,
    pub streams: Streams,
    /// The number of callers that take turns at each stream; their messages may overtake each other.
    pub callers: u64,
    pub websocket_share: f64,
    /// Share of the connections inside TLS, for each transport, if the server has further addresses for it.
    pub tls_share: f64,
    /// The connections that use WebSocket have messages compressed.
    pub deflate: bool,
    /// Shares of the connections that read slowly, and not at all.
    pub slow_share: f64,
    pub stalled_share: f64,
    /// Kernel receive buffer of these, if not the default.
    pub slow_buffer: Option<usize>,
    /// The request target of the WebSocket endpoint.
    pub websocket_path: String,
    /// Templates: `%d` is a number, from 1, `%k` the key and `%r` the room's id.
    pub token: String,
    pub key: String,
    pub room: String,
}

/// The streams that connections receive.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Streams {
    /// One stream for each room.
    #[default]
    Rooms,
    /// One stream for each group of so many connections; a push to it names their keys.
    Keys(usize),
    /// One stream, of broadcasts.
    Everybody,
    /// One stream for each of the rooms that connections may visit; the streams have no members.
    FurtherRooms,
}

/// How a connection reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    AtOnce,
    Slowly,
    Never,
}

impl Crowd {
    /// The connections to a server that the arguments ask for, in `rooms` rooms.
    pub(crate) fn of(setup: &SetupArgs, rooms: u32) -> Self {
        Self::of_server(&setup.server, setup.dial.connections as usize, rooms as usize)
    }

    /// Connections to a server, with its templates, in `rooms` rooms.
    pub(crate) fn of_server(server: &ServerArgs, connections: usize, rooms: usize) -> Self {
        Self {
            rooms,
            websocket_share: server.ws_share,
            deflate: server.deflate,
            websocket_path: server.ws_path.clone(),
            token: server.token.clone(),
            key: server.key.clone(),
            room: server.room.clone(),
            ..Self::of_yardstick(connections)
        }
    }

    /// Connections to a yardstick: all TCP, and all with the same stream.
    pub(crate) fn of_yardstick(connections: usize) -> Self {
        let (rooms, callers, token) = (1, 1, "%d".to_owned());
        Self { connections, rooms, callers, token, ..Self::default() }
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
            Streams::Keys(each) => self.connections.div_ceil(each),
            Streams::Everybody => 1,
            Streams::FurtherRooms => return vec![0; self.further_of],
        };
        let mut members = vec![0; streams];
        for connection in 0..self.connections {
            members[self.stream(connection)] += 1;
        }
        members
    }

    /// The targets of a push to each stream.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        match self.streams {
            Streams::Rooms => (0..self.rooms).map(|at| Address::Room(self.room(at))).collect(),
            Streams::Keys(each) => {
                let keys: Vec<String> = (0..self.connections).map(|at| self.key(at)).collect();
                keys.chunks(each).map(|keys| Address::Keys(keys.to_vec())).collect()
            }
            Streams::Everybody => vec![Address::Everybody],
            Streams::FurtherRooms => {
                (0..self.further_of).map(|at| Address::Room(self.further_room(at))).collect()
            }
        }
    }

    /// The stream that a connection receives.
    pub(crate) fn stream(&self, connection: usize) -> usize {
        match self.streams {
            Streams::Rooms => self.room_of(connection).unwrap_or(0),
            Streams::Keys(each) => connection / each,
            Streams::Everybody | Streams::FurtherRooms => 0,
        }
    }

    /// The room of a connection. Rooms are ranges of connections, so each has its share of every transport; guests
    /// spread evenly.
    pub(crate) fn room_of(&self, connection: usize) -> Option<usize> {
        if self.rooms == 0 {
            None
        } else if connection >= self.connections {
            Some(connection % self.rooms)
        } else if self.zipf {
            Some(self.room_by_weight(connection))
        } else {
            Some(connection * self.rooms / self.connections)
        }
    }

    /// The room at the same relative position in the sum of the rooms' weights as the connection has in the crowd.
    fn room_by_weight(&self, connection: usize) -> usize {
        let weights = || (1..=self.rooms).map(|rank| 1.0 / rank as f64);
        let all: f64 = weights().sum();
        let place = (connection as f64 + 0.5) / self.connections as f64 * all;
        let mut sum = 0.0;
        let ends = weights().map(|weight| {
            sum += weight;
            sum
        });
        ends.take(self.rooms - 1).take_while(|&end| end < place).count()
    }

    /// The rooms that a connection may enter besides its own, evenly spread.
    pub(crate) fn further_rooms(&self, connection: usize) -> impl Iterator<Item = String> {
        let apart = self.further_of / self.further.max(1);
        let rooms = (0..self.further).map(move |at| (connection + at * apart) % self.further_of);
        rooms.map(|room| self.further_room(room))
    }

    /// The id of one of the rooms that connections may enter besides their own.
    pub(crate) fn further_room(&self, room: usize) -> String {
        self.room(self.rooms + room)
    }

    /// The token that a connection authenticates with.
    pub(crate) fn token(&self, connection: usize) -> String {
        let room = self.room_of(connection).map(|room| self.room(room)).unwrap_or_default();
        numbered(&self.token.replace("%k", &self.key(connection)).replace("%r", &room), connection)
    }

    /// The transport of a connection.
    pub(crate) fn transport(&self, connection: usize) -> Transport {
        if is_of_share(self.websocket_share, connection) {
            Transport::WebSocket
        } else {
            Transport::Tcp
        }
    }

    /// Whether a connection is one of those inside TLS.
    pub(crate) fn is_inside_tls(&self, connection: usize) -> bool {
        let before = count_of_share(self.websocket_share, connection);
        let index = match self.transport(connection) {
            Transport::WebSocket => before,
            Transport::Tcp => connection - before,
        };
        is_of_share(self.tls_share, index)
    }

    /// How a connection reads.
    pub(crate) fn reading(&self, connection: usize) -> Reading {
        if is_of_share(self.stalled_share, connection) {
            return Reading::Never;
        }
        let others = connection - count_of_share(self.stalled_share, connection);
        let share = self.slow_share / (1.0 - self.stalled_share).max(f64::EPSILON);
        if is_of_share(share, others) { Reading::Slowly } else { Reading::AtOnce }
    }
}

/// Whether number `index` belongs to an evenly spread `share`.
fn is_of_share(share: f64, index: usize) -> bool {
    count_of_share(share, index + 1) > count_of_share(share, index)
}

/// How many of the first `count` numbers belong to a `share`.
fn count_of_share(share: f64, count: usize) -> usize {
    (count as f64 * share.clamp(0.0, 1.0)).floor() as usize
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
        assert_eq!(crowd.token(4), r#"{"mid":5,"key":"k5","room_id":"live://1"}"#, "a guest");
        let homeless = Crowd { rooms: 0, ..crowd };
        assert_eq!(homeless.token(0), r#"{"mid":1,"key":"k1","room_id":""}"#);
    }

    #[test]
    fn further_rooms_are_as_large_as_each_other() {
        let crowd = Crowd { further: 4, further_of: 10, ..crowd(10, 2, Streams::Rooms) };
        assert!(crowd.further_rooms(3).eq([6, 8, 10, 12].map(|room| format!("live://{room}"))));
        let mut members = [0; 10];
        for room in (0..10).flat_map(|connection| crowd.further_rooms(connection)) {
            members[room.trim_start_matches("live://").parse::<usize>().unwrap() - 3] += 1;
        }
        assert_eq!(members, [4; 10]);
    }

    #[test]
    fn every_connection_is_in_one_stream() {
        assert_eq!(crowd(10, 3, Streams::Rooms).members(), [4, 3, 3]);
        assert_eq!(crowd(3, 2, Streams::Keys(1)).members(), [1, 1, 1]);
        assert_eq!(crowd(5, 2, Streams::Keys(2)).members(), [2, 2, 1]);
        let weighted = Crowd { zipf: true, ..crowd(110, 3, Streams::Rooms) };
        assert_eq!(weighted.members(), [60, 30, 20]);
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
    fn tls_is_a_share_of_each_transport() {
        let base = crowd(100, 5, Streams::Rooms);
        let crowd = Crowd { websocket_share: 0.5, tls_share: 0.2, ..base };
        for transport in [Transport::Tcp, Transport::WebSocket] {
            let inside = (0..100)
                .filter(|&index| crowd.transport(index) == transport && crowd.is_inside_tls(index));
            assert_eq!(inside.count(), 10, "{transport:?}");
        }
    }

    #[test]
    fn readers_divide_by_their_shares() {
        let check = |slow, stalled, expected| {
            let base = crowd(100, 1, Streams::Rooms);
            let crowd = Crowd { slow_share: slow, stalled_share: stalled, ..base };
            let count = |reading| (0..100).filter(|&index| crowd.reading(index) == reading).count();
            assert_eq!([count(Reading::Slowly), count(Reading::Never)], expected);
        };
        check(0.0, 0.0, [0, 0]);
        check(0.25, 0.5, [25, 50]);
        check(0.0, 1.0, [0, 100]);
        check(1.0, 0.0, [100, 0]);
    }
}
