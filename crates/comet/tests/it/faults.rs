//! Faults of what stands around the running programs: logic, Redis, comets, disks, descriptors, networks, peers; and a
//! panic of a thread.

mod comets;
mod disk;
mod logic;
mod panics;
mod redis;
mod storm;
mod vanish;
mod wire;

use std::net::{SocketAddr, TcpStream};
use std::thread;

use crate::logic_process::own_address;
use crate::process::{Running, comet};
use crate::support::until;

/// `comet logic` at addresses of its own.
struct Logic {
    process: Running,
    grpc: SocketAddr,
    http: SocketAddr,
    stat: SocketAddr,
}

impl Logic {
    /// Runs it with `sets`, until it listens.
    fn start(sets: &[String]) -> Self {
        let [grpc, http, stat] = [own_address(), own_address(), own_address()];
        let own = [("grpc", grpc), ("http", http), ("stat", stat)]
            .map(|(server, address)| format!("logic_server.{server}=[\"{address}\"]"));
        // Pushes have 5 s else, which a busy machine takes from them.
        let patient = "push.timeout=\"20s\"".to_owned();
        let sets = own.iter().chain([&patient]).chain(sets).flat_map(|set| ["--set", set]);
        let arguments: Vec<&str> = ["logic"].into_iter().chain(sets).collect();
        let (process, log) = Running::start(comet(&arguments));
        thread::spawn(move || log.into_iter().for_each(drop));
        until("comet logic to listen", || TcpStream::connect(stat).is_ok());
        Self { process, grpc, http, stat }
    }
}
