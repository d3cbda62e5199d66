//! `comet stat` and `comet top`, which print the figures of a running server.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use comet_client::Transport;
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;

use crate::process::{Server as Process, comet, run, temporary};
use crate::support::{PATIENCE, Server, To, queued, until};

#[test]
fn stat_prints_a_table_or_json() {
    let server = Server::start(&["server.id=\"edge-7\""]);
    let mut client = server.client(Transport::Tcp, "1");
    client.join("live://1").unwrap();
    let address = server.stat().to_string();
    let (code, text, error) = run(&["stat", "--server", &address]);
    assert_eq!((code, &*error), (0, ""));
    assert!(
        text.contains("edge-7  ready  up 0d 0h") && text.contains("core  connections"),
        "{text}"
    );
    // The server leaves out a core that answers late.
    until("the client and its room to be counted", || {
        let (_, text, _) = run(&["stat", "--server", &address]);
        let has = |words: [&str; 2]| text.lines().any(|line| line.split_whitespace().eq(words));
        has(["live", "1"]) && has(["1", "live://1"])
    });
    let mut stat = Value::Null;
    until("both cores to answer", || {
        let (code, text, error) = run(&["stat", "--server", &address, "--json"]);
        assert_eq!((code, &*error), (0, ""));
        stat = serde_json::from_str(&text).unwrap();
        stat["cores"].as_array().unwrap().len() == 2
    });
    assert_eq!(stat["totals"]["live"], 1);
}

#[test]
fn top_shows_rates_rooms_and_cores() {
    let server = Server::start(&[]);
    let mut client = server.client(Transport::WebSocket, "1");
    client.join("live://1").unwrap();
    assert_eq!(server.push(To::Room("live://1"), 5, b"hello"), queued(1));
    // A configuration file can name the address, too.
    let config = format!("[monitor]\nstat = [\"{}\"]\n", server.stat());
    let config = temporary("top.toml", &config);
    let mut text = String::new();
    // The server leaves out a core that answers late, with the rooms of that core.
    until("both cores and the room to be listed", || {
        let (code, shown, error) = run(&["top", "--once", "--config", &config]);
        assert_eq!((code, &*error), (0, ""));
        text = shown;
        let cores = text.lines().filter(|line| line.contains('%')).count();
        cores == 2 && text.contains("live://1")
    });
    for words in ["connections 1  live 1", "deliveries/s", "slowest clients"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Without a terminal the program prints one screen and ends.
    assert_eq!(run(&["top", "--server", &server.stat().to_string()]).0, 0);
}

#[test]
fn the_token_is_read_from_a_file_and_errors_name_their_cause() {
    const TOKEN: &str = "a-token-that-nobody-guesses";
    let server = Process::start(&[&format!("monitor.tokens=[\"{TOKEN}\"]")]);
    let address = server.stat.to_string();
    let file = temporary("monitor.token", &format!("{TOKEN}\n"));
    for command in ["stat", "top"] {
        assert_eq!(run(&[command, "--server", &address, "--token", &format!("@{file}")]).0, 0);
        let (code, _, error) = run(&[command, "--server", &address]);
        assert_eq!(code, 1);
        assert!(error.contains("401") && error.contains(&address), "{error}");
        let (code, _, error) = run(&[command, "--server", &address, "--token", "@/none"]);
        assert!(code == 1 && error.contains("--token /none"), "{error}");
        let (code, _, error) = run(&[command, "--server", "127.0.0.1:1"]);
        assert!(code == 1 && error.contains("127.0.0.1:1"), "{error}");
    }
}

/// A program with a terminal of its own.
struct OnTerminal {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    shown: String,
    side: OwnedFd,
}

impl OnTerminal {
    fn start(arguments: &[&str]) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let side = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&side, size).unwrap();
        let end = || side.try_clone().unwrap();
        let child = comet(arguments).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let keyboard = File::from(terminal);
        let mut reader = keyboard.try_clone().unwrap();
        let (sender, screen) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = reader.read(&mut bytes) {
                if sender.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keyboard, screen, shown: String::new(), side }
    }

    fn until_shown(&mut self, text: &str) {
        while !self.shown.contains(text) {
            let bytes =
                self.screen.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{}", self.shown));
            self.shown += &String::from_utf8_lossy(&bytes);
        }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.side).unwrap().local_modes.contains(LocalModes::ICANON)
    }
}

#[test]
fn top_redraws_each_second_until_a_key_is_pressed() {
    let server = Server::start(&[]);
    let address = server.stat().to_string();
    for key in [b"q", b"\x03"] {
        let mut top = OnTerminal::start(&["top", "--server", &address]);
        top.until_shown("slowest clients");
        assert!(top.is_raw());
        top.shown.clear();
        top.until_shown("slowest clients");
        top.keyboard.write_all(key).unwrap();
        top.until_shown("\x1b[?1049l");
        until("the program to end", || top.child.try_wait().unwrap().is_some());
        assert_eq!(top.child.wait().unwrap().code(), Some(0));
        assert!(!top.is_raw());
    }
}
