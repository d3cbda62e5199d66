//! The work of a listener, blocking or not: it reconnects after a jittered delay, into the rooms it was in.

#![allow(clippy::disallowed_methods)] // This is the edge: waiting between attempts is its purpose.

mod known;
mod operations;
mod pace;
mod set_up;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use std::{fmt, mem};

use comet_proto::Position;

use self::known::Known;
use self::operations::Operations;
use self::pace::Pace;
use self::set_up::SetUp;
use crate::connection::{Connection, within_body_max};
use crate::error::{Error, Permanent};
use crate::inbox::{Message, Received};
use crate::options::Options;
use crate::room_news::{Gap, Joined};
use crate::stop::Stopper;
use crate::stream::Stream;

/// How long a stalled network may hold sent bytes.
const LATE_MAX: Duration = Duration::from_secs(120);

/// An event of a [`Listener`](crate::Listener).
#[derive(Debug)]
pub enum Event {
    /// A connection is authenticated, and in the room that was joined last. An [`Event::Room`] follows for each further
    /// room. If the connection was lost before it was in all of them, [`Event::Disconnected`] follows the received
    /// messages.
    Connected,
    /// A message arrived.
    Message(Message),
    /// The connection has requested to enter a further room, or the server put it into one that keeps a history: the
    /// room of the token, that of [`Listener::join`](crate::Listener::join), or one ordered by a caller. After a
    /// reconnect it requests the pushes that came after the last one it has of the room.
    Room {
        /// Which.
        room: String,
        /// Whether it is in the room, and whether it has missed pushes because the server does not have all of them
        /// ([`Joined::recovered`]). After an error the next connection asks again.
        outcome: Result<Joined, Error>,
    },
    /// The server has removed the connection from this room. Later connections do not enter it, until the program calls
    /// [`Listener::add_room`](crate::Listener::add_room) or [`Listener::join`](crate::Listener::join) again.
    Left {
        /// Which.
        room: String,
    },
    /// The server has dropped messages of a room that keeps a history, because they were not read in time; or the
    /// result of requesting them. The connection requests them by itself.
    Gap(Gap),
    /// The connection was lost, or could not be made. The next attempt uses the token of the last one, unless
    /// [`Listener::set_token`](crate::Listener::set_token) replaces it.
    Disconnected {
        /// Why.
        reason: Error,
        /// The delay before the next attempt, counted from this event. The request of the next event waits for its end.
        /// `None`: no further attempt can succeed ([`Error::permanent`]), and this is the last event. A listener that
        /// was replaced within two minutes after an attempt with an unanswered token may have replaced itself, so it
        /// comes back once.
        retry_in: Option<Duration>,
    },
}

/// The blocking or the asynchronous form of the connection.
pub(crate) trait ClientHandle {
    type Stream: Stream + fmt::Debug;
    fn of(connection: Connection<Self::Stream>) -> Self;
    fn connection(&mut self) -> &mut Connection<Self::Stream>;
}

/// The state of a listener. Its methods are described at [`Listener`](crate::Listener).
///
/// A future of a method may be dropped before it ends. The next call continues with the stream, even if it is still
/// being connected. So a program whose futures are all dropped early connects in the end, and the server may have sent
/// messages that it counts as delivered.
#[derive(Debug)]
pub(crate) struct Reconnecting<H: ClientHandle> {
    options: Options,
    state: State<H>,
    attempt: u32,
    /// The room that was joined last. `None`: none was, and the token's room remains.
    room: Option<String>,
    /// Further rooms, and the position of the latest push received from each.
    rooms: BTreeMap<String, Option<Position>>,
    /// The same of rooms that the server had the connection enter.
    others: Known,
    operations: Operations,
    pace: Pace,
    /// Events that have happened before what is received next.
    events: VecDeque<Event>,
    /// Until then a token that was sent and not answered may still reach the server.
    late_until: Option<Instant>,
    stopper: Stopper,
}

#[derive(Debug)]
enum State<H: ClientHandle> {
    /// The time of the next attempt; `None`: beyond what an `Instant` can hold.
    Waiting(Option<Instant>),
    Connecting {
        stream: Connecting<H::Stream>,
        deadline: Option<Instant>,
    },
    /// The server has not accepted the token yet.
    Authenticating {
        client: Box<H>,
        deadline: Option<Instant>,
    },
    Connected {
        client: Box<H>,
        since: Instant,
        /// The remaining set-up of the connection; `None` once it is done or has failed.
        set_up: Option<SetUp>,
    },
    /// There are no more events.
    Ended,
}

