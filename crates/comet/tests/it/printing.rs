//! Output that cannot be written: a full disk, and a pipe without a reader. A command ends with its documented code and
//! never panics.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use comet_client::Transport;

use crate::logic_process::own_address;
use crate::process::{comet, line_with, lines, run, with_sets};
use crate::support::{Server, To, queued, until};

/// A file on which every write fails with ENOSPC.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe whose reader is closed.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[track_caller]
fn end(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

const FULL: &str =
    "comet: cannot write to standard output: No space left on device (os error 28)\n";

#[test]
fn failed_output_ends_with_one_line_on_standard_error() {
    let server = Server::start(&[]);
    let _client = server.client(Transport::Tcp, "42");
    let grpc = server.grpc().to_string();
    let check = [&["--check"], &with_sets(&[])[..]].concat();
    let lines: [&[&str]; 4] =
        [&check, &["--help"], &["--version"], &["push", "--grpc", &grpc, "all", "text"]];
    for line in lines {
        assert_eq!(end(comet(line).stdout(full())), (Some(1), FULL.to_owned()), "{line:?}");
        // As in `comet --check | head -1`.
        assert_eq!(end(comet(line).stdout(unread())), (Some(0), String::new()), "{line:?}");
    }
}

#[test]
fn the_exit_code_does_not_depend_on_standard_error() {
    let free = own_address().to_string();
    let check = [&["--check"], &with_sets(&["limits.connections=16777216"])[..]].concat();
    let cases: [(&[&str], i32); 7] = [
        (&["--nonsense"], 64),
        (&["--set", "bogus.key=1"], 64),
        (&["logic", "--set", "bogus.key=1"], 64),
        (&["--set", r#"log.file="/""#], 1),
        (&["logic", "--set", r#"log.file="/""#], 1),
        (&["push", "--grpc", &free, "all", "text"], 1),
        // The check warns of a limit of open files that is too low.
        (&check, 0),
    ];
    for (line, code) in cases {
        for stderr in [full().into(), unread()] {
            let status = comet(line).stdout(Stdio::null()).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(code), "{line:?}");
        }
        assert_eq!(run(line).0, code, "{line:?}");
    }
}

#[test]
fn listen_ends_when_its_messages_cannot_be_printed() {
    let server = Server::start(&[]);
    let address = server.address(Transport::Tcp).to_string();
    let line = ["listen", "--room", "r", "--addr", &address];
    let mut listener = comet(&line).stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
    let errors = lines(listener.stderr.take().unwrap());
    line_with(&errors, "connected to ");
    assert_eq!(server.push(To::Room("r"), 1000, b"hello"), queued(1));
    assert_eq!(listener.wait().unwrap().code(), Some(1));
    assert_eq!(format!("{}\n", line_with(&errors, "comet: ")), FULL);
}

#[test]
fn listen_works_without_standard_error() {
    let server = Server::start(&[]);
    let address = server.address(Transport::Tcp).to_string();
    let line = ["listen", "--room", "r", "--addr", &address];
    let mut listener = comet(&line).stderr(full()).stdout(Stdio::piped()).spawn().unwrap();
    until("the listener to be in the room", || {
        server.push(To::Room("r"), 1000, b"hello") == queued(1)
    });
    let mut line = String::new();
    BufReader::new(listener.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "op 1000: hello\n");
    listener.kill().unwrap();
    listener.wait().unwrap();
}
