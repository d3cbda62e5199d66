use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;

/// This holds however short the queue is.
#[test]
fn long_sends_are_submitted_a_few_at_a_time() {
    let buffers = Buffers::new(8, 1024);
    let mut ring = Ring::new(64, &buffers).expect("a ring");
    let (ours, _theirs) = UnixStream::pair().expect("sockets");
    let bytes = vec![0; BYTES_A_SUBMISSION / 4];
    let send = |ring: &mut Ring| {
        ring.send(ours.as_raw_fd(), Slot(0), &raw const *bytes);
        (ring.queued(), ring.submissions(), ring.is_laden())
    };
    assert_eq!(send(&mut ring), (1, 0, true));
    assert_eq!(send(&mut ring), (2, 0, true));
    assert_eq!(send(&mut ring), (3, 0, true));
    assert_eq!(send(&mut ring), (0, 1, false));
    assert_eq!(send(&mut ring), (1, 1, true));
    ring.submit();
    assert!(!ring.is_laden());
}

/// A thread may register 16 rings. A dropped ring is closed and frees its place.
#[test]
fn rings_work_registered_or_not() {
    let buffers = Buffers::new(8, 1024);
    let eventfd = eventfd(1, EventfdFlags::CLOEXEC).expect("an eventfd");
    for _ in 0..3 {
        let mut rings: Vec<_> = (0..20).map(|_| Ring::new(8, &buffers).expect("a ring")).collect();
        assert!(rings[0].registered.is_some() && rings[19].registered.is_none());
        for ring in &mut rings {
            ring.poll_wakeup(eventfd.as_raw_fd());
            ring.submit_and_wait(None);
            assert!(ring.has_completions());
        }
    }
}

#[test]
fn operations_survive_the_way_through_user_data() {
    for index in [0, 1, u32::MAX] {
        for operation in [
            Operation::Wakeup,
            Operation::Accept(ListenerIndex(index)),
            Operation::Recv(Slot(index)),
            Operation::Send(Slot(index)),
            Operation::AcceptCaller(ListenerIndex(index)),
            Operation::RecvCaller(CallerSlot(index as u16)),
            Operation::SendCaller(CallerSlot(index as u16)),
        ] {
            assert_eq!(Operation::from_user_data(operation.to_user_data()), operation);
        }
    }
}

/// A socket pair has no network card, so nothing is polled.
#[test]
fn a_ring_that_polls_cards_works_on_every_kernel() {
    let buffers = Buffers::new(8, 1024);
    let mut ring = Ring::new(8, &buffers).expect("a ring");
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    if let Err(error) = ring.busy_poll(Duration::from_micros(50)) {
        let refused = [libc::EINVAL, libc::EOPNOTSUPP].map(Some);
        assert!(refused.contains(&error.raw_os_error()), "{error}");
    }
    ring.recv(ours.as_raw_fd(), Slot(0));
    ring.submit();
    theirs.write_all(b"x").expect("space");
    ring.submit_and_wait(None);
    assert!(ring.has_completions());
}

/// The socket's data stays there for another process, although the receive is still in flight.
#[test]
fn a_receive_without_buffers_takes_nothing() {
    let mut buffers = Buffers::new(8, 1024);
    let mut ring = Ring::new(8, &buffers).expect("a ring");
    let (mut ours, mut theirs) = UnixStream::pair().expect("sockets");
    let mut completed = Vec::new();
    let mut complete = |ring: &mut Ring| {
        completed.clear();
        ring.submit_and_wait(Some(Duration::from_millis(100)));
        ring.take(&mut completed, 8);
        completed.iter().map(|one| (one.operation, one.result)).collect::<Vec<_>>()
    };
    ring.recv(ours.as_raw_fd(), Slot(0));
    theirs.write_all(b"one").expect("space");
    assert_eq!(complete(&mut ring), [(Operation::Recv(Slot(0)), Ok(3))]);
    ring.take_buffers_back();
    theirs.write_all(b"two").expect("space");
    assert_eq!(complete(&mut ring), [(Operation::Recv(Slot(0)), Err(libc::ENOBUFS))]);
    let mut read = [0; 3];
    ours.read_exact(&mut read).expect("it is there");
    assert_eq!(&read, b"two");
    ring.give_buffers(&mut buffers);
    ring.recv(ours.as_raw_fd(), Slot(0));
    theirs.write_all(b"three").expect("space");
    assert_eq!(complete(&mut ring), [(Operation::Recv(Slot(0)), Ok(5))]);
}

#[test]
fn a_cancelled_send_reports_the_bytes_that_it_sent() {
    let buffers = Buffers::new(8, 1024);
    let mut ring = Ring::new(8, &buffers).expect("a ring");
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let bytes = vec![7; 4 << 20];
    let (mut sent, mut completed) = (0, Vec::new());
    // The socket takes a part of the first send, and nothing of the last.
    loop {
        ring.send(ours.as_raw_fd(), Slot(0), &raw const bytes[sent..]);
        ring.submit_and_wait(Some(Duration::from_millis(50)));
        ring.take(&mut completed, 8);
        match completed.pop() {
            Some(completion) => sent += completion.result.expect("bytes") as usize,
            None => break,
        }
    }
    assert_eq!(ring.effects_in_flight(), 1);
    ring.cancel(Operation::Send(Slot(0)));
    while ring.effects_in_flight() > 0 {
        ring.wait_for_effects(Duration::from_secs(1));
        ring.take(&mut completed, 8);
    }
    let of_send = |one: &&Completion| one.operation == Operation::Send(Slot(0));
    let result = completed.iter().find(of_send).expect("it has ended").result;
    assert_eq!(result, Err(libc::ECANCELED));
    drop((ring, ours));
    let mut received = Vec::new();
    theirs.read_to_end(&mut received).expect("all that was sent");
    assert_eq!(received.len(), sent);
}
