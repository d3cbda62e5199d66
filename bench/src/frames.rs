//! A caller of a comet's `push.frames`. Sending never waits for answers.

use std::net::SocketAddr;

use comet_client::{Frame, PushLedger, PushTarget};
use comet_proto::push_frame::{PushReply, PushRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::Result;
use crate::grpc::{Address, Answer, Ledger, Push};
use crate::message::OP_RAW;

/// The longest reply, in bytes.
const REPLY_MAX: usize = 64 << 10;
/// Names of the reasons that are numbered, from 1, in replies.
const REASONS: [&str; 5] = ["outbox_full", "filtered", "not_ready", "closing", "mesh_full"];

/// A connection.
pub(crate) struct PushFrames {
    pushes: mpsc::UnboundedSender<Push>,
    /// Takes the answers.
    reader: JoinHandle<()>,
}

impl PushFrames {
    /// Connects to `address`. Answers are passed to `take`, in the order of the pushes; after an error there are no
    /// more. Fails if nobody listens there.
    pub(crate) async fn open(
        address: SocketAddr,
        take: impl Fn(Vec<Answer>) + Send + Sync + 'static,
    ) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (input, output) = stream.into_split();
        let (pushes, begun) = mpsc::unbounded_channel();
        tokio::spawn(write(output, begun));
        let reader = tokio::spawn(async move {
            if let Err(error) = read(input, &take).await {
                take(vec![Err(Status::unavailable(error.to_string()))]);
            }
        });
        Ok(Self { pushes, reader })
    }

    /// Sends a push. If the connection has ended, its answers say so.
    pub(crate) fn push(&mut self, push: Push) {
        let _ = self.pushes.send(push);
    }

    /// There are no more pushes; returns the task that ends with the last answer.
    pub(crate) fn end(self) -> JoinHandle<()> {
        self.reader
    }
}

/// Writes all pushes that are waiting at once, and shuts down this side of the connection after the last.
async fn write(mut output: OwnedWriteHalf, mut pushes: mpsc::UnboundedReceiver<Push>) {
    let (mut bytes, mut id) = (Vec::new(), 0);
    while let Some(push) = pushes.recv().await {
        bytes.clear();
        let mut next = Some(push);
        while let Some(push) = next {
            encode(id, &push, &mut bytes);
            id = u32::wrapping_add(id, 1);
            next = pushes.try_recv().ok();
        }
        // The reader learns how the connection ends.
        if output.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

fn encode(id: u32, push: &Push, bytes: &mut Vec<u8>) {
    let target = match &push.to {
        Address::Room(room) => PushTarget::Room(room),
        // A frame names one key; more become an empty key, which the server refuses.
        Address::Keys(keys) => PushTarget::Key(if keys.len() == 1 { &keys[0] } else { "" }),
        Address::Everybody => PushTarget::All,
    };
    let operation = if push.is_batch { OP_RAW } else { push.operation };
    let frame = Frame { version: 1, operation, sequence: 0, body: &push.content };
    PushRequest { id, target, accept: push.operation, frame }.encode(bytes);
}

async fn read(mut input: OwnedReadHalf, take: &impl Fn(Vec<Answer>)) -> Result<()> {
    let (mut bytes, mut next) = (Vec::new(), 0_u32);
    while input.read_buf(&mut bytes).await? > 0 {
        let (mut answers, mut read) = (Vec::new(), 0);
        while let Some((reply, length)) = PushReply::decode(&bytes[read..], REPLY_MAX)? {
            if reply.id != next {
                return Err(format!("push {} is answered before {next}", reply.id).into());
            }
            next = next.wrapping_add(1);
            answers.push(answer(&reply));
            read += length;
        }
        bytes.drain(..read);
        take(answers);
    }
    Ok(())
}

fn answer(reply: &PushReply<'_>) -> Answer {
    if reply.status != 0 {
        let words = String::from_utf8_lossy(reply.body);
        return Err(Status::new(Code::from_i32(reply.status.cast_signed()), words));
    }
    let PushLedger { matched, queued, absent, parked, unanswered: _, dropped } =
        PushLedger::decode(reply.body).ok_or_else(|| Status::internal("a ledger is cut"))?;
    let name = |reason: u32| REASONS.get(reason as usize - 1).copied().unwrap_or("other");
    let dropped = dropped.into_iter().map(|(reason, count)| (name(reason).to_owned(), count));
    let dropped = dropped.collect();
    Ok(Some(Ledger { matched, queued, absent, parked, dropped, ..Ledger::default() }))
}
