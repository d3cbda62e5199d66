//! The requests of a listener on a new connection: the operations, the room and the further rooms that the program
//! wants.

use std::collections::VecDeque;
use std::mem;

use comet_proto::{Position, op};

use super::operations::Operations;
use crate::connection::{Connection, operation_lists};
use crate::error::Error;
use crate::room_news::Joined;
use crate::stream::Stream;

/// Most requests to be in a room that are on their way at once. Servers bound the input and the replies that wait for a client.
const UNANSWERED_MAX: usize = 16;

/// Requests that are made one after the other, and then rooms that are asked for several at once.
#[derive(Debug)]
pub(super) struct SetUp {
    requests: VecDeque<(i32, String)>,
    rooms: VecDeque<(String, Option<Position>)>,
    pending: PendingReply,
    /// It is that of a new connection, and not of a room that had to wait.
    pub(super) is_first: bool,
    /// What the server says of the further rooms.
    pub(super) outcomes: Vec<(String, Result<Joined, Error>)>,
}

/// What waits for its reply.
#[derive(Debug)]
enum PendingReply {
    Nothing,
    Request,
    /// By the sequence numbers of the requests.
    Rooms(Vec<(i32, String)>),
}

impl SetUp {
    pub(super) fn new(
        operations: &Operations,
        room: Option<&str>,
        rooms: impl Iterator<Item = (String, Option<Position>)>,
    ) -> Self {
        let mut requests = VecDeque::new();
        // The server bounds what it lists after each request. In this order that is never more than in the end.
        let refused = operation_lists(operations.refused());
        requests.extend(refused.map(|list| (op::UNSUBSCRIBE, list)));
        let accepted = operation_lists(operations.accepted());
        requests.extend(accepted.map(|list| (op::SUBSCRIBE, list)));
        requests.extend(room.map(|room| (op::CHANGE_ROOM, room.to_owned())));
        Self { requests, is_first: true, ..Self::of_rooms(rooms) }
    }

    /// That of one more room.
    pub(super) fn of_room(room: String, since: Option<Position>) -> Self {
        Self::of_rooms([(room, since)])
    }

    fn of_rooms(rooms: impl IntoIterator<Item = (String, Option<Position>)>) -> Self {
        Self {
            requests: VecDeque::new(),
            rooms: rooms.into_iter().collect(),
            pending: PendingReply::Nothing,
            is_first: false,
            outcomes: Vec::new(),
        }
    }

    /// Makes the requests. If the future is dropped, the next call continues.
    pub(super) async fn run<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
    ) -> Result<(), Error> {
        loop {
            if matches!(self.pending, PendingReply::Nothing) {
                self.pending = self.ask(connection)?;
            }
            if matches!(self.pending, PendingReply::Nothing) {
                return Ok(());
            }
            let replied = connection.replied().await;
            if let PendingReply::Rooms(rooms) =
                mem::replace(&mut self.pending, PendingReply::Nothing)
            {
                // Some may have been answered before the connection was lost.
                for (sequence, room) in rooms {
                    let answer = connection.answer(sequence);
                    self.outcomes.extend(answer.map(|answer| (room, answer)));
                }
            }
            replied?;
        }
    }

    /// Queues what comes next.
    fn ask<S: Stream>(&mut self, connection: &mut Connection<S>) -> Result<PendingReply, Error> {
        if let Some((request, body)) = self.requests.pop_front() {
            connection.ask(request, body.as_bytes())?;
            return Ok(PendingReply::Request);
        }
        let mut rooms = Vec::new();
        while rooms.len() < UNANSWERED_MAX
            && let Some((room, since)) = self.rooms.pop_front()
        {
            // Where the server had it enter, what it missed is asked for.
            if since.is_none() || !connection.is_in(&room) {
                rooms.push((room, since));
            }
        }
        if rooms.is_empty() {
            return Ok(PendingReply::Nothing);
        }
        match connection.ask_rooms(rooms.iter().map(|(room, since)| (&**room, *since))) {
            Ok(asked) => {
                let names = rooms.into_iter().map(|(room, _)| room);
                Ok(PendingReply::Rooms(asked.into_iter().zip(names).collect()))
            }
            Err(Error::NeedsProtocol2) => {
                let refused = rooms.into_iter().chain(self.rooms.drain(..));
                let refused = refused.map(|(room, _)| (room, Err(Error::NeedsProtocol2)));
                self.outcomes.extend(refused);
                Ok(PendingReply::Nothing)
            }
            Err(error) => Err(error),
        }
    }
}
