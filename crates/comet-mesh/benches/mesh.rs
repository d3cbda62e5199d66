//! The cost of a message from one core to another: on one thread, which measures the queue alone,
//! and between two threads, awake and asleep.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use comet_mesh::{EventFd, Inbox, Sender, Wake, inbox};
use divan::Bencher;
use divan::counter::ItemsCount;

/// About as large as a push between shards.
type Payload = [u64; 7];

const CAPACITY: usize = 1024;
/// Ends the peer of a ping-pong.
const END: Payload = [u64::MAX; 7];

fn main() {
    divan::main();
}

/// Into the inbox of a receiver that is awake, and out.
#[divan::bench(args = [1, 256])]
fn send_and_receive(bencher: Bencher, payloads: usize) {
    let (sender, inbox, _wakeup) = mailbox();
    bencher.counter(ItemsCount::new(payloads)).bench_local(|| {
        for payload in 0..payloads as u64 {
            sender.try_send(black_box([payload; 7])).expect("there is room");
        }
        for _ in 0..payloads {
            black_box(inbox.try_recv().expect("it was sent"));
        }
    });
}

/// Into the inbox of a receiver that sleeps, with the system call that wakes it.
#[divan::bench]
fn send_to_a_sleeping_receiver(bencher: Bencher) {
    let (sender, inbox, wakeup) = mailbox();
    bencher.bench_local(|| {
        assert!(inbox.arm_wakeup());
        sender.try_send(black_box([1; 7])).expect("there is room");
        wakeup.clear();
        black_box(inbox.try_recv().expect("it was sent"))
    });
}

/// A round trip between two threads that never sleep.
#[divan::bench]
fn ping_pong_awake(bencher: Bencher) {
    let peer = Peer::start(receive_awake);
    bencher.bench_local(|| {
        peer.sender.try_send(black_box([1; 7])).expect("there is room");
        receive_awake(&peer.inbox, &peer.wakeup)
    });
    peer.end();
}

/// A round trip between two threads that sleep until they are woken.
#[divan::bench]
fn ping_pong_asleep(bencher: Bencher) {
    let peer = Peer::start(receive_asleep);
    bencher.bench_local(|| {
        peer.sender.try_send(black_box([1; 7])).expect("there is room");
        receive_asleep(&peer.inbox, &peer.wakeup)
    });
    peer.end();
}

/// As many payloads as half an inbox holds in one direction, and one back when they have arrived.
#[divan::bench]
fn stream_to_another_thread(bencher: Bencher) {
    const MESSAGES: usize = CAPACITY / 2;
    let (answers, inbox, wakeup) = mailbox();
    let (sender, payloads, payloads_wakeup) = mailbox();
    let peer = thread::spawn(move || {
        loop {
            for _ in 0..MESSAGES {
                if receive_awake(&payloads, &payloads_wakeup) == END {
                    return;
                }
            }
            answers.try_send([0; 7]).expect("there is room");
        }
    });
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        for payload in 0..MESSAGES as u64 {
            sender.try_send(black_box([payload; 7])).expect("there is room");
        }
        receive_awake(&inbox, &wakeup)
    });
    sender.try_send(END).expect("there is room");
    peer.join().expect("the peer ends");
}

fn mailbox() -> (Sender<Payload>, Inbox<Payload>, Arc<EventFd>) {
    let wakeup = Arc::new(EventFd::new().expect("a descriptor"));
    let waker: Arc<dyn Wake> = wakeup.clone();
    let (sender, inbox) = inbox(CAPACITY, waker);
    (sender, inbox, wakeup)
}

/// A thread that returns each payload.
struct Peer {
    sender: Sender<Payload>,
    inbox: Inbox<Payload>,
    wakeup: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl Peer {
    fn start(receive: fn(&Inbox<Payload>, &EventFd) -> Payload) -> Self {
        let (sender, its_inbox, its_wakeup) = mailbox();
        let (back, inbox, wakeup) = mailbox();
        let thread = thread::spawn(move || {
            loop {
                let payload = receive(&its_inbox, &its_wakeup);
                if payload == END {
                    return;
                }
                back.try_send(payload).expect("there is room");
            }
        });
        Self { sender, inbox, wakeup, thread }
    }

    fn end(self) {
        self.sender.try_send(END).expect("there is room");
        self.thread.join().expect("the peer ends");
    }
}

fn receive_awake(inbox: &Inbox<Payload>, _: &EventFd) -> Payload {
    loop {
        if let Some(payload) = inbox.try_recv() {
            return payload;
        }
        spin_loop();
    }
}

fn receive_asleep(inbox: &Inbox<Payload>, wakeup: &EventFd) -> Payload {
    loop {
        if let Some(payload) = inbox.try_recv() {
            return payload;
        }
        if inbox.arm_wakeup() {
            wakeup.wait().expect("an eventfd can be awaited");
            inbox.disarm_wakeup();
        }
    }
}
