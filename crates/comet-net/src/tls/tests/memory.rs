//! The memory of an idle session.

use std::process::Command;

use rustls::ProtocolVersion;

use super::*;

#[test]
fn an_idle_session_fits_its_budget() {
    const SESSIONS: usize = 400;
    // Together with the rest of a connection this is less than 1 KiB.
    const BUDGET: usize = 560;
    const ALONE: &str = "COMET_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // Runs in a process of its own: other tests would add to the memory that is measured.
        let name = "tls::tests::memory::an_idle_session_fits_its_budget";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        alone.args([name, "--exact", "--nocapture"]).env(ALONE, "1");
        let output = alone.output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        println!("{stdout}");
        assert!(output.status.success() && stdout.contains("bytes a session"));
        return;
    }
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let files = Folder::new();
    let pair = files.pair(&["a.example"]);
    let tls = Tls::load(&options(std::slice::from_ref(&pair), TlsVersion::V1_2)).unwrap();
    let mut sessions = Vec::new();
    for version in VERSIONS {
        let mut before = 0;
        for number in 0..2 * SESSIONS {
            if number == SESSIONS {
                // The process has made its one-time allocations at this point.
                before = resident();
            }
            let mut handshake = Pair {
                client: client(&pair.0, version),
                server: TlsSession::new(&tls.config(Transport::WebSocket)),
                received: Vec::new(),
                answered: Vec::new(),
                _folder: None,
            };
            while handshake.client.is_handshaking() || handshake.client.wants_write() {
                handshake.client_sends(usize::MAX).unwrap();
                handshake.server_sends();
            }
            assert_eq!(handshake.client.protocol_version().unwrap(), version_of(version));
            sessions.push(Box::new(handshake.server));
        }
        let bytes = resident().saturating_sub(before) / SESSIONS;
        println!("{:?}: {bytes} bytes a session", version_of(version));
        assert!(bytes < BUDGET, "{bytes} bytes a session");
    }
}

fn version_of(version: &SupportedProtocolVersion) -> ProtocolVersion {
    if std::ptr::eq(version, &raw const TLS12) {
        ProtocolVersion::TLSv1_2
    } else {
        ProtocolVersion::TLSv1_3
    }
}
