//! Checks that the registration in discovery is usable for its readers.

use std::net::SocketAddr;

use comet_listen::Address;

use crate::keys::Config;
use crate::mistakes::Report;
use crate::source::Process;

pub(super) fn fits(report: &mut Report<'_>, config: &Config, process: Process) {
    let discovery = &config.discovery;
    let (nodes, grpc) = ("discovery.nodes", "discovery.grpc");
    if discovery.nodes.is_empty() {
        return;
    }
    let mut needs = |needed: &str, value: &str, why: &str| {
        if report.is_sound(&[nodes, needed]) && value.is_empty() {
            report.value(nodes, &format!("needs {needed}: {why}"));
        }
    };
    if process == Process::Logic {
        return needs("discovery.env", &discovery.env, "comets are found by their environment");
    }
    let (zone, env) = ("discovery.zone", "discovery.env");
    let why = "discovery registers nobody without it";
    if discovery.zone.is_empty() && discovery.env.is_empty() {
        needs(&format!("{zone} and {env}"), "", "discovery registers nobody without them");
    }
    needs(zone, &discovery.zone, why);
    needs(env, &discovery.env, why);
    if report.is_sound(&[nodes, grpc, "push.grpc"])
        && discovery.grpc.is_empty()
        && let Some(why) = useless(config)
    {
        report.value(
            nodes,
            &format!("needs {grpc}, HOST:PORT by which job reaches push.grpc: {why}"),
        );
    }
}

/// Why job cannot use the addresses of `push.grpc` as they are.
fn useless(config: &Config) -> Option<String> {
    let on_this_host = |node: &String| {
        node.starts_with("localhost:")
            || node.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
    };
    let is_alone = config.discovery.nodes.iter().all(on_this_host);
    let addresses: Vec<SocketAddr> = config.push.grpc.iter().filter_map(Address::socket).collect();
    if addresses.is_empty() {
        return Some("that has no address of another host's".to_owned());
    }
    addresses.iter().find_map(|address| {
        if address.ip().is_unspecified() {
            Some(format!("{address} stands for all interfaces"))
        } else if address.ip().is_loopback() && !is_alone {
            Some(format!("{address} is reached from this host only"))
        } else {
            None
        }
    })
}
