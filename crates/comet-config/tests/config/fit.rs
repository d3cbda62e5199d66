//! Values that do not fit each other.

use crate::{check_mistakes, good};

#[test]
fn values_that_do_not_fit_each_other_are_mistakes() {
    let what = "no outbox would take the largest push: push.frame_max is 4MiB, and with 26 bytes \
                of headers that is more than protocol.outbox_bytes, 4MiB";
    check_mistakes(
        "[protocol]\noutbox_bytes = \"4MiB\"\n",
        &[],
        &[&format!("comet.toml:2:16: protocol.outbox_bytes: {what}")],
    );
    let memory = what.replace("protocol.outbox_bytes", "limits.outbox_memory");
    check_mistakes(
        "[limits]\noutbox_memory = \"4MiB\"\n",
        &[],
        &[&format!("comet.toml:2:17: limits.outbox_memory: {memory}")],
    );
    let what = what.replace("push.frame_max is 4MiB", "push.frame_max is 8MiB");
    let what = what.replace("outbox_bytes, 4MiB", "outbox_bytes, 8MiB");
    check_mistakes("", &["push.frame_max=\"8MiB\""], &[&format!("--set push.frame_max: {what}")]);
    good("", &["push.frame_max=\"2MiB\"", "protocol.outbox_bytes=2097178"]);
    check_mistakes(
        "",
        &["tcp.bind=[]", "websocket.bind=[]"],
        &["--set websocket.bind: is empty, and so are tcp.bind, tcp.tls_bind and \
          websocket.tls_bind: no client could connect"],
    );
    let later = "server.drain_timeout";
    check_mistakes(
        "[server]\ndrain_over = \"10s\"\n",
        &[],
        &[&format!(
            "comet.toml:2:14: server.drain_over: 10s is too much for {later}, 10s: up to 9s"
        )],
    );
    check_mistakes(
        "[server]\ndrain_over = \"1ms\"\ndrain_timeout = \"500ms\"\n",
        &[],
        &[&format!(
            "comet.toml:2:14: server.drain_over: 1ms is too much for {later}, 500ms: up to 0s"
        )],
    );
    check_mistakes(
        "",
        &["logic.heartbeat_max=\"5m\""],
        &["--set logic.heartbeat_max: 5m is less than logic.heartbeat_min, 10m"],
    );
    check_mistakes(
        "[protocol]\nheartbeat = \"2s\"\nheartbeat_coalesce = \"501ms\"\n",
        &[],
        &[
            "comet.toml:3:22: protocol.heartbeat_coalesce: 501ms is too much for protocol.heartbeat, \
          2s: up to 500ms",
        ],
    );
    good("[protocol]\nheartbeat = \"2s\"\nheartbeat_coalesce = \"500ms\"\n", &[]);
    check_mistakes(
        "[protocol]\nheartbeat_coalesce = \"501ms\"\n[logic_server]\nheartbeat = \"2s\"\n",
        &[],
        &["comet.toml:2:22: protocol.heartbeat_coalesce: 501ms is too much for \
          logic_server.heartbeat, 2s: up to 500ms"],
    );
    check_mistakes(
        "",
        &["tcp.keepalive_idle=\"1500ms\""],
        &["--set tcp.keepalive_idle: 1500ms is not a whole number of seconds"],
    );
    let pairs = "each certificate needs its own key, in order";
    check_mistakes(
        "[tls]\ncertificates = [\"a\", \"b\"]\nkeys = [\"a\"]\n",
        &[],
        &[&format!(
            "comet.toml:3:8: tls.keys: 2 files in tls.certificates, and 1 in tls.keys: {pairs}"
        )],
    );
    check_mistakes(
        "",
        &["tls.certificates=[\"a\"]"],
        &[&format!(
            "--set tls.certificates: 1 files in tls.certificates, and 0 in tls.keys: {pairs}"
        )],
    );
    for key in ["tcp.tls_bind", "websocket.tls_bind"] {
        let set = format!("{key}=[\"127.0.0.1:1\"]");
        let what = "needs tls.certificates and tls.keys: what clients are shown";
        check_mistakes("", &[&set], &[&format!("--set {key}: {what}")]);
        good("", &[&set, "tls.certificates=[\"a\"]", "tls.keys=[\"b\"]"]);
        let nobody = ["tcp.bind=[]", "websocket.bind=[]"];
        good("", &[&[&*set, "tls.certificates=[\"a\"]", "tls.keys=[\"b\"]"], &nobody[..]].concat());
    }
    let keys = "needs token.jwt_keys: or token.jwks_urls; without a key no token is valid";
    check_mistakes("", &["token.kind=\"jwt\""], &[&format!("--set token.kind: {keys}")]);
    check_mistakes(
        "",
        &["token.kind=\"jwt\"", "token.jwt_keys=[\"k\"]", "token.jwt_algorithms=[]"],
        &["--set token.kind: needs token.jwt_algorithms: without one no token is valid"],
    );
    let log = "needs white_list.file: the log their connections are written to";
    check_mistakes("", &["white_list.users=[1]"], &[&format!("--set white_list.users: {log}")]);
    check_mistakes(
        "",
        &["logic_server.store=\"redis\"", "logic_server.redis=[]"],
        &["--set logic_server.store: needs logic_server.redis: where the sessions are kept"],
    );
    // A value with a mistake of its own is not compared.
    check_mistakes(
        "",
        &["push.frame_max=\"4MiB\"", "protocol.outbox_bytes=0"],
        &["--set protocol.outbox_bytes: 0 is out of range: 2KiB to 1GiB"],
    );
}

#[test]
fn mistakes_in_coalescing_rules_name_their_place() {
    let check = |rule: &str, place: &str, what: &str| {
        let text = format!("[[coalesce]]\nrooms = \"live://\"\n\n[[coalesce]]\n{rule}\n");
        check_mistakes(&text, &[], &[&format!("comet.toml:{place}: {what}")]);
    };
    let rule = "coalesce.rules[1]";
    check(
        "window = \"50ms\"",
        "4:1",
        &format!("{rule}: names neither rooms nor operations; rooms = \"\" are all rooms"),
    );
    for (window, what) in [
        ("2s", "2s is out of range: 1ms to 1s"),
        ("500us", "500us is out of range: 1ms to 1s"),
        ("1500us", "1500us is not a whole number of milliseconds"),
    ] {
        let text = format!("rooms = \"\"\nwindow = \"{window}\"");
        check(&text, "4:1", &format!("{rule}: window: {what}"));
    }
    check(
        "operations = [4294967296]",
        "4:1",
        &format!("{rule}: operations: 4294967296 is no operation"),
    );
    check(
        "room = \"x\"",
        "5:1",
        "coalesce.rules: unknown field `room`, expected one of `rooms`, `operations`, `window`, \
         `keep_latest`",
    );
    check(
        "rooms = \"x\"\nwindow = 50",
        "6:10",
        "coalesce.rules: 50 is not a duration: use a number and us, ms, s, m or h, like \"500ms\"",
    );
    check_mistakes(
        "[coalesce]\nrooms = \"x\"\n",
        &[],
        &["comet.toml:1:1: coalesce: write [[coalesce]] for each, and its keys below"],
    );
    let slow = "[push]\ntimeout = \"200ms\"\n[[coalesce]]\nrooms = \"\"\nwindow = \"150ms\"\n";
    check_mistakes(
        slow,
        &[],
        &["comet.toml:3:1: coalesce.rules: 150ms is too much for push.timeout, 200ms: up to 100ms"],
    );
}
