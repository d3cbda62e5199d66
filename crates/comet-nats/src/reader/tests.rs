//! Messages for a reader, without NATS.

use async_nats::HeaderMap;

use super::*;
use crate::Nats;
use comet_hub::cluster::Engine;

fn message(bytes: usize) -> Message {
    Message {
        subject: "comet.all".into(),
        reply: None,
        payload: vec![0; bytes].into(),
        headers: None::<HeaderMap>,
        status: None,
        description: None,
        length: bytes,
    }
}

#[test]
fn events_that_wait_are_bounded_by_bytes_and_by_number() {
    let shared = Arc::new(Shared::default());
    let (pushes, mut waiting) = mpsc::channel(8);
    let (notices, _waiting_notices) = mpsc::channel(2);
    let subjects = Arc::new(Subjects::new("comet", "a".into()));
    let queues = Queues { pushes, notices };
    let mut reader = Reader::new(subjects, Arc::clone(&shared), queues);
    let engine = Nats::new(mpsc::channel(1).0, mpsc::unbounded_channel().0, shared);
    for _ in 0..3 {
        reader.take(message(EVENTS_BYTES_MAX / 2));
    }
    assert_eq!((engine.counts().dropped_bytes, engine.counts().dropped), (1, 0));
    while let Ok(event) = waiting.try_recv() {
        engine.note_taken(event.bytes());
    }
    for _ in 0..10 {
        reader.take(message(1));
    }
    assert_eq!((engine.counts().dropped_bytes, engine.counts().dropped), (1, 2));
    // There is no space for pushes, but for notices of hosts.
    for _ in 0..3 {
        reader.take(announcement());
    }
    assert_eq!((engine.counts().dropped_notices, engine.counts().dropped), (1, 2));
}

/// A reader whose connection has begun, and whose notices have space only for that and one more event.
fn full_reader() -> (Reader, mpsc::Receiver<Event>) {
    let (notices, waiting) = mpsc::channel(2);
    let queues = Queues { pushes: mpsc::channel(1).0, notices };
    let subjects = Arc::new(Subjects::new("comet", "a".into()));
    let mut reader = Reader::new(subjects, Arc::default(), queues);
    reader.take_state(&async_nats::Event::Connected);
    reader.take(announcement());
    reader.take_state(&async_nats::Event::Disconnected);
    (reader, waiting)
}

async fn next(waiting: &mut mpsc::Receiver<Event>) -> Event {
    waiting.recv().await.expect("there is another one")
}

#[tokio::test]
async fn a_connection_begins_after_the_end_of_the_one_before() {
    let (mut reader, mut waiting) = full_reader();
    // Lets a sender that waits for space among the notices proceed.
    tokio::task::yield_now().await;
    for expected in [Event::Connected, announced()] {
        assert_eq!(next(&mut waiting).await, expected);
    }
    reader.take_state(&async_nats::Event::Connected);
    reader.take(announcement());
    for expected in [Event::Disconnected, Event::Connected] {
        assert_eq!(next(&mut waiting).await, expected);
    }
}

#[tokio::test]
async fn a_connection_that_ended_before_it_was_reported_is_left_out() {
    let (mut reader, mut waiting) = full_reader();
    for _ in 0..3 {
        reader.take_state(&async_nats::Event::Connected);
        reader.take_state(&async_nats::Event::Disconnected);
    }
    let dropped = reader.shared.counts.dropped_notices.load(Relaxed);
    reader.take(announcement());
    assert_eq!(reader.shared.counts.dropped_notices.load(Relaxed), dropped + 1);
    let (_subscriptions, new) = mpsc::channel(1);
    let (changes, states) = mpsc::unbounded_channel();
    let (_steps, steps) = mpsc::unbounded_channel();
    let told = async {
        for expected in [Event::Connected, announced(), Event::Disconnected] {
            assert_eq!(next(&mut waiting).await, expected);
        }
        changes.send(async_nats::Event::Connected).unwrap();
        assert_eq!(next(&mut waiting).await, Event::Connected);
    };
    tokio::select! {
        () = reader.run(new, states, steps) => panic!("it reads on"),
        () = told => {}
    }
}

