//! The comets in discovery, read by long polls: a node answers when something changes, or after half a minute.

use std::time::Duration;

use crate::instance::APP;
use crate::nodes::{NodeEvent, Nodes, PAUSE};
use crate::poll_reply::{PollReply, RegisteredComet};
use crate::request::Request;

/// Least time between two polls, so that a node that answers at once is not flooded.
const LEAST: Duration = Duration::from_secs(1);

/// The changes of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchEvent {
    /// The comets that are registered.
    Comets(Vec<RegisteredComet>),
    /// No comet is registered, and before there were some, or nothing was known. The known comets are kept.
    NoInstances,
    /// A node fails, or answers again.
    Node(NodeEvent),
}

/// The comets of a discovery. One request is under way at a time: after [`Watch::poll_request`] has returned one, call
/// [`Watch::handle_answer`] before the next.
///
/// Times are relative to a moment of the caller's choice, always the same.
#[derive(Debug)]
pub struct Watch {
    env: String,
    hostname: String,
    nodes: Nodes,
    /// The timestamp of this node's latest answer. 0 requests all comets at once.
    timestamp: i64,
    is_under_way: bool,
    /// `None`: nothing is known yet.
    known: Option<Vec<RegisteredComet>>,
    /// No request is due before this time.
    due: Duration,
}

impl Watch {
    /// The comets of an environment, read from any one of `nodes`, each `HOST:PORT`. `hostname` identifies the caller.
    ///
    /// # Panics
    /// If there is no node.
    #[must_use]
    pub fn new(env: String, hostname: String, nodes: Vec<String>) -> Self {
        Self {
            env,
            hostname,
            nodes: Nodes::new(nodes),
            timestamp: 0,
            is_under_way: false,
            known: None,
            due: Duration::ZERO,
        }
    }

    /// The request that is due, a GET.
    ///
    /// # Panics
    /// If one is under way.
    pub fn poll_request(&mut self, now: Duration) -> Option<Request> {
        assert!(!self.is_under_way, "one request at a time");
        if now < self.due {
            return None;
        }
        self.is_under_way = true;
        self.due = now + LEAST;
        let form = vec![
            ("env", self.env.clone()),
            ("hostname", self.hostname.clone()),
            ("appid", APP.to_owned()),
            ("latest_timestamp", self.timestamp.to_string()),
        ];
        Some(Request { node: self.nodes.current().to_owned(), path: "/discovery/polls", form })
    }

