//! What a message from one core to another costs: on one thread, where nothing is but the queue; and
//! between two, awake and asleep.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use comet_mesh::{EventFd, Inbox, Sender, Wake, inbox};
use divan::Bencher;
use divan::counter::ItemsCount;

/// About what a push on its way between shards weighs.
type Letter = [u64; 7];

const CAPACITY: usize = 1024;
/// Ends the peer of a ping-pong.
const END: Letter = [u64::MAX; 7];

fn main() {
    divan::main();
}

/// Into the inbox of somebody who is awake, and out.
#[divan::bench(args = [1, 256])]
fn send_and_receive(bencher: Bencher, letters: usize) {
    let (sender, inbox, _bell) = mailbox();
    bencher.counter(ItemsCount::new(letters)).bench_local(|| {
        for letter in 0..letters as u64 {
            sender.try_send(black_box([letter; 7])).expect("there is room");
        }
        for _ in 0..letters {
            black_box(inbox.try_recv().expect("it was sent"));
        }
    });
}

/// Into the inbox of somebody who said that it sleeps: with the system call that wakes it.
#[divan::bench]
fn send_to_a_sleeper(bencher: Bencher) {
    let (sender, inbox, bell) = mailbox();
    bencher.bench_local(|| {
        assert!(inbox.arm_wakeup());
        sender.try_send(black_box([1; 7])).expect("there is room");
        bell.clear();
        black_box(inbox.try_recv().expect("it was sent"))
    });
}

/// There and back between two threads that never sleep.
#[divan::bench]
fn ping_pong_awake(bencher: Bencher) {
    let peer = Peer::start(receive_awake);
    bencher.bench_local(|| {
        peer.sender.try_send(black_box([1; 7])).expect("there is room");
        receive_awake(&peer.inbox, &peer.bell)
    });
    peer.end();
}

/// There and back between two threads that sleep until they are called.
#[divan::bench]
fn ping_pong_asleep(bencher: Bencher) {
    let peer = Peer::start(receive_asleep);
    bencher.bench_local(|| {
        peer.sender.try_send(black_box([1; 7])).expect("there is room");
        receive_asleep(&peer.inbox, &peer.bell)
    });
    peer.end();
}

/// One way, as many as fit, and one letter back when they have come.
#[divan::bench]
fn stream_to_another_thread(bencher: Bencher) {
    const LETTERS: usize = CAPACITY / 2;
    let (answers, inbox, bell) = mailbox();
    let (sender, letters, letters_bell) = mailbox();
    let peer = thread::spawn(move || {
        loop {
            for _ in 0..LETTERS {
                if receive_awake(&letters, &letters_bell) == END {
                    return;
                }
            }
            answers.try_send([0; 7]).expect("there is room");
        }
    });
    bencher.counter(ItemsCount::new(LETTERS)).bench_local(|| {
        for letter in 0..LETTERS as u64 {
            sender.try_send(black_box([letter; 7])).expect("there is room");
        }
        receive_awake(&inbox, &bell)
    });
    sender.try_send(END).expect("there is room");
    peer.join().expect("the peer ends");
}

fn mailbox() -> (Sender<Letter>, Inbox<Letter>, Arc<EventFd>) {
    let bell = Arc::new(EventFd::new().expect("a descriptor"));
    let waker: Arc<dyn Wake> = bell.clone();
    let (sender, inbox) = inbox(CAPACITY, waker);
    (sender, inbox, bell)
}

/// A thread that sends back each letter.
struct Peer {
    sender: Sender<Letter>,
    inbox: Inbox<Letter>,
    bell: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl Peer {
    fn start(receive: fn(&Inbox<Letter>, &EventFd) -> Letter) -> Self {
        let (sender, its_inbox, its_bell) = mailbox();
        let (back, inbox, bell) = mailbox();
        let thread = thread::spawn(move || {
            loop {
                let letter = receive(&its_inbox, &its_bell);
                if letter == END {
                    return;
                }
                back.try_send(letter).expect("there is room");
            }
        });
        Self { sender, inbox, bell, thread }
    }

    fn end(self) {
        self.sender.try_send(END).expect("there is room");
        self.thread.join().expect("the peer ends");
    }
}

fn receive_awake(inbox: &Inbox<Letter>, _: &EventFd) -> Letter {
    loop {
        if let Some(letter) = inbox.try_recv() {
            return letter;
        }
        spin_loop();
    }
}

fn receive_asleep(inbox: &Inbox<Letter>, bell: &EventFd) -> Letter {
    loop {
        if let Some(letter) = inbox.try_recv() {
            return letter;
        }
        if inbox.arm_wakeup() {
            bell.wait().expect("an eventfd can be awaited");
            inbox.disarm_wakeup();
        }
    }
}
