//! Upgrades between two releases of the server.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use comet_client::{Transport, op};

use super::{Line, body, expect, token};
use crate::peer::{Peer, frame};
use crate::process::{self, with_sets};
use crate::support::{BOTH, Permit, To, queued, two_cores};

/// The variable with the path of a binary of a former release.
const FORMER: &str = "COMET_FORMER_BIN";

/// An upgrade to this release, and back to the former one, which may refuse; then this one continues.
#[test]
#[allow(clippy::print_stderr, reason = "the reader of the log has to know what was not tested")]
fn a_former_release_can_hand_over_and_take_back() {
    let Some(former) = env::var_os(FORMER) else {
        eprintln!("SKIPPED: {FORMER} names no binary of a former release");
        return;
    };
    let former = Path::new(&former).canonicalize().unwrap();
    let permit = Permit::wait();
    let mut command = Command::new(&former);
    let history = r#"history.rules=[{ rooms = "live://*", pushes = 100 }]"#;
    command.args(["--cores", &two_cores()]).args(with_sets(&["tcp.sndbuf=16384", history]));
    command.env_remove("RUST_LOG").env_remove(FORMER).stdin(Stdio::null());
    let mut line = Line::of(process::Server::launch(command, permit));
    let mut clients: Vec<Peer> = (0..)
        .zip(BOTH.iter().cycle())
        .take(6)
        .map(|(user, transport)| line.server.live(*transport, &token(user)))
        .collect();
    let mut number = 0;
    for binary in [Path::new(env!("CARGO_BIN_EXE_comet")), &former] {
        assert_eq!(line.push(To::Room("live://1"), &body(number)), queued(6));
        let heartbeat = clients[0].wrap(&frame(op::HEARTBEAT, 7, b""));
        clients[0].write(&heartbeat[..9]);
        let (code, said, error) = line.ask(&["--binary", binary.to_str().unwrap()]);
        if binary == former && code == 1 {
            assert!(
                error.contains("the new process cannot read the state: it does not know "),
                "{error}"
            );
        } else {
            assert_eq!((code, &*error), (0, ""), "{said}");
            assert!(said.contains("6 connections go on after a pause of "), "{said}");
            line.moved(&said);
        }
        assert_eq!(line.push(To::Room("live://1"), &body(number + 1)), queued(6));
        for client in &mut clients {
            expect(client, number..number + 2);
        }
        clients[0].write(&heartbeat[9..]);
        assert_eq!(clients[0].recv().operation, op::HEARTBEAT_REPLY);
        number += 2;
    }
    line.metrics().assert_balanced();
    drop(line.server.live(Transport::Tcp, &token(9)));
}
