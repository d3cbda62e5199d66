use super::*;
use crate::request::Form;

const NOBODY: Census = Census { connections: 0, addresses: 0 };
const SOME: Census = Census { connections: 7, addresses: 3 };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn instance() -> Instance {
    Instance {
        region: "sh".to_owned(),
        zone: "sh001".to_owned(),
        env: "dev".to_owned(),
        hostname: "comet-1".to_owned(),
        addrs: vec!["grpc://192.0.2.1:8083".to_owned()],
        version: "1.0".to_owned(),
        weight: 10,
        hosts: vec!["a.example".to_owned(), "b.example".to_owned()],
    }
}

/// A registration and its clock, in seconds.
struct Rig {
    registration: Registration,
    now: u64,
    census: Census,
}

impl Rig {
    fn new(nodes: &[&str]) -> Self {
        let nodes = nodes.iter().map(|&node| node.to_owned()).collect();
        let registration = Registration::new(instance(), nodes);
        Self { registration, now: 0, census: NOBODY }
    }

    /// A registration made at its first node at second 0.
    fn registered(nodes: &[&str]) -> Self {
        let mut rig = Self::new(nodes);
        rig.step("register", nodes[0], RequestReply::Done);
        rig
    }

    /// Answers the next request, `action` at `node`. Nothing is due before it.
    #[track_caller]
    fn step(&mut self, action: &str, node: &str, answer: RequestReply) -> Vec<Event> {
        let request = loop {
            let (now, census) = (seconds(self.now), self.census);
            if let Some(request) = self.registration.poll_request(now, census) {
                break request;
            }
            let due = self.registration.poll_timeout().expect("something is left to do");
            assert!(due > now, "a timeout that has passed asks for nothing");
            self.now = due.as_secs();
        };
        assert_eq!(request.path, format!("/discovery/{action}"));
        assert_eq!(request.node, node);
        self.registration.handle_answer(seconds(self.now), answer)
    }
}

fn failed() -> RequestReply {
    RequestReply::Failed("gone".to_owned())
}

fn value(form: &Form, name: &str) -> String {
    let values: Vec<_> = form.iter().filter(|(key, _)| *key == name).collect();
    assert_eq!(values.len(), 1, "{name} in {form:?}");
    values[0].1.clone()
}

#[test]
fn a_registration_says_all_that_logic_asks_for() {
    let mut registration = Rig::new(&["a:1"]).registration;
    let Request { node, path, form } = registration.poll_request(seconds(0), SOME).unwrap();
    assert_eq!((node.as_str(), path), ("a:1", "/discovery/register"));
    for (name, expected) in [
        ("region", "sh"),
        ("zone", "sh001"),
        ("env", "dev"),
        ("hostname", "comet-1"),
        ("appid", "goim.comet"),
        ("status", "1"),
        ("addrs", "grpc://192.0.2.1:8083"),
    ] {
        assert_eq!(value(&form, name), expected, "{name}");
    }
    let metadata: serde_json::Value = serde_json::from_str(&value(&form, "metadata")).unwrap();
    let expected = serde_json::json!({
        "weight": "10",
        "offline": "false",
        "addrs": "a.example,b.example",
        "conn_count": "7",
        "ip_count": "3",
    });
    assert_eq!(metadata, expected);
}

#[test]
fn a_registration_is_renewed_every_half_minute() {
    let mut rig = Rig::registered(&["a:1"]);
    for minute_half in 1..4 {
        assert_eq!(rig.step("renew", "a:1", RequestReply::Done), []);
        assert_eq!(rig.now, 30 * minute_half);
    }
}

#[test]
fn counts_that_moved_are_reported_every_10_s_at_most() {
    let mut rig = Rig::registered(&["a:1"]);
    rig.census = SOME;
    assert_eq!(rig.step("set", "a:1", RequestReply::Done), []);
    assert_eq!(rig.now, 10);
    rig.census.connections += 1;
    rig.step("set", "a:1", RequestReply::Done);
    assert_eq!(rig.now, 20);
    // The counts do not change.
    rig.step("renew", "a:1", RequestReply::Done);
    rig.step("renew", "a:1", RequestReply::Done);
    assert_eq!(rig.now, 60);
}

