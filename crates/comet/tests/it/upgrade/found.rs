//! The server that `comet upgrade` finds without --pid and without a PID file.

use comet_client::Transport;

use super::{Line, token};
use crate::process::{self, comet, run, with_sets};
use crate::support::{Permit, two_cores};

/// The command's own arguments are not compared with those of the server.
#[test]
fn an_upgrade_finds_the_server_by_its_arguments() {
    let permit = Permit::wait();
    let cores = format!("server.cores={:?}", two_cores());
    // No other server on this host has the same arguments.
    let id = format!("server.id=\"found-by-its-arguments-{}\"", std::process::id());
    let arguments = with_sets(&[&cores, &id]);
    let mut line = Line::of(process::Server::launch(comet(&arguments), permit));
    let _client = line.server.live(Transport::Tcp, &token(7));
    let ask = |own: &[&str]| run(&[&["upgrade"][..], own, &arguments].concat());

    let (code, said, error) = ask(&["--check"]);
    assert_eq!((code, &*error), (0, ""), "{said}");
    assert!(said.starts_with("would go on: 1\n"), "{said}");

    let (code, said, error) = ask(&["--set", "log.level=\"warn\""]);
    assert_eq!((code, &*said), (1, ""));
    let advice = "exactly these arguments: pass --pid, or set server.pid_file";
    assert!(error.contains(advice), "{error}");

    let own = ["--start-time", "29", "--binary", env!("CARGO_BIN_EXE_comet")];
    let (code, said, error) = ask(&own);
    assert_eq!((code, &*error), (0, ""), "{said}");
    assert!(said.contains(": 1 connections go on "), "{said}");
    line.moved(&said);
    // The new process has the same arguments, so it is found as well.
    let (code, said, error) = ask(&["--check", "--start-time=29"]);
    assert_eq!((code, &*error), (0, ""), "{said}");
}