    /// When to call [`Watch::poll_request`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Duration {
        self.due
    }

    /// Takes the result of the request under way. Returns the changes in their order.
    ///
    /// # Panics
    /// If none is under way.
    pub fn handle_answer(&mut self, now: Duration, reply: PollReply) -> Vec<WatchEvent> {
        assert!(std::mem::take(&mut self.is_under_way), "an answer has a request");
        let change = match reply {
            PollReply::Failed(cause) => {
                // The next node has its own timestamps.
                self.timestamp = 0;
                let failure = self.nodes.handle_failure(cause);
                self.due = if failure.of_all { now + PAUSE } else { now };
                return failure.event.map(WatchEvent::Node).into_iter().collect();
            }
            PollReply::Comets { comets, timestamp } => {
                self.timestamp = timestamp;
                let is_new = self.known.as_ref() != Some(&comets);
                is_new.then(|| {
                    self.known = Some(comets.clone());
                    WatchEvent::Comets(comets)
                })
            }
            PollReply::NoInstances => {
                self.timestamp = 0;
                // Some versions answer this at once, and polling faster would not help.
                self.due = self.due.max(now + PAUSE);
                let is_new = self.known.as_ref().is_none_or(|known| !known.is_empty());
                is_new.then(|| {
                    self.known = Some(Vec::new());
                    WatchEvent::NoInstances
                })
            }
            PollReply::Unchanged => {
                // Changes of metadata and status have no timestamp of their own. A change between two polls would be
                // missed.
                self.timestamp = 0;
                None
            }
        };
        let recovered = self.nodes.handle_success().map(WatchEvent::Node);
        recovered.into_iter().chain(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn found(hostname: &str) -> RegisteredComet {
        RegisteredComet {
            hostname: hostname.to_owned(),
            addrs: Vec::new(),
            weight: 1,
            hosts: Vec::new(),
            is_offline: false,
        }
    }

    fn comets(hostnames: &[&str], timestamp: i64) -> PollReply {
        PollReply::Comets { comets: hostnames.iter().map(|name| found(name)).collect(), timestamp }
    }

    fn news(hostnames: &[&str]) -> WatchEvent {
        WatchEvent::Comets(hostnames.iter().map(|name| found(name)).collect())
    }

    /// A watch and its clock, in seconds.
    struct Rig {
        watch: Watch,
        now: u64,
    }

    impl Rig {
        fn new(nodes: &[&str]) -> Self {
            let nodes = nodes.iter().map(|&node| node.to_owned()).collect();
            Self { watch: Watch::new("dev".to_owned(), "logic-1".to_owned(), nodes), now: 0 }
        }

        /// Answers the next poll, with `timestamp` at `node`, after `seconds`.
        #[track_caller]
        fn step(
            &mut self,
            node: &str,
            timestamp: i64,
            after: u64,
            reply: PollReply,
        ) -> Vec<WatchEvent> {
            self.now = self.now.max(self.watch.poll_timeout().as_secs());
            let request = self.watch.poll_request(seconds(self.now)).expect("it is due");
            assert_eq!((&*request.node, request.path), (node, "/discovery/polls"));
            let text = |text: &str| text.to_owned();
            let form = [
                ("env", text("dev")),
                ("hostname", text("logic-1")),
                ("appid", text("goim.comet")),
                ("latest_timestamp", timestamp.to_string()),
            ];
            assert_eq!(request.form, form);
            self.now += after;
            self.watch.handle_answer(seconds(self.now), reply)
        }
    }

    #[test]
    fn only_changes_of_the_instances_are_reported() {
        let mut rig = Rig::new(&["a:1"]);
        assert_eq!(rig.step("a:1", 0, 0, comets(&["x"], 7)), [news(&["x"])]);
        assert_eq!(rig.step("a:1", 7, 5, comets(&["x", "y"], 9)), [news(&["x", "y"])]);
        assert_eq!(rig.step("a:1", 9, 30, PollReply::Unchanged), []);
        // For example, a change of counts.
        assert_eq!(rig.step("a:1", 0, 0, comets(&["x", "y"], 9)), []);
        assert_eq!(rig.step("a:1", 9, 3, PollReply::NoInstances), [WatchEvent::NoInstances]);
        assert_eq!(rig.step("a:1", 0, 3, PollReply::NoInstances), []);
        assert_eq!(rig.step("a:1", 0, 3, comets(&["y"], 2)), [news(&["y"])]);
    }

    #[test]
    fn a_node_that_answers_at_once_is_asked_once_a_second() {
        let mut rig = Rig::new(&["a:1"]);
        for second in 0..5 {
            rig.step("a:1", if second == 0 { 0 } else { 7 }, 0, comets(&["x"], 7));
            assert_eq!(rig.now, second);
        }
        for polls in 0..3 {
            rig.step("a:1", if polls == 0 { 7 } else { 0 }, 0, PollReply::NoInstances);
            assert_eq!(rig.now, 5 + 5 * polls);
        }
    }

    #[test]
    fn another_node_takes_over_and_the_comets_stay() {
        let mut rig = Rig::new(&["a:1", "b:2"]);
        rig.step("a:1", 0, 0, comets(&["x"], 7));
        let failed = || PollReply::Failed("gone".to_owned());
        let fails = NodeEvent::Fails { node: "a:1".to_owned(), cause: "gone".to_owned() };
        assert_eq!(rig.step("a:1", 7, 0, failed()), [WatchEvent::Node(fails)]);
        let begin = rig.now;
        assert_eq!(rig.step("b:2", 0, 0, failed()), []);
        assert_eq!(rig.now, begin, "the next one is asked at once");
        assert_eq!(rig.step("a:1", 0, 0, failed()), []);
        assert_eq!(rig.now, begin + 5, "all of them have a rest");
        let answers = NodeEvent::Answers { node: "b:2".to_owned() };
        assert_eq!(rig.step("b:2", 0, 0, comets(&["x"], 3)), [WatchEvent::Node(answers)]);
    }
}
