//! Listeners, their access control and certificates: exposed addresses, and addresses used twice.

use crate::{check_mistakes, good};

#[test]
fn exposed_addresses_need_tokens_certificates_or_insecure() {
    let check = |key: &str, address: &str, what: &str| {
        let (section, _) = key.split_once('.').unwrap();
        let set = format!("{key}=[\"127.0.0.1:0\", \"{address}\"]");
        let line = format!(
            "--set {key}: {address} is not loopback, and whoever reaches it may {what}: set \
             {section}.tokens, ask for certificates (tls:HOST:PORT and api_tls.client_ca), or set \
             {section}.insecure to true if that is meant"
        );
        check_mistakes("", &[&set], &[&line]);
        good("", &[&set, &format!("{section}.insecure=true")]);
        good("", &[&set, &format!("{section}.tokens=[\"0123456789abcdef\"]")]);
    };
    let shown = ["api_tls.certificate=\"a.pem\"", "api_tls.key=\"a.key\""];
    check("push.grpc", "0.0.0.0:0", "push to all clients");
    check("push.http", "[::]:0", "push to all clients");
    check("push.frames", "[::]:0", "push to all clients");
    check("monitor.stat", "192.0.2.1:0", "read what the server holds");
    check("monitor.pprof", "192.0.2.1:0", "change the running server");
    good("", &["push.grpc=[\"127.9.9.9:0\", \"[::1]:0\", \"[::ffff:127.0.0.1]:0\"]"]);
    good("", &["push.grpc=[\"unix:/run/comet/push.sock\"]"]);
    // Certificates are asked for at addresses with TLS alone.
    let in_tls = [&shown[..], &["monitor.stat=[\"tls:0.0.0.0:0\"]"]].concat();
    let ca = "api_tls.client_ca=\"ca.pem\"";
    good("", &[&in_tls[..], &[ca]].concat());
    let line = "--set monitor.stat: tls:0.0.0.0:0 is not loopback, and whoever reaches it may read what \
                the server holds: set monitor.tokens, ask for certificates (tls:HOST:PORT and \
                api_tls.client_ca), or set monitor.insecure to true if that is meant";
    check_mistakes("", &in_tls, &[line]);
    let plain = [&in_tls[..], &[ca, "push.http=[\"0.0.0.0:0\"]"]].concat();
    let line = line.replace("monitor.stat: tls:", "push.http: ").replace("monitor.", "push.");
    let line = line.replace("read what the server holds", "push to all clients");
    check_mistakes("", &plain, &[&line]);
    // Listeners of comet logic are not checked for comet.
    good("", &["logic_server.grpc=[\"0.0.0.0:0\"]"]);
    // A token that is too short is not repeated.
    let line = "--set push.tokens[0]: is no token: use 16 to 512 letters, digits and -._~+/=";
    check_mistakes("", &["push.tokens=[\"0123456789\"]"], &[line]);
}

#[test]
fn frames_are_not_sent_inside_tls() {
    let shown = ["api_tls.certificate=\"a.pem\"", "api_tls.key=\"a.key\""];
    let sets = [&shown[..], &["push.frames=[\"tls:127.0.0.1:0\"]"]].concat();
    let line =
        "--set push.frames: tls:127.0.0.1:0 cannot be served: frames are not sent inside TLS";
    check_mistakes("", &sets, &[line]);
}

#[test]
fn tls_of_the_apis_needs_a_certificate_and_its_key() {
    let check = |sets: &[&str], line: &str| check_mistakes("", sets, &[line]);
    let bind = "push.grpc=[\"127.0.0.1:0\", \"tls:127.0.0.1:0\"]";
    let what = "needs api_tls.certificate and api_tls.key: what callers are shown";
    check(&[bind], &format!("--set push.grpc: tls:127.0.0.1:0 {what}"));
    let [certificate, key] = ["api_tls.certificate=\"a.pem\"", "api_tls.key=\"a.key\""];
    good("", &[bind, certificate, key]);
    check(&[certificate], "--set api_tls.certificate: needs api_tls.key");
    check(&[key], "--set api_tls.key: needs api_tls.certificate");
    let config = good("", &["api_tls.server_ca=\"ca.pem\"", "logic.addrs=[\"tls:logic:1\"]"]);
    assert_eq!(config.logic.addrs, ["tls:logic:1"]);
    // Listeners of comet logic are not checked for comet.
    good("", &["logic_server.grpc=[\"tls:127.0.0.1:0\"]"]);
}

