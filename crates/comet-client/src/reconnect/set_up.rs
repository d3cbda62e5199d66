//! What a listener asks for on a new connection: the operations, the room and the further rooms that the program wants.

use std::collections::VecDeque;

use comet_proto::{Position, op};

use super::operations::Operations;
use crate::connection::{Connection, operation_lists};
use crate::error::Error;
use crate::room_news::Joined;
use crate::stream::Stream;

/// Requests that are made one after the other.
#[derive(Debug)]
pub(super) struct SetUp {
    steps: VecDeque<Step>,
    /// The first step waits for its reply.
    is_asked: bool,
    /// It is that of a new connection, and not of a room that had to wait.
    pub(super) is_first: bool,
    /// What the server says of the further rooms.
    pub(super) outcomes: Vec<(String, Result<Joined, Error>)>,
}

#[derive(Debug)]
enum Step {
    Request(i32, String),
    Room(String, Option<Position>),
}

impl SetUp {
    pub(super) fn new(
        operations: &Operations,
        room: Option<&str>,
        rooms: impl Iterator<Item = (String, Option<Position>)>,
    ) -> Self {
        let mut steps = VecDeque::new();
        // The server bounds what it lists after each request. In this order that is never more than in the end.
        let refused = operation_lists(operations.refused());
        steps.extend(refused.map(|list| Step::Request(op::UNSUBSCRIBE, list)));
        let accepted = operation_lists(operations.accepted());
        steps.extend(accepted.map(|list| Step::Request(op::SUBSCRIBE, list)));
        steps.extend(room.map(|room| Step::Request(op::CHANGE_ROOM, room.to_owned())));
        steps.extend(rooms.map(|(room, since)| Step::Room(room, since)));
        Self { steps, is_asked: false, is_first: true, outcomes: Vec::new() }
    }

    /// That of one more room.
    pub(super) fn of_room(room: String, since: Option<Position>) -> Self {
        let steps = [Step::Room(room, since)].into();
        Self { steps, is_asked: false, is_first: false, outcomes: Vec::new() }
    }

    /// Makes the requests. If the future is dropped, the next call goes on.
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
    /// Queues the request. Returns false if there is nothing to ask.
    fn ask<S: Stream>(&self, connection: &mut Connection<S>) -> Result<bool, Error> {
        match self {
            Self::Request(request, body) => connection.ask(*request, body.as_bytes())?,
            // The server had it enter, and what it missed is asked for.
            Self::Room(room, Some(_)) if connection.is_in(room) => return Ok(false),
            Self::Room(room, since) => connection.ask_room(room, *since)?,
        }
        Ok(true)
    }
}
