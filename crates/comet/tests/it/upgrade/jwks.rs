//! The new process keeps the token keys that were fetched from URLs.

use super::Line;
use crate::jwks::{Signer, Web, connect, ok, set, sets};
use crate::process::line_with;

/// During the upgrade the server of the keys fails.
#[test]
fn fetched_keys_are_valid_in_the_new_process() {
    let (known, nobodys) = (Signer::new("known"), Signer::new("nobody's"));
    let web = Web::start(None);
    web.set("/keys", ok(&set(&[&known])));
    let sets = sets(&[format!("http://{}/keys", web.address)]);
    let server = web.serve(&[], &sets.each_ref().map(String::as_str));
    line_with(&server.log, "token.jwks_urls[0]: 1 key, of which 1 is new");
    let mut line = Line::of(server);
    let mut before = connect(&line.server, &known).unwrap();
    web.set("/keys", "HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n".to_owned());
    for _ in 0..2 {
        line.upgrade();
        line_with(
            &line.server.log,
            "token.jwks_urls[0]: 1 key, of which 1 is new, from the former",
        );
        connect(&line.server, &known).unwrap();
        // The server may have it.
        let refused = connect(&line.server, &nobodys).unwrap_err();
        assert!(refused.permanent().is_none(), "{refused}");
    }
    before.join("r").unwrap();
}