#[test]
fn paths_of_unix_sockets_are_checked() {
    let check = |set: &str, what: &str| {
        let key = set.split_once('=').unwrap().0;
        check_mistakes("", &[set], &[&format!("--set {key}[0]: {what}")]);
    };
    let what = "names no Unix socket: its path has to begin with /";
    check("push.grpc=[\"unix:push.sock\"]", &format!("\"unix:push.sock\" {what}"));
    check("logic.addrs=[\"unix:\"]", &format!("\"unix:\" {what}"));
    let long = format!("unix:/{}", "a".repeat(107));
    let what = "is too long for a Unix socket: its path may have 107 bytes";
    check(&format!("monitor.stat=[\"{long}\"]"), &format!("\"{long}\" {what}"));
    check(&format!("logic_server.comets=[\"a={long}\"]"), &format!("\"{long}\" {what}"));
    // A client's listener is none.
    check("tcp.bind=[\"unix:/a\"]", "\"unix:/a\" is not an address: use HOST:PORT");
    let twice = "push.grpc=[\"unix:/run/a\", \"unix:/run/a\"]";
    check_mistakes("", &[twice], &["--set push.grpc[1]: unix:/run/a is bound by push.grpc[0] too"]);
}

#[test]
fn two_listeners_cannot_share_an_address() {
    check_mistakes(
        "[tcp]\nbind = [\"127.0.0.1:1\", \"127.0.0.1:1\"]\n[monitor]\nstat = [\"127.0.0.1:1\"]\n",
        &[],
        &[
            "comet.toml:2:24: tcp.bind[1]: 127.0.0.1:1 is bound by tcp.bind[0] too",
            "comet.toml:4:9: monitor.stat[0]: 127.0.0.1:1 is bound by tcp.bind[0] too",
        ],
    );
    // The other one is a default.
    let lines = ["--set tcp.bind[0]: 0.0.0.0:8090 is bound by websocket.bind[0] too"];
    check_mistakes("", &["tcp.bind=[\"0.0.0.0:8090\"]"], &lines);
    let lines = ["--set tcp.tls_bind[0]: 0.0.0.0:8090 is bound by websocket.bind[0] too"];
    let pair = ["tls.certificates=[\"a\"]", "tls.keys=[\"b\"]"];
    check_mistakes("", &["tcp.tls_bind=[\"0.0.0.0:8090\"]", pair[0], pair[1]], &lines);
    // comet logic is another process, and has listeners of its own.
    good("", &["logic_server.stat=[\"127.0.0.1:6972\"]"]);
    let lines = ["--set logic_server.http[0]: 127.0.0.1:7170 is bound by logic_server.grpc[0] too"];
    check_mistakes("", &["logic_server.http=[\"127.0.0.1:7170\"]"], &lines);
    good("[tcp]\nbind = [\"127.0.0.1:0\"]\n[websocket]\nbind = [\"127.0.0.1:0\"]\n", &[]);
}

/// The packaged units of comet and comet logic read the same file.
#[test]
fn both_servers_run_on_one_host_by_default() {
    let config = good("", &[]);
    let comet = [&config.push.grpc, &config.push.http, &config.monitor.stat, &config.monitor.pprof];
    let logic = &config.logic_server;
    for address in [&logic.grpc, &logic.http, &logic.stat].into_iter().flatten() {
        let is_taken = comet.iter().any(|addresses| addresses.contains(address));
        assert!(!is_taken, "{address} is that of comet, too");
    }
}