/// Two hosts with one name are noticed; the two processes of a live upgrade are not.
#[tokio::test(start_paused = true)]
async fn another_process_with_the_name_of_this_host_is_counted() {
    let (mut reader, _waiting) = full_reader();
    let hear = async |reader: &mut Reader, process: &str, seconds: u64| {
        let before = reader.shared.counts.invalid.load(Relaxed);
        for _ in 0..seconds {
            let headers = Some(headers::of_announcement(Interest::Has, "a", process));
            reader.take(Message { subject: "comet.hosts".into(), headers, ..message(0) });
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        reader.shared.counts.invalid.load(Relaxed) - before
    };
    let own = reader.subjects.process().to_owned();
    assert_eq!(hear(&mut reader, &own, 60).await, 0);
    assert_eq!(hear(&mut reader, "other", 15).await, 0);
    // It has ended.
    tokio::time::advance(NAMESAKE_GONE).await;
    assert_eq!(hear(&mut reader, "another", 20).await, 5);
}

fn announcement() -> Message {
    let headers = Some(headers::of_interest(Interest::Has, "b"));
    Message { subject: "comet.hosts".into(), headers, ..message(0) }
}

fn announced() -> Event {
    Event::Announced { host: "b".into(), reads_stream: false }
}

fn reader() -> (Reader, mpsc::Receiver<Event>) {
    let (pushes, waiting) = mpsc::channel(8);
    let queues = Queues { pushes, notices: mpsc::channel(1).0 };
    let subjects = Arc::new(Subjects::new("comet", "a".into()));
    (Reader::new(subjects, Arc::default(), queues), waiting)
}

fn push(reply: &str, body: &'static str) -> Message {
    let reply = Some(reply.into());
    Message { reply, payload: body.into(), length: body.len(), ..message(0) }
}

fn notice(notice: HandoverNotice) -> Message {
    let headers = Some(headers::of_handover(notice, "a"));
    Message { subject: "comet.host.a".into(), headers, ..message(0) }
}

fn bodies(waiting: &mut mpsc::Receiver<Event>) -> Vec<String> {
    let body = |event| match event {
        Event::Push { publication, .. } => String::from_utf8(publication.body).unwrap(),
        other => panic!("{other:?}"),
    };
    std::iter::from_fn(|| waiting.try_recv().ok()).map(body).collect()
}

#[test]
fn held_pushes_are_processed_here_if_the_upgrade_fails() {
    let (mut reader, mut waiting) = reader();
    reader.take(push("r.1", "a"));
    reader.handle_step(UpgradeStep::Hold);
    reader.take(push("r.2", "b"));
    reader.take(push("r.3", "c"));
    assert_eq!(bodies(&mut waiting), ["a"]);
    reader.handle_step(UpgradeStep::Release);
    reader.take(push("r.4", "d"));
    assert_eq!(bodies(&mut waiting), ["b", "c", "d"]);
}

/// Nothing can be held while the messages held by the former process are on their way, and its owner can see that.
#[test]
fn a_process_can_hold_pushes_once_it_has_taken_over() {
    let (mut reader, mut waiting) = reader();
    let (to_writer, to_reader) = (mpsc::channel(1).0, mpsc::unbounded_channel());
    let (steps, _steps) = to_reader;
    let engine = Nats::new(to_writer, steps, Arc::clone(&reader.shared));
    assert!(engine.has_taken_over());
    engine.take_over(None);
    reader.upgrade = UpgradeState::takes_over();
    reader.take(push("r.1", "a"));
    assert_eq!((engine.has_taken_over(), engine.passed_on()), (false, None));
    reader.take(notice(HandoverNotice::Complete));
    assert!(engine.has_taken_over());
    reader.handle_step(UpgradeStep::Hold);
    assert_eq!((bodies(&mut waiting).len(), engine.passed_on()), (1, Some(1)));
}

/// The reader's owner does not wait for it, neither when it takes over nor when it holds messages.
#[test]
fn an_engine_that_has_ended_passes_on_no_more() {
    let engine = Nats::new(mpsc::channel(1).0, mpsc::unbounded_channel().0, Arc::default());
    engine.take_over(None);
    assert_eq!((engine.has_taken_over(), engine.passed_on()), (true, Some(0)));
}

/// The new process may subscribe before or after the former one begins to wait for that.
#[test]
fn held_pushes_are_forwarded_to_the_new_process() {
    for is_faster in [false, true] {
        let (mut former, mut began_there) = reader();
        let (mut next, mut began_here) = reader();
        next.upgrade = UpgradeState::takes_over();
        former.handle_step(UpgradeStep::Hold);
        former.take(push("r.1", "a"));
        let (to, mut held) = oneshot::channel();
        if is_faster {
            former.take(notice(HandoverNotice::Subscribed));
            former.handle_step(UpgradeStep::Withdraw(to));
        } else {
            former.handle_step(UpgradeStep::Withdraw(to));
            former.take(notice(HandoverNotice::Subscribed));
        }
        assert!(matches!(former.upgrade, UpgradeState::Leaves { forward_at: Some(_), .. }));
        // Both processes get this.
        former.take(push("r.2", "b"));
        next.take(push("r.2", "b"));
        former.forward();
        former.take(push("r.3", "c"));
        next.take(push("r.3", "c"));
        for Forwarded { message, is_sure } in held.try_recv().unwrap() {
            let headers = Some(headers::of_forwarded(&message, is_sure));
            next.take(Message { subject: "comet.host.a".into(), headers, ..message });
        }
        assert_eq!(bodies(&mut began_here), [""; 0]);
        next.take(notice(HandoverNotice::Complete));
        next.take(push("r.4", "d"));
        assert_eq!(bodies(&mut began_here), ["a", "b", "c", "d"]);
        assert_eq!(bodies(&mut began_there), [""; 0]);
    }
}