/// A stream that is being connected.
struct Connecting<S: Stream>(S::Connecting);

impl<S: Stream> fmt::Debug for Connecting<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").finish_non_exhaustive()
    }
}

impl<H: ClientHandle> Reconnecting<H> {
    pub(crate) fn new(mut options: Options) -> Self {
        let others = Known::new(mem::take(&mut options.positions));
        Self {
            options,
            state: State::Waiting(Some(Instant::now())),
            attempt: 0,
            room: None,
            rooms: BTreeMap::new(),
            others,
            operations: Operations::default(),
            pace: Pace::default(),
            events: VecDeque::new(),
            late_until: None,
            stopper: Stopper::default(),
        }
    }

    pub(crate) fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    pub(crate) fn client(&mut self) -> Option<&mut H> {
        match &mut self.state {
            State::Connected { client, set_up: None, .. } => Some(client),
            _ => None,
        }
    }

    /// The connection for a request. `None` if it has ended: [`Event::Disconnected`] follows.
    fn connection(&mut self) -> Option<&mut Connection<H::Stream>> {
        self.client().map(H::connection).filter(|connection| !connection.has_ended())
    }

    fn is_in(&mut self, room: &str) -> bool {
        self.client().is_some_and(|client| client.connection().is_in(room))
    }

    pub(crate) async fn join(&mut self, room: &str) -> Result<(), Error> {
        // Checked before it is stored: no later connection could join such a room either.
        within_body_max(room.as_bytes())?;
        self.set_up().await;
        if let Some(former) = self.room.replace(room.to_owned()).filter(|former| former != room) {
            self.others.remove(&former);
        }
        match self.connection() {
            Some(connection) => {
                let outcome = connection.join(room).await;
                outcome.map_err(|error| connection.keep_reason(error))
            }
            None => Ok(()),
        }
    }

    pub(crate) async fn add_room(
        &mut self,
        room: &str,
        since: Option<Position>,
    ) -> Result<(), Error> {
        within_body_max(room.as_bytes())?;
        self.set_up().await;
        // The room may be one that the server had a connection enter. The present connection goes on from there, if it is in. So does the
        // next one, if there is none at present: what came meanwhile is missing. Else the caller begins anew.
        let goes_on = self.is_in(room) || self.connection().is_none();
        let other = self.others.remove(room).filter(|_| goes_on);
        let known = self.rooms.entry(room.to_owned()).or_insert(other);
        *known = since.or(*known);
        if let Some(since) = since {
            self.resume(room, since);
        }
        self.pace.forget(room);
        let Some(connection) = self.connection() else { return Ok(()) };
        let outcome = connection.add_room(room, since).await;
        let outcome = outcome.map_err(|error| connection.keep_reason(error));
        let joined = outcome.inspect_err(|error| {
            if matches!(error, Error::NeedsProtocol2 | Error::Room(_)) {
                self.rooms.remove(room);
            }
        })?;
        // Without a position in either, the connection was in the room already, and its known position is kept.
        if since.is_some() || joined.position.is_some() {
            note_joined(&mut self.rooms, room, joined);
        }
        self.events.push_back(Event::Room { room: room.to_owned(), outcome: Ok(joined) });
        Ok(())
    }

    /// A connection that is being made took its positions along when it began. Where the token names the room, it asks from its own.
    fn resume(&mut self, room: &str, since: Position) {
        match &mut self.state {
            State::Connecting { .. } => {
                self.options.positions.insert(room.to_owned(), since);
            }
            State::Authenticating { client, .. } => client.connection().resume(room, since),
            _ => {}
        }
    }

    pub(crate) async fn remove_room(&mut self, room: &str) -> Result<(), Error> {
        self.set_up().await;
        self.rooms.remove(room);
        self.others.remove(room);
        match self.connection() {
            Some(connection) => {
                let outcome = connection.remove_room(room).await;
                outcome.map_err(|error| connection.keep_reason(error))
            }
            None => Ok(()),
        }
    }

