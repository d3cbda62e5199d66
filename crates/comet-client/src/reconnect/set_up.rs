//! The requests of a listener on a new connection: the operations, the room and the further rooms that the program
//! wants.

use std::collections::{BTreeMap, VecDeque};

use comet_proto::{Position, op};

use crate::connection::{Connection, operation_lists};
use crate::error::Error;
use crate::room_news::Joined;
use crate::stream::Stream;

/// Requests that are made one after the other.
#[derive(Debug)]
pub(super) struct SetUp {
    steps: VecDeque<Step>,
    /// Whether the first step waits for its reply.
    is_asked: bool,
    /// The server's answers about the further rooms.
    pub(super) outcomes: Vec<(String, Result<Joined, Error>)>,
}

#[derive(Debug)]
enum Step {
    Request(i32, String),
    Room(String, Option<Position>),
}

impl SetUp {
    pub(super) fn new(
        operations: &BTreeMap<i32, bool>,
        room: Option<&str>,
        rooms: &BTreeMap<String, Option<Position>>,
    ) -> Self {
        let mut steps = VecDeque::new();
        for (request, accepted) in [(op::SUBSCRIBE, true), (op::UNSUBSCRIBE, false)] {
            let chosen = operations.iter().filter(|(_, is)| **is == accepted);
            let chosen: Vec<_> = chosen.map(|(operation, _)| *operation).collect();
            steps.extend(operation_lists(&chosen).map(|list| Step::Request(request, list)));
        }
        steps.extend(room.map(|room| Step::Request(op::CHANGE_ROOM, room.to_owned())));
        steps.extend(rooms.iter().map(|(room, since)| Step::Room(room.clone(), *since)));
        Self { steps, is_asked: false, outcomes: Vec::new() }
    }

    /// Makes the requests. If the future is dropped, the next call continues.
    pub(super) async fn run<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
    ) -> Result<(), Error> {
        while let Some(step) = self.steps.front() {
            let asked = if self.is_asked { Ok(true) } else { step.ask(connection) };
            let outcome = match asked {
                Ok(true) => {
                    self.is_asked = true;
                    connection.replied().await?;
                    Some(connection.answer())
                }
                Ok(false) => None,
                Err(error @ Error::NeedsProtocol2) => Some(Err(error)),
                Err(error) => return Err(error),
            };
            self.is_asked = false;
            let step = self.steps.pop_front();
            if let (Some(Step::Room(room, _)), Some(outcome)) = (step, outcome) {
                self.outcomes.push((room, outcome));
            }
        }
        Ok(())
    }
}

impl Step {
    /// Queues the request. Returns false if no request is needed.
    fn ask<S: Stream>(&self, connection: &mut Connection<S>) -> Result<bool, Error> {
        match self {
            Self::Request(request, body) => connection.ask(*request, body.as_bytes())?,
            // The server put the connection into the room, and the missed pushes are already requested.
            Self::Room(room, Some(_)) if connection.is_in(room) => return Ok(false),
            Self::Room(room, since) => connection.ask_room(room, *since)?,
        }
        Ok(true)
    }
}
