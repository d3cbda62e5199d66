//! Sessions that are parked during an upgrade.

use comet::blocking_client::Ledger;
use comet_client::{Client, Options, Resumed, Transport};

use super::Line;
use crate::support::{BOTH, PATIENCE, To, queued, received, until};

const TOKEN: &str = r#"{"mid":42,"key":"k","accepts":[5]}"#;

fn connect(line: &Line, transport: Transport) -> Client {
    let options = match transport {
        Transport::Tcp => Options::tcp(line.server.tcp.to_string(), TOKEN),
        Transport::WebSocket => {
            Options::websocket(line.server.websocket.to_string(), "/sub", TOKEN)
        }
    };
    options.keep_session().timeout(PATIENCE).connect().expect("the server takes the token")
}

#[test]
fn parked_sessions_continue_in_the_new_process() {
    let mut line = Line::start(&[], &["resume.window=\"1m\""]);
    let parked = Ledger { parked: 1, ..queued(0) };
    let mut client = connect(&line, Transport::Tcp);
    for transport in BOTH {
        drop(client);
        until("the session to be parked", || line.metrics().value("comet_parked_sessions") == 1);
        assert_eq!(line.push(To::Keys(&["k"]), b"1"), parked);
        line.upgrade();
        assert_eq!(line.push(To::User(42), b"2"), parked);
        client = connect(&line, transport);
        assert_eq!(client.resumed(), Some(Resumed { parked: 2, ..Resumed::default() }));
        assert_eq!(line.push(To::Keys(&["k"]), b"3"), queued(1));
        for body in [b"1", b"2", b"3"] {
            assert_eq!(received(&mut client), body);
        }
        // A session that has a connection is handed over as well.
        line.upgrade();
        assert_eq!(line.push(To::User(42), b"4"), queued(1));
        assert_eq!(received(&mut client), b"4");
    }
}
