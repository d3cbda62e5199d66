//! The configuration of `comet logic`, read again at SIGHUP.

use std::fs;

use rustix::process::Signal;

use crate::authority::Authority;
use crate::logic_process::own_address;
use crate::process::{Running, comet, line_with, temporary};

#[test]
fn the_last_lock_of_an_exposed_address_stays() {
    let authority = Authority::new();
    let port = own_address().port();
    let pair = authority.sets("127.0.0.1").map(|set| set.replace("api_tls.", "")).join("\n");
    let text = |authorities: &str, bind: &str, more: &str| {
        format!(
            "[api_tls]\n{pair}\n{authorities}\n[logic_server]\nhttp = []\nstat = []\n\
             grpc = [\"tls:{bind}:{port}\"]\n{more}\n"
        )
    };
    let authorities = authority.trusted("client_ca").replace("api_tls.", "");
    let tokens = "tokens = [\"a-token-that-logic-asks-for\"]";
    let file = temporary("logic-locks.toml", &text(&authorities, "0.0.0.0", ""));
    let (process, log) = Running::start(comet(&["logic", "--config", &file]));
    line_with(&log, "stat [");
    let reload = |text: String, said: &str| {
        fs::write(&file, text).unwrap();
        process.signal(Signal::HUP);
        let line = line_with(&log, "SIGHUP: ");
        assert!(line.contains(said), "{said}: {line}");
    };
    let refused = format!("tls:0.0.0.0:{port} is not loopback, and whoever reaches it may");
    // Without its lock; and with what counts from the next start on.
    reload(text("", "0.0.0.0", ""), &refused);
    reload(text("", "127.0.0.1", ""), &refused);
    reload(text("", "0.0.0.0", "insecure = true"), &refused);
    // One lock for the other.
    reload(text("", "0.0.0.0", tokens), "api_tls.client_ca changed from ");
    line_with(&log, "SIGHUP: logic_server.tokens changed from ");
    reload(text("", "127.0.0.1", ""), &refused);
    reload(text(&authorities, "0.0.0.0", ""), "api_tls.client_ca changed from ");
}
