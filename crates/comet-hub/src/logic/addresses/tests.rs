use super::*;

const PING_MS: u64 = 1_000;
const TIMEOUT_MS: u64 = 300;

struct Rig {
    addresses: Addresses,
    jitter: Jitter,
    out: Output,
    now: Millis,
}

impl Rig {
    fn new(names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).into()).collect();
        let mut out = Output::default();
        let addresses = Addresses::new(names, (PING_MS, TIMEOUT_MS), Millis(0), &mut out);
        Self { addresses, jitter: Jitter::new(1), out, now: Millis(0) }
    }

    fn actions(&mut self) -> Vec<Action> {
        self.out.actions.drain(..).collect()
    }

    fn events(&mut self) -> Vec<String> {
        self.out.events.drain(..).map(|event| event.to_string()).collect()
    }

    /// Lets time pass until the next deadline, and handles it.
    fn next(&mut self) -> Millis {
        self.now = self.addresses.poll_timeout().unwrap();
        self.addresses.handle_timeout(self.now, &mut self.jitter, &mut self.out);
        self.now
    }

    fn connected(&mut self, address: usize, generation: u64) {
        let connection = ConnectionId { address, generation };
        self.addresses.handle_connected(self.now, connection, &mut self.out);
    }

    fn pinged(&mut self, address: usize, generation: u64, outcome: PingOutcome) {
        let (connection, now) = (ConnectionId { address, generation }, self.now);
        let tools = (&mut self.jitter, &mut self.out);
        self.addresses.handle_ping(now, connection, outcome, tools);
    }

    fn make_available(&mut self, address: usize, generation: u64) {
        self.connected(address, generation);
        self.pinged(address, generation, PingOutcome::Answered);
    }
}

fn connection(generation: u64) -> ConnectionId {
    ConnectionId { address: 0, generation }
}

#[test]
fn backoff_grows_up_to_its_bound() {
    let mut jitter = Jitter::new(7);
    for (failures, longest) in [(0, 100), (1, 200), (5, 3_200), (6, 5_000), (u32::MAX, 5_000)] {
        for _ in 0..100 {
            let delay = backoff_ms(&mut jitter, failures);
            assert!((longest / 2..=longest).contains(&delay), "{failures}: {delay}");
        }
    }
}

#[test]
fn an_address_is_available_from_its_first_ping_until_one_fails() {
    let mut rig = Rig::new(&["a"]);
    assert_eq!(rig.actions(), [Action::Connect(connection(0))]);
    rig.connected(0, 0);
    assert_eq!((rig.addresses.available(), rig.actions()), (0, vec![Action::Ping(connection(0))]));
    rig.pinged(0, 0, PingOutcome::Answered);
    assert_eq!(
        (rig.addresses.available(), rig.events()),
        (1, vec!["logic a is available".to_owned()])
    );
    // The next ping is due, is sent, and is not answered in time.
    assert_eq!((rig.next(), rig.actions()), (Millis(PING_MS), vec![Action::Ping(connection(0))]));
    assert_eq!(
        (rig.next(), rig.actions()),
        (Millis(PING_MS + TIMEOUT_MS), vec![Action::Close(connection(0))])
    );
    let gone = "logic a is not available any more: no answer to a ping within 300ms";
    let none = "no logic service is available: new clients are refused until one is";
    assert_eq!(
        (rig.addresses.available(), rig.events()),
        (0, vec![gone.to_owned(), none.to_owned()])
    );
    // Outcomes of the old connection change nothing any more.
    rig.pinged(0, 0, PingOutcome::Answered);
    assert_eq!(rig.addresses.available(), 0);
    rig.next();
    assert_eq!(rig.actions(), [Action::Connect(connection(1))]);
    rig.make_available(0, 1);
    assert_eq!(rig.events(), ["logic a is available again"]);
}

#[test]
fn an_address_that_was_never_there_is_logged_once() {
    let mut rig = Rig::new(&["a"]);
    for generation in 0..4 {
        rig.actions();
        let outcome = match generation {
            0 => {
                let cause = "refused";
                let (connection, tools) = (connection(0), (&mut rig.jitter, &mut rig.out));
                rig.addresses.handle_connect_failed(rig.now, connection, cause, tools);
                "logic a cannot be reached: refused"
            }
            // It connects, and reports that it does not serve.
            1 => {
                rig.connected(0, 1);
                rig.pinged(0, 1, PingOutcome::NotServing);
                ""
            }
            // It has no outcome in time.
            _ => {
                rig.next();
                ""
            }
        };
        assert_eq!(rig.events().concat(), outcome);
        assert!(rig.actions().contains(&Action::Close(connection(generation))));
        let begin = rig.now;
        let backoff = rig.next().0 - begin.0;
        let longest = u64::from(BACKOFF_MIN_MS) << (generation + 1);
        assert!((longest / 2..=longest).contains(&backoff), "{generation}: {backoff}");
    }
    rig.make_available(0, 4);
    assert_eq!(rig.events(), ["logic a is available"]);
}

