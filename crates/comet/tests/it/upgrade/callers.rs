//! Callers of the push API during upgrades: each of their pushes is made once, or the caller learns that it was not made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use comet_serve::{call_until_processed, is_unprocessed};
use comet_wire::comet::v1::PushStreamReq;
use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_reply::answer::Outcome;
use comet_wire::comet::v1::push_stream_req::Target;
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastRoomReq, Ledger};
use comet_wire::goim::protocol::Proto;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Line, token};
use crate::h2::calls_that_announce;
use crate::support::{BOTH, PATIENCE, To, queued, until_in_time};

const CLIENTS: u32 = 4;
/// Pushes of a stream without a reply.
const WINDOW: u32 = 40;
/// The time in which a caller without a call under way should close its connection once the server asks for it.
const LEAVE: Duration = Duration::from_millis(300);

/// A push whose body has the letter of its caller and a number.
fn proto(caller: u8, number: u32) -> Option<Proto> {
    let body = [&[caller][..], &number.to_be_bytes()].concat();
    Some(Proto { ver: 1, op: 5, body: body.into(), ..Proto::default() })
}

async fn connect(grpc: &str) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{grpc}")).unwrap();
    endpoint.connect().await.unwrap()
}

fn check(ledger: Option<&Ledger>, number: u32) {
    assert_eq!(ledger, Some(&queued(CLIENTS.into())), "push {number}");
}

/// Makes one call after the other, and repeats those that no server has processed. Returns the number of calls.
async fn call(grpc: &str, is_over: &AtomicBool) -> Result<u32, Status> {
    let client = CometClient::new(connect(grpc).await);
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        let reply = call_until_processed(|| {
            let room_id = "live://1".to_owned();
            let request = BroadcastRoomReq { room_id, proto: proto(b'c', number) };
            let mut client = client.clone();
            async move { client.broadcast_room(request).await }
        });
        check(reply.await?.into_inner().ledger.as_ref(), number);
        number += 1;
    }
    Ok(number)
}

/// Pushes by one stream after the other. Each begins with the first push that the one before got no reply to. Returns the numbers
/// of pushes and of streams.
async fn stream(grpc: &str, is_over: &AtomicBool) -> Result<(u32, u32), Status> {
    let (mut answered, mut streams) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        let (pushes, requests) = mpsc::channel(WINDOW as usize);
        let mut client = PushClient::new(connect(grpc).await);
        let replies = match client.push_stream(ReceiverStream::new(requests)).await {
            Ok(replies) => replies,
            Err(status) if is_unprocessed(&status) => continue,
            Err(status) => return Err(status),
        };
        streams += 1;
        let (mut replies, mut sent) = (replies.into_inner(), answered);
        let mut pushes = Some(pushes);
        loop {
            while let Some(open) = &pushes
                && sent < answered + WINDOW
            {
                let target = Some(Target::RoomId("live://1".to_owned()));
                let proto = proto(b's', sent);
                let request = PushStreamReq { id: sent.into(), target, proto, proto_op: 5 };
                if open.try_send(request).is_err() {
                    break;
                }
                sent += 1;
            }
            if is_over.load(Ordering::Relaxed) {
                pushes = None;
            }
            match replies.message().await {
                Ok(Some(reply)) => {
                    for answer in reply.answers {
                        assert_eq!(answer.id, u64::from(answered));
                        let Some(Outcome::Ledger(ledger)) = answer.outcome else {
                            panic!("push {answered}: {:?}", answer.outcome)
                        };
                        check(Some(&ledger), answered);
                        answered += 1;
                    }
                }
                Ok(None) => {
                    assert!(pushes.is_none() && answered == sent, "{answered} of {sent}");
                    break;
                }
                // The server did not make these pushes, so the next stream repeats them.
                Err(status) => {
                    let was_not_made = status.code() == Code::Unavailable
                        && status.message().contains("pushes without an answer were not made");
                    if !was_not_made && !is_unprocessed(&status) {
                        return Err(status);
                    }
                    break;
                }
            }
        }
    }
    Ok((answered, streams))
}

