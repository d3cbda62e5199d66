//! One call of logic: within its deadline, at one address after another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::addresses::Addresses;
use super::failure::{Attempt, Failure};
use super::{BadAddress, LogicOptions};
use comet_serve::CallCounts;
use comet_wire::goim::logic::logic_client::LogicClient;

/// May a call that failed on its way be made again at another address?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Again {
    /// Logic may do it twice.
    Always,
    /// Only if logic cannot have seen it.
    IfUnsent,
}

pub(crate) struct Caller {
    addresses: Addresses,
    permits: Arc<Semaphore>,
    /// How many there are.
    calls: usize,
    timeout: Duration,
    answers: CallCounts,
}

impl Caller {
    pub(crate) fn new(options: &LogicOptions) -> Result<Self, BadAddress> {
        let calls = options.calls.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            addresses: Addresses::new(options)?,
            permits: Arc::new(Semaphore::new(calls)),
            calls,
            timeout: options.timeout,
            answers: CallCounts::default(),
        })
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Leave to make a call, if not too many are under way; one refused is counted as answered.
    pub(crate) fn permit(&self, rpc: &'static str) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        if permit.is_none() {
            self.answers.add(rpc, Failure::Crowded.code());
        }
        permit
    }

    /// The same for what can wait.
    pub(crate) async fn wait_for_permit(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.permits).acquire_owned().await.expect("nobody closes it")
    }

    pub(crate) fn under_way(&self) -> usize {
        self.calls - self.permits.available_permits()
    }

    /// Name, code and count of all calls so far.
    pub(crate) fn answers(&self) -> Vec<(&'static str, Code, u64)> {
        self.answers.all()
    }

    /// Calls the address whose turn it is; if that cannot answer, each other one that is there at most
    /// once, as far as `again` allows. All within one deadline.
    pub(crate) async fn call<Req, Rep>(
        &self,
        rpc: &'static str,
        again: Again,
        request: Req,
        send: impl AsyncFn(LogicClient<Channel>, Request<Req>) -> Result<Response<Rep>, Status>,
    ) -> Result<Rep, Failure>
    where
        Req: Clone,
    {
        let attempts = self.attempts(again, request, send);
        let outcome = timeout(self.timeout, attempts).await.unwrap_or(Err(Failure::Late));
        self.answers.add(rpc, outcome.as_ref().map_or_else(Failure::code, |_| Code::Ok));
        outcome
    }

    async fn attempts<Req, Rep>(
        &self,
        again: Again,
        request: Req,
        send: impl AsyncFn(LogicClient<Channel>, Request<Req>) -> Result<Response<Rep>, Status>,
    ) -> Result<Rep, Failure>
    where
        Req: Clone,
    {
        let mut tried = Vec::new();
        while let Some((index, channel)) = self.addresses.pick(&tried) {
            let mut request = Request::new(request.clone());
            request.set_timeout(self.timeout);
            let status = match send(LogicClient::new(channel), request).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status) => status,
            };
            match Attempt::of(status) {
                Attempt::Final(failure) => return Err(failure),
                Attempt::Broken { unsent } => {
                    self.addresses.doubt(index);
                    if again == Again::IfUnsent && !unsent {
                        break;
                    }
                }
            }
            tried.push(index);
        }
        Err(Failure::Away)
    }
}
