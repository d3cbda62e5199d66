//! The life of a registration: register, renew, report counts, cancel.

use std::time::Duration;

use crate::instance::{Census, Instance};
use crate::nodes::{NodeEvent, Nodes, PAUSE};
use crate::request::Request;
use crate::request_reply::RequestReply;

/// Time between two renewals. Discovery forgets an instance after 90 s without one.
const RENEW: Duration = Duration::from_secs(30);

/// Least time between two reports of counts.
const REPORT: Duration = Duration::from_secs(10);

/// A change of state: worth a line in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The instance is registered at a node.
    Registered {
        /// The node.
        node: String,
    },
    /// A node no longer knows the instance, so it is registered again.
    Forgotten {
        /// The node.
        node: String,
    },
    /// A node fails, or answers again.
    Node(NodeEvent),
    /// The instance is no longer registered, as requested.
    Cancelled {
        /// The node.
        node: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Register,
    Renew,
    Set,
    Cancel,
}

impl Action {
    fn path(self) -> &'static str {
        match self {
            Self::Register => "/discovery/register",
            Self::Renew => "/discovery/renew",
            Self::Set => "/discovery/set",
            Self::Cancel => "/discovery/cancel",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No node has the instance, as far as known here.
    Absent,
    /// A node has taken the instance.
    Registered,
    /// It has to be cancelled.
    Leaving,
    /// Nothing is left to do.
    Over,
}

/// An instance in a discovery. One request is under way at a time: after [`Registration::poll_request`] has returned
/// one, call [`Registration::handle_answer`] before the next.
///
/// Times are relative to a moment of the caller's choice, always the same.
#[derive(Debug)]
pub struct Registration {
    instance: Instance,
    nodes: Nodes,
    state: State,
    under_way: Option<Action>,
    /// Whether a request to register was sent. Its answer may be lost although the registration succeeded.
    may_be_known: bool,
    /// No request is due before this time.
    pause_until: Duration,
    renew_at: Duration,
    report_at: Duration,
    /// The counts that were last sent to the node.
    reported: Census,
}

impl Registration {
    /// An instance to be registered at once, at any one of `nodes`, each `HOST:PORT`.
    ///
    /// # Panics
    /// If there is no node.
    #[must_use]
    pub fn new(instance: Instance, nodes: Vec<String>) -> Self {
        Self {
            instance,
            nodes: Nodes::new(nodes),
            state: State::Absent,
            under_way: None,
            may_be_known: false,
            pause_until: Duration::ZERO,
            renew_at: Duration::ZERO,
            report_at: Duration::ZERO,
            reported: Census::default(),
        }
    }

    /// Whether a node has the instance, as far as known here.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.state == State::Registered
    }

    /// Takes the instance out of discovery: each node is asked at most once, until one has answered.
    pub fn cancel(&mut self) {
        self.state = match self.state {
            State::Absent if !self.may_be_known => State::Over,
            State::Absent | State::Registered => State::Leaving,
            state @ (State::Leaving | State::Over) => state,
        };
        self.pause_until = Duration::ZERO;
        self.nodes.begin_round();
    }

    /// The request that is due; `census` has the present counts.
    ///
    /// # Panics
    /// If one is under way.
    pub fn poll_request(&mut self, now: Duration, census: Census) -> Option<Request> {
        assert!(self.under_way.is_none(), "one request at a time");
        let action = self.due(now, census)?;
        let instance = &self.instance;
        let form = match action {
            Action::Register => instance.whole(census),
            Action::Set => instance.changed(census),
            Action::Renew | Action::Cancel => instance.identity(),
        };
        match action {
            Action::Register => {
                self.may_be_known = true;
                self.reported = census;
            }
            Action::Set => self.reported = census,
            Action::Renew | Action::Cancel => {}
        }
        self.under_way = Some(action);
        Some(Request { node: self.nodes.current().to_owned(), path: action.path(), form })
    }

    fn due(&mut self, now: Duration, census: Census) -> Option<Action> {
        match self.state {
            State::Over => return None,
            State::Leaving => return Some(Action::Cancel),
            State::Absent | State::Registered if now < self.pause_until => return None,
            State::Absent => return Some(Action::Register),
            State::Registered => {}
        }
        if now >= self.renew_at {
            return Some(Action::Renew);
        }
        if now >= self.report_at {
            if census != self.reported {
                return Some(Action::Set);
            }
            self.report_at = now + REPORT;
        }
        None
    }

    /// When to call [`Registration::poll_request`] next; `None`: nothing is left to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.state {
            State::Over => None,
            State::Leaving => Some(Duration::ZERO),
            State::Absent => Some(self.pause_until),
            State::Registered => Some(self.renew_at.min(self.report_at).max(self.pause_until)),
        }
    }

    /// Takes the result of the request under way. Returns the changes in their order.
    ///
    /// # Panics
    /// If none is under way.
    pub fn handle_answer(&mut self, now: Duration, answer: RequestReply) -> Vec<Event> {
        let action = self.under_way.take().expect("an answer has a request");
        let node = self.nodes.current().to_owned();
        let is_leaving = self.state == State::Leaving;
        let changed = match (action, answer) {
            // It may have been cancelled while another request was under way.
            (Action::Register | Action::Renew | Action::Set, RequestReply::Done) if is_leaving => {
                None
            }
            (Action::Register, RequestReply::Done) => {
                self.state = State::Registered;
                (self.renew_at, self.report_at) = (now + RENEW, now + REPORT);
                Some(Event::Registered { node })
            }
            (Action::Renew, RequestReply::Done) => {
                self.renew_at = now + RENEW;
                None
            }
            (Action::Set, RequestReply::Done) => {
                self.report_at = now + REPORT;
                None
            }
            (Action::Cancel, RequestReply::Done | RequestReply::NotFound) => {
                self.state = State::Over;
                Some(Event::Cancelled { node })
            }
            (Action::Renew, RequestReply::NotFound)
            | (Action::Set, RequestReply::NotFound | RequestReply::BadRequest) => (!is_leaving)
                .then(|| {
                    self.state = State::Absent;
                    Event::Forgotten { node }
                }),
            (action, answer) => {
                return self.fail(now, action, answer).map(Event::Node).into_iter().collect();
            }
        };
        let recovered = self.nodes.handle_success().map(Event::Node);
        recovered.into_iter().chain(changed).collect()
    }

    fn fail(&mut self, now: Duration, action: Action, answer: RequestReply) -> Option<NodeEvent> {
        let cause = match answer {
            RequestReply::Failed(cause) => cause,
            RequestReply::BadRequest => "code -400: it does not take these parameters".to_owned(),
            RequestReply::NotFound => "code -404".to_owned(),
            RequestReply::Done => unreachable!("that is no failure"),
        };
        let failure = self.nodes.handle_failure(cause);
        match self.state {
            State::Leaving if action != Action::Cancel => self.nodes.begin_round(),
            State::Leaving if failure.of_all => self.state = State::Over,
            State::Absent | State::Registered if failure.of_all => {
                self.pause_until = now + PAUSE;
            }
            State::Absent | State::Registered | State::Leaving | State::Over => {}
        }
        failure.event
    }
}

#[cfg(test)]
mod tests;