#[test]
fn haste_needs_a_ping_after_the_first() {
    for (pings, longest) in [(0, 200), (1, 100)] {
        let mut rig = Rig::new(&["a"]);
        rig.make_available(0, 0);
        for _ in 0..pings {
            rig.next();
            rig.pinged(0, 0, PingOutcome::Answered);
        }
        rig.next();
        rig.pinged(0, 0, PingOutcome::Failed("cut".into()));
        let begin = rig.now;
        let backoff = rig.next().0 - begin.0;
        assert!((longest / 2..=longest).contains(&backoff), "{pings}: {backoff}");
    }
}

#[test]
fn a_failed_call_asks_for_a_ping_at_once_and_for_one_after_that_under_way() {
    let mut rig = Rig::new(&["a"]);
    rig.make_available(0, 0);
    rig.actions();
    for expected in [vec![Action::Ping(connection(0))], vec![]] {
        rig.addresses.suspect(connection(0), rig.now, &mut rig.out);
        assert_eq!(rig.actions(), expected);
    }
    rig.pinged(0, 0, PingOutcome::Answered);
    assert_eq!(rig.actions(), [Action::Ping(connection(0))]);
    rig.pinged(0, 0, PingOutcome::Answered);
    assert_eq!(rig.actions(), []);
    // A call over a former connection says nothing about the present one.
    rig.addresses.suspect(connection(7), rig.now, &mut rig.out);
    assert_eq!((rig.actions(), rig.addresses.available()), (vec![], 1));
}

#[test]
fn available_addresses_take_turns() {
    let mut rig = Rig::new(&["a", "b", "c"]);
    assert_eq!(rig.addresses.pick(&[]), None);
    rig.make_available(0, 0);
    rig.make_available(2, 0);
    let mut pick = |tried: &[usize]| rig.addresses.pick(tried).map(|found| found.address);
    assert_eq!([pick(&[]), pick(&[]), pick(&[])], [Some(0), Some(2), Some(0)]);
    assert_eq!([pick(&[2]), pick(&[0]), pick(&[0, 2])], [Some(0), Some(2), None]);
}

#[test]
fn addresses_come_and_go() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.make_available(0, 0);
    rig.make_available(1, 0);
    rig.actions();
    rig.events();
    let replace = |rig: &mut Rig, names: &[&str]| {
        let names = names.iter().map(|name| (*name).into()).collect();
        rig.addresses.replace(names, rig.now, &mut rig.out);
        let all = rig.addresses.all().map(|(name, is_up)| format!("{name} {is_up}"));
        (all.collect::<Vec<_>>().join(", "), rig.actions(), rig.events().concat())
    };
    let id = |address, generation| ConnectionId { address, generation };
    assert_eq!(
        replace(&mut rig, &["a", "b"]),
        ("a true, b true".to_owned(), vec![], String::new())
    );
    // The new address takes the place of the removed one.
    assert_eq!(
        replace(&mut rig, &["b", "c"]),
        (
            "c false, b true".to_owned(),
            vec![Action::Close(id(0, 0)), Action::Connect(id(0, 1))],
            String::new()
        )
    );
    assert_eq!(rig.addresses.name(id(0, 1)), "c");
    assert_eq!(rig.addresses.pick(&[]), Some(id(1, 0)));
    // Late outcomes of the former address change nothing.
    rig.addresses.suspect(id(0, 0), rig.now, &mut rig.out);
    rig.pinged(0, 0, PingOutcome::Failed("cut".into()));
    assert_eq!((rig.actions(), rig.events()), (vec![], vec![]));
    let (all, actions, events) = replace(&mut rig, &["c"]);
    assert_eq!((all.as_str(), actions), ("c false", vec![Action::Close(id(1, 0))]));
    assert!(events.starts_with("no logic service is available"), "{events}");
    assert_eq!(rig.addresses.pick(&[]), None);
    rig.make_available(0, 1);
    assert_eq!(rig.addresses.pick(&[]), Some(id(0, 1)));
    // A removed address has no deadlines.
    rig.actions();
    rig.next();
    assert_eq!(rig.actions(), [Action::Ping(id(0, 1))]);
}
