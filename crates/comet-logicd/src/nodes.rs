//! The comets as clients and operators see them: `/goim/nodes/*` and the `Nodes` call.

use std::convert::Infallible;
use std::sync::Arc;

use comet_hub::fanout::HealthMonitor;
use comet_push::Instance;
use comet_serve::TokenChannel;
use tokio::select;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::comets::Comets;

/// Keeps asking every comet whether it takes clients.
pub(crate) async fn monitor(comets: Arc<Comets>) -> Infallible {
    let mut asked = JoinSet::new();
    let (_, mut due) = comets.monitor(|_, _| {});
    loop {
        let (checks, next) = select! {
            biased;
            Some(answered) = asked.join_next() => {
                let (check, is_serving) = answered.expect("asking does not panic");
                comets.monitor(|health, now| health.handle_check(now, check, is_serving))
            }
            () = sleep_until(due.into()) => {
                // What has not answered by now is not waited for.
                asked.abort_all();
                asked.detach_all();
                comets.monitor(HealthMonitor::handle_timeout)
            }
        };
        due = next;
        for check in checks {
            let channel = comets.all()[check.comet].channel.clone();
            asked.spawn(async move { (check, is_serving(channel).await) });
        }
    }
}

async fn is_serving(channel: TokenChannel) -> bool {
    let request = HealthCheckRequest { service: String::new() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => answer.into_inner().status == ServingStatus::Serving as i32,
        // goim's comet has no health service; that it says so is an answer, too.
        Err(status) => status.code() == Code::Unimplemented,
    }
}

/// The hosts of the comets that take clients, the one with the fewest sessions first, none twice; `domain`
/// where there is none.
pub(crate) async fn hosts(comets: &Comets, domain: &str) -> Result<Vec<String>, Status> {
    let live = comets.live_by_comet().await?;
    let serving = (0..).zip(live).filter(|(index, _)| comets.is_serving(*index));
    let mut by_load: Vec<_> = serving.collect();
    by_load.sort_by_key(|(_, live)| *live);
    let mut hosts: Vec<String> = Vec::new();
    for (index, _) in by_load {
        let host = host(&comets.all()[index].address);
        if !hosts.iter().any(|known| known == host) {
            hosts.push(host.to_owned());
        }
    }
    if hosts.is_empty() {
        hosts.push(domain.to_owned());
    }
    Ok(hosts)
}

/// What there is to say of each comet; one that is not there, or takes no clients, is offline.
pub(crate) async fn instances(comets: &Comets) -> Result<Vec<Instance>, Status> {
    let live = comets.live_by_comet().await?;
    let instances =
        comets.all().iter().zip(live).enumerate().map(|(index, (comet, live))| Instance {
            hostname: comet.id.clone(),
            addresses: vec![format!("grpc://{}", comet.address)],
            version: String::new(),
            domain: host(&comet.address).to_owned(),
            live,
            offline: !comets.is_serving(index),
        });
    Ok(instances.collect())
}

/// `HOST` of `HOST:PORT`; an IPv6 address without its brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_without_a_port() {
        let check = |address, expected| assert_eq!(host(address), expected);
        check("127.0.0.1:8083", "127.0.0.1");
        check("comet-7.example:1", "comet-7.example");
        check("[2001:db8::1]:8083", "2001:db8::1");
    }
}
