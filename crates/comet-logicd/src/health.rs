//! The checks of the comets' health, and the reports of it to the service manager.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use comet_hub::fanout::{CometNumber, Health, HealthMonitor};
use comet_ops::{Notice, ServiceManager};
use comet_serve::{GrpcChannel, call_until_processed, misses_token};
use tokio::select;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{interval, sleep_until};
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::comet::message;
use crate::comets::Comets;
use crate::desired_comets::DesiredComets;

/// Shortest time between two status changes sent to the service manager.
const TELL_PERIOD: Duration = Duration::from_secs(1);

/// Keeps the list of comets equal to `desired`, and repeatedly asks each whether it takes clients.
pub(crate) async fn monitor(
    comets: Arc<Comets>,
    mut desired: watch::Receiver<DesiredComets>,
) -> Infallible {
    let mut checks = JoinSet::new();
    // The last check of each comet.
    let mut asked = BTreeMap::<CometNumber, AbortHandle>::new();
    let (_, mut due) = comets.monitor(|_, _| {});
    loop {
        let is_due = async {
            match due {
                Some(due) => sleep_until(due.into()).await,
                None => pending().await,
            }
        };
        let (due_checks, next) = select! {
            biased;
            Ok(()) = desired.changed() => {
                let desired = desired.borrow_and_update().clone();
                comets.set_list(desired);
                let list = comets.all();
                for (_, check) in asked.extract_if(.., |comet, _| !list.contains_key(comet)) {
                    check.abort();
                }
                comets.monitor(HealthMonitor::handle_timeout)
            }
            Some(checked) = checks.join_next() => {
                // An abandoned check has no result.
                let Ok((check, health)) = checked else { continue };
                comets.monitor(|monitor, now| monitor.handle_check(now, check, health))
            }
            () = is_due => comets.monitor(HealthMonitor::handle_timeout),
        };
        due = next;
        for check in due_checks {
            let channel = comets.all()[&check.comet].channel();
            let handle = checks.spawn(async move { (check, health(channel).await) });
            if let Some(former) = asked.insert(check.comet, handle) {
                former.abort();
            }
        }
    }
}

/// Reports to the service manager which comets take clients.
pub(crate) async fn tell(comets: Arc<Comets>) -> Infallible {
    let manager = ServiceManager::from_environment();
    if !manager.is_there() {
        return pending().await;
    }
    let mut told = None;
    let mut ticks = interval(TELL_PERIOD);
    loop {
        ticks.tick().await;
        let all = comets.all();
        let serving = all.keys().filter(|comet| comets.is_serving(**comet)).count();
        let counts = (serving, all.len());
        if told.replace(counts) != Some(counts) {
            let sentence = format!("{serving} of {} comets take clients", all.len());
            manager.notify(Notice::Status(&sentence));
        }
    }
}

/// The message about a comet that requires a token when none is set.
const TOKEN_MISSING: &str =
    "it asks for a token: set logic_server.comet_token to one of its tokens (push.tokens)";

async fn health(channel: GrpcChannel) -> Health {
    let check = || {
        let mut client = HealthClient::new(channel.clone());
        async move { client.check(HealthCheckRequest { service: String::new() }).await }
    };
    match call_until_processed(check).await {
        Ok(answer) if misses_token(&answer) => Health::Gone(TOKEN_MISSING.into()),
        Ok(answer) if answer.get_ref().status == ServingStatus::Serving as i32 => Health::Serving,
        Ok(_) => Health::NotServing,
        // goim's comet has no health service. Its answer that it has none shows that it serves.
        Err(status) if status.code() == Code::Unimplemented && status.source().is_none() => {
            Health::Serving
        }
        Err(status) => Health::Gone(message(&status).into()),
    }
}