/// The longest time in which the thread of the callers did not run.
async fn longest_stall(is_over: &AtomicBool) -> Duration {
    let (mut longest, mut seen) = (Duration::ZERO, Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        longest = longest.max(seen.elapsed());
        seen = Instant::now();
    }
    longest
}

/// Whether the log of the upgrades reports callers that did not leave within their second, so that the server closed them.
fn were_cut_off(line: &Line, upgrades: usize) -> bool {
    let (mut done, mut were_cut_off) = (0, false);
    while done < upgrades {
        let logged = line.server.log.recv_timeout(PATIENCE).unwrap();
        were_cut_off |= logged.contains("do not end in time");
        done += usize::from(logged.contains("connections go on after a pause of "));
    }
    were_cut_off
}

#[test]
fn calls_and_streams_of_pushes_are_made_once_across_upgrades() {
    until_in_time(callers_push_while_processes_come_and_go);
}

fn callers_push_while_processes_come_and_go() -> bool {
    let mut line = Line::start(&[], &["protocol.svr_proto=1000"]);
    let readers: Vec<_> = (0..CLIENTS)
        .map(|user| {
            let transport = BOTH[user as usize % 2];
            let mut peer = line.server.live(transport, &token(user));
            thread::spawn(move || {
                let mut next = [0_u32; 256];
                loop {
                    let body = peer.recv().body;
                    let Ok([caller, number @ ..]) = <[u8; 5]>::try_from(&body[..]) else {
                        return [next[usize::from(b'c')], next[usize::from(b's')]];
                    };
                    let next = &mut next[usize::from(caller)];
                    assert_eq!(u32::from_be_bytes(number), *next, "{}", caller as char);
                    *next += 1;
                }
            })
        })
        .collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let callers = {
        let (is_over, grpc) = (Arc::clone(&is_over), line.server.grpc.to_string());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            runtime.block_on(async {
                let (called, streamed) = (call(&grpc, &is_over), stream(&grpc, &is_over));
                tokio::join!(called, streamed, longest_stall(&is_over))
            })
        })
    };
    for _ in 0..3 {
        line.upgrade();
    }
    is_over.store(true, Ordering::Relaxed);
    let (called, streamed, stall) = callers.join().unwrap();
    assert_eq!(line.push(To::Room("live://1"), b"the end"), queued(CLIENTS.into()));
    // A caller that was too slow is disconnected, and does not know the results of its pushes.
    let may_be_late = were_cut_off(&line, 3) || stall >= LEAVE / 2;
    let (calls, (streamed, streams)) = match (called, streamed) {
        (Ok(calls), Ok(streamed)) => (calls, streamed),
        failed => {
            assert!(may_be_late, "{failed:?}");
            return false;
        }
    };
    let is_between_upgrades = calls > 0 && streamed > 0 && streams > 1;
    assert!(is_between_upgrades || may_be_late, "{calls}, {streamed} by {streams} streams");
    if !is_between_upgrades {
        return false;
    }
    for reader in readers {
        assert_eq!(reader.join().unwrap(), [calls, streamed]);
    }
    line.metrics().assert_balanced();
    true
}

/// Two callers that do not leave: one does not answer pings of HTTP/2, and one has begun a call without sending its message.
#[test]
fn callers_that_do_not_leave_delay_no_upgrade() {
    until_in_time(two_callers_do_not_leave);
}

fn two_callers_do_not_leave() -> bool {
    let mut line = Line::start(&[], &[]);
    let _stubborn = [0, 1].map(|calls| calls_that_announce(line.server.grpc, calls, 100));
    assert_eq!(line.push(To::User(7), b""), Ledger { absent: 1, ..Ledger::default() });
    line.upgrade();
    !were_cut_off(&line, 1)
}