    pub(crate) async fn subscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.set_up().await;
        self.operations.accept(operations)?;
        match self.connection() {
            Some(connection) => {
                let outcome = connection.subscribe(operations).await;
                outcome.map_err(|error| connection.keep_reason(error))
            }
            None => Ok(()),
        }
    }

    pub(crate) async fn unsubscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.set_up().await;
        self.operations.refuse(operations)?;
        match self.connection() {
            Some(connection) => {
                let outcome = connection.unsubscribe(operations).await;
                outcome.map_err(|error| connection.keep_reason(error))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn set_token(&mut self, token: Vec<u8>) {
        self.options.token = token;
    }

    pub(crate) async fn next(&mut self) -> Option<Event> {
        let event = loop {
            match &mut self.state {
                State::Ended => return None,
                State::Waiting(until) => {
                    H::Stream::sleep(*until, &self.stopper).await;
                    if self.stopper.has_stopped() {
                        return self.end();
                    }
                    if let Err(reason) = self.connect() {
                        break self.handle_disconnect(reason);
                    }
                }
                State::Connecting { stream, deadline } => {
                    if self.stopper.has_stopped() {
                        return self.end();
                    }
                    let connected = (&mut stream.0).await;
                    let deadline = *deadline;
                    if let Err(reason) = self.handle_connected(connected, deadline) {
                        break self.handle_disconnect(reason);
                    }
                }
                State::Authenticating { client, deadline } => {
                    match client.connection().authenticate(*deadline).await {
                        Ok(()) => self.handle_acceptance(),
                        Err(reason) => break self.handle_disconnect(reason),
                    }
                }
                State::Connected { set_up: Some(_), .. } => self.set_up().await,
                State::Connected { client, .. } => {
                    if let Some(event) = self.events.pop_front() {
                        break event;
                    }
                    if self.pace.due().is_some()
                        && let Some(room) = self.pace.take_due(Instant::now())
                    {
                        self.enter(room);
                        continue;
                    }
                    let received = client.connection().receive_any_until(self.pace.due()).await;
                    if let Some(received) = received.transpose() {
                        break self.handle_received(received);
                    }
                }
            }
        };
        if self.stopper.has_stopped() { self.end() } else { Some(event) }
    }

    fn connect(&mut self) -> Result<(), Error> {
        within_body_max(&self.options.token)?;
        // Includes rooms that the token names. Rooms that were requested are requested again by the set-up.
        let wanted = self.rooms.iter().filter_map(|(room, since)| Some((room.clone(), (*since)?)));
        self.options.positions = self.others.positions().chain(wanted).collect();
        let deadline = Instant::now().checked_add(self.options.timeout);
        let stream = Connecting(H::Stream::connect(&self.options, deadline));
        self.state = State::Connecting { stream, deadline };
        Ok(())
    }

    fn handle_connected(
        &mut self,
        connected: Result<H::Stream, Error>,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        let mut connection = Connection::new(connected?, &self.options)?;
        connection.stream().obey(&self.stopper)?;
        self.state = State::Authenticating { client: Box::new(H::of(connection)), deadline };
        Ok(())
    }

    fn handle_acceptance(&mut self) {
        let State::Authenticating { client, .. } = mem::replace(&mut self.state, State::Ended)
        else {
            unreachable!("only such a connection is accepted");
        };
        let is_slow = self.pace.is_slow();
        let rooms = self.rooms.iter().filter(|_| !is_slow);
        let rooms = rooms.map(|(room, since)| (room.clone(), *since));
        let set_up = SetUp::new(&self.operations, self.room.as_deref(), rooms);
        if is_slow {
            self.pace.begin(self.rooms.keys().cloned().collect(), Instant::now());
        }
        self.state = State::Connected { client, since: Instant::now(), set_up: Some(set_up) };
    }

    /// Sets up a new connection as the program wants it, if that was not done yet.
    async fn set_up(&mut self) {
        let State::Connected { client, set_up, .. } = &mut self.state else { return };
        let Some(steps) = set_up else { return };
        let connection = client.connection();
        if let Err(error) = steps.run(connection).await {
            // The error comes after the received messages.
            connection.fail(error);
        }
        let Some(done) = set_up.take() else { return };
        if done.is_first {
            self.events.push_back(Event::Connected);
        }
        for (room, outcome) in done.outcomes {
            if let Ok(joined) = outcome {
                note_joined(&mut self.rooms, &room, joined);
            }
            self.events.push_back(Event::Room { room, outcome });
        }
    }

    /// It is the turn of a room that the program wants, unless it was left meanwhile.
    fn enter(&mut self, room: String) {
        if let Some(since) = self.rooms.get(&room)
            && let State::Connected { set_up, .. } = &mut self.state
        {
            *set_up = Some(SetUp::of_room(room, *since));
        }
    }

    fn handle_received(&mut self, received: Result<Received, Error>) -> Event {
        match received {
            Ok(Received::Message(message)) => {
                self.note_message(&message);
                Event::Message(message)
            }
            Ok(Received::Gap(gap)) => Event::Gap(gap),
            Ok(Received::Room(room, joined)) => {
                if joined.recovered.is_some() {
                    self.others.touch(&room);
                } else if let Some(position) = joined.position {
                    self.note_position(&room, position);
                }
                Event::Room { room: room.into(), outcome: Ok(joined) }
            }
            Ok(Received::Left(room)) => {
                self.rooms.remove(&*room);
                self.others.remove(&room);
                self.room.take_if(|joined| **joined == *room);
                Event::Left { room: room.into() }
            }
            Err(reason) => self.handle_disconnect(reason),
        }
    }

    fn note_message(&mut self, message: &Message) {
        if let (Some(room), Some(position)) = (&message.room, message.position) {
            self.note_position(room, position);
        }
    }

    fn note_position(&mut self, room: &str, position: Position) {
        if let Some(latest) = self.rooms.get_mut(room) {
            *latest = Some(position);
        } else if self.others.knows(room) || self.is_in(room) {
            // Of a room that was left meanwhile there is nothing to keep.
            self.others.note(room, position);
        }
    }

    fn end(&mut self) -> Option<Event> {
        self.stopper.watch(None);
        self.state = State::Ended;
        None
    }

    fn handle_disconnect(&mut self, reason: Error) -> Event {
        if let State::Connected { since, .. } = self.state
            && since.elapsed() >= self.options.backoff.max()
        {
            self.attempt = 0;
        }
        if let State::Connected { client, .. } = &mut self.state {
            let connection = client.connection();
            self.others.retain(|room| connection.may_resume(room));
            // A reply whose future was dropped has told of the room, and nothing has come of it since.
            for (room, latest) in &mut self.rooms {
                *latest = latest.or(connection.position(room));
            }
        }
        self.pace.begin(VecDeque::new(), Instant::now());
        if reason.is_room_rate() {
            self.pace.slow_down();
        }
        self.stopper.watch(None);
        let permanent = reason.permanent().filter(|why| !self.is_own_attempt(*why));
        if matches!(self.state, State::Authenticating { .. })
            && !matches!(reason, Error::Session(_))
        {
            self.late_until = Instant::now().checked_add(LATE_MAX);
        }
        if let Some(why) = permanent {
            self.state = State::Ended;
            log::debug!("{}: {reason}; no further attempt: {why}", self.options.address);
            return Event::Disconnected { reason, retry_in: None };
        }
        let delay = self.options.backoff.delay(self.attempt, &mut rand::rng());
        let retry_in = delay.max(reason.retry_after().unwrap_or_default());
        self.attempt = self.attempt.saturating_add(1);
        self.state = State::Waiting(Instant::now().checked_add(retry_in));
        log::debug!("{}: {reason}; next attempt in {retry_in:?}", self.options.address);
        Event::Disconnected { reason, retry_in: Some(retry_in) }
    }

    /// Whether the connection may have been replaced by an abandoned attempt of this listener: a stalled network
    /// delivers its token after that of the present connection. True only once, because another client would replace
    /// the connection again.
    fn is_own_attempt(&mut self, why: Permanent) -> bool {
        why == Permanent::Replaced
            && self.late_until.take().is_some_and(|until| Instant::now() < until)
    }
}

/// Recovered pushes follow and have positions of their own. Without them the next push follows this position.
fn note_joined(rooms: &mut BTreeMap<String, Option<Position>>, room: &str, joined: Joined) {
    if joined.recovered.is_none()
        && let Some(latest) = rooms.get_mut(room)
    {
        *latest = joined.position;
    }
}
