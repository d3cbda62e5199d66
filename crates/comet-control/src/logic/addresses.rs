//! The addresses of logic: which of them are there, and whose turn it is.
//!
//! Each address is tended by a task of its own: it connects, pings, and after a failure connects anew.
//! Only that task says whether the address is there; a call that failed asks it to look.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{BadAddress, LogicOptions};
use comet_serve::root_cause;

/// The shortest wait before an address is tried again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

struct Address {
    name: String,
    endpoint: Endpoint,
    /// A call failed there: is it still there?
    doubt: Notify,
}

/// By address the way to it, if it is there.
struct Live {
    channels: Vec<Option<Channel>>,
    /// Whose turn it is.
    next: usize,
}

pub(crate) struct Addresses {
    all: Vec<Address>,
    live: Mutex<Live>,
    /// How many are there.
    count: watch::Sender<usize>,
    ping: Duration,
    timeout: Duration,
}

impl Addresses {
    pub(crate) fn new(options: &LogicOptions) -> Result<Self, BadAddress> {
        let address = |name: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{name}"))
                .map_err(|error| BadAddress { address: name.clone(), error })?;
            let endpoint = endpoint.connect_timeout(options.timeout);
            Ok(Address { name: name.clone(), endpoint, doubt: Notify::new() })
        };
        let named_once = options.addrs.iter().collect::<BTreeSet<_>>();
        let all = named_once.into_iter().map(address).collect::<Result<Vec<_>, _>>()?;
        let live = Live { channels: vec![None; all.len()], next: 0 };
        Ok(Self {
            all,
            live: Mutex::new(live),
            count: watch::Sender::new(0),
            ping: options.ping,
            timeout: options.timeout,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many are there.
    pub(crate) fn live(&self) -> usize {
        *self.count.borrow()
    }

    /// Resolves when one is there.
    pub(crate) async fn until_live(&self) {
        let mut count = self.count.subscribe();
        count.wait_for(|count| *count > 0).await.expect("the sender is in self");
    }

    /// Each address and whether it is there.
    pub(crate) fn all(&self) -> Vec<(String, bool)> {
        let live = self.lock();
        let names = self.all.iter().map(|address| address.name.clone());
        names.zip(live.channels.iter().map(Option::is_some)).collect()
    }

    /// The next address in turn that is there and not among those `tried`.
    pub(crate) fn pick(&self, tried: &[usize]) -> Option<(usize, Channel)> {
        let mut live = self.lock();
        let count = live.channels.len();
        let turns = (0..count).map(|step| (live.next + step) % count);
        let (index, channel) = turns
            .filter(|index| !tried.contains(index))
            .find_map(|index| Some((index, live.channels[index].clone()?)))?;
        live.next = (index + 1) % count;
        Some((index, channel))
    }

    /// A call to the address failed on its way.
    pub(crate) fn doubt(&self, index: usize) {
        self.all[index].doubt.notify_one();
    }

    /// Keeps the address connected, and known to be there or not, for as long as it is polled.
    pub(crate) async fn tend(&self, index: usize) -> Infallible {
        let name = &self.all[index].name;
        let mut failures = 0;
        let mut before = None;
        loop {
            match self.reach(index).await {
                Ok(channel) => {
                    self.set(index, Some(channel.clone()));
                    log::info!("logic {name} is {}", before.unwrap_or("there"));
                    before = Some("back");
                    let (pings, cause) = self.keep(index, channel).await;
                    let left = self.set(index, None);
                    log::warn!("logic {name} is gone: {cause}");
                    if left == 0 {
                        log::error!("no logic is there: new clients are refused until one is back");
                    }
                    // One that comes and goes is not worth more haste than one that is away.
                    failures = if pings > 0 { 0 } else { failures + 1 };
                }
                Err(cause) => {
                    if before.is_none() {
                        log::warn!("logic {name} is not there: {cause}");
                        before = Some("there");
                    }
                    failures += 1;
                }
            }
            tokio::time::sleep(backoff(failures)).await;
        }
    }

    /// Connects, and hears a first answer.
    async fn reach(&self, index: usize) -> Result<Channel, String> {
        let connecting = timeout(self.timeout, self.all[index].endpoint.connect());
        let channel = match connecting.await {
            Ok(connected) => connected.map_err(|error| root_cause(&error).to_string())?,
            Err(_) => return Err(format!("no connection within {:?}", self.timeout)),
        };
        self.ping(&channel).await?;
        Ok(channel)
    }

    /// Pings until there is no answer. How many pings had one, and what was wrong with the last?
    async fn keep(&self, index: usize, channel: Channel) -> (u64, String) {
        let mut answered = 0;
        loop {
            // Either way it is time to look.
            let _ = timeout(self.ping, self.all[index].doubt.notified()).await;
            match self.ping(&channel).await {
                Ok(()) => answered += 1,
                Err(cause) => return (answered, cause),
            }
        }
    }

    /// goim's Logic has no call for this, and gRPC's health service may not be there; that it is not is
    /// an answer, too.
    async fn ping(&self, channel: &Channel) -> Result<(), String> {
        let mut health = HealthClient::new(channel.clone());
        let checked = timeout(self.timeout, health.check(HealthCheckRequest::default())).await;
        match checked {
            Ok(Ok(reply)) if reply.get_ref().status == ServingStatus::NotServing as i32 => {
                Err("it says that it does not serve".to_owned())
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) if is_an_answer(&status) => Ok(()),
            Ok(Err(status)) => Err(root_cause(&status).to_string()),
            Err(_) => Err(format!("no answer to a ping within {:?}", self.timeout)),
        }
    }

    /// Returns how many are there now.
    fn set(&self, index: usize, channel: Option<Channel>) -> usize {
        let mut live = self.lock();
        live.channels[index] = channel;
        let count = live.channels.iter().flatten().count();
        self.count.send_replace(count);
        count
    }

    /// Never held across an await, and only the control thread comes here.
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().expect("nothing panics between lock and unlock")
    }
}

/// Did the other side say so? What this side notices has a source.
fn is_an_answer(status: &Status) -> bool {
    std::error::Error::source(status).is_none() && status.code() != Code::Unavailable
}

/// Drawn from the upper half, so that many comets do not come back in the same moment.
fn backoff(failures: u32) -> Duration {
    let longest = BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    rand::random_range(longest / 2..=longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_up_to_its_bound() {
        for (failures, millis) in [(0, 100), (1, 200), (5, 3_200), (6, 5_000), (u32::MAX, 5_000)] {
            let longest = Duration::from_millis(millis);
            for _ in 0..100 {
                let delay = backoff(failures);
                assert!((longest / 2..=longest).contains(&delay), "{failures}: {delay:?}");
            }
        }
    }
}