#[test]
fn an_instance_that_the_node_forgot_is_registered_again() {
    let forgotten = || [Event::Forgotten { node: "a:1".to_owned() }];
    let registered = || [Event::Registered { node: "a:1".to_owned() }];
    let mut rig = Rig::registered(&["a:1"]);
    assert_eq!(rig.step("renew", "a:1", RequestReply::NotFound), forgotten());
    assert_eq!(rig.step("register", "a:1", RequestReply::Done), registered());
    for answer in [RequestReply::BadRequest, RequestReply::NotFound] {
        rig.census.connections += 1;
        assert_eq!(rig.step("set", "a:1", answer), forgotten());
        assert!(!rig.registration.is_registered());
        assert_eq!(rig.step("register", "a:1", RequestReply::Done), registered());
    }
}

#[test]
fn another_node_takes_over_at_once_and_all_of_them_have_a_rest() {
    let mut rig = Rig::registered(&["a:1", "b:2"]);
    let fails = NodeEvent::Fails { node: "a:1".to_owned(), cause: "gone".to_owned() };
    let fails = Event::Node(fails);
    assert_eq!(rig.step("renew", "a:1", failed()), [fails]);
    let answers = Event::Node(NodeEvent::Answers { node: "b:2".to_owned() });
    assert_eq!(rig.step("renew", "b:2", RequestReply::Done), [answers]);
    assert_eq!(rig.now, 30);
    // The second node stays the first to be asked. A failure is reported once.
    assert_eq!(rig.step("renew", "b:2", failed()).len(), 1);
    assert_eq!(rig.step("renew", "a:1", failed()), []);
    assert_eq!(rig.now, 60);
    assert_eq!(rig.step("renew", "b:2", failed()), []);
    assert_eq!(rig.step("renew", "a:1", failed()), []);
    assert_eq!(rig.now, 65);
    let events = rig.step("renew", "b:2", RequestReply::NotFound);
    let node = || "b:2".to_owned();
    let answers = Event::Node(NodeEvent::Answers { node: node() });
    assert_eq!(events, [answers, Event::Forgotten { node: node() }]);
}

#[test]
fn a_node_that_refuses_the_parameters_is_not_asked_again_at_once() {
    let mut rig = Rig::new(&["a:1"]);
    let events = rig.step("register", "a:1", RequestReply::BadRequest);
    assert!(matches!(&events[..], [Event::Node(NodeEvent::Fails { .. })]));
    assert!(rig.registration.poll_request(seconds(4), NOBODY).is_none());
    let events = rig.step("register", "a:1", RequestReply::Done);
    assert_eq!(rig.now, 5);
    assert_eq!(events.len(), 2, "{events:?}");
}

#[test]
fn a_cancel_goes_out_at_once_and_once_to_each_node() {
    let mut rig = Rig::registered(&["a:1", "b:2"]);
    rig.registration.cancel();
    assert_eq!(rig.step("cancel", "a:1", failed()).len(), 1);
    rig.step("cancel", "b:2", failed());
    assert_eq!(rig.registration.poll_timeout(), None);
    assert!(rig.registration.poll_request(seconds(99), SOME).is_none());

    for answer in [RequestReply::Done, RequestReply::NotFound] {
        let mut rig = Rig::registered(&["a:1", "b:2"]);
        rig.registration.cancel();
        let cancelled = Event::Cancelled { node: "a:1".to_owned() };
        assert_eq!(rig.step("cancel", "a:1", answer), [cancelled]);
        assert_eq!(rig.registration.poll_timeout(), None);
    }
}

#[test]
fn a_registration_that_no_node_got_needs_no_cancel() {
    let mut rig = Rig::new(&["a:1"]);
    rig.registration.cancel();
    assert_eq!(rig.registration.poll_timeout(), None);
    // A lost answer may have been a success.
    let mut rig = Rig::new(&["a:1"]);
    rig.step("register", "a:1", failed());
    rig.registration.cancel();
    rig.step("cancel", "a:1", RequestReply::Done);
    assert_eq!(rig.registration.poll_timeout(), None);
}

#[test]
fn a_cancel_while_a_request_is_under_way_follows_it() {
    for answer in [RequestReply::Done, RequestReply::NotFound, RequestReply::BadRequest] {
        let mut rig = Rig::registered(&["a:1"]);
        assert!(rig.registration.poll_request(seconds(30), NOBODY).is_some());
        rig.registration.cancel();
        rig.registration.handle_answer(seconds(31), answer);
        rig.step("cancel", "a:1", RequestReply::Done);
        assert_eq!(rig.registration.poll_timeout(), None);
    }
}
